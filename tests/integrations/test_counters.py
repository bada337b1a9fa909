"""fvcore, thop, ptflops and torchinfo against our own count of multiply-adds."""

import pytest
import torch

from ctxvision.integrations import counters
from ctxvision.models import count_macs

IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
QUIET = {"as_strings": False, "print_per_layer_stat": False, "verbose": False}


def close(macs, model):
    return macs == pytest.approx(count_macs(model, (3, 64, 64)), rel=0.06)


def test_fvcore_needs_no_handles(build):
    from fvcore.nn import FlopCountAnalysis

    model = build()
    assert close(FlopCountAnalysis(model, IMAGES).unsupported_ops_warnings(False).total(), model)


def test_thop_with_our_handles(build):
    import thop

    # the edition that is installed counts norms, activations and pools too: a part of so small networks
    plain, _ = thop.profile(build(), (IMAGES,), verbose=False)
    macs, _ = thop.profile(build(), (IMAGES,), custom_ops=counters.THOP, verbose=False)
    assert macs > plain
    assert macs == pytest.approx(count_macs(build(), (3, 64, 64)), rel=0.1)


def test_ptflops_with_our_handles(build):
    from ptflops import get_model_complexity_info

    hooks = counters.PTFLOPS
    macs, _ = get_model_complexity_info(build(), (3, 64, 64), custom_modules_hooks=hooks, **QUIET)
    assert close(macs, build())


def test_torchinfo_counts_parameters(build):
    """Its multiply-adds know convolutions and linear layers alone, and take no handles: the page says so."""
    import torchinfo

    model = build()
    found = torchinfo.summary(model, input_data=IMAGES, verbose=0)
    assert found.total_params == sum(parameter.numel() for parameter in model.parameters())
    assert 0 < found.total_mult_adds < 1.06 * count_macs(model, (3, 64, 64))
