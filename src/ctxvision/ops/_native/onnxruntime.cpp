// Our operators as nodes of ONNX Runtime, domain "ctxvision": the kernels of this library on the runtime's own threads.
//
// No package carries the header of the runtime's C interface, so the entries that are needed are declared here. The
// interface is stable: a table of functions that only grows (`OrtApi`), and a structure of callbacks with a version in
// front (`OrtCustomOp`). The runtime is asked for the table of version 17; one that is older has none, and is refused
// with a reason. Everything is float32 and contiguous (NCHW): what the runtime's own kernels pass on.
//
//   LocalAggregation(x, weight) -> y                                             stride, padding, dilation, interleaved
//   DepthwiseContextualConv(x, weight, sampling_offset, weight_offset?, mask?, bias?) -> y    stride, padding, dilation
//   ContextualSamples(x, sampling_offset, mask?) -> columns (G, B, P, K * C / G)  kernel, stride, padding, dilation, groups
#include <initializer_list>

#include "vector.hpp"

// The kernels, see local_aggregation.cpp and contextual_conv.cpp.
using Kernel = int(const void **tensors, const int64_t *numbers, int threads);
CTX_EXPORT Kernel ctxvision_local_aggregation, ctxvision_contextual_to_rows, ctxvision_contextual_from_rows,
    ctxvision_contextual_kernels, ctxvision_contextual_depthwise, ctxvision_contextual_sample;

namespace {

// Into how many shares work is cut: the runtime does not say how many threads it has, and more shares do no harm.
constexpr int kShares = 16;

// ---------------------------------------------------------------------------------------------- the runtime's interface

constexpr uint32_t kApiVersion = 17;  // the first with KernelContext_ParallelFor
constexpr int kFloatTensor = 1, kRequired = 0, kOptional = 1, kDefaultMemory = 0, kInvalidArgument = 2, kRuntimeFailed = 6;

struct Status;
struct Context;
struct Info;
struct Value;
struct Shape;
struct Domain;
struct Options;

// Places of functions in the table.
enum Entry {
  kCreateStatus = 0,
  kCreateDomain = 26,
  kAddOperator = 27,
  kAddDomain = 28,
  kTensorData = 51,
  kElementType = 60,
  kDimensionCount = 61,
  kDimensions = 62,
  kTensorShape = 65,
  kIntAttribute = 86,
  kInput = 90,
  kOutput = 91,
  kReleaseStatus = 93,
  kReleaseShape = 99,
  kIntsAttribute = 163,
  kParallelFor = 274,
};

struct Api {
  const void *entries[kParallelFor + 1];

  template <typename Result, typename... Arguments>
  Result call(Entry entry, Arguments... arguments) const {
    return reinterpret_cast<Result (*)(Arguments...)>(const_cast<void *>(entries[entry]))(arguments...);
  }
  Status *failure(int code, const char *message) const { return call<Status *>(kCreateStatus, code, message); }
};

struct ApiBase {
  const Api *(*get)(uint32_t version);
  const char *(*version)();
};

struct Operator {
  uint32_t version;
  void *(*create)(const Operator *, const Api *, const Info *);
  const char *(*name)(const Operator *);
  const char *(*provider)(const Operator *);
  int (*input_type)(const Operator *, size_t);
  size_t (*inputs)(const Operator *);
  int (*output_type)(const Operator *, size_t);
  size_t (*outputs)(const Operator *);
  void (*compute)(void *, Context *);
  void (*destroy)(void *);
  int (*input_kind)(const Operator *, size_t);
  int (*output_kind)(const Operator *, size_t);
  int (*input_memory)(const Operator *, size_t);
  int (*variadic_inputs)(const Operator *);
  int (*variadic_inputs_alike)(const Operator *);
  int (*variadic_outputs)(const Operator *);
  int (*variadic_outputs_alike)(const Operator *);
  Status *(*create_or_fail)(const Operator *, const Api *, const Info *, void **);
  Status *(*compute_or_fail)(void *, Context *);
  Status *(*infer_shape)(const Operator *, void *);
  int (*first_opset)(const Operator *);
  int (*last_opset)(const Operator *);
};

// ------------------------------------------------------------------------------------------------- tensors of a call

constexpr int kMostDimensions = 5;

struct Tensor {
  const float *data = nullptr;  // null: an optional input that is absent
  int64_t size[kMostDimensions] = {};
  size_t dimensions = 0;

  bool is(std::initializer_list<int64_t> shape) const {
    if (dimensions != shape.size()) return false;
    size_t n = 0;
    for (int64_t expected : shape) {
      if (size[n++] != expected) return false;
    }
    return true;
  }
  int64_t count() const {
    int64_t product = 1;
    for (size_t n = 0; n < dimensions; ++n) product *= size[n];
    return product;
  }
};

// Memory that a call works in, aligned for vectors, given back at its end.
struct Memory {
  void *raw = nullptr;
  float *data = nullptr;

  explicit Memory(int64_t floats) : raw(std::malloc(static_cast<size_t>(floats) * 4 + 64)) {
    data = reinterpret_cast<float *>((reinterpret_cast<uintptr_t>(raw) + 63) & ~static_cast<uintptr_t>(63));
  }
  ~Memory() { std::free(raw); }
  Memory(const Memory &) = delete;
  Memory &operator=(const Memory &) = delete;
  bool missing() const { return raw == nullptr; }
};

// The first failure of a call ends it: every step is left out after one.
struct Call {
  const Api &api;
  Context *context;
  Status *failed = nullptr;

  void refuse(const char *message) {
    if (!failed) failed = api.failure(kInvalidArgument, message);
  }
  void keep(Status *status) {
    if (!failed) {
      failed = status;
    } else if (status) {
      api.call<void>(kReleaseStatus, status);
    }
  }

  Tensor input(size_t index) {
    Tensor found;
    const Value *value = nullptr;
    if (!failed) keep(api.call<Status *>(kInput, static_cast<const Context *>(context), index, &value));
    if (failed || !value) return found;
    Shape *shape = nullptr;
    int element = 0;
    keep(api.call<Status *>(kTensorShape, value, &shape));
    if (failed) return found;
    keep(api.call<Status *>(kElementType, static_cast<const Shape *>(shape), &element));
    keep(api.call<Status *>(kDimensionCount, static_cast<const Shape *>(shape), &found.dimensions));
    if (element != kFloatTensor) refuse("ctxvision's operators compute float32 tensors");
    if (found.dimensions > kMostDimensions) refuse("ctxvision's operators take tensors of at most five dimensions");
    if (!failed) keep(api.call<Status *>(kDimensions, static_cast<const Shape *>(shape), &found.size[0], found.dimensions));
    api.call<void>(kReleaseShape, shape);
    void *data = nullptr;
    if (!failed) keep(api.call<Status *>(kTensorData, const_cast<Value *>(value), &data));
    // an empty tensor may have no memory: it is there all the same
    static const float nothing = 0;
    found.data = data ? static_cast<const float *>(data) : &nothing;
    return found;
  }

  float *output(std::initializer_list<int64_t> shape) {
    Value *value = nullptr;
    void *data = nullptr;
    if (!failed) keep(api.call<Status *>(kOutput, context, static_cast<size_t>(0), shape.begin(), shape.size(), &value));
    if (!failed) keep(api.call<Status *>(kTensorData, value, &data));
    return static_cast<float *>(data);
  }

  // One of the kernels, on the runtime's threads.
  void run(Kernel &kernel, std::initializer_list<const void *> tensors, std::initializer_list<int64_t> numbers) {
    if (failed) return;
    const Host runtime{[](void *self, void (*work)(void *, size_t), size_t count, void *data) {
                         const auto &call = *static_cast<const Call *>(self);
                         Status *status = call.api.call<Status *>(kParallelFor, static_cast<const Context *>(call.context),
                                                                  work, count, static_cast<size_t>(0), data);
                         if (status) call.api.call<void>(kReleaseStatus, status);
                         return status == nullptr;
                       },
                       this};
    use_host(&runtime);
    const int short_of_memory = kernel(const_cast<const void **>(tensors.begin()), numbers.begin(), kShares);
    use_host(nullptr);
    if (short_of_memory) keep(api.failure(kRuntimeFailed, "ctxvision could not allocate its working memory"));
  }
};

// ---------------------------------------------------------------------------------------------------------- attributes

struct Pair {
  int64_t y, x;
};

struct Attributes {
  const Api *api;
  Pair kernel, stride, padding, dilation;
  int64_t groups, interleaved;

  int64_t out(int64_t size, int64_t kernel_size, bool vertical) const {
    const int64_t s = vertical ? stride.y : stride.x, p = vertical ? padding.y : padding.x;
    const int64_t reach = (vertical ? dilation.y : dilation.x) * (kernel_size - 1) + 1;
    return size + 2 * p < reach ? 0 : (size + 2 * p - reach) / s + 1;
  }
};

// Read what is there; what is not keeps its default.
void read(const Api &api, const Info *info, const char *name, Pair *pair) {
  int64_t values[2];
  size_t count = 2;
  Status *status = api.call<Status *>(kIntsAttribute, info, name, &values[0], &count);
  if (status) {
    api.call<void>(kReleaseStatus, status);
  } else if (count == 2) {
    *pair = {values[0], values[1]};
  }
}

void read(const Api &api, const Info *info, const char *name, int64_t *value) {
  int64_t found;
  Status *status = api.call<Status *>(kIntAttribute, info, name, &found);
  if (status) {
    api.call<void>(kReleaseStatus, status);
  } else {
    *value = found;
  }
}

Status *create(const Operator *, const Api *api, const Info *info, void **kernel) {
  auto *memory = static_cast<Attributes *>(std::malloc(sizeof(Attributes)));
  if (!memory) return api->failure(kRuntimeFailed, "ctxvision could not allocate its working memory");
  Attributes a{api, {1, 1}, {1, 1}, {0, 0}, {1, 1}, 1, 0};
  read(*api, info, "kernel", &a.kernel);
  read(*api, info, "stride", &a.stride);
  read(*api, info, "padding", &a.padding);
  read(*api, info, "dilation", &a.dilation);
  read(*api, info, "groups", &a.groups);
  read(*api, info, "interleaved", &a.interleaved);
  const auto small = [](Pair p, int64_t least) { return p.y >= least && p.x >= least && p.y < 1 << 20 && p.x < 1 << 20; };
  if (!small(a.kernel, 1) || !small(a.stride, 1) || !small(a.padding, 0) || !small(a.dilation, 1) || a.groups < 1) {
    std::free(memory);
    return api->failure(kInvalidArgument,
                        "ctxvision: kernel, stride, dilation and groups must be positive, padding not negative, all below 2^20");
  }
  *memory = a;
  *kernel = memory;
  return nullptr;
}

// ------------------------------------------------------------------------------------------------------- the operators

Status *local_aggregation(void *kernel, Context *context) {
  const auto &a = *static_cast<const Attributes *>(kernel);
  Call call{*a.api, context};
  const Tensor x = call.input(0), weight = call.input(1);
  if (call.failed) return call.failed;
  const int64_t batch = x.size[0], channels = x.size[1], height = x.size[2], width = x.size[3];
  const int64_t groups = weight.size[1], taps = weight.size[2];
  int64_t side = 1;
  while (side < 1 << 15 && side * side < taps) ++side;
  const int64_t rows = a.out(height, side, true), columns = a.out(width, side, false);
  if (x.dimensions != 4 || side * side != taps || groups < 1 || channels % groups ||
      !weight.is({batch, groups, taps, rows, columns})) {
    call.refuse("ctxvision LocalAggregation: x must be (B, C, H, W) and weight (B, G, k*k, H', W'), with C a multiple of G "
                "and one map per output position");
    return call.failed;
  }
  float *y = call.output({batch, channels, rows, columns});
  if (call.failed || batch * channels * rows * columns == 0) return call.failed;
  if (x.count() == 0) {  // nothing but zeros outside
    std::memset(y, 0, static_cast<size_t>(batch * channels * rows * columns) * 4);
    return nullptr;
  }
  call.run(ctxvision_local_aggregation, {x.data, weight.data, y},
           {0, kFloat32, 0, 0, a.interleaved != 0, batch, channels, groups, height, width, rows, columns, side, a.stride.y,
            a.stride.x, a.padding.y, a.padding.x, a.dilation.y, a.dilation.x});
  return call.failed;
}

// As `_row_length` in _rows.py.
int64_t row_length(int64_t channels) {
  if (channels <= 2) return channels;
  return channels <= 4 ? 4 : channels <= 8 ? 8 : (channels + 15) / 16 * 16;
}

// Where taps read, in the order of `Problem` in contextual_conv.hpp; offsets and mask are contiguous.
struct Sampling {
  int64_t batch, channels, height, width, rows, columns, taps, length;
  int64_t pixels() const { return height * width; }
  int64_t positions() const { return rows * columns; }
};

// What both operators check and compute first: x as rows of channels.
bool sampled(Call *call, const Attributes &a, Pair kernel, const Tensor &x, const Tensor &offset, const Tensor &mask,
             Sampling *s) {
  const bool image = x.dimensions == 4;
  const int64_t rows = image ? a.out(x.size[2], kernel.y, true) : 0, columns = image ? a.out(x.size[3], kernel.x, false) : 0;
  const int64_t taps = kernel.y * kernel.x;
  *s = {x.size[0], x.size[1], x.size[2], x.size[3], rows, columns, taps, row_length(x.size[1])};
  if (!image || x.size[1] < 1 || !offset.is({x.size[0], 2 * taps, rows, columns}) ||
      (mask.data && !mask.is({x.size[0], taps, rows, columns}))) {
    call->refuse("ctxvision contextual convolution: x must be (B, C, H, W), sampling_offset (B, 2 K, H', W'), mask "
                 "(B, K, H', W')");
  }
  return !call->failed;
}

void to_rows(Call *call, const Sampling &s, const float *image, float *rows) {
  call->run(ctxvision_contextual_to_rows, {image, rows},
            {kFloat32, s.batch, s.channels, s.pixels(), s.length, s.channels * s.pixels(), s.pixels(), 1});
}

Status *depthwise(void *kernel, Context *context) {
  const auto &a = *static_cast<const Attributes *>(kernel);
  Call call{*a.api, context};
  const Tensor x = call.input(0), weight = call.input(1), offset = call.input(2), own = call.input(3);
  const Tensor mask = call.input(4), bias = call.input(5);
  if (call.failed) return call.failed;
  const Pair size = weight.dimensions == 4 ? Pair{weight.size[2], weight.size[3]} : Pair{1, 1};
  Sampling s;
  if (!sampled(&call, a, size, x, offset, mask, &s)) return call.failed;
  if (!weight.is({s.channels, 1, size.y, size.x}) || (own.data && !own.is({s.batch, s.channels, size.y, size.x})) ||
      (bias.data && !bias.is({s.channels}))) {
    call.refuse("ctxvision DepthwiseContextualConv: weight must be (C, 1, kh, kw), weight_offset (B, C, kh, kw), bias (C)");
    return call.failed;
  }
  float *y = call.output({s.batch, s.channels, s.rows, s.columns});
  if (call.failed || s.batch * s.positions() == 0) return call.failed;
  const int64_t kernels = own.data ? s.batch : 1, kernel_size = s.taps * s.length;
  const Memory rows(s.batch * s.pixels() * s.length), results(s.batch * s.positions() * s.length);
  const Memory weights(kernels * kernel_size + s.length);
  if (rows.missing() || results.missing() || weights.missing()) {
    return call.api.failure(kRuntimeFailed, "ctxvision could not allocate its working memory");
  }
  float *padded = bias.data ? weights.data + kernels * kernel_size : nullptr;
  for (int64_t c = 0; padded && c < s.length; ++c) padded[c] = c < s.channels ? bias.data[c] : 0;
  to_rows(&call, s, x.data, rows.data);
  call.run(ctxvision_contextual_kernels, {weight.data, own.data, weights.data},
           {kFloat32, kernels, s.channels, s.taps, s.length});
  const int64_t p = s.positions(), masked = mask.data ? s.taps : 2 * s.taps;
  call.run(ctxvision_contextual_depthwise, {rows.data, weights.data, offset.data, mask.data, padded, results.data},
           {kFloat32, s.batch, s.height, s.width, s.length, s.rows, s.columns, size.y, size.x, a.stride.y, a.stride.x,
            a.padding.y, a.padding.x, a.dilation.y, a.dilation.x, 2 * s.taps * p, p, s.columns, 1, masked * p, p, s.columns,
            1, 0, p, own.data ? kernel_size : 0, s.channels, 1});
  call.run(ctxvision_contextual_from_rows, {results.data, y},
           {kFloat32, s.batch, s.channels, p, s.length, s.channels * p, p, 1});
  return call.failed;
}

Status *samples(void *kernel, Context *context) {
  const auto &a = *static_cast<const Attributes *>(kernel);
  Call call{*a.api, context};
  const Tensor x = call.input(0), offset = call.input(1), mask = call.input(2);
  if (call.failed) return call.failed;
  Sampling s;
  if (!sampled(&call, a, a.kernel, x, offset, mask, &s)) return call.failed;
  if (s.channels % a.groups) {
    call.refuse("ctxvision ContextualSamples: channels must be a multiple of groups");
    return call.failed;
  }
  const int64_t group_channels = s.channels / a.groups, p = s.positions(), masked = mask.data ? s.taps : 2 * s.taps;
  float *columns = call.output({a.groups, s.batch, p, s.taps * group_channels});
  if (call.failed || s.batch * p == 0) return call.failed;
  const Memory rows(s.batch * s.pixels() * s.length);
  if (rows.missing()) return call.api.failure(kRuntimeFailed, "ctxvision could not allocate its working memory");
  to_rows(&call, s, x.data, rows.data);
  call.run(ctxvision_contextual_sample, {rows.data, offset.data, mask.data, columns},
           {kFloat32, s.batch, s.height, s.width, s.length, s.rows, s.columns, a.kernel.y, a.kernel.x, a.stride.y,
            a.stride.x, a.padding.y, a.padding.x, a.dilation.y, a.dilation.x, 2 * s.taps * p, p, s.columns, 1, masked * p,
            p, s.columns, 1, 0, p, 0, a.groups, group_channels});
  return call.failed;
}

// -------------------------------------------------------------------------------------------------------- registration

struct Named : Operator {
  const char *its_name;
  size_t its_inputs, its_required;
};

Named named(const char *name, size_t inputs, size_t required, Status *(*compute)(void *, Context *)) {
  Named op{};
  op.version = kApiVersion;
  op.name = [](const Operator *self) { return static_cast<const Named *>(self)->its_name; };
  op.provider = [](const Operator *) -> const char * { return nullptr; };  // the CPU
  op.input_type = [](const Operator *, size_t) { return kFloatTensor; };
  op.inputs = [](const Operator *self) { return static_cast<const Named *>(self)->its_inputs; };
  op.output_type = [](const Operator *, size_t) { return kFloatTensor; };
  op.outputs = [](const Operator *) -> size_t { return 1; };
  op.destroy = [](void *kernel) { std::free(kernel); };
  op.input_kind = [](const Operator *self, size_t index) {
    return index < static_cast<const Named *>(self)->its_required ? kRequired : kOptional;
  };
  op.output_kind = [](const Operator *, size_t) { return kRequired; };
  op.input_memory = [](const Operator *, size_t) { return kDefaultMemory; };
  op.variadic_inputs = op.variadic_outputs = [](const Operator *) { return 1; };
  op.variadic_inputs_alike = op.variadic_outputs_alike = [](const Operator *) { return 1; };
  op.create_or_fail = create;
  op.compute_or_fail = compute;
  op.first_opset = [](const Operator *) { return 1; };
  op.last_opset = [](const Operator *) { return 0x7fffffff; };
  op.its_name = name, op.its_inputs = inputs, op.its_required = required;
  return op;
}

// The runtime keeps the addresses for as long as the process lives, and so do these.
Named operators[] = {
    named("LocalAggregation", 2, 2, local_aggregation),
    named("DepthwiseContextualConv", 6, 3, depthwise),
    named("ContextualSamples", 3, 2, samples),
};

}  // namespace

// What ONNX Runtime calls for `SessionOptions.register_custom_ops_library(path)`.
CTX_EXPORT Status *RegisterCustomOps(Options *options, const ApiBase *base) {
  const Api *api = base->get(kApiVersion);
  if (!api) {
    const Api *first = base->get(1);
    return first->failure(kInvalidArgument, "ctxvision's operators need ONNX Runtime 1.17 or newer");
  }
  Domain *domain = nullptr;
  Status *status = api->call<Status *>(kCreateDomain, "ctxvision", &domain);
  for (Named &op : operators) {
    if (!status) status = api->call<Status *>(kAddOperator, domain, static_cast<const Operator *>(&op));
  }
  if (!status) status = api->call<Status *>(kAddDomain, options, domain);
  return status;
}
