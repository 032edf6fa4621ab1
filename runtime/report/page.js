"use strict";
const graph = document.getElementById("graph");
const numbers = JSON.parse(document.getElementById("numbers").textContent);
const nodes = [...graph.querySelectorAll(".node")];
const own = nodes.map(node => node.querySelector("rect").getAttribute("fill"));
const whole = graph.getAttribute("viewBox").split(" ").map(Number);
let view = [...whole];

// The view is the rectangle of the drawing that fills the frame.
function show(next) {
  view = next;
  graph.setAttribute("viewBox", view.join(" "));
  const scale = Math.min(graph.clientWidth / view[2], graph.clientHeight / view[3]);
  graph.classList.toggle("far", scale < 0.28);
}
function zoom(factor, x = view[0] + view[2] / 2, y = view[1] + view[3] / 2) {
  const width = Math.min(Math.max(view[2] * factor, 120), whole[2] * 4);
  const ratio = width / view[2];
  show([x - (x - view[0]) * ratio, y - (y - view[1]) * ratio, width, view[3] * ratio]);
}
function place(event) {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(graph.getScreenCTM().inverse());
  return [point.x, point.y];
}
// A long graph starts at its top, in a size that can be read.
function start() {
  const readable = graph.clientWidth / 0.75;
  const height = graph.clientHeight / 0.75;
  if (whole[3] <= height && whole[2] <= readable) return show([...whole]);
  const width = Math.min(Math.max(readable, Math.min(whole[2], readable * 1.8)), whole[2]);
  show([whole[0], whole[1], width, width * graph.clientHeight / graph.clientWidth]);
}
graph.addEventListener("wheel", event => {
  event.preventDefault();
  zoom(event.deltaY > 0 ? 1.15 : 1 / 1.15, ...place(event));
}, { passive: false });
let held = null;
graph.addEventListener("pointerdown", event => {
  held = place(event);
  graph.setPointerCapture(event.pointerId);
  graph.classList.add("dragged");
});
graph.addEventListener("pointermove", event => {
  if (!held) return;
  const [x, y] = place(event);
  show([view[0] + held[0] - x, view[1] + held[1] - y, view[2], view[3]]);
});
for (const name of ["pointerup", "pointercancel"]) graph.addEventListener(name, () => {
  held = null;
  graph.classList.remove("dragged");
});
document.getElementById("closer").onclick = () => zoom(1 / 1.4);
document.getElementById("farther").onclick = () => zoom(1.4);
document.getElementById("whole").onclick = () => show([...whole]);

function mix(from, to, share) {
  return from.map((channel, index) => Math.round(channel + (to[index] - channel) * share));
}
// From light grey over amber to red; the root of the share lets small ones be seen.
function heat(share) {
  const root = Math.sqrt(share);
  const color = root < 0.5 ? mix([241, 245, 249], [251, 191, 36], root * 2) : mix([251, 191, 36], [185, 28, 28], root * 2 - 1);
  return "rgb(" + color.join(",") + ")";
}
function describe(kind, value) {
  return kind === "time" ? value.toPrecision(3) + " ms" : (value / 1e6).toPrecision(3) + " MB";
}
function color(kind) {
  const values = numbers[kind];
  const most = values ? Math.max(...values, 0) : 0;
  nodes.forEach((node, index) => {
    const fill = values ? heat(most ? values[index] / most : 0) : own[index];
    node.querySelector("rect").setAttribute("fill", fill);
  });
  document.getElementById("legend").hidden = Boolean(values);
  document.getElementById("ramp").hidden = !values;
  if (values) {
    document.getElementById("least").textContent = describe(kind, 0);
    document.getElementById("largest").textContent = describe(kind, most);
  }
  graph.dataset.coloring = kind;
}
document.getElementById("coloring").onchange = event => color(event.target.value);
document.getElementById("residuals").onchange = event => {
  for (const edge of graph.querySelectorAll(".residual")) edge.style.display = event.target.checked ? "" : "none";
};

const find = document.getElementById("find");
let hits = [];
let current = 0;
function search() {
  const text = find.value.trim().toLowerCase();
  hits.forEach(node => node.classList.remove("hit"));
  hits = text ? nodes.filter(node => node.querySelector("title").textContent.toLowerCase().split("\n")[0].includes(text)) : [];
  hits.forEach(node => node.classList.add("hit"));
  current = -1;
  document.getElementById("found").textContent = text ? hits.length + " found" : "";
}
function next() {
  if (!hits.length) return;
  current = (current + 1) % hits.length;
  const at = hits[current].transform.baseVal[0].matrix;
  const width = graph.clientWidth / 0.9;
  const height = graph.clientHeight / 0.9;
  show([at.e + 75 - width / 2, at.f + 17 - height / 2, width, height]);
}
find.oninput = () => { search(); next(); };
find.onkeydown = event => { if (event.key === "Enter") next(); };

color("operator");
start();
document.documentElement.dataset.ready = "yes";
