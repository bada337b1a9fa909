// What stands beside the picture of a network: ranking, class funnel, offsets, kernels.

import { breakable, element, percent, signed } from "./tools.js";
import { SHARES, SIGNED, drawGrid } from "./scene.js";
import { kernelAt, sumsOf } from "./taps.js";

const MOST_CLASSES = 10; // of a step of the funnel

const told = (what, how) => element("p", { class: "soft told" }, `${what} ${how}`);

function ranked(name, share, value, classes = "", note = "") {
  return element("li", { class: classes },
    element("span", { class: "name" }, element("span", {}, ...breakable(name)), note && element("span", { class: "hidden" }, note)),
    element("span", { class: "value" }, value),
    element("span", { class: "bar", "aria-hidden": "true", "--share": Math.max(-1, Math.min(1, share)) }));
}

export function ranking(predictions) {
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
    [row.kept || last ? "" : "dropped", row.class === followed ? "followed" : ""].join(" ").trim(),
    row.kept ? "" : last ? "" : " (dropped)"));
  const rest = stage.classes.length - shown.length;
  const place = stage.rank === null ? `“${followed}” was dropped before` : `“${followed}” is number ${stage.rank}`;
  const count = last ? `answers among ${stage.classes.length}` : `keeps ${kept} of ${stage.classes.length}`;
  return element("li", {}, element("h4", {}, stage.name), element("p", { class: "soft" }, `${count}; ${place}`),
    element("ol", { class: "ranking both" }, ...rows),
    rest > 0 ? element("p", { class: "soft" }, `and ${rest} more`) : null);
}

export function funnel(answer) {
  const last = answer.stages.length - 1;
  return element("section", { "aria-label": "Class funnel" }, element("h3", {}, "Class funnel"),
    told("Which classes each stage still considered, by their similarity to the image from −1 to 1, and which it dropped (struck through).",
      "Bars to the right speak for a class, bars to the left against it; compare them within one stage only."),
    element("ol", { class: "funnel" }, ...answer.stages.map((stage, index) => step(stage, answer.followed, index === last))));
}

const times = (value) => (value === null ? "–" : `${value.toFixed(value < 0.1 ? 3 : value < 1 ? 2 : 1)} ×`);

export function offsets(layers, stage) {
  const rows = layers.map((layer) => element("tr", { class: layer.stage === stage && "chosen" },
    element("th", { scope: "row" }, `stage ${layer.stage}`), element("td", {}, layer.size.join(" × ")),
    element("td", {}, layer.still ? "none moves" : `${layer.mean_distance.toFixed(2)} px`),
    element("td", {}, layer.still ? "–" : `${layer.largest_distance.toFixed(1)} px`),
    element("td", {}, times(layer.kernel_change))));
  const heads = ["", "Places", "Taps moved, on average", "at most", "Weights changed by"];
  return element("section", { "aria-label": "Sampling offsets" }, element("h3", {}, "Where it reads, and how it adapts"),
    told("How far the network moves its taps for this image, in pixels of what it saw, and how much it changes its weights.",
      "“0.5 ×” is a change half as large as the learned weights themselves, “2 ×” one that outweighs them."),
    element("table", {}, element("thead", {}, element("tr", {}, ...heads.map((head) => (head ? element("th", { scope: "col" }, head) : element("td", {}))))),
      element("tbody", {}, ...rows)));
}

function grid(label, note, values, shape, colors, limit) {
  const canvas = element("canvas", { role: "img", "aria-label": label, class: "cells" });
  drawGrid(canvas, values, shape, colors, limit);
  return element("figure", { class: "small" }, canvas, element("figcaption", {}, note));
}

const ramp = (kind, low, high) => element("p", { class: "scale" }, element("span", {}, low), element("span", { class: `ramp ${kind}`, "aria-hidden": "true" }), element("span", {}, high));

const largest = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

// The kernels that a layer made for the place under the cross, one for each group of channels.
export function kernelsHere(layer, found) {
  const attention = layer.kind === "attention";
  const places = `row ${found.row + 1} of ${layer.size[0]}, column ${found.column + 1} of ${layer.size[1]}`;
  const kernels = layer.groups.map((group, index) => grid(`Weights of group ${group} at ${places}`, `group ${group} of ${layer.of_groups}`,
    kernelAt(layer, index, found), layer.kernel, SIGNED, layer.largest));
  return [element("h3", {}, attention ? "Attention at the place under the cross" : "Kernel made for the place under the cross"),
    told(`The ${layer.kernel.join(" × ")} weights with which stage ${layer.stage} mixes the neighbours of the place, made for this image and this place alone.`,
      "Violet adds a neighbour, brown subtracts it, white ignores it; move the cross and see how they change."),
    element("div", { class: "grids" }, ...kernels), ramp("signed", `−${layer.largest.toPrecision(2)}`, layer.largest.toPrecision(2))];
}

// What a layer does at all places: the two contexts of CoT, or the sums of the kernels of involution.
export function kernelsEverywhere(layer) {
  if (layer.kind === "involution") {
    const sums = layer.groups.map((_, index) => sumsOf(layer, index));
    const most = largest(sums.flat());
    return [element("h3", {}, "Kernels over the whole image"),
      told("The sum of the kernel at every place, for each group of channels.", "Places of one colour are treated alike; white ones look for differences only."),
      element("div", { class: "grids" }, ...layer.groups.map((group, index) => grid(`Sums of the kernels of group ${group}`, `group ${group} of ${layer.of_groups}`, sums[index], layer.size, SIGNED, most))),
      ramp("signed", `−${most.toPrecision(2)}`, most.toPrecision(2))];
  }
  const [fixed, dynamic] = [layer.static.flat(), layer.dynamic.flat()];
  const most = largest([...fixed, ...dynamic]);
  const share = layer.dynamic_share === null ? null : element("p", {}, `Mixed together, attention counts ${percent(layer.dynamic_share, 0)} on average, the fixed surroundings ${percent(1 - layer.dynamic_share, 0)}.`);
  return [element("h3", {}, "Fixed surroundings against attention"),
    told("How strongly every place answers to its surroundings by fixed weights (static context) and by attention (dynamic context).", "Yellow is strong and blue is weak, on one scale for both."),
    element("div", { class: "grids" }, grid("Strength of the static context", "static", fixed, layer.size, SHARES, most), grid("Strength of the dynamic context", "dynamic", dynamic, layer.size, SHARES, most)),
    ramp("shares", "0", most.toPrecision(2)), share];
}
