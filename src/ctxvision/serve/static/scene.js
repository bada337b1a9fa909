// What is drawn: the photo as it was sent, the part of it that the network saw, heat map, taps and kernels.

// matplotlib's PuOr and cividis, as the pages of `ctxvision explain` use them
export const SIGNED = ["#7f3b08", "#be630a", "#ef9e3c", "#fed7a2", "#f6f6f7", "#cecde4", "#988dbe", "#5d3790", "#2d004b"];
export const SHARES = ["#00224e", "#434e6c", "#7d7c78", "#bcae6c", "#fee838"];

const channels = (color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));

// The colour of a share from 0 to 1.
export function colorOf(colors, share) {
  const place = Math.max(0, Math.min(1, share)) * (colors.length - 1);
  const low = Math.min(Math.floor(place), colors.length - 2);
  const [from, to] = [channels(colors[low]), channels(colors[low + 1])];
  return `rgb(${from.map((value, i) => Math.round(value + (to[i] - value) * (place - low))).join(" ")})`;
}

// Where the view lies in the photo: the photo was scaled to cover `scaledTo`, and the view cut from its middle.
// All in pixels of the view; its own corner is at 0, 0.
export function placement(photo, [height, width], scaledTo) {
  if (!photo) return { left: 0, top: 0, wide: width, high: height };
  const scale = Math.max(scaledTo[0] / photo.naturalHeight, scaledTo[1] / photo.naturalWidth);
  const [wide, high] = [photo.naturalWidth * scale, photo.naturalHeight * scale];
  return { left: (wide - width) / 2, top: (high - height) / 2, wide, high };
}

// The part of the plane to show, as shares of the photo: the photo, the view, and a margin round the view.
export function boundsOf({ left, top, wide, high }, [height, width], margin) {
  return {
    x0: Math.min(0, (left - margin) / wide), x1: Math.max(1, (left + width + margin) / wide),
    y0: Math.min(0, (top - margin) / high), y1: Math.max(1, (top + height + margin) / high),
  };
}

// What holds all bounds, so that pictures beside each other have one scale.
export const union = (all) => ({
  x0: Math.min(...all.map((one) => one.x0)), x1: Math.max(...all.map((one) => one.x1)),
  y0: Math.min(...all.map((one) => one.y0)), y1: Math.max(...all.map((one) => one.y1)),
});

const FEW = 64; // pixels, up to which a visitor wants to see each of them
const smooth = (context, image) => { context.imageSmoothingEnabled = Math.max(image.naturalWidth, image.naturalHeight) > FEW; };

// Draws a scene and returns how it maps pixels of the canvas to shares of the view.
export function draw(canvas, { photo, view, asSeen, heat, opacity, size: [height, width], place, bounds, layer, found }) {
  const style = getComputedStyle(canvas);
  const [ink, line, mark, ground, cross] = ["--text", "--line", "--blue", "--page", "--orange"].map((name) => style.getPropertyValue(name));
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round((canvas.clientWidth || 320) * ratio);
  const scale = canvas.width / ((bounds.x1 - bounds.x0) * place.wide); // pixels of the canvas for one of the view
  canvas.height = Math.round((bounds.y1 - bounds.y0) * place.high * scale);
  const context = canvas.getContext("2d");
  const [originX, originY] = [(place.left - bounds.x0 * place.wide) * scale, (place.top - bounds.y0 * place.high) * scale];
  const frame = [originX, originY, width * scale, height * scale];
  const whole = [originX - place.left * scale, originY - place.top * scale, place.wide * scale, place.high * scale];
  if (photo) {
    smooth(context, photo);
    context.drawImage(photo, ...whole);
    // what the network does not see is paler
    context.save();
    context.beginPath();
    context.rect(...whole);
    context.rect(...frame);
    context.clip("evenodd");
    context.globalAlpha = 0.65;
    context.fillStyle = ground;
    context.fillRect(...whole);
    context.restore();
  }
  if (!photo || asSeen) {
    smooth(context, view);
    context.drawImage(view, ...frame);
  }
  if (heat && opacity > 0) {
    context.globalAlpha = opacity;
    context.imageSmoothingEnabled = true;
    context.drawImage(heat, ...frame);
    context.globalAlpha = 1;
  }
  context.strokeStyle = line;
  context.lineWidth = ratio;
  context.strokeRect(...frame);
  // pixel centres have whole numbers
  const at = { x: (x) => (x + 0.5) * scale + originX, y: (y) => (y + 0.5) * scale + originY };
  if (layer && found) {
    (layer.moves ? drawTaps : drawWeights)(context, at, layer, found, { ink, mark, ground, ratio });
    drawCross(context, at.x(found.centre[1]), at.y(found.centre[0]), [[ground, 5], [cross, 2.5]], ratio);
  }
  return (x, y) => [(y * ratio - originY) / frame[3], (x * ratio - originX) / frame[2]];
}

function dot(context, x, y, radius, fill, edge) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fillStyle = fill;
  context.fill();
  context.strokeStyle = edge;
  context.stroke();
}

function drawTaps(context, at, layer, found, { ink, mark, ground, ratio }) {
  const radius = 2.6 * ratio;
  for (const { y, x, toY, toX } of found.taps) {
    // both colours, so that it shows on any picture
    for (const [color, wide] of [[ground, 3.2], [ink, 1.2]]) {
      context.strokeStyle = color;
      context.lineWidth = wide * ratio;
      context.beginPath();
      context.moveTo(at.x(x), at.y(y));
      context.lineTo(at.x(toX), at.y(toY));
      context.stroke();
    }
    dot(context, at.x(x), at.y(y), radius, ground, ink);
  }
  if (layer.still) return; // filled dots would only hide the hollow ones
  for (const { toY, toX } of found.taps) dot(context, at.x(toX), at.y(toY), radius * 1.15, mark, ground);
}

// Dots as large as the weights: violet adds, brown subtracts.
function drawWeights(context, at, layer, found, { ground, ratio }) {
  context.lineWidth = ratio;
  for (const { y, x, weight } of found.taps) {
    const share = layer.largest ? weight / layer.largest : 0;
    const radius = (1.5 + 8 * Math.sqrt(Math.abs(share))) * ratio;
    dot(context, at.x(x), at.y(y), radius, share < 0 ? SIGNED[1] : SIGNED[7], ground);
  }
}

function drawCross(context, x, y, strokes, ratio) {
  for (const [color, wide] of strokes) {
    context.strokeStyle = color;
    context.lineWidth = wide * ratio;
    context.beginPath();
    context.moveTo(x - 8 * ratio, y);
    context.lineTo(x + 8 * ratio, y);
    context.moveTo(x, y - 8 * ratio);
    context.lineTo(x, y + 8 * ratio);
    context.stroke();
  }
}

// Values of a grid, row by row, as squares of one colour; `limit` is the value of the last colour.
export function drawGrid(canvas, values, [rows, columns], colors, limit) {
  const side = Math.max(1, Math.floor(160 / Math.max(rows, columns)));
  [canvas.width, canvas.height] = [columns * side, rows * side];
  const context = canvas.getContext("2d");
  values.forEach((value, index) => {
    const share = limit ? value / limit : 0;
    context.fillStyle = colorOf(colors, colors === SIGNED ? (share + 1) / 2 : share);
    context.fillRect((index % columns) * side, Math.floor(index / columns) * side, side, side);
  });
}
