// The page: what is asked for, what is shown.

import "./theme.js";
import { Panel, picture } from "./panel.js";
import { union } from "./scene.js";
import { element, percent, Problem, request } from "./tools.js";

const get = (id) => document.getElementById(id);
const [first, second, classes, opacity, asSeen, status, results] = ["first", "second", "class", "opacity", "as-seen", "status", "results"].map(get);
let models = [];
let image = null; // { blob, url, name, photo: a promise of the picture, or of null where the browser cannot show it }
let panels = [];
let point = [0.5, 0.5];
let stage = null; // whose taps or kernels are shown; null for none
let stageChosen = false; // by the visitor, and not by us
let running = null;

const NONE = "";
const modelOf = (name) => models.find((model) => model.name === name);

function say(message, bad = false) {
  status.textContent = message;
  status.classList.toggle("bad", bad);
}

let speaking = 0;
function speak(message) {
  clearTimeout(speaking);
  speaking = setTimeout(() => { get("spoken").textContent = message; }, 350);
}

const option = (value, text = value) => element("option", { value }, text);

async function start() {
  try {
    models = (await (await request("/models")).json()).models;
  } catch (error) {
    say(`${error.message}; reload the page to try again`, true);
    return;
  }
  first.replaceChildren(...models.map((model) => option(model.name)));
  second.replaceChildren(option(NONE, "nothing"), ...models.map((model) => option(model.name)));
  get("second-field").hidden = models.length < 2;
  if (models.length > 1) second.value = models[1].name;
  listClasses();
  say("Ready.");
  await showExamples();
}

function listClasses() {
  const before = classes.value;
  const names = modelOf(first.value).class_names;
  classes.replaceChildren(option(NONE, "its answer"), ...names.map((name) => option(`=${name}`, name)));
  classes.value = [...classes.options].some((known) => known.value === before) ? before : NONE;
}

async function showExamples() {
  const { examples } = await (await request("/examples")).json();
  for (const example of examples) {
    const blob = await (await request(example.url)).blob();
    const shown = element("img", { src: URL.createObjectURL(blob), alt: example.name });
    shown.addEventListener("load", () => shown.classList.toggle("pixels", shown.naturalWidth <= 64));
    const button = element("button", { type: "button", "aria-pressed": "false", title: example.name }, shown);
    button.addEventListener("click", () => choose(blob, example.name, button));
    get("examples").append(element("li", {}, button));
  }
}

function choose(blob, name, button = null) {
  if (image) URL.revokeObjectURL(image.url);
  const url = URL.createObjectURL(blob);
  image = { blob, name, url, photo: picture(url).catch(() => null) };
  for (const other of get("examples").querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
  ask();
}

async function answer(model, signal) {
  const form = new FormData();
  form.append("image", image.blob, "image");
  const query = new URLSearchParams({ model: model.name, top_k: "5" });
  const wanted = classes.value.slice(1);
  if (model.explains && wanted && model.class_names.includes(wanted)) query.set("class", wanted);
  const response = await request(`/${model.explains ? "explain" : "predict"}?${query}`, { method: "POST", body: form, signal });
  const found = await response.json();
  const panel = new Panel(model, model.explains ? found : null, model.explains ? null : found.predictions[0], move);
  await panel.build(image.url, await image.photo);
  return panel;
}

async function ask() {
  if (!image) return;
  running?.abort();
  const mine = running = new AbortController();
  const asked = [first.value, second.value].map(modelOf).filter((model, index, all) => model && all.indexOf(model) === index);
  results.classList.add("waiting");
  results.setAttribute("aria-busy", "true");
  say(`Looking at ${image.name}…`);
  try {
    const found = await Promise.all(asked.map((model) => answer(model, mine.signal)));
    if (mine !== running) return;
    panels = found;
    results.classList.toggle("pair", panels.length > 1);
    results.replaceChildren(...panels.map((panel) => panel.root));
    listStages();
    show();
    say(summary());
  } catch (error) {
    if (mine !== running || error.name === "AbortError") return;
    if (!(error instanceof Problem)) console.error(error);
    // an older answer under this error would look like the answer to this image
    panels = [];
    get("stage-field").hidden = true;
    results.classList.remove("pair");
    results.replaceChildren(element("p", { class: "soft empty" }, "No result: see the message above."));
    say(`${image.name}: ${error.message}`, true);
  } finally {
    if (mine === running) {
      results.classList.remove("waiting");
      results.removeAttribute("aria-busy");
    }
  }
}

function summary() {
  const tops = panels.map((panel) => panel.predictions[0]);
  const words = panels.map((panel, index) => `${panels.length > 1 ? `${panel.model.name}: ` : ""}${tops[index].class}, ${percent(tops[index].probability)}`);
  if (panels.length < 2) return `${image.name}: ${words[0]}`;
  const same = tops.every((top) => top.class === tops[0].class);
  return `${image.name}: ${same ? "both answer alike" : "they differ"}. ${words.join("; ")}`;
}

function listStages() {
  const known = [...new Set(panels.flatMap((panel) => panel.stages))].sort();
  get("stage-field").hidden = known.length === 0;
  if (!stageChosen || (stage !== null && !known.includes(stage))) stage = fineStage() ?? known[0] ?? null;
  get("stages").replaceChildren(...[null, ...known].map((number) => {
    const button = element("input", { type: "radio", name: "stage", value: number ?? "none", checked: number === stage });
    button.addEventListener("change", () => { stage = number; stageChosen = true; show(); });
    return element("label", {}, button, number === null ? "nothing" : `stage ${number}`);
  }));
}

// The last stage whose taps differ much from place to place.
function fineStage() {
  const layers = panels.flatMap((panel) => panel.layers);
  return layers.filter((layer) => Math.min(...layer.size) >= 4).map((layer) => layer.stage).sort().at(-1);
}

function show() {
  const wanted = { stage, asSeen: asSeen.checked, opacity: opacity.value / 100 };
  const bounds = panels.map((panel) => panel.choose(wanted)).filter((one) => one !== null);
  for (const panel of panels) panel.show(bounds.length ? union(bounds) : null, point);
}

function redraw() {
  for (const panel of panels) panel.redraw(point);
}

function move(place, byKey = false) {
  point = place.map((share) => Math.max(0, Math.min(1, share)));
  redraw();
  if (byKey) speak(panels.filter((panel) => panel.found).map((panel) => panel.whereabouts()).join(" "));
}

get("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  if (file) choose(file, file.name);
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file) choose(file, "pasted image");
});
const over = (on) => get("drop").classList.toggle("over", on);
document.addEventListener("dragover", (event) => { event.preventDefault(); over(true); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) over(false); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  over(false);
  const [file] = event.dataTransfer.files;
  if (file) choose(file, file.name);
});
first.addEventListener("change", () => { listClasses(); ask(); });
second.addEventListener("change", ask);
classes.addEventListener("change", ask);
opacity.addEventListener("input", () => { get("opacity-value").textContent = `${opacity.value} %`; show(); });
get("controls").addEventListener("submit", (event) => event.preventDefault());
asSeen.addEventListener("change", show);
document.addEventListener("theme", redraw);
let resizing = 0;
window.addEventListener("resize", () => {
  cancelAnimationFrame(resizing);
  resizing = requestAnimationFrame(redraw);
});
start();
