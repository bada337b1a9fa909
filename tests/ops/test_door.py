"""The registered operators, called without the public functions: a wrong argument is an error, never a read."""

import ctypes
import mmap

import pytest
import torch
from _op_cases import aggregation_case, contextual_case
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from ctxvision.ops import _native, contextual_conv2d, local_aggregation, use_backend

OPS = torch.ops.ctxvision
STEPS = ([1, 1], [1, 1], [1, 1])
FLOATING = (torch.float32, torch.bfloat16)
SHAPES = {
    "x": (2, 4, 5, 6), "maps": (2, 2, 9, 5, 6), "grad": (2, 4, 5, 6), "weight": (6, 2, 3, 3), "of_y": (2, 6, 5, 6),
    "offset": (2, 18, 5, 6), "weight_offset": (2, 4, 3, 3), "mask": (2, 9, 5, 6), "bias": (6,),
}  # fmt: skip
CALLS = {
    "local_aggregation": ("x", "maps"),
    "local_aggregation_input_grad": ("grad", "maps"),
    "local_aggregation_weight_grad": ("x", "grad"),
    "contextual_conv2d": ("x", "weight", "offset", "weight_offset", "mask", "bias"),
    "contextual_conv2d_backward": ("of_y", "x", "weight", "offset", "weight_offset", "mask"),
}
EXTREMES = [-(2**63), -1, 0, 1, 2, 7, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1]


def call(name, tensors, steps=STEPS, numbers=None):
    """Call an operator; ``numbers`` replace what it takes beside tensors and steps."""
    rest = {
        "local_aggregation": lambda: (*steps, False),
        "local_aggregation_input_grad": lambda: (numbers or [5, 6], *steps, False),
        "local_aggregation_weight_grad": lambda: (*(numbers or [2, 9]), *steps, False),
        "contextual_conv2d": lambda: (*steps, (numbers or [2])[0]),
        "contextual_conv2d_backward": lambda: (*steps, (numbers or [2])[0], [True] * 5),
    }[name]()
    return getattr(OPS, name)(*tensors, *rest)


def guarded(values):
    """The same values at the end of a page, before one that must not be touched."""
    page, size = mmap.PAGESIZE, values.numel() * values.element_size()
    pages = -(-size // page)
    memory = mmap.mmap(-1, (pages + 1) * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(start + pages * page), page, 0):
        pytest.skip("no guard pages here")
    flat = torch.frombuffer(memory, dtype=values.dtype, count=values.numel(), offset=pages * page - size)
    return flat.view(values.shape).copy_(values)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_right_arguments_are_read_to_their_end_and_no_further(name, dtype):
    tensors = [torch.randn(SHAPES[n]).to(dtype) for n in CALLS[name]]
    expected = call(name, tensors)
    actual = call(name, [guarded(tensor) for tensor in tensors])  # a read beyond ends the process
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@st.composite
def wrong_shapes(draw):
    name = draw(st.sampled_from(list(CALLS)))
    which = draw(st.sampled_from(range(len(CALLS[name]))))
    shape = list(SHAPES[CALLS[name][which]])
    axis = draw(st.integers(0, len(shape) - 1))
    change = draw(st.sampled_from(["size", "fewer axes", "more axes"]))
    if change == "size":
        shape[axis] = draw(st.sampled_from([n for n in (0, 1, 3, 7, 50) if n != shape[axis]]))
    elif change == "fewer axes":
        del shape[axis]
    else:
        shape.insert(axis, 1)
    return name, which, tuple(shape), draw(st.sampled_from(FLOATING))


@given(wrong=wrong_shapes())
@settings(max_examples=150)
def test_wrong_shapes_are_refused_by_kernels_and_fakes(wrong):
    name, which, shape, dtype = wrong
    tensors = [torch.zeros(SHAPES[n], dtype=dtype) for n in CALLS[name]]
    tensors[which] = torch.zeros(shape, dtype=dtype)
    with pytest.raises(ValueError, match=name.removesuffix("_backward")):
        call(name, tensors)
    with pytest.raises(ValueError, match=name.removesuffix("_backward")):
        call(name, [tensor.to("meta") for tensor in tensors])


@given(
    name=st.sampled_from(list(CALLS)),
    which=st.integers(0, 2),
    pair=st.lists(st.sampled_from(EXTREMES), max_size=3).filter(lambda pair: pair != [1, 1]),
)
def test_wrong_steps_are_refused(name, which, pair):
    steps = [pair if n == which else step for n, step in enumerate(STEPS)]
    tensors = [torch.zeros(SHAPES[n]) for n in CALLS[name]]
    with pytest.raises(ValueError, match=r"stride|padding|dilation|output size|weight|one map"):
        call(name, tensors, steps)


@pytest.mark.parametrize("name", ["local_aggregation_input_grad", "local_aggregation_weight_grad"])
@pytest.mark.parametrize("numbers", [[5], [5, 7], [-5, 6], [2**62, 6], [0, 9], [2, 8], [-1, -9], [2**40, 9]])
def test_wrong_numbers_are_refused(name, numbers):
    if name.endswith("weight_grad") and len(numbers) == 1:
        numbers = [1, 2**62]
    with pytest.raises(ValueError, match=name):
        call(name, [torch.zeros(SHAPES[n]) for n in CALLS[name]], numbers=numbers)


@pytest.mark.parametrize("groups", EXTREMES[:4] + EXTREMES[5:])
@pytest.mark.parametrize("name", ["contextual_conv2d", "contextual_conv2d_backward"])
def test_wrong_groups_are_refused(name, groups):
    with pytest.raises(ValueError, match="groups"):
        call(name, [torch.zeros(SHAPES[n]) for n in CALLS[name]], numbers=[groups])


def test_needs_names_five_tensors():
    tensors = [torch.zeros(SHAPES[n]) for n in CALLS["contextual_conv2d_backward"]]
    with pytest.raises(ValueError, match="five"):
        OPS.contextual_conv2d_backward(*tensors, *STEPS, 2, [True] * 4)


def resized(tensor):
    tensor.untyped_storage().resize_(4)
    return tensor


STRANGE = {
    "another dtype": (lambda t: t.double(), "one dtype"),
    "integers": (lambda t: t.long(), "dtype"),
    "complex": (lambda t: t.to(torch.complex64), "dtype"),
    "another device": (lambda t: t.to("meta"), "device"),
    "sparse": (lambda t: t.to_sparse(), "dense"),
    "memory given back": (resized, "storage holds 4"),
}


@pytest.mark.parametrize("strange", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize("name", CALLS)
def test_tensors_that_no_kernel_reads_are_refused(name, strange):
    change, message = strange
    for which in range(len(CALLS[name])):
        tensors = [torch.ones(SHAPES[n]) for n in CALLS[name]]
        tensors[which] = change(tensors[which])
        with pytest.raises(ValueError, match=message):
            call(name, tensors)


@pytest.mark.parametrize("name", CALLS)
def test_views_are_read_as_what_they_are(name):
    plain = [torch.randn(SHAPES[n]) for n in CALLS[name]]
    complex_numbers = [torch.complex(torch.zeros_like(t), -t).conj().imag for t in plain]
    assert all(t.is_neg() for t in complex_numbers)
    later = [torch.cat([torch.full((3,), torch.nan), t.flatten()])[3:].view(t.shape) for t in plain]
    for views in (complex_numbers, later):
        torch.testing.assert_close(call(name, views), call(name, plain))
    expanded = [torch.randn(()).expand(SHAPES[n]) for n in CALLS[name]]
    torch.testing.assert_close(call(name, expanded), call(name, [t.contiguous() for t in expanded]))


@pytest.mark.parametrize("name", CALLS)
def test_integers_of_one_kind_are_refused(name):
    with pytest.raises(ValueError, match="floating point"):
        call(name, [torch.ones(SHAPES[n], dtype=torch.int64) for n in CALLS[name]])
    with FakeTensorMode(), pytest.raises(ValueError, match="floating point"):
        call(name, [torch.ones(SHAPES[n], dtype=torch.int64) for n in CALLS[name]])


def test_the_c_functions_take_no_other_memory():
    library = _native.load()
    if isinstance(library, str):
        pytest.skip(library)
    for tensor in (torch.zeros(9, dtype=torch.float64), torch.zeros(9, device="meta"), torch.zeros(9).long()):
        with pytest.raises(ValueError, match="float32 and bfloat16 on the CPU"):
            library.call("ctxvision_local_aggregation", [tensor], [0] * 19)


# ------------------------------------------------------------------------------------ default dtype and device


@pytest.fixture(params=["float64", "float16", "bfloat16", "meta"])
def other_default(request):
    if request.param == "meta":
        with torch.device("meta"):
            yield
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, request.param))
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def prepared():
    """Arguments and results of both operators, forward and backward, on every kind of path."""
    cases = {}
    for dtype in FLOATING:
        for shape in ((4, 2, 3), (16, 1, 7), (1, 1, 1)):
            tensors = list(aggregation_case(1, shape[0], shape[1], shape[2], size=(5, 4), dtype=dtype))
            cases[f"local aggregation {shape} {dtype}"] = ("aggregation", tensors, {})
        for kind in ((1, 1, 1), (20, 20, 20), (3, 5, 1), (4, 6, 2)):
            tensors, options = contextual_case(kind, 2, (3, 3), (4, 5), dtype=dtype)
            cases[f"contextual {kind} {dtype}"] = ("contextual", tensors, options)
    return {name: (*case, compute(*case)) for name, case in cases.items()}


def compute(operator, tensors, options):
    function = local_aggregation if operator == "aggregation" else contextual_conv2d
    found = []
    for backend in ("native", "torch"):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        with use_backend(backend):
            y = function(*leaves, **options)
            found += [y.detach(), *torch.autograd.grad(y.float().square().sum(), leaves)]
    return found


@pytest.mark.usefixtures("other_default")
def test_operators_do_not_ask_for_torch_s_defaults(prepared):
    for name, (operator, tensors, options, expected) in prepared.items():
        actual = compute(operator, tensors, options)
        assert all(torch.equal(a, e) and a.dtype == e.dtype for a, e in zip(actual, expected, strict=True)), name
