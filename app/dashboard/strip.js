// A stretch of tokens; standing on one shows where the head looks from there.
// data: tokens, offset, rows {position: [[key, mass], ...]}, outside {position: token}, spans, at
export default function ({ parentElement, data }) {
  const root = parentElement.querySelector(".tokens"), says = parentElement.querySelector(".says");
  root.replaceChildren();
  root.style.setProperty("--hue", data.hue);
  root.classList.toggle("partial", data.partial);
  const spans = Object.entries(data.spans ?? {});
  const cells = data.tokens.map((token, i) => {
    const at = data.offset + i, cell = document.createElement("span");
    cell.textContent = token; // never as markup
    cell.className = "t";
    if (data.rows[at]) cell.classList.add("row");
    const span = spans.filter(([, [a, b]]) => a <= at && at < b).sort((x, y) => x[1][1] - x[1][0] - y[1][1] + y[1][0])[0];
    if (span) cell.classList.add("span");
    cell.title = `token ${at}${span ? `, in the ${span[0]}` : ""}`;
    root.append(cell);
    return cell;
  });
  const name = (key) => data.tokens[key - data.offset] ?? data.outside?.[key] ?? "?";
  let pinned = data.at;
  const quote = (text) => { const q = document.createElement("q"); q.textContent = text; return q; };
  const show = (at) => {
    const keys = data.rows[at];
    if (!keys) return;
    for (const cell of cells) { cell.classList.remove("lit", "q", "later"); cell.style.removeProperty("--m"); }
    cells[at - data.offset]?.classList.add("q");
    for (let i = Math.max(0, at + 1 - data.offset); i < cells.length; i++) cells[i].classList.add("later");
    says.replaceChildren("Standing on ", quote(name(at)), ` (token ${at}), it looks at `);
    keys.forEach(([key, mass], n) => {
      const cell = cells[key - data.offset];
      if (cell) { cell.classList.add("lit"); cell.style.setProperty("--m", mass); }
      says.append(n ? ", " : "", key === at ? "itself" : quote(name(key)), ` ${(100 * mass).toFixed(mass < 0.1 ? 1 : 0)}%`);
      if (!cell) says.append(` (token ${key}, not in view)`);
    });
    says.append(".");
  };
  const of = (event) => { const i = cells.indexOf(event.target); return i < 0 ? null : i + data.offset; };
  root.onmouseover = (event) => { const at = of(event); if (at !== null) show(at); };
  root.onmouseleave = () => show(pinned);
  root.onclick = (event) => { const at = of(event); if (at !== null && data.rows[at]) { pinned = at; show(at); } };
  root.onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const order = Object.keys(data.rows).map(Number).sort((a, b) => a - b);
    const next = order[order.indexOf(pinned) + step];
    if (next !== undefined) { pinned = next; show(pinned); cells[pinned - data.offset]?.scrollIntoView({ block: "nearest" }); }
  };
  show(pinned);
  const first = cells[pinned - data.offset];
  if (first) root.scrollTop = first.offsetTop - root.offsetTop - root.clientHeight / 2;
}
