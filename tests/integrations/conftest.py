"""Tests with packages of others: `make test-integrations` runs them, other calls of pytest leave them out.

The packages are imported by the tests themselves, so that the files can be collected where they are missing. There
such a test is deselected, not skipped; where it runs, a missing package is an error.
"""

import os
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
NETWORKS = (
    "cotnet_micro", "cotnext50_2x48d", "se_cotnetd50", "rednet_micro", "contextual_convnext_micro",
    "contextual_resnet50",
)  # fmt: skip
SMALL = {  # a block in each stage is enough
    "cotnext50_2x48d": {"depths": (1, 1, 1, 1)},
    "se_cotnetd50": {"depths": (1, 1, 1, 1)},
    "contextual_resnet50": {"depths": (1, 1, 1, 1), "planes": (16, 16, 32, 32)},
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    here = [item for item in items if item.path.is_relative_to(HERE)]
    for item in here:
        item.add_marker(pytest.mark.integration)
    if "integration" in config.option.markexpr:
        here = [
            item
            for item in here
            if item.path.name == "test_timm_scripts.py" and not os.environ.get("TIMM_SCRIPTS")
        ]
    if here:
        config.hook.pytest_deselected(items=here)
        left_out = set(here)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(params=NETWORKS)
def name(request):
    """The name of a network of each kind."""
    return request.param


@pytest.fixture
def build(name):
    """Return what builds the network, small and with values that hide nothing."""
    import timm

    import ctxvision.models  # noqa: F401

    def make(**options):
        torch.manual_seed(0)
        return lively(timm.create_model(name, **SMALL.get(name, {}), **options))

    return make


def lively(model):
    """Fill what starts at zero, or as a norm that changes nothing."""
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = 0.05 * torch.randn_like(tensor)
            tensor.add_(noise.abs() if key.endswith("running_var") else noise)
    return model.eval()
