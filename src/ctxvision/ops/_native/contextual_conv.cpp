// Contextual convolution, forward: rows of pixels, kernels, the depthwise operator, samples for the dense one.
#include "contextual_conv.hpp"

namespace {

// ------------------------------------------------------------------------------------------- rows and kernels

// A tensor (B, C, pixels) with any steps; rows are one of step 1 in C.
struct Steps {
  int64_t image, channel, pixel;
};

template <typename In, typename Out>
void copy_pixels(const In *in, Steps from, Out *out, Steps to, int64_t channels, int64_t pixels) {
  if (from.channel == 1 && to.channel == 1) {
    for (int64_t p = 0; p < pixels; ++p) {
      for (int64_t c = 0; c < channels; ++c) from_float(to_float(in[p * from.pixel + c]), out + p * to.pixel + c);
    }
  } else if (from.pixel == 1 && to.channel == 1) {
    transpose(in, from.channel, channels, pixels, out, to.pixel);
  } else if (from.channel == 1 && to.pixel == 1) {
    transpose(in, from.pixel, pixels, channels, out, to.channel);
  } else {
    for (int64_t p = 0; p < pixels; ++p) {
      for (int64_t c = 0; c < channels; ++c) {
        from_float(to_float(in[p * from.pixel + c * from.channel]), out + p * to.pixel + c * to.channel);
      }
    }
  }
}

// Between a tensor and its rows, which end in zeros. numbers: element, batch, channels, pixels, row length, steps
template <typename T, bool kToRows>
int copy_rows(const void **tensors, const int64_t *numbers, int threads) {
  const int64_t batch = numbers[1], channels = numbers[2], pixels = numbers[3], length = numbers[4];
  const Steps steps{numbers[5], numbers[6], numbers[7]}, row_steps{pixels * length, 1, length};
  constexpr int64_t kBlock = 64;
  const int64_t blocks = (pixels + kBlock - 1) / kBlock;
  const auto body = [&](int64_t task, float *) {
    const int64_t b = task / blocks, first = task % blocks * kBlock;
    const int64_t count = pixels - first < kBlock ? pixels - first : kBlock;
    const int64_t at = b * steps.image + first * steps.pixel, row = (b * pixels + first) * length;
    if constexpr (kToRows) {
      const auto rows = static_cast<float *>(const_cast<void *>(tensors[1])) + row;
      copy_pixels(static_cast<const T *>(tensors[0]) + at, steps, rows, row_steps, channels, count);
      for (int64_t p = 0; p < count; ++p) {
        for (int64_t c = channels; c < length; ++c) rows[p * length + c] = 0;
      }
    } else {
      const auto image = static_cast<T *>(const_cast<void *>(tensors[1])) + at;
      copy_pixels(static_cast<const float *>(tensors[0]) + row, row_steps, image, steps, channels, count);
    }
  };
  return parallel(batch * blocks, worthwhile(threads, batch * pixels * length * 4), 0, body);
}

// weight (C, K) plus weight_offset (B, C, K) or null, as (B, K, row length). numbers: element, batch, channels, taps,
// row length
template <typename T>
int depthwise_kernels(const void **tensors, const int64_t *numbers, int threads) {
  const int64_t batch = numbers[1], channels = numbers[2], taps = numbers[3], length = numbers[4];
  constexpr int64_t kBlock = 64;
  const int64_t blocks = (length + kBlock - 1) / kBlock;
  const auto weight = static_cast<const T *>(tensors[0]), weight_offset = static_cast<const T *>(tensors[1]);
  const auto body = [&](int64_t task, float *) {
    const int64_t b = task / blocks, begin = task % blocks * kBlock;
    const int64_t end = begin + kBlock < length ? begin + kBlock : length;
    float *out = static_cast<float *>(const_cast<void *>(tensors[2])) + b * taps * length;
    for (int64_t c = begin; c < end; ++c) {
      const T *shared = weight + c * taps, *own = weight_offset ? weight_offset + (b * channels + c) * taps : nullptr;
      for (int64_t n = 0; n < taps; ++n) {
        out[n * length + c] = c >= channels ? 0 : to_float(shared[n]) + (own ? to_float(own[n]) : 0);
      }
    }
  };
  return parallel(batch * blocks, worthwhile(threads, batch * taps * length * 4), 0, body);
}

// -------------------------------------------------------------------------------------------------- depthwise

// kPositions neighbours, so that each number of the kernel is loaded once for all of them.
template <int kPositions, int kWidth, int kLane>
CTX_INLINE void depthwise_positions(const Problem &g, const Tap *taps, int64_t lane, const float *image,
                                    const float *kernel, const float *bias, float *y) {
  constexpr int kVectors = kWidth / kLane;
  vec<kLane> total[kPositions * kVectors];
  unroll<kPositions * kVectors>([&](auto i) __attribute__((always_inline)) {
    total[i] = bias ? load<kLane>(bias + i % kVectors * kLane) : vec<kLane>{};
  });
  for (int64_t n = 0; n < g.taps(); ++n, kernel += g.channels) {
    const Corners first(image, taps[n], lane), last(image, taps[n], lane + kPositions - 1);
    unroll<kVectors>([&](auto v) __attribute__((always_inline)) {
      const auto weight = load<kLane>(kernel + v * kLane);
      total[v] += first.sample<kLane>(v * kLane) * weight;
      if constexpr (kPositions == 2) total[kVectors + v] += last.sample<kLane>(v * kLane) * weight;
    });
  }
  unroll<kPositions * kVectors>([&](auto i) __attribute__((always_inline)) {
    store<kLane>(y + i / kVectors * g.channels + i % kVectors * kLane, total[i]);
  });
}

// tensors: x, kernels, offset, mask or null, bias or null, y
template <int kBlock, typename T>
int depthwise(const void **tensors, const Problem &g, int threads) {
  constexpr int kLane = kVector<kBlock>;
  const auto x = static_cast<const float *>(tensors[0]), kernels = static_cast<const float *>(tensors[1]);
  const auto offset = static_cast<const T *>(tensors[2]), mask = static_cast<const T *>(tensors[3]);
  const auto bias = static_cast<const float *>(tensors[4]);
  const auto y = static_cast<float *>(const_cast<void *>(tensors[5]));
  const int64_t staged = g.taps() * kTapFloats;
  const auto body = [&](int64_t task, float *scratch) {
    const Block block(g, task);
    const auto taps = reinterpret_cast<Tap *>(scratch);
    const float *image = x + block.b * g.pixels() * g.channels, *kernel = kernels + block.b * g.kernel_step;
    float *zeros = clear(scratch + staged, g.channels);
    float *rows = y + (block.b * g.positions() + block.first) * g.channels;
    place_taps<kCoefficients>(g, block, offset, mask, distance(image, zeros), taps);
    channel_blocks<kLargestBlock<kBlock, kWidest>>(0, g.channels, [&](auto width, int64_t c) __attribute__((always_inline)) {
      const float *start = bias ? bias + c : nullptr;
      int64_t l = 0;
      for (; l + 2 <= block.count; l += 2) {
        depthwise_positions<2, width, kLane>(g, taps, l, image + c, kernel + c, start, rows + l * g.channels + c);
      }
      if (l < block.count) {
        depthwise_positions<1, width, kLane>(g, taps, l, image + c, kernel + c, start, rows + l * g.channels + c);
      }
    });
  };
  return parallel(g.batch * g.blocks(), worthwhile(threads, operations(g)), staged + g.channels, body);
}

// ------------------------------------------------------------------------------------------------------ dense

// tensors: x, offset, mask or null, columns
template <int kBlock, typename T>
int sample(const void **tensors, const Problem &g, int threads) {
  constexpr int kLane = kVector<kBlock>;
  const auto x = static_cast<const float *>(tensors[0]);
  const auto offset = static_cast<const T *>(tensors[1]), mask = static_cast<const T *>(tensors[2]);
  const auto columns = static_cast<float *>(const_cast<void *>(tensors[3]));
  const int64_t staged = g.taps() * kTapFloats;
  const auto body = [&](int64_t task, float *scratch) {
    const Block block(g, task);
    const auto taps = reinterpret_cast<Tap *>(scratch);
    const float *image = x + block.b * g.pixels() * g.channels;
    float *zeros = clear(scratch + staged, g.channels), *line = zeros + g.channels;
    place_taps<kCoefficients>(g, block, offset, mask, distance(image, zeros), taps);
    for (int64_t l = 0; l < block.count; ++l) {
      for (int64_t n = 0; n < g.taps(); ++n) {
        const Corners corners(image, taps[n], l);
        float *out = g.columns_are_rows() ? columns + column_at(g, block, l, n, 0) : line;
        for (int64_t c = 0; c < g.channels; c += kLane) store<kLane>(out + c, corners.sample<kLane>(c));
        if (out != line) continue;
        for (int64_t c = 0; c < g.groups * g.group_channels; c += g.group_channels) {
          std::memcpy(columns + column_at(g, block, l, n, c), line + c, static_cast<size_t>(g.group_channels) * 4);
        }
      }
    }
  };
  return parallel(g.batch * g.blocks(), worthwhile(threads, operations(g)), staged + 2 * g.channels, body);
}

}  // namespace

CTX_EXPORT int ctxvision_contextual_to_rows(const void **tensors, const int64_t *numbers, int threads) {
  return *numbers == kFloat32 ? copy_rows<float, true>(tensors, numbers, threads)
                              : copy_rows<bf16, true>(tensors, numbers, threads);
}

CTX_EXPORT int ctxvision_contextual_from_rows(const void **tensors, const int64_t *numbers, int threads) {
  return *numbers == kFloat32 ? copy_rows<float, false>(tensors, numbers, threads)
                              : copy_rows<bf16, false>(tensors, numbers, threads);
}

CTX_EXPORT int ctxvision_contextual_kernels(const void **tensors, const int64_t *numbers, int threads) {
  return *numbers == kFloat32 ? depthwise_kernels<float>(tensors, numbers, threads)
                              : depthwise_kernels<bf16>(tensors, numbers, threads);
}

CTX_EXPORT int ctxvision_contextual_depthwise(const void **tensors, const int64_t *numbers, int threads) {
  const Problem g(numbers);
  return with_block(g.channels, [&](auto block) {
    return g.element == kFloat32 ? depthwise<block, float>(tensors, g, threads)
                                 : depthwise<block, bf16>(tensors, g, threads);
  });
}

CTX_EXPORT int ctxvision_contextual_sample(const void **tensors, const int64_t *numbers, int threads) {
  const Problem g(numbers);
  return with_block(g.channels, [&](auto block) {
    return g.element == kFloat32 ? sample<block, float>(tensors, g, threads) : sample<block, bf16>(tensors, g, threads);
  });
}
