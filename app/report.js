"use strict";
// Draws the figures, follows the theme, and answers clicks with all scores of a head.
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const table = JSON.parse(byId("table").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const plots = new Map();
  root.classList.add("scripted");

  const theme = () => root.dataset.theme || (dark.matches ? "dark" : "light");

  // ---- figures
  const config = {
    responsive: true, displaylogo: false, modeBarButtons: [["toImage"]],
    toImageButtonOptions: { format: "svg" },
  };

  async function paint(div, figure) {
    const changes = figure.paint[theme()];
    for (const [i, change] of changes.traces.entries()) {
      if (Object.keys(change).length) await Plotly.restyle(div, change, [i]);
    }
    await Plotly.relayout(div, changes.layout);
  }

  async function draw(div) {
    const figure = JSON.parse(document.querySelector(`script[data-for="${div.id}"]`).textContent);
    div.textContent = "";
    await Plotly.newPlot(div, figure.data, figure.layout, config);
    plots.set(div, figure);
    if (theme() === "dark") await paint(div, figure);
    div.on("plotly_click", (event) => {
      const { x, y } = event.points[0];
      if (Number.isInteger(x) && Number.isInteger(y)) show(x, y);
      else if (/^L\d+H\d+$/.test(y)) show(...y.slice(1).split("H").map(Number));
    });
  }

  async function repaint() {
    byId("theme").textContent = theme() === "dark" ? "Light" : "Dark";
    for (const [div, figure] of plots) await paint(div, figure);
    if (plots.has(byId("explore-map"))) await choose();
  }

  // ---- the theme
  function remember(value) { try { localStorage.setItem("headscope-theme", value); } catch { /* a file:// page may not */ } }
  try { const kept = localStorage.getItem("headscope-theme"); if (kept) root.dataset.theme = kept; } catch { /* same */ }
  byId("theme").hidden = false;
  byId("theme").textContent = theme() === "dark" ? "Light" : "Dark";
  byId("theme").addEventListener("click", () => {
    root.dataset.theme = theme() === "dark" ? "light" : "dark";
    remember(root.dataset.theme);
    repaint();
  });
  dark.addEventListener("change", repaint);

  // ---- one head
  const rowOf = new Map(table.columns.layer.map((layer, i) => [`${layer},${table.columns.head[i]}`, i]));
  const round = (v) => v === null ? "–" : Number.isInteger(v) ? String(v) : Math.abs(v) < 1e-3 || Math.abs(v) >= 1e4 ? v.toExponential(2) : v.toFixed(3);
  let current = [0, 0];

  function cell(row, text, kind = "td", name = "") {
    const element = document.createElement(kind);
    element.textContent = text; // never as HTML: names and notes come from files
    element.className = name;
    row.append(element);
    return element;
  }

  function show(layer, head) {
    const i = rowOf.get(`${layer},${head}`);
    if (i === undefined) return;
    current = [layer, head];
    byId("card-title").textContent = `L${layer}H${head} · KV head ${table.columns.kv_head[i]}`;
    const roles = byId("card-roles");
    roles.textContent = "";
    for (const role of table.roles.filter((r) => table.columns[r.column][i])) {
      const chip = cell(roles, role.title, "span", "chip");
      chip.style.setProperty("--hue", `var(--role-${role.role.replace(/[^0-9A-Za-z_-]/g, "_")})`);
      chip.title = role.rule;
      roles.append(" ");
    }
    if (!roles.childElementCount) roles.textContent = "No label.";
    const body = byId("card-scores");
    body.textContent = "";
    const labels = new Set(table.roles.map((r) => r.column));
    for (const name of Object.keys(table.columns)) {
      const note = !(name in table.about);
      if (["layer", "head", "kv_head"].includes(name) || labels.has(name) || (note && name.endsWith("_se"))) continue;
      const value = table.columns[name][i];
      const error = table.columns[`${name}_se`]?.[i];
      const row = body.insertRow();
      cell(row, name, "th").scope = "row";
      const shown = cell(row, typeof value === "number" ? round(value) : value || "–", "td", "n");
      shown.title = String(value);
      cell(row, error === undefined || error === null ? "" : round(error), "td", "n").title = String(error ?? "");
      cell(row, table.about[name] || "");
    }
    const dialog = byId("card");
    if (!dialog.open) dialog.showModal();
  }

  function step(by) {
    const all = table.layers * table.heads;
    const at = (current[0] * table.heads + current[1] + by + all) % all;
    show(Math.floor(at / table.heads), at % table.heads);
  }
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("card").addEventListener("keydown", (e) => {
    if (e.key === "ArrowLeft") step(-1);
    if (e.key === "ArrowRight") step(1);
  });
  document.addEventListener("click", (event) => {
    const at = event.target.closest?.("[data-layer][data-head]");
    if (at) show(Number(at.dataset.layer), Number(at.dataset.head));
  });
  byId("go").addEventListener("submit", (event) => {
    event.preventDefault();
    show(Number(byId("layer").value), Number(byId("number").value));
  });

  // ---- any score as a map
  async function choose() {
    const name = byId("column").value;
    const grid = (column) => {
      const z = Array.from({ length: table.heads }, () => Array(table.layers).fill(null));
      (table.columns[column] || []).forEach((v, i) => { z[table.columns.head[i]][table.columns.layer[i]] = v; });
      return z;
    };
    const z = grid(name), errors = grid(`${name}_se`), groups = grid("kv_head");
    const known = z.flat().filter((v) => v !== null);
    if (!known.length) return;
    let low = Math.min(...known), high = Math.max(...known);
    if (-low > high / 100) { high = Math.max(-low, high); low = -high; }
    low = low < -high / 100 ? low : Math.max(low, 0);
    byId("column-about").textContent = table.about[name];
    const div = byId("explore-map");
    div.setAttribute("aria-label", `Heat map of ${name}: ${table.about[name]}`);
    await Plotly.restyle(div, {
      z: [z], customdata: [z.map((row, h) => row.map((_, l) => [errors[h][l], groups[h][l]]))],
      hovertemplate: `L%{x}H%{y} · KV head %{customdata[1]}<br>${name} %{z:.4f}${`${name}_se` in table.columns ? " ± %{customdata[0]:.4f}" : ""}<extra></extra>`,
    }, [0]);
    await Plotly.relayout(div, {
      "coloraxis.cmin": low, "coloraxis.cmax": high > low ? high : low + 1,
      "coloraxis.colorscale": table.ramps[theme()][low < 0 ? "signed" : "up"],
    });
  }
  byId("column").addEventListener("change", choose);

  (async () => {
    for (const div of document.querySelectorAll(".plot")) await draw(div);
    await choose();
    root.dataset.drawn = "yes";
  })();
})();
