"""torch.compile and torch.export of every network: one whole graph, any batch and image size, equal outputs."""

import pytest
import timm
import torch

from _networks import kinds, shorter
from ctxvision.models import contextual, cotnet, rednet
from ctxvision.ops import keep_operators

ALL = [name for family in (cotnet, rednet, contextual) for name in family.default_cfgs]
MICRO = [name for name in ALL if name.endswith("micro")]
# with fewer blocks these are the same networks as others of their families, which differ in depth alone
SAME = {
    "cotnet101": "cotnet50", "cotnext101_2x48d": "cotnext50_2x48d", "rednet26": "rednet50", "rednet38": "rednet50",
    "rednet101": "rednet50", "rednet152": "rednet50", "contextual_convnext_small": "contextual_convnext_tiny",
}  # fmt: skip
DISTINCT = [name for name in ALL if name not in SAME]


def network(name):
    model = timm.create_model(name, num_classes=20, **shorter(name)).eval()
    for key, parameter in model.named_parameters():  # what starts at zero would hide what lies behind it
        if "_offsets" in key:
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def images(batch, size):
    return torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ALL)
def test_every_kind_of_block_is_compiled(name):
    with torch.device("meta"):
        found = kinds(timm.create_model(name))
        assert found
        assert kinds(timm.create_model(name, **shorter(name))) == found


@pytest.mark.parametrize(("name", "other"), SAME.items())
def test_what_differs_in_depth_alone_is_compiled_once(name, other):
    with torch.device("meta"):
        assert repr(timm.create_model(name, **shorter(name))) == repr(timm.create_model(other, **shorter(other)))


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTINCT)
def test_one_graph_serves_all_batches_and_sizes(name):
    torch.compiler.reset()
    model = network(name)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    with torch.no_grad():
        compiled(images(2, 64))
        with torch._dynamo.config.patch(error_on_recompile=True):
            for x in (images(3, 64), images(2, 96)):
                torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTINCT)
def test_exported_networks_take_any_batch(name):
    model = network(name)
    with torch.no_grad(), keep_operators():  # standard ones, which round otherwise: tests/export
        exported = torch.export.export(model, (images(2, 64),), dynamic_shapes=({0: torch.export.Dim("batch")},))
        for x in (images(2, 64), images(3, 64)):
            torch.testing.assert_close(exported.module()(x), model(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", MICRO)
def test_compiled_training_steps_equal_eager_ones(name):
    torch.compiler.reset()
    model = network(name).train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    # any size would take thrice as long; tests/ops has the backward pass of each operator for it
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    grads = []
    for run in (model, compiled):
        model.load_state_dict(state)
        model.zero_grad()
        torch.manual_seed(0)
        run(images(3, 64)).square().mean().backward()
        grads.append({key: parameter.grad for key, parameter in model.named_parameters()})
    for key, grad in grads[0].items():
        if grad is not None:
            scale = grad.abs().max().item()
            torch.testing.assert_close(grads[1][key], grad, rtol=1e-3, atol=1e-3 * scale + 1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", MICRO)
def test_compiled_by_inductor(name):
    torch.compiler.reset()
    model = network(name).to(memory_format=torch.channels_last)
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    with torch.no_grad():
        compiled(images(2, 64))
        with torch._dynamo.config.patch(error_on_recompile=True):
            for x in (images(3, 64), images(2, 96)):
                torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)
