"""Features of parts of a network, as timm's extractors, torchvision's getters and hooks of stages take them."""

import copy
import pickle
import re

import pytest
import timm
import torch
from torch.utils.checkpoint import checkpoint_sequential
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.backbone_utils import BackboneWithFPN

import ctxvision.nn.contextual_conv
import ctxvision.nn.cot
import ctxvision.nn.involution
from ctxvision.nn._tracing import leaf

TINY = {"depths": (1, 1, 1, 1), "planes": (16, 24, 32, 40)}
NETWORKS = [
    ("cotnet_micro", {}),
    ("cotnext50_2x48d", {**TINY, "planes": (32, 32, 64, 64), "expansion": 1}),
    ("se_cotnetd152", {**TINY, "planes": (16, 32, 32, 32), "stem_width": 8}),
    ("rednet_micro", {}),
    ("contextual_convnext_micro", {"depths": (1, 1, 1, 1), "contextual_blocks": (1, 1, 1, 1)}),
    ("contextual_convnext_micro", {"stages": (2, 4), "contextual_blocks": (1, 1, 1, 1)}),
    (
        "contextual_convnext_micro",
        {"selection": "rerank", "depths": (1, 1, 1, 1), "contextual_blocks": (1, 1, 1, 1)},
    ),
    ("contextual_resnet50", TINY),
]
CONTEXTUAL = [network for network in NETWORKS if network[0].startswith("contextual")]


def build(name: str, arguments: dict) -> torch.nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=40, **arguments).eval()
    for key, parameter in model.named_parameters():  # the classes shall matter, and every branch
        if "_offsets" in key or key.endswith("bn3.weight"):
            torch.nn.init.normal_(parameter, std=0.05 if "_offsets" in key else 0.5)
    return model


def give_weights(model: torch.nn.Module, source: torch.nn.Module) -> None:
    """Load a whole network's weights into an extractor, which renames or wraps its parts."""
    weights, own = source.state_dict(), model.state_dict()
    origin = {key: re.sub(r"^(model|body|graph_module)\.", "", key) for key in own}
    origin = {key: k if k in weights else re.sub(r"^(\w+?)_(\d+)\.", r"\1.\2.", k) for key, k in origin.items()}
    model.load_state_dict({key: weights[k] for key, k in origin.items()})


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def operators_are_leaves(monkeypatch):
    for module in (ctxvision.nn.cot, ctxvision.nn.involution):
        monkeypatch.setattr(module, "local_aggregation", leaf(module.local_aggregation))
    conv = ctxvision.nn.contextual_conv
    monkeypatch.setattr(conv, "contextual_conv2d", leaf(conv.contextual_conv2d))


@pytest.mark.parametrize("kind", ["getter", "hook", "list", "dict", "fx"])
@pytest.mark.parametrize(("name", "arguments"), NETWORKS, ids=str)
def test_every_kind_of_extractor_returns_the_same_features(name, arguments, kind, images, operators_are_leaves):
    model = build(name, arguments)
    arguments = {**arguments, "num_classes": 40, "features_only": True, "feature_cls": kind}
    extractor = timm.create_model(name, **arguments).eval()
    give_weights(extractor, model)
    last = timm.create_model(name, out_indices=(-2, -1), **arguments)
    with torch.no_grad():
        expected = model.forward_intermediates(images, intermediates_only=True)
        features = extractor(images)
        features = list(features.values()) if isinstance(features, dict) else features
        for one, other in zip(features, expected, strict=True):
            # a graph convolves [x, K1] at once
            torch.testing.assert_close(one, other, rtol=0, atol=1e-3 if kind == "fx" else 0)
        assert len(last(images)) == 2
    assert extractor.feature_info.channels() == [f.shape[1] for f in expected]


@pytest.mark.parametrize(("name", "arguments"), NETWORKS, ids=str)
def test_fx_traces_whole_networks(name, arguments, images, operators_are_leaves):
    model = build(name, arguments)
    graph = torch.fx.symbolic_trace(model)
    with torch.no_grad():
        torch.testing.assert_close(graph(images[:1]), model(images[:1]), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(graph(images), model(images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("name", "arguments"), CONTEXTUAL, ids=str)
def test_a_network_rebuilt_from_its_parts_computes_the_same(name, arguments, images):
    model = build(name, arguments)
    with torch.no_grad():
        expected = model.forward_features(images)
    part = "stages" if "convnext" in name else "layer4"
    getter = IntermediateLayerGetter(copy.deepcopy(model), {part: "out"})
    copied = pickle.loads(pickle.dumps(getter))
    assert set(getter.state_dict()) <= set(model.state_dict())
    assert "context.embedding.weight" in getter.state_dict(), "moved, trained and saved with the rest"
    with torch.no_grad():
        for network in (getter, copied):
            assert torch.equal(network(images)["out"], expected)
        moved = getter.double()(images.double())["out"]
    assert moved.dtype == torch.float64
    torch.testing.assert_close(moved.float(), expected, rtol=1e-3, atol=1e-3)


def test_torchvision_s_pyramid_trains_on_a_contextual_network(images):
    model = build("contextual_resnet50", TINY)
    layers = {f"layer{i}": str(i) for i in range(1, 5)}
    pyramid = BackboneWithFPN(model, layers, [info["num_chs"] for info in model.feature_info[1:]], 8).train()
    maps = pyramid(images)
    assert [m.shape[-1] for m in maps.values()] == [16, 8, 4, 2, 1]
    sum(m.square().mean() for m in maps.values()).backward()
    alone = {"context.logit_scale"} | {n for n, _ in model.named_parameters() if "projection" in n or "head" in n}
    idle = {n.removeprefix("body.") for n, p in pyramid.named_parameters() if p.grad is None}
    assert idle <= alone, "only what learns by the classes' scores gets no gradient from features"


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("segments", [2, 4])
def test_checkpointed_stages_have_the_gradients_of_the_network(segments, reentrant, images):
    model = build(*CONTEXTUAL[0])
    features = checkpoint_sequential(model.stages, segments, model.stem(images), use_reentrant=reentrant)
    features.square().sum().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    expected = model.forward_features(images)
    # a reentrant one first computes without gradients, where products with their GELU are one call
    share = 1e-4 if reentrant else 0.0
    torch.testing.assert_close(features, expected, rtol=0, atol=share * expected.abs().max().item())
    expected.square().sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            atol = 1e-6 + share * parameter.grad.abs().max().item()
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=atol)


def test_hooks_of_stages_see_a_tensor_with_gradients(images):
    model = build(*CONTEXTUAL[0])
    seen = []
    model.stages[-1].register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    model(images)[:, 3].sum().backward()
    ((entered, left),) = seen
    assert entered.shape[1:] == (128, 4, 4)
    assert left.shape[1:] == (256, 2, 2)
    assert left.requires_grad


def test_a_stage_that_gets_strange_features_says_so(images):
    model = build(*CONTEXTUAL[0])
    with pytest.warns(UserWarning, match="stage 4 got features that the stage before did not return"):
        model.stages[3](torch.randn(2, 128, 4, 4))
    with torch.no_grad():
        features = model.stages[2](model.stages[1](model.stages[0](model.stem(images))))
    with pytest.warns(UserWarning, match="no class sets are known"):
        model.stages[3](features[:1])


@pytest.mark.slow
def test_a_compiled_getter_computes_the_same(images):
    model = build(*CONTEXTUAL[0])
    getter = IntermediateLayerGetter(model, {"stages": "out"})
    with torch.no_grad():
        expected = model.forward_features(images)
        torch.testing.assert_close(torch.compile(getter, backend="eager")(images)["out"], expected)
        exported = torch.export.export(getter, (images,), strict=False)
        torch.testing.assert_close(exported.module()(images)["out"], expected)
