// Local aggregation and its two adjoints. The maths and the reasons for the blocking are in
// ../local_aggregation/README.md.
//
// Work is cut into tasks: one image, a band of rows, one group of channels (several where groups are interleaved in
// memory). A task sees its channels as lanes of vectors: directly where memory already has them side by side, else
// through a packed copy of the band. Every output element is summed by one task in one order, so that results do not
// depend on the number of threads.

#include "local_aggregation.hpp"

namespace {

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
  constexpr int64_t kTarget = 16 * 1024;  // floats of working memory: with its maps a band stays in a second-level cache
  Plan plan{};
  const bool adjoint = p.mode == kInputGrad, grad = p.mode == kWeightGrad;
  plan.groups_together = p.interleaved && p.channels_last ? min(p.groups, 16) : 1;  // 16 floats: a cache line
  // gradients return to a row many times: packed, the rows of a window stay in the first-level cache
  plan.pack_source = !direct || p.mode != kForward;
  plan.pack_result = !direct;  // of y or gx; in the weight's gradient the second source, gy
  const bool stage_maps = !grad && std::is_same<T, bf16>::value;
  const int64_t result_height = adjoint ? p.height : p.out_height;
  const int64_t result_width = adjoint ? p.width : p.out_width, source_width = adjoint ? p.out_width : p.width;
  const int64_t lanes = plan.groups_together * ceil_div(p.group_size(), V) * V;
  const int64_t others = p.batch * ceil_div(p.groups, plan.groups_together);
  plan.band = max(1, result_height);
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
  const auto slide_kernel = [&](auto kernel, auto stride) __attribute__((always_inline)) {
    constexpr int K = kernel, S = stride;
    if (p.taps_last) {
      slide_row<V, K, S, true, ADJOINT>(p, i, source, height, width, maps, out, out_step, results);
    } else {
      slide_row<V, K, S, false, ADJOINT>(p, i, source, height, width, maps, out, out_step, results);
    }
  };
  constexpr std::integral_constant<int, 1> one;
  constexpr std::integral_constant<int, 3> three;
  constexpr std::integral_constant<int, 7> seven;
  if (p.steps_by(1) && p.kernel == 7) return slide_kernel(seven, one);
  if (p.steps_by(1) && p.kernel == 3) return slide_kernel(three, one);
  if constexpr (!ADJOINT) {  // RedNet's stages begin with such a layer
    if (p.steps_by(2) && p.kernel == 7) return slide_kernel(seven, std::integral_constant<int, 2>{});
  }
  if (ADJOINT) {
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
          const bool finite = adjoint || all_finite(p, maps, rows);
          for (int64_t block = 0; block < blocks; ++block) {
            const Block from = block_of(source, plan.pack_source, packed_source, needed, group, block);
            const Block to = block_of(result, plan.pack_result, packed_result, rows, group, block);
            for (int64_t i = rows.first; i < rows.last; ++i) {
              if (adjoint) {
                result_row<V, true>(p, i, from, maps, to.row(i), to.col_step);
              } else {
                result_row<V, false>(p, i, from, maps, to.row(i), to.col_step);
                if (!finite) multiply_zeros<V>(p, i, maps, to.row(i), to.col_step);
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

CTX_EXPORT int ctxvision_local_aggregation(const void **tensors, const int64_t *numbers, int threads) {
  Problem p;
  static_assert(sizeof(Problem) == 19 * sizeof(int64_t), "the numbers are copied as they come");
  std::memcpy(&p, numbers, sizeof(Problem));
  return p.element == kBFloat16 ? run<bf16>(p, tensors, threads) : run<float>(p, tensors, threads);
}
