// What both kernels share: vectors of float, bfloat16 in memory, threads.
//
// Vectors are GCC's and Clang's vector extensions, so that one source serves AVX-512, AVX2, SSE and NEON.
// All arithmetic is float32; bfloat16 exists in memory only. All address arithmetic is 64-bit.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "threads.hpp"

#if defined(_WIN32)
#define CTX_EXPORT extern "C" __declspec(dllexport)
#else
#define CTX_EXPORT extern "C" __attribute__((visibility("default")))
#endif
#define CTX_INLINE inline __attribute__((always_inline))

namespace {

constexpr int kAbi = 4;  // `ABI` in __init__.py must agree

#if defined(__AVX512F__)
constexpr int kNative = 16;
#elif defined(__AVX2__)
constexpr int kNative = 8;
#else
constexpr int kNative = 4;
#endif

enum Element : int64_t { kFloat32 = 0, kBFloat16 = 1 };

struct bf16 {
  uint16_t bits;
};

CTX_INLINE float to_float(float v) { return v; }

CTX_INLINE float to_float(bf16 v) {
  const uint32_t bits = static_cast<uint32_t>(v.bits) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

CTX_INLINE void from_float(float v, float *out) { *out = v; }

CTX_INLINE void from_float(float v, bf16 *out) {  // to nearest, ties to even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  out->bits = v != v ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// N floats in one register, or in several where the machine's are narrower.
template <int N>
struct Vector {
  typedef float type __attribute__((vector_size(N * 4)));
  typedef float loose __attribute__((vector_size(N * 4), aligned(4), may_alias));
  typedef uint32_t bits __attribute__((vector_size(N * 4)));
  typedef uint16_t half __attribute__((vector_size(N * 2)));
  typedef uint16_t loose_half __attribute__((vector_size(N * 2), aligned(2), may_alias));
};

template <int N>
using vec = typename Vector<N>::type;

template <int N>
CTX_INLINE vec<N> load(const float *p) {
  return *reinterpret_cast<const typename Vector<N>::loose *>(p);
}

template <int N>
CTX_INLINE vec<N> load(const bf16 *p) {
  using V = Vector<N>;
  const auto raw = *reinterpret_cast<const typename V::loose_half *>(p);
  return (vec<N>)(__builtin_convertvector((typename V::half)raw, typename V::bits) << 16);
}

template <int N>
CTX_INLINE void store(float *p, vec<N> v) {
  *reinterpret_cast<typename Vector<N>::loose *>(p) = v;
}

template <int N>
CTX_INLINE void store(bf16 *p, vec<N> v) {
  using V = Vector<N>;
  const auto bits = (typename V::bits)v;
  const auto rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const auto is_nan = (typename V::bits)(v != v);
  const auto kept = (rounded & ~is_nan) | (0x7fc0 & is_nan);
  *reinterpret_cast<typename V::loose_half *>(p) = __builtin_convertvector(kept, typename V::half);
}

template <int N>
CTX_INLINE vec<N> splat(float v) {
  return v - vec<N>{};  // -0 must stay -0: v - 0
}

// The first `count` of N elements, zeros after them.
template <int N, typename T>
CTX_INLINE vec<N> load_some(const T *p, int64_t count) {
  float lanes[N] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = to_float(p[i]);
  return load<N>(lanes);
}

template <int N, typename T>
CTX_INLINE void store_some(T *p, vec<N> v, int64_t count) {
  float lanes[N];
  store<N>(lanes, v);
  for (int64_t i = 0; i < count; ++i) from_float(lanes[i], p + i);
}

// Calls f(0), …, f(N - 1), each with a constant: arrays indexed by it live in registers.
template <typename F, int... I>
CTX_INLINE void unroll(std::integer_sequence<int, I...>, const F &f) {
  (f(std::integral_constant<int, I>{}), ...);
}

template <int N, typename F>
CTX_INLINE void unroll(const F &f) {
  unroll(std::make_integer_sequence<int, N>{}, f);
}

// Lane l of the result is lane Index::at(l, N) of a followed by b.
template <int N, typename Index, int... L>
CTX_INLINE vec<N> shuffle(vec<N> a, vec<N> b, std::integer_sequence<int, L...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, Index::at(L, N)...);
#else
  return __builtin_shuffle(a, b, typename Vector<N>::bits{static_cast<uint32_t>(Index::at(L, N))...});
#endif
}

template <int N, typename Index>
CTX_INLINE vec<N> shuffle(vec<N> a, vec<N> b) {
  return shuffle<N, Index>(a, b, std::make_integer_sequence<int, N>{});
}

// Exchange the off-diagonal blocks of side H: one of the log2(N) steps of a transposition.
template <int H>
struct SwapLow {
  static constexpr int at(int lane, int n) { return lane & H ? (lane ^ H) + n : lane; }
};

template <int H>
struct SwapHigh {
  static constexpr int at(int lane, int n) { return lane & H ? lane + n : lane ^ H; }
};

template <int N, int H>
CTX_INLINE void swap_blocks(vec<N> *rows) {
  unroll<N>([&](auto i) __attribute__((always_inline)) {
    if constexpr ((i & H) == 0) {
      const auto a = rows[i], b = rows[i + H];
      rows[i] = shuffle<N, SwapLow<H>>(a, b);
      rows[i + H] = shuffle<N, SwapHigh<H>>(a, b);
    }
  });
  if constexpr (H > 1) swap_blocks<N, H / 2>(rows);
}

// out[c * out_stride + r] = in[r * in_stride + c], for `count` matrices in_step and out_step apart
template <typename In, typename Out>
inline void transpose(const In *in, int64_t in_stride, int64_t rows, int64_t cols, Out *out, int64_t out_stride,
                      int64_t count = 1, int64_t in_step = 0, int64_t out_step = 0) {
  constexpr int N = kNative < 8 ? kNative : 8;
  const int64_t full_rows = rows - rows % N, full_cols = cols - cols % N;
  for (int64_t r = 0; r < full_rows; r += N) {
    for (int64_t c = 0; c < full_cols; c += N) {
      const In *from = in + r * in_stride + c;
      Out *to = out + c * out_stride + r;
      for (int64_t n = 0; n < count; ++n, from += in_step, to += out_step) {
        vec<N> block[N];
        unroll<N>([&](auto i) __attribute__((always_inline)) { block[i] = load<N>(from + i * in_stride); });
        swap_blocks<N, N / 2>(block);
        unroll<N>([&](auto i) __attribute__((always_inline)) { store<N>(to + i * out_stride, block[i]); });
      }
    }
  }
  for (int64_t c = 0; c < cols; ++c) {
    for (int64_t r = c < full_cols ? full_rows : 0; r < rows; ++r) {
      for (int64_t n = 0; n < count; ++n) {
        from_float(to_float(in[n * in_step + r * in_stride + c]), out + n * out_step + c * out_stride + r);
      }
    }
  }
}

// Lanes of a and b, two of each, side by side in every quad of lanes: the lower two or, with PART 1, the upper two.
template <int PART>
struct ZipPairs {
  static constexpr int at(int lane, int n) { return lane / 4 * 4 + lane % 4 / 2 + 2 * PART + lane % 2 * n; }
};

template <int PART>
struct JoinPairs {
  static constexpr int at(int lane, int n) { return lane / 4 * 4 + lane % 2 + 2 * PART + lane % 4 / 2 * n; }
};

// The first or second half of every run of QUADS quads.
template <int QUADS, int PART>
struct HalfRuns {
  static constexpr int at(int lane, int) {
    return (lane / 4 / (QUADS / 2) * QUADS + lane / 4 % (QUADS / 2) + PART * (QUADS / 2)) * 4 + lane % 4;
  }
};

template <int N, typename Lower, typename Upper>
CTX_INLINE vec<N> fold(vec<N> a, vec<N> b) {
  return shuffle<N, Lower>(a, b) + shuffle<N, Upper>(a, b);
}

// COUNT / 4 vectors of N / 4 quads; QUADS of them, side by side, are still to be added.
template <int N, int COUNT, int QUADS>
CTX_INLINE void sum_quads(vec<N> *v, float *out) {
  if constexpr (QUADS == 1) {
    unroll<(COUNT + N - 1) / N>([&](auto i) __attribute__((always_inline)) { store<N>(out + i * N, v[i]); });
  } else {
    constexpr int kVectors = COUNT * QUADS / N;  // 0: the sums fill only a part of one
    unroll<kVectors < 2 ? 1 : kVectors / 2>([&](auto i) __attribute__((always_inline)) {
      constexpr int second = kVectors < 2 ? 0 : 2 * i + 1;
      v[i] = fold<N, HalfRuns<QUADS, 0>, HalfRuns<QUADS, 1>>(v[kVectors < 2 ? 0 : 2 * i], v[second]);
    });
    sum_quads<N, COUNT, QUADS / 2>(v, out);
  }
}

// The sums over the lanes of COUNT vectors, in order; COUNT is a multiple of 4. Overwrites v. `out` holds at least N.
template <int N, int COUNT>
CTX_INLINE void sums(vec<N> *v, float *out) {
  unroll<COUNT / 2>([&](auto i) __attribute__((always_inline)) {
    v[i] = fold<N, ZipPairs<0>, ZipPairs<1>>(v[2 * i], v[2 * i + 1]);
  });
  unroll<COUNT / 4>([&](auto i) __attribute__((always_inline)) {
    v[i] = fold<N, JoinPairs<0>, JoinPairs<1>>(v[2 * i], v[2 * i + 1]);
  });
  sum_quads<N, COUNT, N / 4>(v, out);
}

template <int N>
CTX_INLINE float sum(vec<N> v) {
  float lanes[N], total = 0;
  store<N>(lanes, v);
  for (int i = 0; i < N; ++i) total += lanes[i];
  return total;
}

// What the threads of a team share: tasks, and the size of each thread's own working memory.
template <typename Body>
struct Tasks {
  int64_t count, floats;
  const Body &body;
  int failed;

  static void work(void *data, int64_t me, int64_t team) {
    auto &tasks = *static_cast<Tasks *>(data);
    float *scratch = nullptr;
    void *raw = nullptr;
    if (tasks.floats > 0) {
      raw = std::malloc(static_cast<size_t>(tasks.floats) * 4 + 64);
      if (raw == nullptr) {
        __atomic_store_n(&tasks.failed, 1, __ATOMIC_RELAXED);
        return;
      }
      const auto address = (reinterpret_cast<uintptr_t>(raw) + 63) & ~static_cast<uintptr_t>(63);
      scratch = reinterpret_cast<float *>(address);
    }
    const int64_t end = tasks.count * (me + 1) / team;
    for (int64_t task = tasks.count * me / team; task < end; ++task) tasks.body(task, scratch);
    std::free(raw);
  }
};

// Run body(task, scratch) for every task on `threads` threads, each with `floats` floats of its own working memory.
// Tasks are handed out in contiguous equal shares, so that results do not depend on timing.
// Returns 1, with nothing or only a part computed, where memory is short; else 0.
template <typename Body>
int parallel(int64_t tasks, int threads, int64_t floats, const Body &body) {
  if (tasks <= 0) return 0;
  if (threads > tasks) threads = static_cast<int>(tasks);
  Tasks<Body> shared{tasks, floats, body, 0};
  run_team(threads, Tasks<Body>::work, &shared);
  return shared.failed;
}

}  // namespace
