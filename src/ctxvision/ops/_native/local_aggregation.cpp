// Local aggregation and its two adjoints. The maths and the reasons for the blocking are in
// ../local_aggregation/README.md.
//
// Work is cut into tasks: one image, a band of rows, one group of channels (several where groups are interleaved in
// memory). A task sees its channels as lanes of vectors: directly where memory already has them side by side, else
// through a packed copy of the band. Every output element is summed by one task in one order, so that results do not
// depend on the number of threads.

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
  bool unit_steps() const { return stride_y == 1 && stride_x == 1 && dilation_y == 1 && dilation_x == 1; }
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
        for (int64_t i = 0; i < run; ++i) {
          transpose(from + i * p.channels, step, used, groups, packed + (block * run + i) * V, blocks() * run * V);
        }
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
        for (int64_t i = 0; i < run; ++i) {
          transpose(packed + (block * run + i) * V, blocks() * run * V, groups, used, to + i * p.channels, step);
        }
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

// T neighbouring results of one row, all taps, stride and dilation 1: a vector of the source is loaded once and used by
// up to K results. Column q of the window contributes to result t through tap v = q - t, in the adjoint v = t + K - 1 - q,
// where the weight belongs to the source's position.
template <int V, int K, int T, bool TAPS_LAST, bool ADJOINT, bool CLIPPED>
CTX_INLINE void window_row(const float *source, int64_t col_step, int64_t q_first, int64_t q_last, const float *weight,
                           int64_t weight_step, vec<V> *total) {
  unroll<T + K - 1>([&](auto q) __attribute__((always_inline)) {
    if (CLIPPED && (q < q_first || q >= q_last)) return;
    const vec<V> pixel = load<V>(source + q * col_step);
    unroll<T>([&](auto t) __attribute__((always_inline)) {
      constexpr int v = ADJOINT ? t + K - 1 - q : q - t;
      constexpr int position = ADJOINT ? q : t;
      if constexpr (v >= 0 && v < K) {
        total[t] += pixel * (TAPS_LAST ? weight[position * weight_step + v] : weight[v * weight_step + position]);
      }
    });
  });
}

template <int V, int K, int T, bool TAPS_LAST, bool ADJOINT>
void slide(const Problem &p, int64_t i, int64_t j, const Block &source, int64_t source_height, int64_t source_width,
           const Maps &maps, float *out, int64_t out_step) {
  vec<V> total[T];
  unroll<T>([&](auto t) __attribute__((always_inline)) { total[t] = vec<V>{}; });
  const int64_t origin = ADJOINT ? i + p.pad_y : i - p.pad_y;  // source row of tap row 0; then down, or up
  const int64_t u_first = max(0, ADJOINT ? origin - source_height + 1 : -origin);
  const int64_t u_last = min(K, ADJOINT ? origin + 1 : source_height - origin);
  const int64_t col = ADJOINT ? j + p.pad_x - (K - 1) : j - p.pad_x;  // source column of q = 0
  const int64_t q_first = max(0, -col), q_last = min(T + K - 1, source_width - col);
  const int64_t weight_step = TAPS_LAST ? maps.position_step : maps.tap_step;
  const int64_t position_step = TAPS_LAST ? weight_step : 1, tap_step = TAPS_LAST ? 1 : weight_step;
  for (int64_t u = u_first; u < u_last; ++u) {
    const int64_t row = ADJOINT ? origin - u : origin + u;
    const float *from = source.row(row) + col * source.col_step;
    const float *weight =
        (ADJOINT ? maps.row(row) + col * position_step : maps.row(i) + j * position_step) + u * K * tap_step;
    if (q_first == 0 && q_last == T + K - 1) {
      window_row<V, K, T, TAPS_LAST, ADJOINT, false>(from, source.col_step, 0, 0, weight, weight_step, total);
    } else {
      window_row<V, K, T, TAPS_LAST, ADJOINT, true>(from, source.col_step, q_first, q_last, weight, weight_step, total);
    }
  }
  unroll<T>([&](auto t) __attribute__((always_inline)) { store<V>(out + t * out_step, total[t]); });
}

// One row of results. The last tile of a row may overlap the one before it.
template <int V, int K, bool TAPS_LAST, bool ADJOINT>
void slide_row(const Problem &p, int64_t i, const Block &source, int64_t source_height, int64_t source_width,
               const Maps &maps, float *out, int64_t out_step, int64_t width) {
  const auto tiles = [&](auto size) __attribute__((always_inline)) {
    constexpr int T = size;
    for (int64_t j = 0; j < width; j += T) {
      const int64_t start = min(j, width - T);
      slide<V, K, T, TAPS_LAST, ADJOINT>(p, i, start, source, source_height, source_width, maps,
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
  for (int64_t v = 0; v < p.kernel; ++v) {
    const int64_t left = j * p.stride_x + v * p.dilation_x - p.pad_x;  // column that position j reads
    const int64_t t_first = left < 0 ? ceil_div(-left, p.stride_x) : 0;
    const int64_t t_last = left < p.width ? min(count, ceil_div(p.width - left, p.stride_x)) : 0;
    for (int64_t u = 0; u < p.kernel; ++u) {
      const int64_t row = i * p.stride_y + u * p.dilation_y - p.pad_y;
      float *const to = out + (u * p.kernel + v) * kTile;
      if (row < 0 || row >= p.height || t_first >= t_last) {
        std::memset(to, 0, kTile * 4);
        continue;
      }
      const float *const pixels = x.first.row(row) + left * x.first.col_step;
      vec<V> products[kTile];
      unroll<kTile>([&](auto t) __attribute__((always_inline)) { products[t] = vec<V>{}; });
      for (int64_t block = 0; block < x.blocks; ++block) {
        const float *const from = pixels + block * x.step, *const by = gradients + block * grad.step;
        if (t_first == 0 && t_last == kTile) {
          unroll<kTile>([&](auto t) __attribute__((always_inline)) {
            products[t] += load<V>(from + t * pixel_step) * load<V>(by + t * grad.first.col_step);
          });
        } else {
          unroll<kTile>([&](auto t) __attribute__((always_inline)) {
            if (t >= t_first && t < t_last) {
              products[t] += load<V>(from + t * pixel_step) * load<V>(by + t * grad.first.col_step);
            }
          });
        }
      }
      float totals[kTile > V ? kTile : V];
      sums<V, kTile>(products, totals);
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

// How a problem is cut into tasks, and the working memory that one task needs.
struct Plan {
  int64_t groups_together, band, bands, source_rows;
  bool pack_source, pack_result;
  int64_t source_floats, result_floats, extra_floats;
};

// Source rows that a band of result rows needs, clipped to the image.
Rows source_rows(const Problem &p, Rows result) {
  if (p.mode == kInputGrad) {
    const int64_t reach = (p.kernel - 1) * p.dilation_y;
    const int64_t first = result.first + p.pad_y - reach, last = result.last - 1 + p.pad_y;
    const int64_t from = first > 0 ? ceil_div(first, p.stride_y) : 0;
    return {min(from, p.out_height), max(min(from, p.out_height), min(p.out_height, last / p.stride_y + 1))};
  }
  const int64_t first = result.first * p.stride_y - p.pad_y;
  const int64_t last = (result.last - 1) * p.stride_y - p.pad_y + (p.kernel - 1) * p.dilation_y + 1;
  const int64_t from = min(max(0, first), p.height);
  return {from, max(from, min(p.height, last))};
}

template <typename T, int V>
Plan make_plan(const Problem &p, bool direct, int threads) {
  constexpr int64_t kTarget = 48 * 1024;  // floats of working memory: well inside a second-level cache
  Plan plan{};
  const bool adjoint = p.mode == kInputGrad, grad = p.mode == kWeightGrad;
  plan.groups_together = p.interleaved && p.channels_last ? min(p.groups, 16) : 1;  // 16 floats: a cache line
  plan.pack_source = !direct;
  plan.pack_result = !direct;  // of y or gx; in the weight's gradient the second source, gy
  const bool stage_maps = !grad && std::is_same<T, bf16>::value;
  const int64_t result_height = adjoint ? p.height : p.out_height;
  const int64_t result_width = adjoint ? p.width : p.out_width, source_width = adjoint ? p.out_width : p.width;
  const int64_t lanes = plan.groups_together * ceil_div(p.group_size(), V) * V;
  const int64_t others = p.batch * ceil_div(p.groups, plan.groups_together);
  plan.band = result_height;
  for (;;) {
    plan.bands = ceil_div(result_height, plan.band);
    int64_t rows = 0;
    for (int64_t n = 0; n < plan.bands; ++n) {
      rows = max(rows, source_rows(p, {n * plan.band, min(result_height, (n + 1) * plan.band)}).count());
    }
    plan.source_rows = rows;
    plan.source_floats = plan.pack_source ? lanes * rows * source_width : 0;
    plan.result_floats = plan.pack_result ? lanes * plan.band * result_width : 0;
    const int64_t staged = stage_maps ? (adjoint ? rows : plan.band) * p.out_width : 0;
    plan.extra_floats = p.taps() * (grad ? kTile : staged);
    const bool large = plan.source_floats + plan.result_floats + plan.extra_floats > kTarget;
    const bool few = threads > 1 && others * plan.bands < 4 * threads;
    if (plan.band <= 4 || (!large && !few)) return plan;
    plan.band = ceil_div(plan.band, 2);
  }
}

// bfloat16 maps of one group as floats, in the order that they have in memory.
Maps stage(const Problem &p, const bf16 *weight, int64_t b, int64_t group, Rows rows, float *staged) {
  const int64_t taps = p.taps(), run = rows.count() * p.out_width, positions = p.out_height * p.out_width;
  const auto copy = [](const bf16 *from, int64_t count, float *to) {
    int64_t n = 0;
    for (; n + kNative <= count; n += kNative) store<kNative>(to + n, load<kNative>(from + n));
    for (; n < count; ++n) to[n] = to_float(from[n]);
  };
  if (p.taps_last) {
    const bf16 *from = weight + ((b * positions + rows.first * p.out_width) * p.groups + group) * taps;
    for (int64_t i = 0; i < run; ++i) copy(from + i * p.groups * taps, taps, staged + i * taps);
    return {staged, rows.first, p.out_width * taps, taps, 1};
  }
  const bf16 *from = weight + (b * p.groups + group) * taps * positions + rows.first * p.out_width;
  for (int64_t n = 0; n < taps; ++n) copy(from + n * positions, run, staged + n * run);
  return {staged, rows.first, p.out_width, 1, run};
}

Maps maps_in_place(const Problem &p, const float *weight, int64_t b, int64_t group) {
  const int64_t taps = p.taps(), positions = p.out_height * p.out_width;
  if (p.taps_last) {
    return {weight + (b * positions * p.groups + group) * taps, 0, p.out_width * p.groups * taps, p.groups * taps, 1};
  }
  return {weight + (b * p.groups + group) * taps * positions, 0, p.out_width, 1, positions};
}

template <int V, bool ADJOINT>
void result_row(const Problem &p, int64_t i, const Block &source, const Maps &maps, float *out, int64_t out_step) {
  const int64_t height = ADJOINT ? p.out_height : p.height, width = ADJOINT ? p.out_width : p.width;
  const int64_t results = ADJOINT ? p.width : p.out_width;
  const auto slide_kernel = [&](auto kernel) __attribute__((always_inline)) {
    constexpr int K = kernel;
    if (p.taps_last) {
      slide_row<V, K, true, ADJOINT>(p, i, source, height, width, maps, out, out_step, results);
    } else {
      slide_row<V, K, false, ADJOINT>(p, i, source, height, width, maps, out, out_step, results);
    }
  };
  if (p.unit_steps() && p.kernel == 7) {
    slide_kernel(std::integral_constant<int, 7>{});
  } else if (p.unit_steps() && p.kernel == 3) {
    slide_kernel(std::integral_constant<int, 3>{});
  } else if (ADJOINT) {
    any_row_adjoint<V>(p, i, source, maps, out, out_step);
  } else {
    any_row<V>(p, i, source, maps, out, out_step);
  }
}

template <typename T, int V>
int run(const Problem &p, const void **tensors, int threads) {
  const bool adjoint = p.mode == kInputGrad, grad = p.mode == kWeightGrad;
  const auto image = [&](const void *data, bool of_x) {
    return Image<T, V>{p, const_cast<T *>(static_cast<const T *>(data)), of_x ? p.height : p.out_height,
                       of_x ? p.width : p.out_width};
  };
  const Image<T, V> source = image(tensors[0], !adjoint);  // x, or gy
  const Image<T, V> result = image(grad ? tensors[1] : tensors[2], adjoint);  // y, gx, or the second source gy
  const Plan plan = make_plan<T, V>(p, source.direct(), threads);
  const int64_t chunks = ceil_div(p.groups, plan.groups_together), blocks = source.blocks();
  const int64_t positions = p.out_height * p.out_width, taps = p.taps();

  return parallel(
      p.batch * plan.bands * chunks, threads, plan.source_floats + plan.result_floats + plan.extra_floats,
      [&](int64_t task, float *scratch) {
        const int64_t b = task / chunks / plan.bands, band = task / chunks % plan.bands;
        const int64_t first_group = task % chunks * plan.groups_together;
        const int64_t groups = min(plan.groups_together, p.groups - first_group);
        const Rows rows{band * plan.band, min(result.height, (band + 1) * plan.band)}, needed = source_rows(p, rows);
        float *const packed_source = scratch, *const packed_result = scratch + plan.source_floats;
        float *const extra = packed_result + plan.result_floats;  // staged maps, or sums of a tile
        if (plan.pack_source) source.pack(b, first_group, groups, needed, packed_source);
        if (plan.pack_result && grad) result.pack(b, first_group, groups, rows, packed_result);

        const auto block_of = [&](const Image<T, V> &img, bool packed, float *memory, Rows held, int64_t group,
                                  int64_t block) {
          if (packed) {
            const int64_t index = (group - first_group) * blocks + block;
            return Block{memory + index * held.count() * img.width * V, held.first, img.width * V, V};
          }
          float *data = reinterpret_cast<float *>(img.sample(b)) + p.first_channel(group) + block * V;
          return Block{data, 0, img.width * p.channels, p.channels};
        };
        for (int64_t group = first_group; group < first_group + groups; ++group) {
          if (grad) {
            T *out = static_cast<T *>(const_cast<void *>(tensors[2]));
            out += p.taps_last ? (b * positions * p.groups + group) * taps : (b * p.groups + group) * taps * positions;
            const int64_t position_step = p.taps_last ? p.groups * taps : 1, tap_step = p.taps_last ? 1 : positions;
            const Group x{block_of(source, plan.pack_source, packed_source, needed, group, 0), blocks,
                          plan.pack_source ? needed.count() * p.width * V : V};
            const Group gy{block_of(result, plan.pack_result, packed_result, rows, group, 0), blocks,
                           plan.pack_result ? rows.count() * p.out_width * V : V};
            for (int64_t i = rows.first; i < rows.last; ++i) {
              weight_grad_row<T, V>(p, i, x, gy, extra, out + i * p.out_width * position_step, position_step,
                                    tap_step);
            }
            continue;
          }
          Maps maps;
          if constexpr (std::is_same<T, bf16>::value) {
            maps = stage(p, static_cast<const bf16 *>(tensors[1]), b, group, adjoint ? needed : rows, extra);
          } else {
            maps = maps_in_place(p, static_cast<const float *>(tensors[1]), b, group);
          }
          for (int64_t block = 0; block < blocks; ++block) {
            const Block from = block_of(source, plan.pack_source, packed_source, needed, group, block);
            const Block to = block_of(result, plan.pack_result, packed_result, rows, group, block);
            for (int64_t i = rows.first; i < rows.last; ++i) {
              if (adjoint) {
                result_row<V, true>(p, i, from, maps, to.row(i), to.col_step);
              } else {
                result_row<V, false>(p, i, from, maps, to.row(i), to.col_step);
              }
            }
          }
        }
        if (plan.pack_result && !grad) result.unpack(b, first_group, groups, rows, packed_result);
      });
}

template <typename T>
int run(const Problem &p, const void **tensors, int threads) {
  const int64_t work = p.batch * p.channels * p.taps() * p.out_height * p.out_width;
  threads = static_cast<int>(min(threads, 1 + work / (1 << 16)));  // a thread is worth some ten microseconds of work
  constexpr int kLanes = kNative < 8 ? kNative : 8;  // half a vector serves CoT's groups of eight
  if constexpr (kNative > 8) {
    if (p.group_size() > 8) return run<T, kNative>(p, tensors, threads);
  }
  return run<T, kLanes>(p, tensors, threads);
}

}  // namespace

CTX_EXPORT int ctxvision_abi() { return kAbi; }

CTX_EXPORT int ctxvision_has_openmp() {
#if defined(_OPENMP)
  return 1;
#else
  return 0;
#endif
}

CTX_EXPORT int ctxvision_local_aggregation(const void **tensors, const int64_t *numbers, int threads) {
  Problem p;
  static_assert(sizeof(Problem) == 19 * sizeof(int64_t), "the numbers are copied as they come");
  std::memcpy(&p, numbers, sizeof(Problem));
  return p.element == kBFloat16 ? run<bf16>(p, tensors, threads) : run<float>(p, tensors, threads);
}
