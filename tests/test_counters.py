"""Handles for counters of multiply-adds; `tests/integrations` has the counters themselves."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from ctxvision.integrations.counters import PTFLOPS, THOP, layer_macs
from ctxvision.models import count_macs
from ctxvision.nn import ContextualConv2d, CoTLayer, Involution2d

LAYERS = (
    CoTLayer(32),
    Involution2d(32, kernel_size=5, stride=2),
    ContextualConv2d(32, 32, kernel_size=3, padding=1, groups=32, prior_dim=0),
    ContextualConv2d(32, 16, kernel_size=3, stride=2, prior_dim=8, weight_hidden=None),
)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize("version", ["0.1.1", "2.2.3"])
def test_handles_add_the_layer_s_cost(layer, version, monkeypatch):
    """Ultralytics' edition of thop, from 2 on, adds the cost of a layer's parts itself."""
    monkeypatch.setitem(sys.modules, "thop", SimpleNamespace(__version__=version))
    x = torch.randn(2, 32, 9, 8)
    prior = [torch.randn(2, 8)] if getattr(layer, "prior_dim", 0) else []
    layer.eval()
    expected = layer_macs(layer, x, *prior)
    if not prior:
        assert expected == 2 * count_macs(layer, (32, 9, 8))
    weights = sum(p.numel() for p in layer.parameters() if p.dim() > 1)
    assert expected > 2 * weights, "each weight is used at several positions or images"
    own = layer_macs(layer, x, *prior, own=True)
    assert 0 < own < expected
    for handles, attribute, cost in (
        (THOP, "total_ops", own if version == "2.2.3" else expected), (PTFLOPS, "__flops__", expected)
    ):  # fmt: skip
        setattr(layer, attribute, 1)
        hook = layer.register_forward_hook(handles[type(layer)])
        layer(x, *prior)
        hook.remove()
        assert getattr(layer, attribute) == 1 + cost
        delattr(layer, attribute)


@pytest.mark.process
def test_integrations_are_not_imported_with_the_package():
    script = (
        "import ctxvision, ctxvision.nn, ctxvision.models, sys\n"
        "assert not [name for name in sys.modules if name.startswith('ctxvision.integrations')]\n"
        "assert not {'ultralytics', 'transformers', 'optimum'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
