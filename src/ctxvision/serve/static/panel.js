// One network's answer: the picture that follows the pointer, and the facts beside it.

import { element, percent } from "./tools.js";
import { funnel, kernelsEverywhere, kernelsHere, offsets, ranking } from "./facts.js";
import { boundsOf, draw, placement } from "./scene.js";
import { decodeKernels, decodeOffsets, marginOf, middle, tapsAt } from "./taps.js";

export const picture = (source) => new Promise((resolve, reject) => {
  const image = new Image();
  image.onload = () => resolve(image);
  image.onerror = () => reject(new Error("the image cannot be shown"));
  image.src = source;
});

export class Panel {
  // model: of GET /models; answer: of POST /explain, or null; predictions: of POST /predict; moved: is told a new point
  constructor(model, answer, predictions, moved) {
    this.model = model;
    this.answer = answer;
    this.predictions = answer ? answer.predictions : predictions;
    this.offsets = answer ? answer.offsets.map(decodeOffsets) : [];
    this.layers = answer ? [...this.offsets, ...answer.kernels.map(decodeKernels)] : [];
    this.moved = moved;
  }

  get stages() { return this.layers.map((layer) => layer.stage); }

  // url: of what was sent; photo: the same as a picture, or null where the browser cannot show it
  async build(url, photo) {
    const { model, answer } = this;
    const size = `${model.input_size[1]} × ${model.input_size[2]} pixels, ${model.class_names.length} classes`;
    const figure = element("figure", {});
    if (answer) {
      this.photo = photo;
      this.view = await picture(answer.view);
      this.heat = answer.grad_cam && answer.grad_cam.map.flat().some((value) => value > 0) ? await picture(answer.grad_cam.picture) : null;
      this.canvas = element("canvas", { class: this.layers.length > 0 && "points", role: "img", "aria-label": this.label() });
      this.caption = element("figcaption");
      if (this.layers.length) this.listen();
      figure.append(this.canvas);
      if (this.heat) {
        figure.append(element("p", { class: "scale" }, element("span", {}, "speaks little"),
          element("span", { class: "ramp heat", "aria-hidden": "true" }), element("span", {}, "speaks most for the class")));
      }
      figure.append(this.caption);
    } else {
      figure.append(element("img", { src: url, alt: "The image that was sent" }),
        element("figcaption", {}, "An exported file: its predictions alone can be shown."));
    }
    this.facts = element("div", { class: "facts" });
    this.here = element("section", { "aria-label": "Kernels at the point" });
    this.root = element("article", { "aria-label": `Network ${model.name}` },
      element("header", {}, element("h2", {}, model.name), element("span", { class: "soft" }, `${model.model === model.name ? "" : `${model.model}, `}${size}`)),
      figure, this.facts);
    return this.root;
  }

  label() {
    const cam = this.answer.grad_cam;
    const heat = cam ? `heat map for class ${cam.class} at layer ${cam.layer}` : "no heat map";
    return `The image, ${heat} of ${this.model.name}.${this.layers.length ? " Arrow keys move the point whose taps are shown." : ""}`;
  }

  listen() {
    const { canvas } = this;
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-roledescription", "image with a movable point");
    const point = (event) => {
      if (!this.layer) return;
      const box = canvas.getBoundingClientRect();
      this.moved(this.shareOf(event.clientX - box.left, event.clientY - box.top));
    };
    canvas.addEventListener("pointerdown", point);
    canvas.addEventListener("pointermove", point);
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!this.layer || (!step && event.key !== "Home")) return;
      event.preventDefault();
      if (event.key === "Home") return this.moved([0.5, 0.5], true);
      const [height, width] = this.answer.view_size;
      const positions = this.layer.size;
      const row = Math.max(0, Math.min(positions[0] - 1, this.found.row + step[0]));
      const column = Math.max(0, Math.min(positions[1] - 1, this.found.column + step[1]));
      this.moved([(middle(this.layer.rows, row) + 0.5) / height, (middle(this.layer.columns, column) + 0.5) / width], true);
    });
  }

  // What to show; returns the part of the plane that it needs, as shares of the photo, or null.
  choose({ stage, asSeen, opacity }) {
    Object.assign(this, { asSeen, opacity });
    const known = this.stages;
    this.layer = stage === null ? null : this.layers.find((layer) => layer.stage === (known.includes(stage) ? stage : known.at(-1)));
    if (!this.answer) return null;
    this.place = placement(this.photo, this.answer.view_size, this.answer.scaled_to);
    return boundsOf(this.place, this.answer.view_size, this.layer ? marginOf(this.layer, this.answer.view_size) : 0);
  }

  // bounds: of all pictures, so that they have one scale; point: shares (y, x) of the view
  show(bounds, point) {
    this.bounds = bounds;
    const weighs = this.layer?.weights;
    this.facts.replaceChildren(ranking(this.predictions),
      ...(this.answer?.funnel ? [funnel(this.answer.funnel)] : []),
      ...(this.offsets.length ? [offsets(this.offsets, this.layer?.stage)] : []),
      ...(weighs ? [this.here, element("section", { "aria-label": "Kernels everywhere" }, ...kernelsEverywhere(this.layer).filter(Boolean))] : []));
    this.redraw(point);
  }

  redraw(point) {
    if (!this.answer) return;
    const size = this.answer.view_size;
    const { layer, bounds, place, photo, view, asSeen, heat, opacity } = this;
    this.found = layer ? tapsAt(layer, point[0] * size[0] - 0.5, point[1] * size[1] - 0.5) : null;
    this.shareOf = draw(this.canvas, { photo, view, asSeen, heat, opacity, size, place, bounds, layer, found: this.found });
    this.caption.replaceChildren(...this.describe().map((line) => element("p", {}, line)));
    if (layer?.weights) this.here.replaceChildren(...kernelsHere(layer, this.found));
  }

  describe() {
    const cam = this.answer.grad_cam;
    const lines = [];
    if (!cam) lines.push("This network has no maps to explain.");
    else if (!this.heat) lines.push(`Nothing in the image speaks for “${cam.class}” (${percent(cam.probability)}) at ${cam.layer}: there is no heat map to draw.`);
    else {
      const early = cam.scored_by && cam.scored_by !== "head" ? `, and ${cam.scored_by} was the last to consider the class` : "";
      lines.push(`Heat map: where the network found what speaks for “${cam.class}”, to which it gives ${percent(cam.probability)}. ` +
        `It is read from ${cam.size.join(" × ")} places at ${cam.layer}${early}; compare where maps are bright, not how bright.`);
    }
    if (this.found) lines.push(this.told());
    return lines;
  }

  told() {
    if (this.layer.weights) {
      return `${this.whereabouts()} Dots: how the ${this.found.taps.length} neighbours of the cross are mixed (group ${this.layer.groups[0]}); violet adds, brown subtracts, large weighs much.`;
    }
    if (this.layer.still) return `${this.whereabouts()} Dots: where it reads for the cross, which is where a plain convolution would.`;
    return `${this.whereabouts()} Hollow dots: where a plain convolution would read for the cross; filled: where this one reads.`;
  }

  // The place under the cross, in words.
  whereabouts() {
    const where = `Stage ${this.layer.stage}, row ${this.found.row + 1} of ${this.layer.size[0]}, column ${this.found.column + 1} of ${this.layer.size[1]}`;
    if (this.layer.weights) return `${where}.`;
    const lengths = this.found.taps.map(({ y, x, toY, toX }) => Math.hypot(toY - y, toX - x));
    if (this.layer.still) return `${where}: no tap moves.`;
    const mean = lengths.reduce((sum, length) => sum + length, 0) / lengths.length;
    return `${where}: ${lengths.length} taps moved by ${mean.toFixed(1)} px on average, ${Math.max(...lengths).toFixed(1)} at most.`;
  }
}
