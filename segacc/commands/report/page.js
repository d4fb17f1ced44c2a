"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const all = (query, inside = document) => [...inside.querySelectorAll(query)];
const shown = data.runs.map(() => true);

/* Theme: as the system has it, until the button was used. */
const root = document.documentElement, theme = document.getElementById("theme");
const system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
const showTheme = () => theme.setAttribute("aria-pressed", isDark());
theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; showTheme(); });
system.addEventListener("change", showTheme);
showTheme();

/* Tabs: a click, or the arrow keys, Home and End. */
function tabs(list, choose) {
  const items = all('[role="tab"]', list);
  const pick = (at, focus) => {
    items.forEach((item, k) => { item.setAttribute("aria-selected", k === at); item.tabIndex = k === at ? 0 : -1; });
    if (focus) items[at].focus();
    choose(at, items[at]);
  };
  items.forEach((item, k) => {
    item.addEventListener("click", () => pick(k, false));
    item.addEventListener("keydown", (event) => {
      const last = items.length - 1;
      const to = { ArrowRight: k < last ? k + 1 : 0, ArrowLeft: k ? k - 1 : last, Home: 0, End: last }[event.key];
      if (to !== undefined) { event.preventDefault(); pick(to, true); }
    });
  });
}

/* Charts. */
const NS = "http://www.w3.org/2000/svg";
function add(parent, name, attributes, text) {
  const node = document.createElementNS(NS, name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  if (text !== undefined) node.textContent = text;
  return parent.appendChild(node);
}
const short = (x) => {
  const size = Math.abs(x);
  return size && (size < 1e-3 || size >= 1e6) ? x.toExponential(1).replace(".0e", "e").replace("e+", "e") : String(+x.toPrecision(4));
};
const exact = (x) => (x === null ? "not finite" : Math.abs(x) < 1e-3 && x ? x.toExponential(2) : (+x.toPrecision(5)).toLocaleString("en"));
function ticks(low, high, count) {
  const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((size) => size >= rough * 0.999);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(+(k * step).toPrecision(12));
  return found;
}
function powers(low, high) {
  const found = [];
  for (let k = Math.floor(low); k <= Math.ceil(high); k++)
    for (const m of [1, 2, 5]) { const y = k + Math.log10(m); if (y >= low - 1e-9 && y <= high + 1e-9) found.push(y); }
  return found.length > 7 ? found.filter((y) => Math.abs(y - Math.round(y)) < 1e-9) : found;
}

function chart(figure) {
  const spec = data.charts[figure.dataset.chart], plot = figure.querySelector(".plot");
  const reading = figure.querySelector(".reading"), log = figure.querySelector(".log");
  let tab = 0, cursor = null, width = 0, scale = null;

  const lines = () => spec.tabs[tab].lines.filter((line) => shown[line.run]);
  function draw() {
    width = plot.clientWidth;
    const height = plot.clientHeight, useLog = log && log.checked;
    const value = (y) => (y === null || (useLog && y <= 0) ? null : useLog ? Math.log10(y) : y);
    const points = lines().flatMap((line) => line.points);
    const xs = points.map((p) => p[0]), ys = points.map((p) => value(p[1])).filter((y) => y !== null);
    plot.replaceChildren();
    const svg = add(plot, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${spec.title}: ${spec.tabs[tab].label} by step` });
    if (!ys.length) {
      scale = null; reading.textContent = "";
      add(svg, "text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, points.length ? "no value can be shown on this axis" : "all runs are hidden");
      return;
    }
    const least = (list) => list.reduce((a, b) => Math.min(a, b)), most = (list) => list.reduce((a, b) => Math.max(a, b));
    let [x0, x1, y0, y1] = [least(xs), most(xs), least(ys), most(ys)];
    if (x0 === x1) { x0 -= 1; x1 += 1; }
    const margin = y1 > y0 ? (y1 - y0) * 0.08 : Math.abs(y1) * 0.1 || 1;
    if (!useLog && y0 >= 0 && y0 < (y1 - y0) * 0.6) y0 = 0; else y0 -= margin;
    y1 += margin;
    const left = 46, right = width - 10, top = 10, bottom = height - 24;
    const X = (x) => left + ((x - x0) / (x1 - x0)) * (right - left), Y = (y) => bottom - ((y - y0) / (y1 - y0)) * (bottom - top);
    for (const y of useLog ? powers(y0, y1) : ticks(y0, y1, 4)) {
      add(svg, "line", { class: "grid", x1: left, x2: right, y1: Y(y), y2: Y(y) });
      add(svg, "text", { x: left - 8, y: Y(y) + 4, "text-anchor": "end" }, short(useLog ? 10 ** y : y));
    }
    for (const x of ticks(x0, x1, Math.max(2, Math.floor(width / 110))).filter(Number.isInteger))
      add(svg, "text", { x: X(x), y: height - 6, "text-anchor": "middle" }, x.toLocaleString("en"));
    for (const line of lines()) {
      const group = add(svg, "g", { class: `run-${line.run % 8}` });
      let path = "", pen = false;
      for (const [x, y] of line.points) {
        const at = value(y);
        if (at !== null) path += `${pen ? "L" : "M"}${X(x).toFixed(1)} ${Y(at).toFixed(1)}`;
        pen = at !== null;
      }
      add(group, "path", { class: `curve${line.dash ? " dash" : ""}`, d: path });
      if (line.points.length < (line.dots ? 40 : 2))
        for (const [x, y] of line.points) if (value(y) !== null) add(group, "circle", { cx: X(x), cy: Y(value(y)), r: 2.6 });
    }
    scale = { X, Y, value, x0, x1, left, right, top, bottom, svg, steps: [...new Set(xs)].sort((a, b) => a - b) };
    read();
  }
  function read() {
    if (!scale) return;
    all(".cursor, .mark", scale.svg).forEach((node) => node.remove());
    reading.replaceChildren();
    if (cursor === null) {
      const every = Math.max(...lines().map((line) => line.every));
      if (every > 1) reading.textContent = `every ${every}th logged step is drawn`;
      return;
    }
    add(scale.svg, "line", { class: "cursor", x1: scale.X(cursor), x2: scale.X(cursor), y1: scale.top, y2: scale.bottom });
    reading.append(`step ${cursor.toLocaleString("en")}  `);
    for (const line of lines()) {
      const point = line.points.reduce((a, b) => (Math.abs(b[0] - cursor) < Math.abs(a[0] - cursor) ? b : a));
      const dot = document.createElement("span"), text = document.createElement("b");
      dot.className = `dot run-${line.run % 8}`;
      text.textContent = exact(point[1]);
      const named = lines().some((other) => other.run === line.run && other !== line) || line.dash;
      reading.append(dot, named ? `${line.label} ` : data.runs.length > 1 ? `${data.runs[line.run]} ` : "", text);
      const y = scale.value(point[1]);
      if (y !== null) add(add(scale.svg, "g", { class: `mark run-${line.run % 8}` }), "circle", { cx: scale.X(point[0]), cy: scale.Y(y), r: 4 });
    }
  }
  function near(event) {
    if (!scale) return;
    const x = event.clientX - plot.getBoundingClientRect().left;
    cursor = scale.steps.reduce((a, b) => (Math.abs(scale.X(b) - x) < Math.abs(scale.X(a) - x) ? b : a));
    read();
  }
  plot.addEventListener("pointermove", near);
  plot.addEventListener("pointerdown", near);
  plot.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") { cursor = null; read(); } });
  plot.addEventListener("keydown", (event) => {
    if (!scale) return;
    const steps = scale.steps, at = cursor === null ? -1 : steps.indexOf(cursor);
    const to = { ArrowRight: Math.min(at + 1, steps.length - 1), ArrowLeft: Math.max(at - 1, 0), Home: 0, End: steps.length - 1 }[event.key];
    if (event.key === "Escape") { cursor = null; read(); }
    if (to !== undefined) { event.preventDefault(); cursor = steps[to]; read(); }
  });
  const list = figure.querySelector('[role="tablist"]');
  if (list) tabs(list, (at, item) => { tab = at; cursor = null; plot.setAttribute("aria-labelledby", item.id); draw(); });
  if (log) log.addEventListener("change", draw);
  new ResizeObserver(() => { if (plot.clientWidth !== width) draw(); }).observe(plot);
  draw();
  return draw;
}
const drawn = all(".chart").map(chart);
all(".legend button").forEach((button) => button.addEventListener("click", () => {
  const run = +button.dataset.run;
  shown[run] = !shown[run];
  button.setAttribute("aria-pressed", shown[run]);
  drawn.forEach((draw) => draw());
}));

/* Classes: absent ones are last when sorted by score. */
const bars = document.querySelector(".bars");
all("#sort input").forEach((input) => input.addEventListener("change", () => {
  const by = {
    order: (a, b) => a.order - b.order,
    name: (a, b) => a.name.localeCompare(b.name),
    score: (a, b) => b.score - a.score || a.order - b.order,
  }[input.value];
  bars.append(...all("li", bars).sort((a, b) => by(a.dataset, b.dataset)));
}));

/* Images: a divider between two pictures of the same image. */
all(".images").forEach((panel) => {
  const viewer = panel.querySelector(".viewer");
  if (!viewer) return;
  const images = data.images[panel.dataset.run].images, stage = viewer.querySelector(".stage");
  const handle = viewer.querySelector(".handle"), strip = viewer.querySelector(".strip");
  const [left, right] = all("img", stage), [leftTag, rightTag] = all(".tag", stage);
  let image = images[0], at = 50;
  const place = (to) => {
    at = Math.round(Math.min(100, Math.max(0, to)));
    stage.style.setProperty("--at", `${at}%`);
    handle.setAttribute("aria-valuenow", at);
    handle.setAttribute("aria-valuetext", `${at} % ${leftTag.textContent}, ${100 - at} % ${rightTag.textContent}`);
  };
  const show = () => {
    const [one, other] = viewer.querySelector(".pick input:checked").value.split(" ");
    for (const [node, tag, name] of [[left, leftTag, one], [right, rightTag, other]]) {
      node.src = image[name];
      node.alt = `${name} of ${image.id}`;
      node.classList.toggle("classes", name !== "image");
      tag.textContent = name === "error" ? "errors in red" : name;
    }
    stage.style.setProperty("--ratio", image.width / image.height);
    viewer.querySelector(".id").textContent = image.id;
    viewer.querySelector(".told").textContent = image.caption.replace(`${image.id}: `, "");
    place(at);
  };
  images.forEach((one, k) => {
    const button = document.createElement("button"), picture = document.createElement("img");
    button.type = "button";
    button.setAttribute("role", "tab");
    button.setAttribute("aria-selected", k === 0);
    button.setAttribute("aria-label", one.id);
    button.tabIndex = k ? -1 : 0;
    picture.src = one.image;
    picture.alt = "";
    button.append(picture);
    strip.append(button);
  });
  tabs(strip, (k) => { image = images[k]; show(); });
  all(".pick input", viewer).forEach((input) => input.addEventListener("change", show));
  const follow = (event) => {
    const box = stage.getBoundingClientRect();
    place(((event.clientX - box.left) / box.width) * 100);
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    event.preventDefault();
    stage.setPointerCapture(event.pointerId);
    handle.focus({ preventScroll: true, focusVisible: false });
    follow(event);
  });
  stage.addEventListener("pointermove", (event) => { if (stage.hasPointerCapture(event.pointerId)) follow(event); });
  handle.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: at - 2, ArrowDown: at - 2, ArrowRight: at + 2, ArrowUp: at + 2, PageDown: at - 10, PageUp: at + 10, Home: 0, End: 100 }[event.key];
    if (to !== undefined) { event.preventDefault(); place(to); }
  });
  show();
});
const which = document.querySelector(".which");
if (which) tabs(which, (at) => all(".images").forEach((panel, k) => { panel.hidden = k !== at; }));

/* Commands. */
all(".copy").forEach((button) => button.addEventListener("click", async () => {
  const code = button.parentElement.querySelector("code");
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(code);
    button.textContent = "Press Ctrl+C";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}));
