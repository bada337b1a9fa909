// Contextual convolution, backward. The gradient h in a modulated sample is r * kernel (depthwise), r the gradient in
// the output, or comes ready in columns (dense). No two tasks write the same number, and each adds in a fixed order:
// results do not depend on the number of threads.
#include "contextual_conv.hpp"

namespace {

constexpr int64_t kRunning = 32;  // blocks of positions summed before they join the total: short sums round less

// Copy channels [begin, end) of a column, which may lie in several groups, with zeros after the last.
void gather_column(const Problem &g, const Block &block, int64_t lane, int64_t n, int64_t begin, int64_t end,
                   const float *columns, float *out) {
  const int64_t last = g.groups * g.group_channels;
  int64_t c = begin;
  while (c < end && c < last) {
    const int64_t left = g.group_channels - c % g.group_channels, run = left < end - c ? left : end - c;
    std::memcpy(out + c - begin, columns + column_at(g, block, lane, n, c), static_cast<size_t>(run) * 4);
    c += run;
  }
  for (; c < end; ++c) out[c - begin] = 0;
}

// --------------------------------------------------------------------------------------- offset and modulation

template <int N>
CTX_INLINE vec<N> between(vec<N> a, vec<N> b, vec<N> fraction) {
  return a + fraction * (b - a);
}

// tensors: x, r or columns of h, kernels (depthwise only), offset, mask or null, gradients of offset and mask or null
template <bool kDense, int kBlock, typename T>
int position_grads(const void **tensors, const Problem &g, int threads) {
  constexpr int kLane = kVector<kBlock>;
  const auto x = static_cast<const float *>(tensors[0]), source = static_cast<const float *>(tensors[1]);
  const auto kernels = static_cast<const float *>(tensors[2]);
  const auto offset = static_cast<const T *>(tensors[3]), mask = static_cast<const T *>(tensors[4]);
  const auto offset_grad = static_cast<T *>(const_cast<void *>(tensors[5]));
  const auto mask_grad = static_cast<T *>(const_cast<void *>(tensors[6]));
  const int64_t staged = g.taps() * kTapFloats;
  const auto body = [&](int64_t task, float *scratch) {
    const Block block(g, task);
    const auto taps = reinterpret_cast<Tap *>(scratch);
    const float *image = x + block.b * g.pixels() * g.channels;
    float *zeros = clear(scratch + staged, g.channels), *line = zeros + g.channels;
    place_taps<kFractions>(g, block, offset, mask, distance(image, zeros), taps);
    for (int64_t n = 0; n < g.taps(); ++n) {
      float dots[4][kLanes] = {};  // h times each corner, summed over channels
      for (int64_t l = 0; l < block.count; ++l) {
        const Corners corners(image, taps[n], l);
        const float *h = source + (block.b * g.positions() + block.first + l) * g.channels, *kernel = nullptr;
        if constexpr (!kDense) kernel = kernels + block.b * g.kernel_step + n * g.channels;
        if (kDense && g.columns_are_rows()) h = source + column_at(g, block, l, n, 0);
        if (kDense && !g.columns_are_rows()) gather_column(g, block, l, n, 0, g.channels, source, line), h = line;
        vec<kLane> partial[4] = {};
        for (int64_t c = 0; c < g.channels; c += kLane) {
          auto gradient = load<kLane>(h + c);
          if constexpr (!kDense) gradient *= load<kLane>(kernel + c);
          unroll<4>([&](auto k) __attribute__((always_inline)) {
            partial[k] += gradient * load<kLane>(corners.at[k] + c);
          });
        }
        if constexpr (kLane < 4) {
          for (int k = 0; k < 4; ++k) dots[k][l] = sum<kLane>(partial[k]);
        } else {
          float total[kLane];
          sums<kLane, 4>(partial, total);
          for (int k = 0; k < 4; ++k) dots[k][l] = total[k];
        }
      }
      const auto fraction_y = load<kLanes>(taps[n].value[0]), fraction_x = load<kLanes>(taps[n].value[1]);
      const auto m = load<kLanes>(taps[n].value[2]);
      const auto top_left = load<kLanes>(dots[0]), top_right = load<kLanes>(dots[1]);
      const auto bottom_left = load<kLanes>(dots[2]), bottom_right = load<kLanes>(dots[3]);
      const auto top = between<kLanes>(top_left, top_right, fraction_x);
      const auto bottom = between<kLanes>(bottom_left, bottom_right, fraction_x);
      const auto by_x = between<kLanes>(top_right - top_left, bottom_right - bottom_left, fraction_y);
      const auto put = [&](T *grad, int64_t channel, lanes value) {
        store_some<kLanes>(grad + channel * g.positions() + block.first, value, block.count);
      };
      if (offset_grad) put(offset_grad, (block.b * g.taps() + n) * 2, (bottom - top) * m);
      if (offset_grad) put(offset_grad, (block.b * g.taps() + n) * 2 + 1, by_x * m);
      if (mask_grad) put(mask_grad, block.b * g.taps() + n, between<kLanes>(top, bottom, fraction_y));
    }
  };
  return parallel(g.batch * g.blocks(), worthwhile(threads, operations(g)), staged + 2 * g.channels, body);
}

// --------------------------------------------------------------------------------------------- image and kernel

// Adds one tap at one position to kWidth channels of the gradients.
template <int kWidth, int kLane, bool kDense, bool kImage, bool kKernel>
CTX_INLINE void add_tap(const Corners &corners, float *const *to, const vec<kLane> *r, const float *factor,
                        float *kernel_grad) {
  unroll<kWidth / kLane>([&](auto v) __attribute__((always_inline)) {
    constexpr int c = v * kLane;
    if constexpr (kImage) {
      auto h = load<kLane>(factor + c);
      if constexpr (!kDense) h *= r[v];
      vec<kLane> changed[4];  // all loads first: they need not wait for the stores
      unroll<4>([&](auto k) __attribute__((always_inline)) {
        changed[k] = load<kLane>(to[k] + c) + corners.value[k] * h;
      });
      unroll<4>([&](auto k) __attribute__((always_inline)) { store<kLane>(to[k] + c, changed[k]); });
    }
    if constexpr (kKernel) {
      store<kLane>(kernel_grad + c, load<kLane>(kernel_grad + c) + r[v] * corners.sample<kLane>(c));
    }
  });
}

// tensors: x, r or columns of h, kernels (depthwise only), offset, mask or null, gradient of x, to which is added,
// gradients of the kernels, (B, K, C)
template <bool kDense, bool kImage, bool kKernel, int kBlock, typename T>
int channel_grads(const void **tensors, const Problem &g, int threads) {
  constexpr int kLane = kVector<kBlock>;
  const auto x = static_cast<const float *>(tensors[0]), source = static_cast<const float *>(tensors[1]);
  const auto kernels = static_cast<const float *>(tensors[2]);
  const auto offset = static_cast<const T *>(tensors[3]), mask = static_cast<const T *>(tensors[4]);
  const auto x_grad = static_cast<float *>(const_cast<void *>(tensors[5]));
  const auto kernel_grads = static_cast<float *>(const_cast<void *>(tensors[6]));
  threads = worthwhile(threads, 3 * operations(g));
  int64_t share = 64;  // channels of a task
  while (share > 16 && g.batch * ((g.channels + share - 1) / share) < 4 * threads) share /= 2;
  const int64_t shares = (g.channels + share - 1) / share;
  const int64_t staged = g.taps() * kTapFloats, kernel_size = kKernel ? g.taps() * share : 0;
  const auto body = [&](int64_t task, float *scratch) {
    const int64_t b = task / shares, begin = task % shares * share, image_at = b * g.pixels() * g.channels;
    const int64_t end = begin + share < g.channels ? begin + share : g.channels;
    const float *image = x + image_at;
    float *image_grad = kImage ? x_grad + image_at : nullptr;
    const auto taps = reinterpret_cast<Tap *>(scratch);
    float *zeros = clear(scratch + staged, 3 * share + 2 * kernel_size), *dump = zeros + share, *line = dump + share;
    float *running = line + share, *total = running + kernel_size;
    const int64_t outside = distance(image + begin, zeros);
    for (int64_t i = 0; i < g.blocks(); ++i) {
      const Block block(g, b * g.blocks() + i);
      place_taps<kCoefficients>(g, block, offset, mask, outside, taps);
      for (int64_t l = 0; l < block.count; ++l) {
        channel_blocks<kLargestBlock<kBlock, 64>>(begin, end, [&](auto width, int64_t c) __attribute__((always_inline)) {
          constexpr int kVectors = width / kLane;
          vec<kLane> r[kVectors];
          const float *grad = source + (b * g.positions() + block.first + l) * g.channels + c;
          if constexpr (!kDense) {
            unroll<kVectors>([&](auto v) __attribute__((always_inline)) { r[v] = load<kLane>(grad + v * kLane); });
          }
          const float *factor = kDense ? line : kernels + b * g.kernel_step + c;
          for (int64_t n = 0; n < g.taps(); ++n) {
            const Corners corners(image + c, taps[n], l);
            float *to[4];
            for (int k = 0; kImage && k < 4; ++k) {
              const int64_t at = taps[n].at[k][l];
              to[k] = at == outside ? dump : const_cast<float *>(moved(image_grad + c, at));
            }
            if (kDense && g.columns_are_rows()) factor = source + column_at(g, block, l, n, c);
            if (kDense && !g.columns_are_rows()) gather_column(g, block, l, n, c, c + width, source, line);
            add_tap<width, kLane, kDense, kImage, kKernel>(corners, to, r, factor, running + n * share + c - begin);
            if (!kDense) factor += g.channels;
          }
        });
      }
      if (kKernel && (i % kRunning == kRunning - 1 || i == g.blocks() - 1)) {
        for (int64_t k = 0; k < kernel_size; ++k) total[k] += running[k], running[k] = 0;
      }
    }
    for (int64_t n = 0; kKernel && n < g.taps(); ++n) {
      std::memcpy(kernel_grads + (b * g.taps() + n) * g.channels + begin, total + n * share,
                  static_cast<size_t>(end - begin) * 4);
    }
  };
  return parallel(g.batch * shares, threads, staged + 3 * share + 2 * kernel_size, body);
}

template <int kBlock, typename T>
int depthwise_grads(const void **tensors, const Problem &g, int threads) {
  if (!tensors[6]) return channel_grads<false, true, false, kBlock, T>(tensors, g, threads);
  if (!tensors[5]) return channel_grads<false, false, true, kBlock, T>(tensors, g, threads);
  return channel_grads<false, true, true, kBlock, T>(tensors, g, threads);
}

template <bool kDense>
int any_position_grads(const void **tensors, const Problem &g, int threads) {
  return with_block(g.channels, [&](auto block) {
    return g.element == kFloat32 ? position_grads<kDense, block, float>(tensors, g, threads)
                                 : position_grads<kDense, block, bf16>(tensors, g, threads);
  });
}

}  // namespace

CTX_EXPORT int ctxvision_contextual_depthwise_positions(const void **tensors, const int64_t *numbers, int threads) {
  return any_position_grads<false>(tensors, Problem(numbers), threads);
}

CTX_EXPORT int ctxvision_contextual_dense_positions(const void **tensors, const int64_t *numbers, int threads) {
  return any_position_grads<true>(tensors, Problem(numbers), threads);
}

CTX_EXPORT int ctxvision_contextual_depthwise_channels(const void **tensors, const int64_t *numbers, int threads) {
  const Problem g(numbers);
  return with_block(g.channels, [&](auto block) {
    return g.element == kFloat32 ? depthwise_grads<block, float>(tensors, g, threads)
                                 : depthwise_grads<block, bf16>(tensors, g, threads);
  });
}

CTX_EXPORT int ctxvision_contextual_dense_channels(const void **tensors, const int64_t *numbers, int threads) {
  const Problem g(numbers);
  return with_block(g.channels, [&](auto block) {
    return g.element == kFloat32 ? channel_grads<true, true, false, block, float>(tensors, g, threads)
                                 : channel_grads<true, true, false, block, bf16>(tensors, g, threads);
  });
}
