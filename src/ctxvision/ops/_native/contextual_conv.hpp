// Contextual convolution: the problem, and where its taps fall. See contextual_conv/README.md.
//
// Pixels are rows of C float32 numbers: image (B, H * W, C), output and its gradient (B, P, C), kernels (B or 1, K, C).
// C is any number that cpu.py's `_row_length` gives: a multiple of 16, or, so that few channels do not take the memory
// of many, 1, 2, 4 or 8. Only offsets, modulation and their gradients are read and written in the tensors' dtype.
#pragma once

#include "vector.hpp"

namespace {

constexpr int kLanes = 8;                // output positions whose taps are placed together
constexpr int kWidest = 4 * kNative > 16 ? 4 * kNative : 16;  // channels that stay in registers over all taps

// Rows are cut into blocks of kBlock channels or more; a vector holds no more of them.
template <int kBlock>
constexpr int kVector = kBlock < kNative ? kBlock : kNative;
template <int kBlock, int kLargest>
constexpr int kLargestBlock = kBlock < 16 ? kBlock : kLargest;

// f(constant block) for the largest of 16, 8, 4 and 1 channels that rows are made of.
template <typename F>
int with_block(int64_t channels, const F &f) {
  if (channels % 16 == 0) return f(std::integral_constant<int, 16>());
  if (channels % 8 == 0) return f(std::integral_constant<int, 8>());
  if (channels % 4 == 0) return f(std::integral_constant<int, 4>());
  return f(std::integral_constant<int, 1>());
}

using lanes = vec<kLanes>;
typedef int32_t lanes32 __attribute__((vector_size(4 * kLanes)));
typedef int64_t lanes64 __attribute__((vector_size(8 * kLanes)));

// One field per number that cpu.py passes, in its order.
struct Problem {
  int64_t element, batch, height, width, channels, rows, columns;
  int64_t kernel[2], stride[2], padding[2], dilation[2];
  int64_t offset_step[4], mask_step[4];
  int64_t first, count;            // output positions to compute, of each image
  int64_t kernel_step;             // from the kernels of one image to the next, 0 where all share them
  int64_t groups, group_channels;  // of the sampled columns (groups, B, count, K, group_channels)

  explicit Problem(const int64_t *numbers) { std::memcpy(this, numbers, sizeof *this); }
  int64_t taps() const { return kernel[0] * kernel[1]; }
  int64_t positions() const { return rows * columns; }
  int64_t pixels() const { return height * width; }
  int64_t blocks() const { return (count + kLanes - 1) / kLanes; }
  bool columns_are_rows() const { return group_channels == channels; }
};

// Task number `task`: up to kLanes neighbouring output positions of one image.
struct Block {
  int64_t b, first, count;

  Block(const Problem &g, int64_t task) : b(task / g.blocks()), first(g.first + task % g.blocks() * kLanes) {
    const int64_t left = g.first + g.count - first;
    count = left < kLanes ? left : kLanes;
  }
};

// Where the column of a lane of the block, a tap and a channel begins.
CTX_INLINE int64_t column_at(const Problem &g, const Block &block, int64_t lane, int64_t n, int64_t c) {
  const int64_t position = block.b * g.count + block.first - g.first + lane;
  const int64_t group_size = g.batch * g.count * g.taps() * g.group_channels;
  return c / g.group_channels * group_size + (position * g.taps() + n) * g.group_channels + c % g.group_channels;
}

// One kernel tap at kLanes output positions.
struct Tap {
  int64_t at[4][kLanes];  // bytes from the image to the corners: top left, top right, bottom left, bottom right
  float value[4][kLanes]; // modulation times coefficient of each corner; or vertical, horizontal fraction, modulation
};
enum TapValues { kCoefficients, kFractions };

constexpr int64_t kTapFloats = sizeof(Tap) / sizeof(float);

CTX_INLINE int64_t distance(const void *from, const void *to) {
  return static_cast<int64_t>(reinterpret_cast<uintptr_t>(to) - reinterpret_cast<uintptr_t>(from));
}

CTX_INLINE const float *moved(const float *p, int64_t bytes) {
  return reinterpret_cast<const float *>(reinterpret_cast<uintptr_t>(p) + static_cast<uintptr_t>(bytes));
}

// The values at kLanes places: one load where they lie side by side.
template <typename T>
struct Places {
  int64_t at[kLanes];
  bool together;

  CTX_INLINE lanes read(const T *p) const {
    if (together) return load<kLanes>(p + at[0]);
    float values[kLanes];
    for (int l = 0; l < kLanes; ++l) values[l] = to_float(p[at[l]]);
    return load<kLanes>(values);
  }
};

// A sampling coordinate of kLanes positions: the pixel before it and the way from there, inside or not.
struct Axis {
  lanes fraction;
  lanes32 before, before_inside, after_inside;

  CTX_INLINE Axis(lanes position, int64_t size) {
    const lanes low = splat<kLanes>(-2), high = splat<kLanes>(static_cast<float>(size + 1));
    position = position < low ? low : position;
    position = position > high ? high : position;                     // NaN stays
    const lanes number = position == position ? position : low;       // NaN has no integer
    const lanes32 truncated = __builtin_convertvector(number, lanes32);
    before = truncated + (__builtin_convertvector(truncated, lanes) > number);  // true is -1
    fraction = position - __builtin_convertvector(before, lanes);
    const lanes32 end = lanes32{} + static_cast<int32_t>(size);
    before_inside = (before >= 0) & (before < end);
    after_inside = (before >= -1) & (before + 1 < end);
  }
};

// Place all taps of a block of output positions; lanes that it does not fill repeat its last position.
// Corners outside the image are at `outside`.
template <TapValues kValues, typename T>
void place_taps(const Problem &g, const Block &block, const T *offset, const T *mask, int64_t outside, Tap *taps) {
  offset += block.b * g.offset_step[0];
  if (mask) mask += block.b * g.mask_step[0];
  Places<T> offsets, masks;
  float grid_y[kLanes], grid_x[kLanes];
  offsets.together = masks.together = block.count == kLanes;
  for (int l = 0; l < kLanes; ++l) {
    const int64_t p = block.first + (l < block.count ? l : block.count - 1), i = p / g.columns, j = p % g.columns;
    offsets.at[l] = i * g.offset_step[2] + j * g.offset_step[3];
    masks.at[l] = i * g.mask_step[2] + j * g.mask_step[3];
    offsets.together &= offsets.at[l] == offsets.at[0] + l;
    masks.together &= masks.at[l] == masks.at[0] + l;
    grid_y[l] = static_cast<float>(i * g.stride[0] - g.padding[0]);
    grid_x[l] = static_cast<float>(j * g.stride[1] - g.padding[1]);
  }
  const int64_t right = g.channels * 4, down = g.width * right;
  for (int64_t u = 0, n = 0; u < g.kernel[0]; ++u) {
    const lanes tap_y = load<kLanes>(grid_y) + static_cast<float>(u * g.dilation[0]);
    for (int64_t v = 0; v < g.kernel[1]; ++v, ++n) {
      const lanes tap_x = load<kLanes>(grid_x) + static_cast<float>(v * g.dilation[1]);
      const Axis y(tap_y + offsets.read(offset + 2 * n * g.offset_step[1]), g.height);
      const Axis x(tap_x + offsets.read(offset + (2 * n + 1) * g.offset_step[1]), g.width);
      const lanes m = mask ? masks.read(mask + n * g.mask_step[1]) : splat<kLanes>(1);
      Tap &tap = taps[n];

      const lanes64 top_left =
          __builtin_convertvector(y.before, lanes64) * down + __builtin_convertvector(x.before, lanes64) * right;
      const lanes64 all_outside = lanes64{} + outside;
      const auto put = [&](int corner, lanes64 at, lanes32 inside) {
        const lanes64 wide = __builtin_convertvector(inside, lanes64);
        at = (at & wide) | (all_outside & ~wide);
        std::memcpy(tap.at[corner], &at, sizeof at);
      };
      put(0, top_left, y.before_inside & x.before_inside);
      put(1, top_left + right, y.before_inside & x.after_inside);
      put(2, top_left + down, y.after_inside & x.before_inside);
      put(3, top_left + down + right, y.after_inside & x.after_inside);

      if constexpr (kValues == kCoefficients) {
        const lanes upper = (1 - y.fraction) * m, lower = y.fraction * m;
        store<kLanes>(tap.value[0], upper * (1 - x.fraction));
        store<kLanes>(tap.value[1], upper * x.fraction);
        store<kLanes>(tap.value[2], lower * (1 - x.fraction));
        store<kLanes>(tap.value[3], lower * x.fraction);
      } else {
        store<kLanes>(tap.value[0], y.fraction);
        store<kLanes>(tap.value[1], x.fraction);
        store<kLanes>(tap.value[2], m);
      }
    }
  }
}

// What a tap reads at one position.
struct Corners {
  const float *at[4];
  float value[4];

  CTX_INLINE Corners(const float *image, const Tap &tap, int64_t lane) {
    for (int k = 0; k < 4; ++k) at[k] = moved(image, tap.at[k][lane]), value[k] = tap.value[k][lane];
  }

  template <int N>
  CTX_INLINE vec<N> sample(int64_t c) const {
    vec<N> mixed = value[0] * load<N>(at[0] + c);
    for (int k = 1; k < 4; ++k) mixed += value[k] * load<N>(at[k] + c);
    return mixed;
  }
};

// Call body(constant width, c) for channels [begin, end), in blocks of kLargest and then smaller powers of two.
template <int kLargest, typename Body>
CTX_INLINE void channel_blocks(int64_t begin, int64_t end, const Body &body) {
  int64_t c = begin;
  for (; c + kLargest <= end; c += kLargest) body(std::integral_constant<int, kLargest>(), c);
  if constexpr (kLargest > 16) {
    if (c < end) channel_blocks<kLargest / 2>(c, end, body);
  }
}

// As many threads as have work of at least some ten microseconds each.
int worthwhile(int threads, int64_t operations) {
  const int64_t most = operations / 200000 + 1;
  return most < threads ? static_cast<int>(most) : threads;
}

int64_t operations(const Problem &g) { return g.batch * g.count * g.taps() * g.channels; }

CTX_INLINE float *clear(float *p, int64_t count) {
  std::memset(p, 0, static_cast<size_t>(count) * 4);
  return p;
}

}  // namespace
