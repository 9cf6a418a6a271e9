// Markup in which heads (data-layer, data-head) and features (data-sae, data-feature) can be clicked; cells of
// a map can be walked to with the keys.
export default function ({ parentElement, data }) {
  const box = parentElement.querySelector(".pick");
  if (box.shown !== data.content) {
    box.innerHTML = data.content; // made by Markup in Python: everything from outside is escaped
    box.shown = data.content;
  }
  box.go = data.go;
  box.feature = data.feature;
  const pick = (cell) => {
    if (!cell) return;
    const feature = "feature" in cell.dataset;
    const here = new URL(window.location.href), there = new URL(feature ? box.feature : box.go, here.origin);
    const to = feature && here.pathname === there.pathname ? here : there; // the circuit beside it stays
    for (const name of feature ? ["sae", "feature"] : ["layer", "head"]) {
      to.searchParams.set(name, cell.dataset[name]);
    }
    window.history.pushState({}, "", to);
    window.dispatchEvent(new PopStateEvent("popstate")); // Streamlit then goes where the address points
  };
  const cellOf = (event) => event.target.closest?.("[data-layer], [data-feature]");
  box.onclick = (event) => pick(cellOf(event));
  const map = box.querySelector(".labelmap");
  if (!map || map.hasAttribute("tabindex")) return;
  map.setAttribute("tabindex", "0");
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  box.append(tip);
  const words = (cell) => {
    const title = cell.querySelector("title");
    if (title) {
      cell.setAttribute("aria-label", title.textContent);
      title.remove(); // the browser's own hint would come late, and twice
    }
    return cell.getAttribute("aria-label");
  };
  let at = null;
  const show = (cell) => {
    at?.classList.remove("at");
    at = cell;
    tip.hidden = !cell;
    if (!cell) return;
    cell.classList.add("at");
    tip.textContent = words(cell);
    const c = cell.getBoundingClientRect(), b = box.getBoundingClientRect();
    tip.style.left = `${Math.max(0, Math.min(c.left - b.left, b.width - tip.offsetWidth - 4))}px`;
    tip.style.top = `${c.bottom - b.top + 6}px`;
  };
  map.onmousemove = (event) => { const cell = cellOf(event); if (cell !== at) show(cell ?? null); };
  map.onmouseleave = () => show(null);
  map.onblur = () => show(null);
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  map.onkeydown = (event) => {
    if (event.key === "Enter" && at) return pick(at);
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const [l, h] = at ? [+at.dataset.layer + step[0], +at.dataset.head + step[1]] : [0, 0];
    const next = map.querySelector(`g[data-layer="${l}"][data-head="${h}"]`);
    if (next) show(next);
  };
}
