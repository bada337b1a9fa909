// What a network saw, the heat map over it, and where the taps of a contextual convolution read.

const MOST_MARGIN = 0.6; // of the image's side, round it, for taps that read outside

export function decodeLayer(layer) {
  const bytes = Uint8Array.from(atob(layer.moves), (letter) => letter.charCodeAt(0));
  const words = new DataView(bytes.buffer);
  const moves = Float32Array.from({ length: bytes.length / 2 }, (_, i) => words.getInt16(2 * i, true) * layer.scale);
  return { ...layer, moves };
}

const middle = (values, index) => values.reduce((sum, row) => sum + row[index], 0) / values.length;

function nearest(values, place) {
  let best = 0;
  for (let index = 1; index < values[0].length; index++) {
    if (Math.abs(middle(values, index) - place) < Math.abs(middle(values, best) - place)) best = index;
  }
  return best;
}

// The output position nearest to a pixel (y, x) and its taps, [y, x, movedY, movedX] in pixels.
export function tapsAt(layer, y, x) {
  const [kernelHeight, kernelWidth] = layer.kernel;
  const [height, width] = layer.size;
  const row = nearest(layer.rows, y);
  const column = nearest(layer.columns, x);
  const taps = [];
  for (let i = 0; i < kernelHeight; i++) {
    for (let j = 0; j < kernelWidth; j++) {
      const at = 2 * (((i * kernelWidth + j) * height + row) * width + column);
      const [plainY, plainX] = [layer.rows[i][row], layer.columns[j][column]];
      taps.push([plainY, plainX, plainY + layer.moves[at], plainX + layer.moves[at + 1]]);
    }
  }
  return { row, column, taps, centre: [middle(layer.rows, row), middle(layer.columns, column)] };
}

// How much of the surroundings to show, pixels.
export function marginOf(layer, [height, width]) {
  if (!layer) return 0;
  const rows = layer.rows.flat();
  const columns = layer.columns.flat();
  const beyond = Math.max(-Math.min(...rows), Math.max(...rows) - height, -Math.min(...columns), Math.max(...columns) - width, 0);
  return Math.min(beyond + layer.mean_distance + 1, MOST_MARGIN * Math.max(height, width));
}

export function draw(canvas, { view, heat, opacity, size: [height, width], layer, found }) {
  const style = getComputedStyle(canvas);
  const colors = ["--text", "--line", "--blue", "--page", "--orange"].map((name) => style.getPropertyValue(name));
  const [ink, line, mark, ground, cross] = colors;
  const margin = marginOf(layer, [height, width]);
  const cssWidth = canvas.clientWidth || 320;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(cssWidth * ratio);
  canvas.height = Math.round((canvas.width * (height + 2 * margin)) / (width + 2 * margin));
  const scale = canvas.width / (width + 2 * margin);
  const context = canvas.getContext("2d");
  const frame = [margin * scale, margin * scale, width * scale, height * scale];
  context.imageSmoothingEnabled = Math.max(height, width) > 64;
  context.drawImage(view, ...frame);
  if (heat && opacity > 0) {
    context.globalAlpha = opacity;
    context.imageSmoothingEnabled = true;
    context.drawImage(heat, ...frame);
    context.globalAlpha = 1;
  }
  context.strokeStyle = line;
  context.lineWidth = ratio;
  context.strokeRect(...frame);
  if (!layer || !found) return margin;
  // pixel centres have whole numbers
  const px = (x) => (x + 0.5 + margin) * scale;
  const radius = 2.6 * ratio;
  for (const [y, x, movedY, movedX] of found.taps) {
    // both colours, so that it shows on any picture
    for (const [color, wide] of [[ground, 3.2], [ink, 1.2]]) {
      context.strokeStyle = color;
      context.lineWidth = wide * ratio;
      context.beginPath();
      context.moveTo(px(x), px(y));
      context.lineTo(px(movedX), px(movedY));
      context.stroke();
    }
    context.beginPath();
    context.arc(px(x), px(y), radius, 0, 2 * Math.PI);
    context.fillStyle = ground;
    context.fill();
    context.stroke();
  }
  for (const [, , movedY, movedX] of found.taps) {
    context.beginPath();
    context.arc(px(movedX), px(movedY), radius * 1.15, 0, 2 * Math.PI);
    context.fillStyle = mark;
    context.fill();
    context.strokeStyle = ground;
    context.stroke();
  }
  const [y, x] = found.centre.map(px);
  for (const [color, wide] of [[ground, 5], [cross, 2.5]]) {
    context.strokeStyle = color;
    context.lineWidth = wide * ratio;
    context.beginPath();
    context.moveTo(x - 8 * ratio, y);
    context.lineTo(x + 8 * ratio, y);
    context.moveTo(x, y - 8 * ratio);
    context.lineTo(x, y + 8 * ratio);
    context.stroke();
  }
  return margin;
}
