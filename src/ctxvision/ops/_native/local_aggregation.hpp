// Local aggregation: the problem, images as lanes of vectors, and the loops over the rows of a task.
#pragma once

#include <type_traits>

#include "vector.hpp"

namespace {

enum Mode : int64_t { kForward, kInputGrad, kWeightGrad };

// As in cpu.py, which fills it.
struct Problem {
  int64_t mode, element, channels_last, taps_last, interleaved;
  int64_t batch, channels, groups, height, width, out_height, out_width, kernel;
  int64_t stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;

  int64_t taps() const { return kernel * kernel; }
  int64_t group_size() const { return channels / groups; }
  int64_t channel_step() const { return interleaved ? groups : 1; }  // between two channels of a group
  int64_t first_channel(int64_t group) const { return interleaved ? group : group * group_size(); }
  bool steps_by(int64_t stride) const {
    return stride_y == stride && stride_x == stride && dilation_y == 1 && dilation_x == 1;
  }
};

// Rows [first, last) of an image.
struct Rows {
  int64_t first, last;
  int64_t count() const { return last - first; }
};

int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The side of x or y: where a channel of a pixel is, and its lane blocks of V channels.
template <typename T, int V>
struct Image {
  const Problem &p;
  T *data;
  int64_t height, width;

  int64_t blocks() const { return ceil_div(p.group_size(), V); }
  int64_t lanes(int64_t block) const { return min(V, p.group_size() - block * V); }
  T *sample(int64_t b) const { return data + b * p.channels * height * width; }

  // whether a group's channels can be loaded as vectors where they are
  bool direct() const {
    return std::is_same<T, float>::value && p.channels_last && !p.interleaved && p.group_size() % V == 0;
  }
  int64_t packed_size(int64_t groups, int64_t rows) const { return groups * blocks() * rows * width * V; }

  // image -> packed (groups, blocks, rows, width, V), or back
  void pack(int64_t b, int64_t group, int64_t groups, Rows rows, float *packed) const {
    const int64_t run = rows.count() * width, step = p.channel_step();
    for (int64_t block = 0; block < blocks(); ++block) {
      const int64_t used = lanes(block);
      for (int64_t g = 0; g < groups; ++g) {
        float *to = packed + (g * blocks() + block) * run * V;
        if (used < V) std::memset(to, 0, static_cast<size_t>(run * V) * 4);
        const int64_t channel = p.first_channel(group + g) + block * V * step;
        if (!p.channels_last) {
          const T *from = sample(b) + channel * height * width + rows.first * width;
          transpose(from, step * height * width, used, run, to, V);
        } else if (step == 1) {
          const T *from = sample(b) + rows.first * width * p.channels + channel;
          for (int64_t i = 0; i < run; ++i, from += p.channels, to += V) {
            store<V>(to, used == V ? load<V>(from) : load_some<V>(from, used));
          }
        }
      }
      if (p.channels_last && step > 1) {
        const T *from = sample(b) + rows.first * width * p.channels + p.first_channel(group) + block * V * step;
        transpose(from, step, used, groups, packed + block * run * V, blocks() * run * V, run, p.channels, V);
      }
    }
  }

  void unpack(int64_t b, int64_t group, int64_t groups, Rows rows, const float *packed) const {
    const int64_t run = rows.count() * width, step = p.channel_step();
    for (int64_t block = 0; block < blocks(); ++block) {
      const int64_t used = lanes(block);
      for (int64_t g = 0; g < groups; ++g) {
        const float *from = packed + (g * blocks() + block) * run * V;
        const int64_t channel = p.first_channel(group + g) + block * V * step;
        if (!p.channels_last) {
          T *to = sample(b) + channel * height * width + rows.first * width;
          transpose(from, V, run, used, to, step * height * width);
        } else if (step == 1) {
          T *to = sample(b) + rows.first * width * p.channels + channel;
          for (int64_t i = 0; i < run; ++i, from += V, to += p.channels) {
            used == V ? store<V>(to, load<V>(from)) : store_some<V>(to, load<V>(from), used);
          }
        }
      }
      if (p.channels_last && step > 1) {
        T *to = sample(b) + rows.first * width * p.channels + p.first_channel(group) + block * V * step;
        transpose(packed + block * run * V, blocks() * run * V, groups, used, to, step, run, V, p.channels);
      }
    }
  }
};

// One lane block as the inner loops see it: V floats at data + row * row_step + col * col_step.
struct Block {
  float *data;
  int64_t first_row, row_step, col_step;
  float *row(int64_t r) const { return data + (r - first_row) * row_step; }
};

// The maps of one group: weight of tap n at output position (i, j) at row(i) + j * position_step + n * tap_step.
struct Maps {
  const float *data;
  int64_t first_row, row_step, position_step, tap_step;
  const float *row(int64_t r) const { return data + (r - first_row) * row_step; }
};

// T neighbouring results of one row, all taps, dilation 1: a vector of the source is loaded once and used by up to K
// results. Column q of the window contributes to result t through tap v = q - S t, with S the stride. In the adjoint,
// which knows stride 1 alone, it is v = t + K - 1 - q, and the weight belongs to the source's position.
template <int V, int K, int T, int S, bool TAPS_LAST, bool ADJOINT, bool CLIPPED>
CTX_INLINE void window_row(const float *source, int64_t col_step, int64_t q_first, int64_t q_last, const float *weight,
                           int64_t weight_step, vec<V> *total) {
  unroll<(T - 1) * S + K>([&](auto q) __attribute__((always_inline)) {
    if (CLIPPED && (q < q_first || q >= q_last)) return;
    const vec<V> pixel = load<V>(source + q * col_step);
    unroll<T>([&](auto t) __attribute__((always_inline)) {
      constexpr int v = ADJOINT ? t + K - 1 - q : q - S * t;
      constexpr int position = ADJOINT ? q : t;
      if constexpr (v >= 0 && v < K) {
        total[t] += pixel * (TAPS_LAST ? weight[position * weight_step + v] : weight[v * weight_step + position]);
      }
    });
  });
}

template <int V, int K, int T, int S, bool TAPS_LAST, bool ADJOINT>
void slide(const Problem &p, int64_t i, int64_t j, const Block &source, int64_t source_height, int64_t source_width,
           const Maps &maps, float *out, int64_t out_step) {
  vec<V> total[T];
  unroll<T>([&](auto t) __attribute__((always_inline)) { total[t] = vec<V>{}; });
  static_assert(S == 1 || !ADJOINT, "the adjoint of a stride has gaps");
  constexpr int kWindow = (T - 1) * S + K;
  const int64_t origin = ADJOINT ? i + p.pad_y : i * S - p.pad_y;  // source row of tap row 0; then down, or up
  const int64_t u_first = max(0, ADJOINT ? origin - source_height + 1 : -origin);
  const int64_t u_last = min(K, ADJOINT ? origin + 1 : source_height - origin);
  const int64_t col = ADJOINT ? j + p.pad_x - (K - 1) : j * S - p.pad_x;  // source column of q = 0
  const int64_t q_first = max(0, -col), q_last = min(kWindow, source_width - col);
  const int64_t weight_step = TAPS_LAST ? maps.position_step : maps.tap_step;
  const int64_t position_step = TAPS_LAST ? weight_step : 1, tap_step = TAPS_LAST ? 1 : weight_step;
  for (int64_t u = u_first; u < u_last; ++u) {
    const int64_t row = ADJOINT ? origin - u : origin + u;
    const float *from = source.row(row) + col * source.col_step;
    const float *weight =
        (ADJOINT ? maps.row(row) + col * position_step : maps.row(i) + j * position_step) + u * K * tap_step;
    if (q_first == 0 && q_last == kWindow) {
      window_row<V, K, T, S, TAPS_LAST, ADJOINT, false>(from, source.col_step, 0, 0, weight, weight_step, total);
    } else {
      window_row<V, K, T, S, TAPS_LAST, ADJOINT, true>(from, source.col_step, q_first, q_last, weight, weight_step,
                                                       total);
    }
  }
  unroll<T>([&](auto t) __attribute__((always_inline)) { store<V>(out + t * out_step, total[t]); });
}

// One row of results. The last tile of a row may overlap the one before it.
template <int V, int K, int S, bool TAPS_LAST, bool ADJOINT>
void slide_row(const Problem &p, int64_t i, const Block &source, int64_t source_height, int64_t source_width,
               const Maps &maps, float *out, int64_t out_step, int64_t width) {
  const auto tiles = [&](auto size) __attribute__((always_inline)) {
    constexpr int T = size;
    for (int64_t j = 0; j < width; j += T) {
      const int64_t start = min(j, width - T);
      slide<V, K, T, S, TAPS_LAST, ADJOINT>(p, i, start, source, source_height, source_width, maps,
                                         out + start * out_step, out_step);
    }
  };
  if (width % 7 == 0) {  // the maps of 224-pixel images
    tiles(std::integral_constant<int, 7>{});
  } else if (width >= 8) {
    tiles(std::integral_constant<int, 8>{});
  } else if (width >= 4) {
    tiles(std::integral_constant<int, 4>{});
  } else {
    tiles(std::integral_constant<int, 1>{});
  }
}

// One row of results for any stride, dilation and kernel: sums live in memory, in the result's row.
template <int V>
void any_row(const Problem &p, int64_t i, const Block &source, const Maps &maps, float *out, int64_t out_step) {
  for (int64_t j = 0; j < p.out_width; ++j) store<V>(out + j * out_step, vec<V>{});
  for (int64_t u = 0; u < p.kernel; ++u) {
    const int64_t row = i * p.stride_y + u * p.dilation_y - p.pad_y;
    if (row < 0 || row >= p.height) continue;
    for (int64_t j = 0; j < p.out_width; ++j) {
      const float *weight = maps.row(i) + j * maps.position_step + u * p.kernel * maps.tap_step;
      vec<V> total = load<V>(out + j * out_step);
      for (int64_t v = 0; v < p.kernel; ++v) {
        const int64_t col = j * p.stride_x + v * p.dilation_x - p.pad_x;
        if (col < 0 || col >= p.width) continue;
        total += load<V>(source.row(row) + col * source.col_step) * weight[v * maps.tap_step];
      }
      store<V>(out + j * out_step, total);
    }
  }
}

// The same for the adjoint: what every output position sends back to one row of x.
template <int V>
void any_row_adjoint(const Problem &p, int64_t row, const Block &grad, const Maps &maps, float *out, int64_t out_step) {
  for (int64_t j = 0; j < p.width; ++j) store<V>(out + j * out_step, vec<V>{});
  for (int64_t u = 0; u < p.kernel; ++u) {
    const int64_t scaled = row + p.pad_y - u * p.dilation_y;
    const int64_t i = scaled / p.stride_y;
    if (scaled < 0 || scaled % p.stride_y || i >= p.out_height) continue;
    for (int64_t j = 0; j < p.out_width; ++j) {
      const vec<V> value = load<V>(grad.row(i) + j * grad.col_step);
      const float *weight = maps.row(i) + j * maps.position_step + u * p.kernel * maps.tap_step;
      for (int64_t v = 0; v < p.kernel; ++v) {
        const int64_t col = j * p.stride_x + v * p.dilation_x - p.pad_x;
        if (col < 0 || col >= p.width) continue;
        float *to = out + col * out_step;
        store<V>(to, load<V>(to) + value * weight[v * maps.tap_step]);
      }
    }
  }
}

// ------------------------------------------------------------------------------------------- zeros outside the image
// A tap outside reads zero, and zero times NaN or infinity is NaN: the loops above leave such taps out.

// Whether all numbers of the maps are finite, rows [first, last). Every finite number times zero is zero.
inline bool all_finite(const Problem &p, const Maps &maps, Rows rows) {
  vec<kNative> zeros[2] = {};
  float rest = 0;
  const auto add = [&](const float *from, int64_t count) __attribute__((always_inline)) {
    int64_t n = 0;
    for (; n + 2 * kNative <= count; n += 2 * kNative) {
      zeros[0] += 0 * load<kNative>(from + n), zeros[1] += 0 * load<kNative>(from + n + kNative);
    }
    for (; n + kNative <= count; n += kNative) zeros[0] += 0 * load<kNative>(from + n);
    for (; n < count; ++n) rest += 0 * from[n];
  };
  if (p.taps_last) {
    for (int64_t i = rows.first; i < rows.last; ++i) {
      for (int64_t j = 0; j < p.out_width; ++j) add(maps.row(i) + j * maps.position_step, p.taps());
    }
  } else {
    const int64_t run = rows.count() * p.out_width;
    for (int64_t n = 0; n < p.taps(); ++n) add(maps.row(rows.first) + n * maps.tap_step, run);
  }
  return rest + sum<kNative>(zeros[0] + zeros[1]) == 0;
}

// NaN for the positions of row i one of whose taps lies outside and has a number that is not finite.
template <int V>
void multiply_zeros(const Problem &p, int64_t i, const Maps &maps, float *out, int64_t out_step) {
  for (int64_t j = 0; j < p.out_width; ++j) {
    float zero = 0;
    for (int64_t n = 0; n < p.taps(); ++n) {
      const int64_t row = i * p.stride_y + n / p.kernel * p.dilation_y - p.pad_y;
      const int64_t col = j * p.stride_x + n % p.kernel * p.dilation_x - p.pad_x;
      const bool inside = row >= 0 && row < p.height && col >= 0 && col < p.width;
      if (!inside) zero += 0 * maps.row(i)[j * maps.position_step + n * maps.tap_step];
    }
    if (zero != zero) store<V>(out + j * out_step, splat<V>(zero));
  }
}

// The gradient of the maps: for each tap and position the product of two pixels, summed over the group. The products of
// eight neighbouring positions are summed together, so that the sums fill a vector for any kernel.
constexpr int kTile = 8;

// A group of an image as lane blocks, `step` floats apart.
struct Group {
  Block first;
  int64_t blocks, step;
};

// sums (taps, kTile) for the positions j to j + count of row i
template <int V>
void weight_grad_tile(const Problem &p, int64_t i, int64_t j, int64_t count, const Group &x, const Group &grad,
                      float *out) {
  const float *const gradients = grad.first.row(i) + j * grad.first.col_step;
  const int64_t pixel_step = p.stride_x * x.first.col_step;
  vec<V> values[kTile];  // the first block of the gradients: mostly there is no other
  unroll<kTile>([&](auto t) __attribute__((always_inline)) {
    values[t] = t < count ? load<V>(gradients + t * grad.first.col_step) : vec<V>{};
  });
  vec<V> zeros[kTile];
  unroll<kTile>([&](auto t) __attribute__((always_inline)) { zeros[t] = 0 * values[t]; });
  for (int64_t block = 1; block < x.blocks; ++block) {
    for (int64_t t = 0; t < count; ++t) zeros[t] += 0 * load<V>(gradients + block * grad.step + t * grad.first.col_step);
  }
  float outside[kTile > V ? kTile : V];  // what a tap outside the image gets
  sums<V, kTile>(zeros, outside);
  for (int t = 0; t < kTile; ++t) outside[t] = outside[t] == 0 ? 0 : outside[t];  // no -0
  for (int64_t v = 0; v < p.kernel; ++v) {
    const int64_t left = j * p.stride_x + v * p.dilation_x - p.pad_x;  // column that position j reads
    const int64_t t_first = left < 0 ? ceil_div(-left, p.stride_x) : 0;
    const int64_t t_last = left < p.width ? min(count, ceil_div(p.width - left, p.stride_x)) : 0;
    for (int64_t u = 0; u < p.kernel; ++u) {
      const int64_t row = i * p.stride_y + u * p.dilation_y - p.pad_y;
      float *const to = out + (u * p.kernel + v) * kTile;
      if (row < 0 || row >= p.height || t_first >= t_last) {
        std::memcpy(to, outside, kTile * 4);
        continue;
      }
      const float *const pixels = x.first.row(row) + left * x.first.col_step;
      vec<V> products[kTile];
      if (t_first == 0 && t_last == kTile) {
        unroll<kTile>([&](auto t) __attribute__((always_inline)) {
          products[t] = load<V>(pixels + t * pixel_step) * values[t];
        });
      } else {
        unroll<kTile>([&](auto t) __attribute__((always_inline)) {
          products[t] = t >= t_first && t < t_last ? load<V>(pixels + t * pixel_step) * values[t] : vec<V>{};
        });
      }
      for (int64_t block = 1; block < x.blocks; ++block) {
        unroll<kTile>([&](auto t) __attribute__((always_inline)) {
          if (t < t_first || t >= t_last) return;
          products[t] += load<V>(pixels + block * x.step + t * pixel_step) *
                         load<V>(gradients + block * grad.step + t * grad.first.col_step);
        });
      }
      float totals[kTile > V ? kTile : V];
      sums<V, kTile>(products, totals);
      for (int64_t t = 0; t < t_first; ++t) totals[t] = outside[t];
      for (int64_t t = t_last; t < kTile; ++t) totals[t] = outside[t];
      std::memcpy(to, totals, kTile * 4);
    }
  }
}

template <typename T, int V>
void weight_grad_row(const Problem &p, int64_t i, const Group &x, const Group &grad, float *tile, T *out,
                     int64_t position_step, int64_t tap_step) {
  for (int64_t j = 0; j < p.out_width; j += kTile) {
    const int64_t count = min(kTile, p.out_width - j);
    weight_grad_tile<V>(p, i, j, count, x, grad, tile);
    if (p.taps_last) {
      transpose(tile, kTile, p.taps(), count, out + j * position_step, position_step);
      continue;
    }
    for (int64_t n = 0; n < p.taps(); ++n) {
      T *const to = out + n * tap_step + j;
      count == kTile ? store<kTile>(to, load<kTile>(tile + n * kTile))
                     : store_some<kTile>(to, load<kTile>(tile + n * kTile), count);
    }
  }
}

}  // namespace
