"""Layers take ``device`` and ``dtype`` as torch's own do."""

import pytest
import torch
from torch.nn.utils import skip_init

from ctxvision.nn import ClassContext, ClassFunnel, ContextualConv2d, CoTLayer, Involution2d, SplitAttention2d

FUNNEL = {
    "dim": 8, "channels": {2: 8}, "head_channels": 8, "hidden": {2: 4}, "head_hidden": 4, "merge_hidden": 4,
}  # fmt: skip
LAYERS = [
    (CoTLayer, (16,), {}),
    (CoTLayer, (16,), {"context": "static"}),
    (Involution2d, (16,), {"stride": 2}),
    (SplitAttention2d, (16,), {}),
    (ContextualConv2d, (8, 8), {"kernel_size": 3, "prior_dim": 4, "modulation": True}),
    (ContextualConv2d, (8, 8), {"kernel_size": 3, "prior_dim": 0, "bias": False}),
    (ClassContext, (8,), {"dim": 4, "hidden": 4, "merge_hidden": 4}),
    (ClassFunnel, (20,), FUNNEL),
]


@pytest.mark.parametrize(("kind", "arguments", "options"), LAYERS)
def test_device_and_dtype_are_those_asked_for(kind, arguments, options):
    layer = kind(*arguments, **options, device="meta", dtype=torch.float16)
    tensors = [*layer.parameters(), *layer.buffers()]
    assert {t.device.type for t in tensors} == {"meta"}
    assert {t.dtype for t in tensors} - {torch.int64} == {torch.float16}
    plain = kind(*arguments, **options)
    assert {t.dtype for t in plain.parameters()} == {torch.float32}
    assert list(plain.state_dict()) == list(layer.state_dict())


@pytest.mark.parametrize(("kind", "arguments", "options"), LAYERS)
def test_initialisation_can_be_skipped(kind, arguments, options):
    layer = skip_init(kind, *arguments, **options, dtype=torch.float64)
    assert {(t.device.type, t.dtype) for t in layer.parameters()} == {("cpu", torch.float64)}


@pytest.mark.parametrize(("kind", "arguments", "options"), LAYERS)
def test_scripting_is_refused_in_one_line(kind, arguments, options):
    layer = kind(*arguments, **options)
    with pytest.raises(NotImplementedError, match=f"torch.jit.script cannot compile {kind.__name__}:"):
        torch.jit.script(layer)
