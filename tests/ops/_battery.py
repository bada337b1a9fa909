"""What the battery of operator tests runs over: both operators, their variants, and what computes them."""

import os
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from _op_cases import (
    ALL,
    GROUPINGS,
    KINDS,
    LOW_PRECISION,
    NAMES,
    PLAIN,
    aggregation_case,
    contextual_case,
    on_cpu_in_double,
)

from _oracle import (
    assert_close,
    contextual_conv2d_loops,
    contextual_conv2d_torchvision,
    layouts,
    local_aggregation_loops,
    local_aggregation_unfold,
    output_size,
    outputs_and_gradients,
)
from ctxvision.ops import _native, contextual_conv2d, local_aggregation, use_backend

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # milliseconds per operation: tensors must be tiny


def _patch_language_once():
    """Let Triton's interpreter replace the functions of its language once for each module with kernels.

    It would do so at every call of a function, which takes more time than what the functions do.
    """
    from triton.runtime import interpreter

    patch, done = interpreter._patch_lang, {}

    def once(function):
        module = id(function.__globals__)
        if module not in done:
            done[module] = patch(function)
        return SimpleNamespace(restore=lambda: None)

    interpreter._patch_lang = once


if INTERPRETED:
    _patch_language_once()
RUNNABLE = [level for level in _native.runnable() if not isinstance(_native.load(level), str)]


# ---------------------------------------------------------------------------------------------------- backends


@dataclass(frozen=True)
class Backend:
    """A backend of `use_backend`, for the native one with its instruction set, on a device."""

    name: str
    dtypes: tuple
    device: str = "cpu"
    level: str | None = None

    def __str__(self):
        return self.level or (self.name if self.device == "cpu" else f"{self.name} on {self.device}")

    @property
    def dtype(self):
        """The most precise dtype."""
        return self.dtypes[0]


PLAIN_DTYPES = (torch.float64, torch.float32, *LOW_PRECISION)
TRITON_DTYPES = (torch.float32, *LOW_PRECISION)
if INTERPRETED:
    BACKENDS = [Backend("triton", TRITON_DTYPES)]
else:
    BACKENDS = [
        Backend("torch", PLAIN_DTYPES),
        *(Backend("native", (torch.float32, torch.bfloat16), level=level) for level in RUNNABLE),
    ]
    if torch.cuda.is_available():
        BACKENDS += [Backend("torch", PLAIN_DTYPES, "cuda"), Backend("triton", TRITON_DTYPES, "cuda")]
every_backend = pytest.mark.parametrize("backend", BACKENDS, ids=str)
every_backend_and_dtype = pytest.mark.parametrize(
    ("backend", "dtype"), [(b, d) for b in BACKENDS for d in b.dtypes], ids=str
)
both_layouts = pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])


@contextmanager
def instructions(level):
    """The native library of one instruction set, whatever the processor would choose."""
    library = _native.load(level)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_native, "load", lambda level=None: library)
        yield


@contextmanager
def computing(backend):
    with use_backend(backend.name), instructions(backend.level) if backend.level else nullcontext():
        yield


@contextmanager
def uninitialised_is_nan():
    """What torch allocates holds NaN: a number that no kernel writes shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --------------------------------------------------------------------------------------------------- operators


@dataclass(frozen=True)
class Operator:
    """An operator in one of its variants, the oracles that it is held to, and its arguments."""

    variant: str
    function: object
    oracle: object
    loops: object
    arguments: tuple

    def __str__(self):
        return self.variant

    def case(self, batch=2, size=(5, 6), kernel=(3, 3), stride=1, padding=1, dilation=1, **options):
        """The tensors, and the keyword arguments; ``kernel`` is square for local aggregation."""
        geometry = {"stride": stride, "padding": padding, "dilation": dilation}
        if self.function is local_aggregation:
            channels, groups = options.pop("channels", 4), options.pop("groups", 2)
            tensors = aggregation_case(batch, channels, groups, kernel[0], size, **geometry, **options)
            return list(tensors), {**geometry, "grouping": self.variant}
        kind = options.pop("kind", KINDS[self.variant])
        return contextual_case(kind, batch, kernel, size, **geometry, **options)


AGGREGATIONS = [
    Operator(grouping, local_aggregation, local_aggregation_unfold, local_aggregation_loops, ("x", "weight"))
    for grouping in GROUPINGS
]
CONVOLUTIONS = [
    Operator(kind, contextual_conv2d, contextual_conv2d_torchvision, contextual_conv2d_loops, tuple(NAMES))
    for kind in KINDS
]
FEW = [AGGREGATIONS[1], CONVOLUTIONS[0], CONVOLUTIONS[2]]  # interleaved, depthwise, grouped
OPERATORS = FEW if INTERPRETED else AGGREGATIONS + CONVOLUTIONS
every_operator = pytest.mark.parametrize("operator", OPERATORS, ids=str)
each_operator = pytest.mark.parametrize("operator", FEW, ids=str)
PRESENT = {
    "all": ALL, "paper": ALL - {"mask"}, "masked": ALL - {"sampling_offset"},
    "grid": ALL - {"sampling_offset", "mask"}, "plain": PLAIN,
}  # fmt: skip


def _presence():
    """Operators, and what is given to a convolution; where every test takes long, without what others compute."""
    for operator in OPERATORS:
        for name, names in PRESENT.items() if operator in CONVOLUTIONS else ():
            if not INTERPRETED or name == "all":
                yield pytest.param(operator, {"present": names}, id=f"{operator}-{name}")
        if operator in AGGREGATIONS:
            yield pytest.param(operator, {}, id=str(operator))


every_presence = pytest.mark.parametrize(("operator", "present"), list(_presence()))


def laid_out(x, channels_last):
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


# --------------------------------------------------------------- kernels called by themselves, with all gradients


def in_layout(tensor, layout):
    """The same values behind other strides."""
    return tensor if tensor is None or layout == "contiguous" else dict(layouts(tensor))[layout]


def aggregation_results(kernels, x, weight, grad, geometry):
    """The output, and the gradients of x and of the weight."""
    return [
        kernels.aggregate(x, weight, *geometry),
        kernels.input_grad(grad, weight, x.shape[2:], *geometry),
        kernels.weight_grad(x, grad, *weight.shape[1:3], *geometry),
    ]


def convolution_case(*args, whole_steps=64, **options):
    """Six tensors, the geometry and a gradient. Positions are exact in float32, so that borders are met."""
    tensors, geometry = contextual_case(*args, **options)
    if tensors[2] is not None:
        tensors[2] = (tensors[2] * whole_steps).round() / whole_steps
    stride, padding, dilation = (
        (value, value) if isinstance(value, int) else value
        for value in (geometry["stride"], geometry["padding"], geometry["dilation"])
    )
    size, kernel = tensors[0].shape[2:], tensors[1].shape[2:]
    shape = (tensors[0].shape[0], tensors[1].shape[0], *output_size(size, kernel, stride, padding, dilation))
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(tensors[0].dtype)
    return tensors, (stride, padding, dilation, geometry["groups"]), grad


def convolution_results(kernels, tensors, geometry, grad, needs=(True,) * 5):
    """The output, and the gradients of x, weight, offset, weight_offset, mask, empty where not needed."""
    return [
        kernels.contextual_conv(*tensors, *geometry),
        *kernels.backward(grad, *tensors[:5], *geometry, needs),
    ]


# ------------------------------------------------------------------------------------------------ results


# results (0 is the output, 1 the image's gradient) that torch's own convolution adds up in their own type: on CPUs
# in float16, without AVX-512 in bfloat16, where the image's gradient of a 7x7 depthwise one is 1.3 % off
ADDED_UP_IN_TYPE = {torch.float16: range(1, 9)}
if torch.backends.cpu.get_cpu_capability() != "AVX512":
    ADDED_UP_IN_TYPE[torch.bfloat16] = range(1, 2)


def gradient_of_output(tensors, options):
    """Random numbers of the shape of the output, rounded to the dtype of the tensors."""
    x, weight = tensors[:2]
    shape = (*x.shape[:2], *weight.shape[3:])
    if weight.dim() == 4:
        size = output_size(x.shape[2:], weight.shape[2:], *(options[n] for n in ("stride", "padding", "dilation")))
        shape = (x.shape[0], weight.shape[0], *size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(x.dtype)


def run(backend, operator, tensors, options, grad=None):
    """The output and the gradient of every tensor, of memory that held NaN."""
    tensors = [None if t is None else t.to(backend.device) for t in tensors]
    grad = gradient_of_output(tensors, options) if grad is None else grad
    # where algorithms are deterministic, Triton leaves one gradient of contextual convolution to plain torch
    atomic = backend.name == "triton" and operator in CONVOLUTIONS
    with computing(backend):
        if atomic:
            return outputs_and_gradients(operator.function, tensors, grad=grad.to(backend.device), **options)
        with uninitialised_is_nan():
            return outputs_and_gradients(operator.function, tensors, grad=grad.to(backend.device), **options)


def expect(operator, tensors, options):
    """What the oracle says of the same tensors."""
    grad = gradient_of_output(tensors, options)
    return outputs_and_gradients(operator.oracle, on_cpu_in_double(tensors), grad=grad, **options)


def check(backend, operator, tensors, options):
    actual = run(backend, operator, tensors, options)
    assert all(t.dtype == tensors[0].dtype for t in actual)
    assert_close(actual, expect(operator, tensors, options), tensors[0].dtype)
    return actual
