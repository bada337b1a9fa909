// One network's answer: image, ranking, funnel, offsets.

import { element, percent, signed } from "./tools.js";
import { decodeLayer, draw, tapsAt } from "./taps.js";

const MOST_CLASSES = 10; // of a step of the funnel

const picture = (source) => new Promise((resolve, reject) => {
  const image = new Image();
  image.onload = () => resolve(image);
  image.onerror = () => reject(new Error("the view of the image cannot be shown"));
  image.src = source;
});

function ranked(name, share, value, classes = "", note = "") {
  return element("li", { class: classes },
    element("span", { class: "name", title: name }, element("span", {}, name), note && element("span", { class: "hidden" }, note)),
    element("span", { class: "bar", "aria-hidden": "true", "--share": Math.max(0, Math.min(1, share)) }),
    element("span", { class: "value" }, value));
}

function ranking(predictions) {
  return element("section", { "aria-label": "Most probable classes" }, element("h3", {}, "Most probable classes"),
    element("ol", { class: "ranking" }, ...predictions.map((row) => ranked(row.class, row.probability, percent(row.probability)))));
}

function step(stage, followed, last) {
  const kept = stage.classes.filter((row) => row.kept).length;
  const top = Math.max(...stage.classes.map((row) => Math.abs(row.score)), 1e-9);
  const shown = stage.classes.slice(0, MOST_CLASSES);
  const own = stage.classes.find((row) => row.class === followed);
  if (own && !shown.includes(own)) shown[shown.length - 1] = own;
  const rows = shown.map((row) => ranked(row.class, row.score / top, signed(row.score, 2),
    [row.kept ? "" : "dropped", row.class === followed ? "followed" : "", row.score < 0 ? "negative" : ""].join(" ").trim(),
    row.kept ? "" : last ? "" : " (dropped)"));
  const rest = stage.classes.length - shown.length;
  const place = stage.rank === null ? `“${followed}” was dropped before` : `“${followed}” is number ${stage.rank}`;
  return element("li", {}, element("h4", {}, stage.name),
    element("p", { class: "soft" }, `${stage.classes.length} scored, ${kept} ${last ? "answered" : "kept"}; ${place}`),
    element("ol", { class: "ranking" }, ...rows),
    rest > 0 ? element("p", { class: "soft" }, `and ${rest} more`) : null);
}

function funnel(answer) {
  const last = answer.stages.length - 1;
  return element("section", { "aria-label": "Class funnel" }, element("h3", {}, "Class funnel"),
    element("ol", { class: "funnel" }, ...answer.stages.map((stage, index) => step(stage, answer.followed, index === last))));
}

function offsets(layers, stage) {
  const rows = layers.map((layer) => element("tr", { class: layer.stage === stage && "chosen" },
    element("th", { scope: "row" }, `stage ${layer.stage}`), element("td", {}, layer.size.join(" × ")),
    element("td", {}, layer.mean_distance.toFixed(2)), element("td", {}, layer.largest_distance.toFixed(1)),
    element("td", {}, layer.kernel_change === null ? "–" : percent(layer.kernel_change))));
  const heads = ["Layer", "Positions", "Mean move, px", "Largest, px", "Kernel changed"];
  return element("section", { "aria-label": "Sampling offsets" }, element("h3", {}, "Sampling offsets"),
    element("table", {}, element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
      element("tbody", {}, ...rows)));
}

export class Panel {
  // model: of GET /models; answer: of POST /explain, or null; predictions: of POST /predict; file: what was sent
  constructor(model, answer, predictions, moved) {
    this.model = model;
    this.answer = answer;
    this.predictions = answer ? answer.predictions : predictions;
    this.layers = answer ? answer.offsets.map(decodeLayer) : [];
    this.moved = moved;
    this.point = [0.5, 0.5]; // y, x as shares of the view
    this.opacity = 0;
  }

  get stages() { return this.layers.map((layer) => layer.stage); }

  get layer() { return this.layers.find((layer) => layer.stage === this.stage); }

  async build(url) {
    const { model, answer } = this;
    const size = `${model.input_size[1]} × ${model.input_size[2]} pixels, ${model.class_names.length} classes`;
    const figure = element("figure", {});
    if (answer) {
      this.view = await picture(answer.view);
      this.heat = answer.grad_cam && (await picture(answer.grad_cam.picture));
      this.canvas = element("canvas", { class: this.layers.length > 0 && "points", role: "img", "aria-label": this.label() });
      this.caption = element("figcaption");
      if (this.layers.length) this.listen();
      figure.append(this.canvas, this.caption);
    } else {
      figure.append(element("img", { src: url, alt: "The image that was sent" }),
        element("figcaption", {}, "An exported file: its predictions alone can be shown."));
    }
    this.facts = element("div", { class: "facts" });
    this.root = element("article", { "aria-label": `Network ${model.name}` },
      element("header", {}, element("h2", {}, model.name), element("span", { class: "soft" }, `${model.model === model.name ? "" : `${model.model}, `}${size}`)),
      figure, this.facts);
    return this.root;
  }

  label() {
    const cam = this.answer.grad_cam;
    const heat = cam ? `heat map for class ${cam.class} at layer ${cam.layer}` : "no heat map";
    return `What ${this.model.name} saw, ${heat}.${this.layers.length ? " Arrow keys move the point whose taps are shown." : ""}`;
  }

  listen() {
    const { canvas } = this;
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-roledescription", "image with a movable point");
    const point = (event) => {
      const box = canvas.getBoundingClientRect();
      const [height, width] = this.answer.view_size;
      const [wide, high] = [width + 2 * this.margin, height + 2 * this.margin];
      this.moved([(((event.clientY - box.top) / box.height) * high - this.margin) / height,
        (((event.clientX - box.left) / box.width) * wide - this.margin) / width]);
    };
    canvas.addEventListener("pointerdown", point);
    canvas.addEventListener("pointermove", point);
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step && event.key !== "Home") return;
      event.preventDefault();
      if (event.key === "Home") return this.moved([0.5, 0.5], true);
      const [height, width] = this.answer.view_size;
      const positions = this.layer.size;
      const row = Math.max(0, Math.min(positions[0] - 1, this.found.row + step[0]));
      const column = Math.max(0, Math.min(positions[1] - 1, this.found.column + step[1]));
      const mean = (values, index) => values.reduce((sum, list) => sum + list[index], 0) / values.length;
      this.moved([(mean(this.layer.rows, row) + 0.5) / height, (mean(this.layer.columns, column) + 0.5) / width], true);
    });
  }

  show({ opacity, stage, point }) {
    this.opacity = opacity;
    this.stage = this.stages.includes(stage) ? stage : this.stages.at(-1);
    this.point = point;
    this.facts.replaceChildren(ranking(this.predictions),
      ...(this.answer?.funnel ? [funnel(this.answer.funnel)] : []),
      ...(this.layers.length ? [offsets(this.layers, this.stage)] : []));
    this.redraw();
  }

  redraw() {
    if (!this.answer) return;
    const size = this.answer.view_size;
    const { layer } = this;
    this.found = layer && tapsAt(layer, this.point[0] * size[0] - 0.5, this.point[1] * size[1] - 0.5);
    this.margin = draw(this.canvas, { view: this.view, heat: this.heat, opacity: this.opacity, size, layer, found: this.found });
    this.caption.textContent = this.describe();
  }

  describe() {
    const cam = this.answer.grad_cam;
    const scored = cam?.scored_by && cam.scored_by !== "head" ? `, scored last at ${cam.scored_by}` : "";
    const heat = cam ? `Heat map: “${cam.class}” ${percent(cam.probability)} at ${cam.layer}, ${cam.size.join(" × ")}${scored}.` : "This network has no maps to explain.";
    if (!this.found) return heat;
    return `${heat} ${this.place()}`;
  }

  place() {
    const lengths = this.found.taps.map(([y, x, toY, toX]) => Math.hypot(toY - y, toX - x));
    const mean = lengths.reduce((sum, length) => sum + length, 0) / lengths.length;
    return `Stage ${this.stage}, row ${this.found.row + 1} of ${this.layer.size[0]}, column ${this.found.column + 1} of ${this.layer.size[1]}: ` +
      `${lengths.length} taps moved by ${mean.toFixed(1)} px on average, ${Math.max(...lengths).toFixed(1)} at most.`;
  }
}
