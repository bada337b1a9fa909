// Where the taps of a layer read, and the kernels that it made: the arrays of /explain, decoded.

const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

const STILL = 0.01; // pixels, below which nobody sees a tap move

// of a contextual convolution: its taps move
export function decodeOffsets(layer) {
  const bytes = bytesOf(layer.moves);
  const words = new DataView(bytes.buffer);
  const moves = Float32Array.from({ length: bytes.length / 2 }, (_, i) => words.getInt16(2 * i, true) * layer.scale);
  return { ...layer, kind: "offsets", moves, still: layer.largest_distance < STILL };
}

// of an involution or CoT layer: its taps have weights of their own at every place
export function decodeKernels(layer) {
  const weights = Float32Array.from(new Int8Array(bytesOf(layer.weights).buffer), (value) => value * layer.scale);
  return { ...layer, weights, largest: weights.reduce((most, value) => Math.max(most, Math.abs(value)), 0) };
}

export const middle = (values, index) => values.reduce((sum, row) => sum + row[index], 0) / values.length;

function nearest(values, place) {
  let best = 0;
  for (let index = 1; index < values[0].length; index++) {
    if (Math.abs(middle(values, index) - place) < Math.abs(middle(values, best) - place)) best = index;
  }
  return best;
}

// The output position nearest to a pixel (y, x) and its taps, in pixels: where a plain convolution reads, and where
// this one reads or with which weight, by its first group.
export function tapsAt(layer, y, x) {
  const [kernelHeight, kernelWidth] = layer.kernel;
  const row = nearest(layer.rows, y);
  const column = nearest(layer.columns, x);
  const taps = [];
  for (let i = 0; i < kernelHeight; i++) {
    for (let j = 0; j < kernelWidth; j++) {
      const tap = { y: layer.rows[i][row], x: layer.columns[j][column] };
      if (layer.moves) {
        const at = 2 * indexOf(layer, i * kernelWidth + j, row, column);
        Object.assign(tap, { toY: tap.y + layer.moves[at], toX: tap.x + layer.moves[at + 1] });
      } else {
        tap.weight = layer.weights[indexOf(layer, i * kernelWidth + j, row, column)];
      }
      taps.push(tap);
    }
  }
  return { row, column, taps, centre: [middle(layer.rows, row), middle(layer.columns, column)] };
}

const indexOf = ({ size: [height, width] }, tap, row, column) => (tap * height + row) * width + column;

// The kernel of a group at a place, row by row.
export function kernelAt(layer, group, { row, column }) {
  const taps = layer.kernel[0] * layer.kernel[1];
  return Array.from({ length: taps }, (_, tap) => layer.weights[indexOf(layer, group * taps + tap, row, column)]);
}

// The sum of the kernel of a group at every place, row by row.
export function sumsOf(layer, group) {
  const places = layer.size[0] * layer.size[1];
  const taps = layer.kernel[0] * layer.kernel[1];
  return Array.from({ length: places }, (_, place) => {
    let sum = 0;
    for (let tap = 0; tap < taps; tap++) sum += layer.weights[(group * taps + tap) * places + place];
    return sum;
  });
}

const MOST_MARGIN = 0.25; // of the view's side, round it, for taps that read outside

// How much of the surroundings of the view to show, pixels.
export function marginOf(layer, [height, width]) {
  const rows = layer.rows.flat();
  const columns = layer.columns.flat();
  const beyond = Math.max(-Math.min(...rows), Math.max(...rows) - height, -Math.min(...columns), Math.max(...columns) - width, 0);
  return Math.min(beyond + (layer.mean_distance ?? 0) + 1, MOST_MARGIN * Math.max(height, width));
}
