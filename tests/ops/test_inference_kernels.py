"""Norm, sum and activation in one pass, and the contexts of a CoT layer: against torch's layers in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from _battery import RUNNABLE, instructions, threads
from torch import nn

from ctxvision.nn import CoTLayer, fuse
from ctxvision.nn import _cot_inference as cot_inference
from ctxvision.ops import keep_operators, use_backend
from ctxvision.ops.inference import cpu

BOUNDS = {torch.float32: (1e-5, 1e-5), torch.bfloat16: (1e-2, 2e-2)}  # relative, absolute
both_dtypes = pytest.mark.parametrize("dtype", list(BOUNDS), ids=["float32", "bfloat16"])
ACTIVATIONS = {"none": lambda x: x, "relu": F.relu, "silu": F.silu}


@pytest.fixture(params=RUNNABLE, autouse=True)
def level(request):
    with instructions(request.param):
        yield


def image(*shape, dtype=torch.float32):
    return torch.randn(*shape).to(dtype).contiguous(memory_format=torch.channels_last)


def trained_norm(channels, dtype, affine=True):
    norm = nn.BatchNorm2d(channels, affine=affine)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.2, 3)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm.eval().to(dtype)


def close(found, expected):
    relative, absolute = BOUNDS[found.dtype]
    torch.testing.assert_close(found.double(), expected, rtol=relative, atol=absolute)


@both_dtypes
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("channels", [1, 7, 8, 28, 72])
def test_norm_sum_and_activation(activation, channels, dtype):
    for norm in (None, trained_norm(channels, dtype), trained_norm(channels, dtype, affine=False)):
        for sums in ((False, False), (True, False), (False, True)):
            x = image(2, channels, 9, 8, dtype=dtype)
            before, after = (image(2, channels, 9, 8, dtype=dtype) if wanted else None for wanted in sums)
            expected = x.double() if before is None else x.double() + before.double()
            expected = expected if norm is None else copy.deepcopy(norm).double()(expected)
            expected = ACTIVATIONS[activation](expected if after is None else expected + after.double())
            cpu.norm_activation(x, norm and cpu.Norm.of(norm), activation, before=before, after=after)
            close(x, expected.detach())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_is_not_finite_stays_what_torch_makes_of_it(activation):
    special = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 88.5, -88.5, 3e38, -3e38, -87.31, 1e-40])
    x = special.repeat(32).view(1, 16, 2, 11).contiguous(memory_format=torch.channels_last)
    expected = ACTIVATIONS[activation](x.double()).float()
    cpu.norm_activation(x, None, activation, before=None, after=None)
    torch.testing.assert_close(x, expected, equal_nan=True, rtol=1e-6, atol=1e-35)


def test_silu_is_exact_to_rounding():
    x = torch.linspace(-90, 90, 1 << 16).view(1, 64, 32, 32).contiguous(memory_format=torch.channels_last)
    expected = F.silu(x.double())
    cpu.norm_activation(x, None, "silu", before=None, after=None)
    assert ((x.double() - expected).abs() <= 4e-7 * expected.abs() + 1e-35).all()


def layer_of(dtype, channels=32, offset=0.0, **arguments):
    layer = CoTLayer(channels, **arguments)
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, std=0.3)
        elif isinstance(module, nn.GroupNorm):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, std=0.3)
    nn.init.constant_(layer.embed[3].bias, offset)
    return layer.eval().to(dtype).to(memory_format=torch.channels_last)


CASES = [
    {}, {"kernel_size": 5}, {"dilation": 2}, {"channels": 64, "groups": 2, "key_groups": 8},
    {"channels": 48, "groups": 2, "dilation": 2}, {"channels": 8}, {"channels": 200},
]  # fmt: skip


@both_dtypes
@pytest.mark.parametrize("arguments", CASES, ids=str)
@torch.no_grad()
def test_the_contexts_equal_the_layers_parts(arguments, dtype, monkeypatch):
    torch.manual_seed(0)
    layer = layer_of(dtype, **arguments)
    plain = copy.deepcopy(layer).double()
    for batch, height, width in ((1, 1, 1), (2, 9, 6), (1, 17, 13), (4, 3, 5)):
        x = image(batch, layer.out_channels, height, width, dtype=dtype)
        kept = x.clone()
        with monkeypatch.context() as patch:
            calls, context = [], cpu.cot_context
            patch.setattr(cpu, "cot_context", lambda *a, f=context, c=calls, **k: c.append(1) or f(*a, **k))
            found = layer(x)
        assert calls
        assert torch.equal(x, kept)
        expected = plain(x.double())
        bound = 2e-5 if dtype == torch.float32 else 6e-2
        assert (found.double() - expected).abs().max() <= bound * expected.abs().max()


@torch.no_grad()
def test_large_means_do_not_spoil_the_norm_of_the_maps():
    layer = layer_of(torch.float32, offset=1000.0)
    x = image(1, 32, 20, 20)
    found, expected = layer(x), copy.deepcopy(layer).double()(x.double())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cot_inference, "parts_of", lambda *_: None)
        of_torch = layer(x)
    error, torchs = ((y.double() - expected).abs().max() for y in (found, of_torch))
    assert error <= 2 * torchs


@both_dtypes
@torch.no_grad()
def test_neither_threads_nor_neighbours_change_a_bit(dtype):
    layer = layer_of(dtype, channels=64)
    x = image(8, 64, 29, 23, dtype=dtype)
    found = []
    for count in (1, 2, 3):
        with threads(count):
            static = layer.key_embed(x)
            found += [cot_inference.fused_context(layer, cot_inference.parts_of(layer, x), x, static)]
    for other in found[1:]:
        assert torch.equal(found[0], other)


@torch.no_grad()
def test_what_does_not_fit_is_refused():
    x = image(1, 8, 4, 4)
    with pytest.raises(ValueError, match=r"cannot add an image \(1, 8, 4, 5\)"):
        cpu.norm_activation(x, None, "relu", before=None, after=image(1, 8, 4, 5))
    with pytest.raises(ValueError, match="cannot add an image"):
        cpu.norm_activation(x, None, "relu", before=torch.randn(1, 8, 4, 4), after=None)
    with pytest.raises(ValueError, match=r"a norm of \[16\] channels cannot follow 8 channels"):
        cpu.norm_activation(x, cpu.Norm.of(nn.BatchNorm2d(16)), "relu", before=None, after=None)
    layer = layer_of(torch.float32)
    context = cot_inference.parts_of(layer, image(1, 32, 4, 4)).context
    raw, values = image(1, 36, 4, 4), image(1, 32, 4, 4)
    with pytest.raises(ValueError, match=r"maps \(1, 36, 4, 4\) and values \(1, 32, 4, 5\) do not fit"):
        cpu.cot_context(raw, image(1, 32, 4, 5), values, context)


# ------------------------------------------------------------------------------------------------ torch.compile


class _Recorder:
    """A backend that runs a graph as it is and keeps it."""

    def __init__(self):
        self.graphs = []

    def __call__(self, graph, inputs):
        self.graphs.append(graph)
        return graph.forward

    @property
    def fused(self):
        return "cot_context" in str([graph.code for graph in self.graphs])


@pytest.mark.parametrize("arguments", [{}, {"channels": 64, "groups": 2, "key_groups": 8}], ids=str)
def test_a_graph_for_inference_has_the_operator(arguments):
    layer = layer_of(torch.float32, **arguments)
    x = image(2, layer.out_channels, 9, 7)
    for compiled_layer in (layer, fuse(layer, x)):
        recorder = _Recorder()
        torch._dynamo.reset()
        compiled = torch.compile(compiled_layer, backend=recorder, fullgraph=True)
        expected = copy.deepcopy(layer).double()(x.double())
        with torch.no_grad():
            close(compiled(x), expected.detach())
        assert recorder.fused


def test_a_graph_for_training_or_for_others_has_it_not():
    layer = layer_of(torch.float32)
    x = image(2, 32, 6, 6)
    for given, gradients in ((x, True), (x.contiguous(), False)):
        recorder = _Recorder()
        torch._dynamo.reset()
        with torch.set_grad_enabled(gradients):
            torch.compile(layer, backend=recorder)(given)
        assert recorder.graphs
        assert not recorder.fused
    with torch.no_grad():
        assert "cot_context" not in str(torch.export.export(layer, (x,)).graph)
        with keep_operators():
            assert "cot_context" not in str(torch.export.export(layer, (x,), strict=True).graph)


@torch.no_grad()
def test_without_kernels_the_operator_computes_in_torch():
    layer = layer_of(torch.float32, channels=48, groups=2)
    x = image(2, 48, 5, 6)
    recorder = _Recorder()
    torch._dynamo.reset()
    with use_backend("torch"):
        found = torch.compile(layer, backend=recorder)(x)
    assert recorder.fused
    close(found, copy.deepcopy(layer).double()(x.double()))
