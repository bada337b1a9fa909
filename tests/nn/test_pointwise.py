"""1x1 convolutions as matrix products: the same numbers, and only where nobody looks on."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ctxvision.nn import _pointwise

# oneDNN refuses bfloat16 where the processor has no instructions for it, and everything stays as it was
HAS_BFLOAT16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
LARGE = (1024, 512, 2)  # channels in and out, side: above every bound in both types


def features(channels, side, dtype=torch.float32, batch=2):
    x = torch.randn(batch, channels, side, side, dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last)


@pytest.fixture
def products(monkeypatch):
    """The shapes that became matrix products."""
    seen, product = [], _pointwise._product

    def record(x, *args, **kwargs):
        seen.append(tuple(x.shape))
        return product(x, *args, **kwargs)

    monkeypatch.setattr(_pointwise, "_product", record)
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("side", "stride", "bias"), [(2, 1, True), (3, 2, False), (1, 1, True)])
def test_it_equals_the_convolution(dtype, side, stride, bias, products):
    layer = nn.Conv2d(1024, 512, 1, stride, bias=bias, dtype=dtype)
    x = features(1024, side, dtype)
    with torch.no_grad():
        found, expected = _pointwise.apply(layer, x), layer(x)
    if side > 1:
        assert bool(products) == (dtype == torch.float32 or HAS_BFLOAT16)
    assert found.shape == expected.shape
    assert found.dtype == dtype
    if side > 1:
        assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, rtol=1e-5 if dtype == torch.float32 else 2e-2, atol=1e-2 if
                               dtype == torch.bfloat16 else 1e-5)  # fmt: skip


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(1024, 512, 1, padding=1), nn.Conv2d(1024, 512, 1, groups=2), nn.Conv2d(1024, 512, 3, padding=1)],
    ids=["padded", "grouped", "3x3"],
)
def test_other_convolutions_stay(layer, products):
    x = features(1024, 2)
    with torch.no_grad():
        torch.testing.assert_close(_pointwise.apply(layer, x), layer(x))
    assert not products


def test_few_weights_in_float32_stay(products):
    with torch.no_grad():
        _pointwise.apply(nn.Conv2d(64, 64, 1), features(64, 2))
        _pointwise.apply(nn.Conv2d(1024, 512, 1), features(1024, 16))  # many pixels
    assert not products


def _watched_by_gradients(layer, x):
    return _pointwise.apply(layer, x)


def _watched_by_a_hook(layer, x):
    calls = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        y = _pointwise.apply(layer, x)
    assert calls
    return y


def _watched_by_a_global_hook(layer, x):
    calls = []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        y = _pointwise.apply(layer, x)
    handle.remove()
    assert calls
    return y


def _patched(layer, x):
    layer.forward, calls = lambda features: calls.append(1) or nn.Conv2d.forward(layer, features), []
    with torch.no_grad():
        y = _pointwise.apply(layer, x)
    assert calls
    return y


def _counted(layer, x):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        y = _pointwise.apply(layer, x)
    assert counter.get_total_flops() == 2 * layer.weight.numel() * x.shape[0] * x.shape[2] * x.shape[3]
    return y


def _by_vmap(layer, x):
    with torch.no_grad():
        return torch.func.vmap(lambda one: _pointwise.apply(layer, one[None])[0])(x)


def _forward_mode(layer, x):
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        return torch.autograd.forward_ad.unpack_dual(_pointwise.apply(layer, x)).primal


def _traced(layer, x):
    with torch.no_grad():
        traced = torch.jit.trace(_Calls(layer), x, check_trace=False)
    assert "conv" in str(traced.inlined_graph)
    return traced(x)


def _symbolic(layer, x):
    tracer = torch.fx.symbolic_trace(_Calls(layer))
    assert any(node.op == "call_module" for node in tracer.graph.nodes)
    return tracer(x)


class _Calls(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return _pointwise.apply(self.layer, x)


def _lower_precision(layer, x):
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.no_grad():
            return _pointwise.apply(layer, x)
    finally:
        torch.set_float32_matmul_precision("highest")


def _newer_setting(layer, x):
    """What `torch.get_float32_matmul_precision` refuses to be asked about."""
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        with torch.no_grad():
            return _pointwise.apply(layer, x)
    finally:
        matmul.fp32_precision = before


@pytest.mark.parametrize(
    "call",
    [
        _watched_by_gradients, _watched_by_a_hook, _watched_by_a_global_hook, _patched,
        _counted, _by_vmap, _forward_mode, _traced, _symbolic,
        _lower_precision,
        pytest.param(_newer_setting, marks=pytest.mark.skipif(
            not hasattr(torch.backends.mkldnn, "matmul"), reason="of torch 2.9")),
    ],
)  # fmt: skip
def test_where_somebody_looks_on_it_is_the_convolution(call, products):
    channels, out, side = LARGE
    layer, x = nn.Conv2d(channels, out, 1), features(channels, side)
    expected = layer(x)
    torch.testing.assert_close(call(layer, x), expected, rtol=1e-4, atol=1e-5)
    assert not products


def test_autocast_decides_the_type(products):
    layer, x = nn.Conv2d(1024, 512, 1), features(1024, 2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert _pointwise.apply(layer, x).dtype == torch.bfloat16
    assert not products


def test_a_part_of_a_matrix_stays(products):
    weight, x = torch.randn(512, 2048, dtype=torch.bfloat16), features(1024, 2, torch.bfloat16)
    with torch.no_grad():
        _pointwise.linear(x, weight.chunk(2, 1)[0], None)
        assert not products
        _pointwise.linear(x, weight.chunk(2, 1)[0].contiguous(), None)
    assert bool(products) == HAS_BFLOAT16


@pytest.mark.parametrize("gelu", [None, "none", "tanh"])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 3e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("channels_last", [True, False])
def test_a_linear_layer_and_its_gelu(gelu, dtype, close, channels_last, products):
    x = 4 * features(48, 5, dtype)
    x = x if channels_last else x.contiguous()
    layer = nn.Linear(48, 96, dtype=dtype)
    exact = F.linear(x.permute(0, 2, 3, 1).double(), layer.weight.double(), layer.bias.double())
    exact = exact if gelu is None else F.gelu(exact, approximate=gelu)
    watched = _pointwise.linear(x, layer.weight, layer.bias, gelu)
    watched.sum().backward()
    assert layer.weight.grad is not None
    assert not products
    with torch.no_grad():
        found = _pointwise.linear(x, layer.weight, layer.bias, gelu)
    assert bool(products) == (channels_last and (dtype == torch.float32 or HAS_BFLOAT16))
    for one in (found, watched):
        torch.testing.assert_close(one.double(), exact.permute(0, 3, 1, 2), rtol=close, atol=close)
