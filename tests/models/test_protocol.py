"""Every registered network keeps timm's protocol (compare timm's own tests/test_models.py)."""

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2
from timm.optim._param_groups import param_groups_layer_decay, param_groups_weight_decay

from _networks import everyday
from ctxvision.models import contextual, cotnet, rednet
from ctxvision.models._residual import LAYERS

ALL = [name for family in (cotnet, rednet, contextual) for name in family.default_cfgs]
MICRO = [name for name in ALL if name.endswith("micro")]
RESIDUAL = ["cotnet_micro", "rednet_micro"]
NAMES = [
    "cotnet50", "cotnet101", "cotnext50_2x48d", "cotnext101_2x48d", "se_cotnetd50", "se_cotnetd101",
    "se_cotnetd152", "rednet26", "rednet38", "rednet50", "rednet101", "rednet152",
    "contextual_convnext_tiny", "contextual_convnext_small", "contextual_convnext_base",
    "contextual_resnet50",
]  # fmt: skip


def images(model: torch.nn.Module, batch: int = 2, size: int = 64, chans: int = 3) -> torch.Tensor:
    torch.manual_seed(0)
    device = next(model.parameters()).device
    return torch.randn(batch, chans, size, size, device=device)


def let_the_context_matter(model: torch.nn.Module) -> None:
    """At initialisation a contextual network's features are the plain ones, whatever the classes: bend them."""
    for name, parameter in model.named_parameters():
        if "_offsets" in name:
            torch.nn.init.normal_(parameter, std=0.05)


def meta(name: str, **kwargs) -> torch.nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **kwargs)


def test_all_promised_names_are_registered_with_timm():
    assert sorted(ALL) == sorted([*NAMES, *MICRO])
    assert set(ALL) <= set(timm.list_models())


@pytest.mark.parametrize("name", everyday(ALL))
def test_forward_and_configuration(name):
    model = meta(name).eval()
    cfg, state = model.default_cfg, model.state_dict()
    assert cfg["classifier"] + ".weight" in state
    assert cfg["first_conv"] + ".weight" in state
    x = images(model, size=cfg["input_size"][-1])
    assert model(x).shape == (2, 1000)
    features = model.forward_features(x)
    assert features.shape == (2, model.num_features, *cfg["pool_size"])
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
    assert meta(name, num_classes=7, in_chans=1)(images(model, chans=1)).shape == (2, 7)


@pytest.mark.parametrize("name", everyday(ALL))
def test_features_only_has_the_levels_of_timm_s_resnet_or_convnext(name):
    model = meta(name, features_only=True).eval()
    peer = meta("convnext_atto" if "convnext" in name else "resnet18", features_only=True)
    strides = peer.feature_info.reduction()
    assert model.feature_info.reduction() == strides
    maps = model(images(model, size=96))
    assert [m.shape[1] for m in maps] == model.feature_info.channels()
    assert [96 // m.shape[-1] for m in maps] == strides
    for chosen in ((1, 3), (-1,), (-3, -2), (1, 2, 3, 4)[: len(strides) - 1]):
        some = meta(name, features_only=True, out_indices=chosen)(images(model, size=96))
        assert [96 // m.shape[-1] for m in some] == [strides[i] for i in chosen]


@pytest.mark.parametrize("name", everyday(ALL))
def test_reset_classifier(name):
    model = meta(name).eval()
    x = images(model)
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    assert model.num_classes == 3
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)
    assert isinstance(model.get_classifier(), torch.nn.Identity)
    model.reset_classifier(0, "")
    assert model(x).shape == (2, model.num_features, 2, 2)
    assert meta(name, num_classes=0)(x).shape == (2, model.num_features)


@pytest.mark.parametrize("name", [*MICRO, "contextual_resnet50"])
def test_features_only_equals_the_classifiers_own_forward(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=20).eval()
    let_the_context_matter(model)
    extractor = timm.create_model(name, num_classes=20, features_only=True).eval()
    target = extractor.model if hasattr(extractor, "model") else extractor
    result = target.load_state_dict(model.state_dict(), strict=False)
    assert not result.missing_keys
    x = images(model)
    with torch.no_grad():
        maps, (final, intermediates) = extractor(x), model.forward_intermediates(x)
        assert all(torch.equal(a, b) for a, b in zip(maps, intermediates, strict=True))
        assert torch.equal(final, model.forward_features(x))
        assert torch.equal(model.forward_head(final), model(x))
        assert torch.equal(model.forward_head(model.forward_features(x)), model(x))
        last = model.forward_intermediates(x, indices=[1], stop_early=True, intermediates_only=True)
        assert torch.equal(last[0], intermediates[1])


@pytest.mark.parametrize("name", [*MICRO, "contextual_resnet50"])
def test_pruned_features_equal_the_whole_networks_and_cost_less(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=20).eval()
    let_the_context_matter(model)
    x = images(model)
    with torch.no_grad():
        whole = model.forward_intermediates(x, intermediates_only=True)
        parameters = sum(p.numel() for p in model.parameters())
        wanted = [len(whole) - 3, len(whole) - 2]
        assert model.prune_intermediate_layers(wanted) == wanted
        assert sum(p.numel() for p in model.parameters()) < 0.6 * parameters
        pruned = model.forward_intermediates(x, indices=wanted, intermediates_only=True)
        assert all(torch.equal(a, b) for a, b in zip(pruned, whole[-3:-1], strict=True))
        assert torch.equal(model(x), whole[-2])
        assert model.num_features == whole[-2].shape[1]


@pytest.mark.parametrize("name", [*MICRO, "contextual_resnet50"])
def test_training_reaches_every_parameter_and_checkpointing_changes_nothing(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=30).train()
    for parameter in model.parameters():  # zero-started layers would hide what lies behind them
        if parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.05)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    x, target = images(model, batch=3), torch.tensor([0, 1, 2])
    grads = []
    for enable in (False, True):
        model.load_state_dict(state)
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(x), target).backward()
        grads.append({n: p.grad.clone() for n, p in model.named_parameters()})
    assert all(grad is not None for grad in grads[0].values())
    for key, value in grads[0].items():
        torch.testing.assert_close(grads[1][key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MICRO)
def test_parameter_groups(name):
    model = timm.create_model(name)
    grouped = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.8)
    assert sum(len(g["params"]) for g in grouped) == len(list(model.parameters()))
    assert len({g["lr_scale"] for g in grouped}) > 4
    skip = model.no_weight_decay()
    expected = {"context.embedding.weight", "context.logit_scale"} if name.startswith("contextual") else set()
    assert skip == expected
    fine, coarse = (
        set(group_parameters(model, model.group_matcher(coarse=c), reverse=True).values()) for c in (False, True)
    )
    assert len(coarse) == 6, "stem, four stages, head"
    assert len(fine) > 6
    split = param_groups_weight_decay(model, 0.05, no_weight_decay_list=skip)
    no_decay = next(g for g in split if g["weight_decay"] == 0)["params"]
    names = {id(p): n for n, p in model.named_parameters()}
    undecayed = {names[id(p)] for p in no_decay}
    assert skip <= undecayed
    assert all(p.ndim > 1 or n in undecayed for n, p in model.named_parameters())
    create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05).step()


@pytest.mark.parametrize("name", MICRO)
def test_drop_path_grows_linearly_and_drops_only_in_training(name):
    model = timm.create_model(name, drop_path_rate=0.3)
    paths = [m for m in model.modules() if type(m).__name__ == "DropPath"]
    rates = [m.drop_prob for m in paths]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.3)
    calls = []
    for path in paths:
        path.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        assert torch.equal(model.eval()(images(model)), model(images(model)))
    assert len(calls) == 2 * len(paths), "every block drops its own path"


@pytest.mark.parametrize("name", MICRO)
def test_dropout_before_the_classifier(name):
    torch.manual_seed(0)
    model = timm.create_model(name, drop_rate=0.5, num_classes=10).eval()
    x = images(model)
    with torch.no_grad():
        features = model.forward_features(x)
        assert torch.equal(model.forward_head(features), model.forward_head(features))
        whole = model.forward_head(features, pre_logits=True)
        dropped = model.train().forward_head(features, pre_logits=True)
    assert 0.3 < (dropped[whole != 0] == 0).float().mean() < 0.7


@pytest.mark.parametrize("name", MICRO)
def test_global_pool_is_the_one_asked_for(name):
    model = timm.create_model(name, global_pool="max", num_classes=0).eval()
    with torch.no_grad():
        features = model.forward_features(images(model))
        pooled = features.amax((2, 3))
        if "norm" in getattr(model, "head", {}):
            pooled = model.head["norm"](pooled[..., None, None]).flatten(1)
        torch.testing.assert_close(model.forward_head(features), pooled)
    for pool, classes, message in (("", 10, "needs num_classes=0"), ("bogus", 10, "unknown global_pool 'bogus'")):
        with pytest.raises(ValueError, match=message):
            timm.create_model(name, global_pool=pool, num_classes=classes)
    with pytest.raises(ValueError, match="needs num_classes=0"):
        model.reset_classifier(10, "")
    assert model.num_classes == 0


@pytest.mark.parametrize("name", MICRO)
def test_pretrained_weights_reach_feature_extractors_through_timm(name, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    let_the_context_matter(model)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    overlay = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(tmp_path / "weights.pth")}}
    x = images(model)
    with torch.no_grad():
        expected = model.forward_intermediates(x, intermediates_only=True)
        extractor = timm.create_model(name, features_only=True, **overlay).eval()
        assert all(torch.equal(a, b) for a, b in zip(extractor(x), expected, strict=True))
        headless = timm.create_model(name, num_classes=0, **overlay).eval()
        assert torch.equal(headless.forward_features(x), expected[-1])
        assert torch.equal(timm.create_model(name, **overlay).eval()(x), model(x))
    assert timm.create_model(name, num_classes=7, **overlay).get_classifier().weight.shape[0] == 7


@pytest.mark.parametrize("name", MICRO)
def test_every_trainable_parameter_of_a_feature_extractor_gets_a_gradient(name):
    torch.manual_seed(0)
    model = timm.create_model(name, features_only=True).train()
    sum(m.square().mean() for m in model(images(model))).backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("name", MICRO)
def test_checkpointing_recomputes_blocks(name):
    model = timm.create_model(name, num_classes=5).train()
    blocks = [m for m in model.modules() if type(m).__name__.endswith(("Bottleneck", "NeXtBlock"))]
    calls = []
    blocks[-1].register_forward_pre_hook(lambda *_: calls.append(1))
    model.set_grad_checkpointing()
    model(images(model)).sum().backward()
    assert len(calls) == 2


@pytest.mark.parametrize("name", RESIDUAL)
def test_blocks_start_as_their_shortcuts(name):
    model = timm.create_model(name)
    assert all(b.bn3.weight.abs().max() == 0 for stage in LAYERS for b in getattr(model, stage))


def test_layer_scale_starts_as_in_convnext():
    assert timm.create_model("contextual_convnext_tiny").stages[0].blocks[0].gamma.eq(1e-6).all()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:FutureWarning")
def test_torch_jit_trace():  # torch.compile and torch.export: test_compile.py
    for name in MICRO:
        model = timm.create_model(name, num_classes=30).eval()
        x = images(model)
        with torch.no_grad():
            expected = model(x)
            traced = torch.jit.trace(model, x, check_trace=False)(x)
            # standard operators round otherwise
            torch.testing.assert_close(traced, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*RESIDUAL, "contextual_convnext_micro", "contextual_resnet50"])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_output_stride_dilates_instead_of_striding(name, output_stride):
    model = timm.create_model(name, output_stride=output_stride).eval()
    assert model.forward_features(images(model)).shape[-1] == 64 // output_stride
    assert model.feature_info[-1]["reduction"] == output_stride


@pytest.mark.parametrize("name", ["cotnet_micro", "rednet_micro", "contextual_convnext_micro"])
@pytest.mark.parametrize("size", [(33, 47), (65, 64), (40, 71)])
def test_odd_sizes_run(name, size):
    model = timm.create_model(name, num_classes=5).eval()
    with torch.no_grad():
        assert torch.isfinite(model(torch.randn(2, 3, *size))).all()


@pytest.mark.parametrize("name", MICRO)
def test_channels_last_and_batching_change_nothing(name):
    model = timm.create_model(name, num_classes=50).double().eval()
    x = images(model, batch=3).double()
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(model(x.contiguous(memory_format=torch.channels_last)), expected)
        torch.testing.assert_close(torch.cat([model(row[None]) for row in x]), expected)


@pytest.mark.parametrize("name", MICRO)
def test_bfloat16_autocast_trains(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=200).train()
    target, losses = torch.tensor([1, 2]), []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses.append(torch.nn.functional.cross_entropy(model(images(model)), target))
        losses[-1].backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.05)


@pytest.mark.parametrize("name", MICRO)
def test_bad_arguments_are_named(name):
    with pytest.raises(ValueError, match="output_fmt must be 'NCHW', got 'NLC'"):
        meta(name).forward_intermediates(torch.randn(1, 3, 64, 64, device="meta"), output_fmt="NLC")
    with pytest.raises(ValueError, match="8, 16 or 32, got 4"):
        timm.create_model(name, output_stride=4)
