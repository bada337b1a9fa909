// What stands between the convolutions of a network in inference, in one pass over memory: a norm, a sum, an
// activation; and all that follows the convolutions of a CoT layer. The maths is in ../inference/README.md.
//
// All images are channels-last: a pixel is a run of channels. A pass over them is cut into bands of pixels whose
// number depends on the sizes alone, so that sums do not depend on the number of threads.

#include "local_aggregation.hpp"

CTX_EXPORT int ctxvision_local_aggregation(const void **tensors, const int64_t *numbers, int threads);

namespace {

enum Activation : int64_t { kNone, kRelu, kSilu };

constexpr int64_t kBandValues = 16 * 1024;  // of a band: they stay in a second-level cache
constexpr int64_t kRun = 64;                // pixels whose sums are kept in float32

template <int N>
CTX_INLINE vec<N> select(typename Vector<N>::bits mask, vec<N> yes, vec<N> no) {
  using Bits = typename Vector<N>::bits;
  return (vec<N>)(((Bits)yes & mask) | ((Bits)no & ~mask));
}

// e^x to about one unit in the last place, infinity above 88.37, 0 below -87.3; NaN stays NaN. (Cody and Waite's
// reduction by powers of two, then the polynomial of the Cephes library.)
template <int N>
CTX_INLINE vec<N> exponential(vec<N> x) {
  using Bits = typename Vector<N>::bits;
  const vec<N> high = splat<N>(88.37f), low = splat<N>(-87.3f), magic = splat<N>(12582912.0f);  // 1.5 * 2^23
  const Bits above = (Bits)(x > high), below = (Bits)(x < low);
  const vec<N> inside = select<N>(below, low, select<N>(above, high, x));
  const vec<N> shifted = inside * 1.44269504f + magic;  // its lowest bits are the nearest whole power of two
  const vec<N> n = shifted - magic;
  const vec<N> r = (inside - n * 0.693359375f) - n * -2.12194440e-4f;
  vec<N> p = splat<N>(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const vec<N> fraction = p * r * r + r + 1.0f;
  const vec<N> power = (vec<N>)(((Bits)shifted - 0x4b400000u + 127u) << 23);
  const vec<N> infinity = (vec<N>)(Bits{} + 0x7f800000u);
  const vec<N> bounded = select<N>(above, infinity, select<N>(below, vec<N>{}, fraction * power));
  return select<N>((Bits)(x != x), x, bounded);
}

template <int N>
CTX_INLINE vec<N> activate(int64_t activation, vec<N> x) {
  using Bits = typename Vector<N>::bits;
  if (activation == kRelu) return select<N>((Bits)(x < vec<N>{}), vec<N>{}, x);  // NaN stays
  if (activation == kSilu) return x / (1.0f + exponential<N>(-x));
  return x;
}

// f(lanes, first) for runs of lanes that together are `count`.
template <typename F>
CTX_INLINE void over_lanes(int64_t count, const F &f) {
  int64_t at = 0;
  for (; at + kNative <= count; at += kNative) f(std::integral_constant<int, kNative>{}, at);
  if constexpr (kNative > 8) {
    for (; at + 8 <= count; at += 8) f(std::integral_constant<int, 8>{}, at);
  }
  if constexpr (kNative > 4) {
    for (; at + 4 <= count; at += 4) f(std::integral_constant<int, 4>{}, at);
  }
  for (; at < count; ++at) f(std::integral_constant<int, 1>{}, at);
}

// Working memory that is given back at the end of a block.
struct Memory {
  explicit Memory(int64_t floats) : floats(static_cast<float *>(std::malloc(static_cast<size_t>(floats) * 4 + 64))) {}
  ~Memory() { std::free(floats); }
  Memory(const Memory &) = delete;
  Memory &operator=(const Memory &) = delete;
  float *const floats;
};

double to_double(int64_t bits) {
  double value;
  std::memcpy(&value, &bits, 8);
  return value;
}

// A norm per channel with fixed statistics. Pointers may be null: a weight is one then, a bias and a mean zero; without
// a variance there is no norm.
template <typename T>
struct Norm {
  const T *weight, *bias, *mean, *variance;
  double eps;

  Norm(const void **tensors, int64_t eps_bits)
      : weight(static_cast<const T *>(tensors[0])), bias(static_cast<const T *>(tensors[1])),
        mean(static_cast<const T *>(tensors[2])), variance(static_cast<const T *>(tensors[3])),
        eps(to_double(eps_bits)) {}

  bool exists() const { return variance != nullptr; }

  // y = x * scale + shift
  void steps(int64_t channels, float *scale, float *shift) const {
    for (int64_t c = 0; c < channels; ++c) {
      const double root = __builtin_sqrt(static_cast<double>(to_float(variance[c])) + eps);
      const double factor = (weight ? to_float(weight[c]) : 1.0) / root;
      scale[c] = static_cast<float>(factor);
      shift[c] = static_cast<float>((bias ? to_float(bias[c]) : 0.0) - to_float(mean[c]) * factor);
    }
  }
};

struct Bands {
  int64_t pixels, size, count;
  Bands(int64_t pixels, int64_t channels)
      : pixels(pixels), size(max(kRun, kBandValues / max(1, channels) / kRun * kRun)), count(ceil_div(pixels, size)) {}
  Rows operator[](int64_t band) const { return {band * size, min(pixels, (band + 1) * size)}; }
};

// y = activation((x + before) * scale + shift + after), pixels of a band; y may be x
template <typename T, bool NORM>
void point_band(Rows band, int64_t channels, int64_t activation, const T *x, const T *before, const T *after,
                const float *scale, const float *shift, T *y) {
  for (int64_t pixel = band.first; pixel < band.last; ++pixel) {
    const int64_t at = pixel * channels;
    over_lanes(channels, [&](auto lanes, int64_t c) __attribute__((always_inline)) {
      constexpr int N = lanes;
      vec<N> value = load<N>(x + at + c);
      if (before) value += load<N>(before + at + c);
      if (NORM) value = value * load<N>(scale + c) + load<N>(shift + c);
      if (after) value += load<N>(after + at + c);
      store<N>(y + at + c, activate<N>(activation, value));
    });
  }
}

template <typename T>
int norm_activation(const void **tensors, const int64_t *numbers, int threads) {
  const int64_t activation = numbers[1], pixels = numbers[2], channels = numbers[3];
  T *const x = static_cast<T *>(const_cast<void *>(tensors[0]));
  const T *const before = static_cast<const T *>(tensors[1]), *const after = static_cast<const T *>(tensors[2]);
  const Norm<T> norm(tensors + 3, numbers[4]);
  const Memory memory(2 * channels);
  if (memory.floats == nullptr) return 1;
  float *const scale = memory.floats, *const shift = scale + channels;
  if (norm.exists()) norm.steps(channels, scale, shift);
  const Bands bands(pixels, channels);
  return parallel(bands.count, threads, 0, [&](int64_t band, float *) {
    (norm.exists() ? point_band<T, true> : point_band<T, false>)(bands[band], channels, activation, x, before, after,
                                                                 scale, shift, x);
  });
}

// ----------------------------------------------------------------------------------------------------- the CoT layer

// As in cpu.py, which fills it.
struct Sizes {
  int64_t element, batch, height, width, channels, maps, kernel, dilation, groups, hidden;
  int64_t eps_maps, eps_values, eps_result, eps_hidden;

  int64_t pixels() const { return height * width; }
  int64_t taps() const { return kernel * kernel; }
  int64_t map_channels() const { return maps * taps(); }
};

// How many values, their mean, and the sum of their squared distances to it.
struct Moments {
  double count, mean, squares;

  void add(const Moments &other) {  // Chan, Golub, LeVeque
    if (other.count == 0) return;
    const double total = count + other.count, distance = other.mean - mean;
    squares += other.squares + distance * distance * count * other.count / total;
    mean += distance * other.count / total;
    count = total;
  }
};

template <typename T>
struct Layer {
  Sizes s;
  const T *maps_weight, *maps_bias, *hidden_weight, *hidden_bias, *pair_weight, *pair_bias;
  Norm<T> values_norm, result_norm, hidden_norm;
  const T *raw, *values, *fixed;  // fixed: the static context
  T *result;
  Bands bands, map_bands;

  Layer(const void **t, const Sizes &sizes)
      : s(sizes), maps_weight(in(t[4])), maps_bias(in(t[5])), hidden_weight(in(t[14])), hidden_bias(in(t[15])),
        pair_weight(in(t[20])), pair_bias(in(t[21])), values_norm(t + 6, sizes.eps_values),
        result_norm(t + 10, sizes.eps_result), hidden_norm(t + 16, sizes.eps_hidden),
        raw(in(t[0])), values(in(t[1])), fixed(in(t[2])), result(const_cast<T *>(in(t[3]))), bands(sizes.pixels(), sizes.channels), map_bands(sizes.pixels(), sizes.map_channels()) {}

  static const T *in(const void *tensor) { return static_cast<const T *>(tensor); }

  // floats of one image: moments, normed maps and values, scales and shifts, sums, pooled features, hidden ones, shares
  int64_t moments() const { return ceil_div(map_bands.count * s.maps * 6, 16) * 16; }  // doubles
  int64_t normed(int64_t channels) const {  // floats that hold an image, a whole number of cache lines
    return ceil_div(s.pixels() * channels * static_cast<int64_t>(sizeof(T)), 64) * 16;
  }
  int64_t memory() const {
    return moments() + normed(s.map_channels()) + normed(s.channels) + 2 * s.map_channels() + 4 * s.channels + bands.count * s.channels + s.channels + s.hidden +
           s.channels;
  }

  // The moments of each group of maps, over the pixels of a band.
  void band_moments(const T *from, Rows band, float *mean_of_channel, Moments *found) const {
    const int64_t channels = s.map_channels(), taps = s.taps();
    for (int64_t g = 0; g < s.maps; ++g) found[g] = {0, 0, 0};
    for (int64_t first = band.first; first < band.last; first += kRun) {
      const int64_t count = min(kRun, band.last - first);
      const T *const run = from + first * channels;
      const auto over_run = [&](const auto &term) __attribute__((always_inline)) {
        over_lanes(channels, [&](auto lanes, int64_t c) __attribute__((always_inline)) {
          constexpr int N = lanes;
          vec<N> total[2] = {};
          int64_t i = 0;
          const vec<N> offset = term.template offset<N>(c);
          for (; i + 2 <= count; i += 2) {
            total[0] += term.template of<N>(load<N>(run + i * channels + c), offset);
            total[1] += term.template of<N>(load<N>(run + (i + 1) * channels + c), offset);
          }
          if (i < count) total[0] += term.template of<N>(load<N>(run + i * channels + c), offset);
          store<N>(term.out + c, total[0] + total[1]);
        });
      };
      float *const sums = mean_of_channel + channels;
      over_run(Plain{sums});
      const double values = static_cast<double>(count * taps);
      for (int64_t g = 0; g < s.maps; ++g) {
        double total = 0;
        for (int64_t n = 0; n < taps; ++n) total += sums[g * taps + n];
        const float mean = static_cast<float>(total / values);
        for (int64_t n = 0; n < taps; ++n) mean_of_channel[g * taps + n] = mean;
      }
      over_run(Squared{sums, mean_of_channel});
      for (int64_t g = 0; g < s.maps; ++g) {
        double squares = 0;
        for (int64_t n = 0; n < taps; ++n) squares += sums[g * taps + n];
        found[g].add({values, mean_of_channel[g * taps], squares});
      }
    }
  }

  struct Plain {
    float *out;
    template <int N>
    CTX_INLINE vec<N> offset(int64_t) const { return vec<N>{}; }
    template <int N>
    CTX_INLINE vec<N> of(vec<N> value, vec<N>) const { return value; }
  };
  struct Squared {
    float *out;
    const float *mean;
    template <int N>
    CTX_INLINE vec<N> offset(int64_t c) const { return load<N>(mean + c); }
    template <int N>
    CTX_INLINE vec<N> of(vec<N> value, vec<N> mean) const { return (value - mean) * (value - mean); }
  };

  int image(int64_t b, int threads, float *scratch) const {
    const int64_t pixels = s.pixels(), C = s.channels, M = s.map_channels(), taps = s.taps();
    auto *const moments_of = reinterpret_cast<Moments *>(scratch);
    T *const maps = reinterpret_cast<T *>(scratch + moments());
    T *const normed_values = reinterpret_cast<T *>(scratch + moments() + normed(M));
    float *const map_scale = scratch + moments() + normed(M) + normed(C), *const map_shift = map_scale + M;
    float *const scale = map_shift + M, *const shift = scale + C, *const value_scale = shift + C;
    float *const value_shift = value_scale + C, *const sums = value_shift + C, *const pooled = sums + bands.count * C;
    float *const hidden = pooled + C, *const share = hidden + s.hidden;
    const T *const raw_maps = raw + b * pixels * M, *const k1 = fixed + b * pixels * C;
    const T *v = values + b * pixels * C;
    T *const y = result + b * pixels * C;

    // the GroupNorm of the maps, equation 4
    int failed = parallel(map_bands.count, threads, 2 * M, [&](int64_t band, float *own) {
      band_moments(raw_maps, map_bands[band], own, moments_of + band * s.maps);
    });
    if (failed) return failed;
    const double eps = to_double(s.eps_maps);
    for (int64_t g = 0; g < s.maps; ++g) {
      Moments all = moments_of[g];
      for (int64_t band = 1; band < map_bands.count; ++band) all.add(moments_of[band * s.maps + g]);
      const double factor = 1 / __builtin_sqrt(all.squares / all.count + eps);
      for (int64_t c = g * taps; c < (g + 1) * taps; ++c) {
        const double scaled = factor * (maps_weight ? to_float(maps_weight[c]) : 1.0);
        map_scale[c] = static_cast<float>(scaled);
        map_shift[c] = static_cast<float>((maps_bias ? to_float(maps_bias[c]) : 0.0) - all.mean * scaled);
      }
    }
    failed = parallel(map_bands.count, threads, 0, [&](int64_t band, float *) {
      point_band<T, true>(map_bands[band], M, kNone, raw_maps, nullptr, nullptr, map_scale, map_shift, maps);
    });

    // the values' BatchNorm and equation 5
    if (values_norm.exists()) {
      values_norm.steps(C, value_scale, value_shift);
      failed |= parallel(bands.count, threads, 0, [&](int64_t band, float *) {
        point_band<T, true>(bands[band], C, kNone, v, nullptr, nullptr, value_scale, value_shift, normed_values);
      });
      v = normed_values;
    }
    const int64_t reach = s.dilation * (s.kernel - 1) / 2;
    // groups of channels are neighbours in a pixel: they count as further columns
    const Problem p{kForward, s.element, 1, 1, 1, 1, C / s.groups, s.maps / s.groups, s.height, s.width * s.groups,
                    s.height, s.width * s.groups, s.kernel, 1, 1, reach, reach * s.groups, s.dilation,
                    s.dilation * s.groups};
    const void *aggregated[] = {v, maps, y};
    failed |= ctxvision_local_aggregation(aggregated, reinterpret_cast<const int64_t *>(&p), threads);

    // K2 = SiLU(BN(...)), and the sums of K1 + K2 over the pixels
    if (result_norm.exists()) result_norm.steps(C, scale, shift);
    failed |= parallel(bands.count, threads, 0, [&](int64_t band, float *) {
      const Rows rows = bands[band];
      (result_norm.exists() ? point_band<T, true> : point_band<T, false>)(rows, C, kSilu, y, nullptr, nullptr, scale,
                                                                          shift, y);
      over_lanes(C, [&](auto lanes, int64_t c) __attribute__((always_inline)) {
        constexpr int N = lanes;
        vec<N> total = {}, run = {};
        for (int64_t pixel = rows.first; pixel < rows.last; ++pixel) {
          run += load<N>(y + pixel * C + c) + load<N>(k1 + pixel * C + c);
          if ((pixel - rows.first) % kRun == kRun - 1) total += run, run = vec<N>{};
        }
        store<N>(sums + band * C + c, total + run);
      });
    });

    // the fusion: two layers on pooled features, a softmax over pairs
    for (int64_t c = 0; c < C; ++c) {
      double total = 0;
      for (int64_t band = 0; band < bands.count; ++band) total += sums[band * C + c];
      pooled[c] = static_cast<float>(total / static_cast<double>(pixels));
    }
    const auto product = [&](const T *weight, const T *bias, int64_t out, int64_t in, const float *from) {
      float all = 0;
      vec<kNative> total[2] = {};
      int64_t n = 0;
      const T *const row = weight + out * in;
      for (; n + 2 * kNative <= in; n += 2 * kNative) {
        total[0] += load<kNative>(row + n) * load<kNative>(from + n);
        total[1] += load<kNative>(row + n + kNative) * load<kNative>(from + n + kNative);
      }
      for (; n < in; ++n) all += to_float(row[n]) * from[n];
      return all + sum<kNative>(total[0] + total[1]) + (bias ? to_float(bias[out]) : 0);
    };
    constexpr int64_t kRows = 32;  // of a matrix, a task
    failed |= parallel(ceil_div(s.hidden, kRows), threads, 0, [&](int64_t task, float *) {
      for (int64_t h = task * kRows; h < min(s.hidden, (task + 1) * kRows); ++h) {
        float value = product(hidden_weight, hidden_bias, h, C, pooled);
        if (hidden_norm.exists()) {
          const T *const weight = hidden_norm.weight, *const bias = hidden_norm.bias;
          float one_scale, one_shift;
          Norm<T> own = hidden_norm;
          own.weight = weight ? weight + h : nullptr, own.bias = bias ? bias + h : nullptr;
          own.mean += h, own.variance += h;
          own.steps(1, &one_scale, &one_shift);
          value = value * one_scale + one_shift;
        }
        hidden[h] = value < 0 ? 0 : value;
      }
    });
    failed |= parallel(ceil_div(C, kRows), threads, 0, [&](int64_t task, float *) {
      for (int64_t c = task * kRows; c < min(C, (task + 1) * kRows); ++c) {
        const float first = product(pair_weight, pair_bias, 2 * c, s.hidden, hidden);
        const float second = product(pair_weight, pair_bias, 2 * c + 1, s.hidden, hidden);
        float one[1];
        store<1>(one, vec<1>{1.0f} / (1.0f + exponential<1>(vec<1>{second - first})));
        share[c] = one[0];
      }
    });
    if (failed) return failed;

    // K1 + α (K2 - K1)
    return parallel(bands.count, threads, 0, [&](int64_t band, float *) {
      const Rows rows = bands[band];
      for (int64_t pixel = rows.first; pixel < rows.last; ++pixel) {
        const int64_t at = pixel * C;
        over_lanes(C, [&](auto lanes, int64_t c) __attribute__((always_inline)) {
          constexpr int N = lanes;
          const vec<N> first = load<N>(k1 + at + c);
          store<N>(y + at + c, first + load<N>(share + c) * (load<N>(y + at + c) - first));
        });
      }
    });
  }
};

template <typename T>
int cot_context(const void **tensors, const Sizes &sizes, int threads) {
  const Layer<T> layer(tensors, sizes);
  if (threads > 1 && sizes.batch >= threads && (sizes.batch % threads == 0 || sizes.batch >= 4 * threads)) {
    int failed = 0;  // an image a thread: it stays in the thread's cache
    const int short_of_memory = parallel(sizes.batch, threads, layer.memory(), [&](int64_t b, float *scratch) {
      if (layer.image(b, 1, scratch)) __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
    });
    return failed | short_of_memory;
  }
  const Memory memory(layer.memory());
  if (memory.floats == nullptr) return 1;
  int failed = 0;
  for (int64_t b = 0; b < sizes.batch && !failed; ++b) failed = layer.image(b, threads, memory.floats);
  return failed;
}

}  // namespace

CTX_EXPORT int ctxvision_norm_activation(const void **tensors, const int64_t *numbers, int threads) {
  return numbers[0] == kBFloat16 ? norm_activation<bf16>(tensors, numbers, threads)
                                 : norm_activation<float>(tensors, numbers, threads);
}

CTX_EXPORT int ctxvision_cot_context(const void **tensors, const int64_t *numbers, int threads) {
  Sizes sizes;
  static_assert(sizeof(Sizes) == 14 * sizeof(int64_t), "the numbers are copied as they come");
  std::memcpy(&sizes, numbers, sizeof(Sizes));
  return sizes.element == kBFloat16 ? cot_context<bf16>(tensors, sizes, threads)
                                    : cot_context<float>(tensors, sizes, threads);
}
