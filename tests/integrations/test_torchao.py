"""torchao's quantisation of our networks."""

import copy

import pytest
import torch

from _networks import EVERY_LAYER, lively

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", EVERY_LAYER)
def test_int8_weights(name):
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    network = lively(name, num_classes=6, **EVERY_LAYER[name])
    quantised = copy.deepcopy(network)
    quantize_(quantised, Int8WeightOnlyConfig())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected, found = network(images), quantised(images)
    assert not torch.equal(found, expected)  # some weights have eight bits
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize("name", ["cotnet_micro", "rednet_micro", "contextual_convnext_micro"])
def test_pt2e(name):
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    network = lively(name, num_classes=6, **EVERY_LAYER[name])
    images = torch.randn(2, 3, 64, 64)
    graph = torch.export.export(network, (images,)).module()
    quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(graph, quantizer)
    prepared(images)
    found, expected = convert_pt2e(prepared)(images), network(images)
    assert not torch.equal(found, expected)
    assert (found - expected).abs().max() < 0.3 * expected.abs().max()
