"""Every kind of layer and every option of our networks as a graph of standard operators."""

import pytest
import timm
import torch

from _networks import EVERY_LAYER, lively
from ctxvision.checkpoints.layout import our_models
from ctxvision.export import export_program

# what no registered network sets; the shallowest network with it
OPTIONS = {
    "static context": ("cotnet_micro", {"depths": (1, 1, 1, 1), "cot_stages": (4,), "context": "static"}),
    "dynamic context": ("cotnet_micro", {"depths": (1, 1, 1, 1), "cot_stages": (4,), "context": "dynamic"}),
    "linear context": ("cotnet_micro", {"depths": (1, 1, 1, 1), "cot_stages": (4,), "context": "linear"}),
    "small kernels": ("rednet_micro", {"depths": (1, 1, 1, 1), "kernel_size": 3}),
    "dilation": ("rednet_micro", {"depths": (1, 1, 1, 1), "output_stride": 8}),
    "all classes": ("contextual_convnext_micro", {"stages": (4,), "selection": "rerank"}),
    "modulation": ("contextual_convnext_micro", {"stages": (4,), "modulation": True}),
    "weights alone": ("contextual_convnext_micro", {"stages": (4,), "sampling_offsets": False}),
    "sampling alone": ("contextual_convnext_micro", {"stages": (4,), "weight_offsets": False}),
    "no prior": ("contextual_convnext_micro", {"stages": (4,), "prior": False}),
    "nothing contextual": ("contextual_convnext_micro", {"stages": ()}),
    "extra input": ("contextual_resnet50", {"stages": (4,), "extra_input": True}),
}


def kinds(name, **options):
    """Types of the layers of a network, and whether they have groups."""
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=6, **options)
    found = set()
    for module in network.modules():
        found.add((type(module).__name__, vars(module).get("groups", 1) > 1))
    return found


def test_the_exported_networks_have_every_kind_of_layer():
    """What `test_export` compares in onnxruntime has all that any registered network has."""
    covered = set().union(*(kinds(name, **options) for name, options in EVERY_LAYER.items()))
    missing = {name: kinds(name) - covered for name in our_models()}
    assert not {name: left for name, left in missing.items() if left}


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_options_are_traced(option):
    name, options = OPTIONS[option]
    network = lively(name, num_classes=6, **options)
    images = torch.randn(3, 3, 64, 64)
    program = export_program(network, torch.randn(2, 3, 64, 64))
    assert not [node for node in program.graph.nodes if "ctxvision" in str(node.target)]
    with torch.no_grad():
        expected = network(images)
        largest = expected.abs().max()
        assert (expected[0] - expected[1]).abs().max() > 1e-4 * largest
        assert (program.module()(images) - expected).abs().max() < 1e-5 * largest
