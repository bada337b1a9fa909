"""Handles for counters of multiply-adds; `tests/integrations` has the counters themselves."""

import subprocess
import sys

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
def test_handles_add_the_layer_s_cost(layer):
    x = torch.randn(2, 32, 9, 8)
    prior = [torch.randn(2, 8)] if getattr(layer, "prior_dim", 0) else []
    layer.eval()
    expected = layer_macs(layer, x, *prior)
    if not prior:
        assert expected == 2 * count_macs(layer, (32, 9, 8))
    weights = sum(p.numel() for p in layer.parameters() if p.dim() > 1)
    assert expected > 2 * weights, "each weight is used at several positions or images"
    for handles, attribute in ((THOP, "total_ops"), (PTFLOPS, "__flops__")):
        setattr(layer, attribute, 1)
        hook = layer.register_forward_hook(handles[type(layer)])
        layer(x, *prior)
        hook.remove()
        assert getattr(layer, attribute) == 1 + expected
        delattr(layer, attribute)


@pytest.mark.process
def test_integrations_are_not_imported_with_the_package():
    script = (
        "import ctxvision, ctxvision.nn, ctxvision.models, sys\n"
        "assert not [name for name in sys.modules if name.startswith('ctxvision.integrations')]\n"
        "assert not {'ultralytics', 'transformers', 'optimum'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
