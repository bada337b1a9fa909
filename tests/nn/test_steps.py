"""Layers one after the other in few passes: the same numbers, and nothing that others have is overwritten."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import ctxvision.models  # noqa: F401, registers our networks
from ctxvision.nn import CoTLayer, Involution2d, _steps, fuse
from ctxvision.ops import use_backend
from ctxvision.ops.inference import cpu


def features(channels, side=6, batch=2, dtype=torch.float32):
    x = torch.randn(batch, channels, side, side, dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last)


@pytest.fixture
def passes(monkeypatch):
    """What was computed in one pass."""
    seen, function = [], cpu.norm_activation

    def record(x, norm, activation, *, before, after):
        seen.append((norm is not None, activation, after is not None))
        function(x, norm, activation, before=before, after=after)

    monkeypatch.setattr(cpu, "norm_activation", record)
    return seen


def conv_norm(activation=None):
    norm = nn.BatchNorm2d(16)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), norm, *([activation] if activation else [])).eval()


def involution():
    return Involution2d(8, kernel_size=3, group_channels=4).eval()


@torch.no_grad()
@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ((conv_norm(),), [(True, "none", False)]),
        ((conv_norm(nn.ReLU()),), [(True, "relu", False)]),
        ((conv_norm(nn.SiLU(inplace=True)), nn.MaxPool2d(2)), [(True, "silu", False)]),
        ((conv_norm(), nn.Identity(), nn.ReLU()), [(True, "relu", False)]),
        ((conv_norm(nn.GELU()),), [(True, "none", False)]),
        ((nn.Conv2d(8, 16, 1), nn.ReLU()), []),
        ((nn.Conv2d(8, 16, 1), nn.Identity()), []),
        ((nn.Identity(), nn.ReLU()), []),
        ((nn.MaxPool2d(2), nn.BatchNorm2d(8).eval()), []),  # what a pool returns may be somebody's
        ((conv_norm(), conv_norm()[1:]), [(True, "none", False)]),
        ((involution(), nn.BatchNorm2d(8).eval(), nn.ReLU()), [(True, "relu", False)] * 2),
    ],
)  # fmt: skip
def test_it_equals_the_layers(layers, expected, passes):
    x = features(8)
    kept = x.clone()
    found = _steps.apply(x, *layers)
    assert passes == expected
    torch.testing.assert_close(found, nn.Sequential(*layers)(x), rtol=1e-5, atol=1e-5)
    assert torch.equal(x, kept)


@torch.no_grad()
def test_a_shortcut_is_added_before_the_last_layer(passes):
    x, shortcut = features(8), features(16)
    kept, (conv, norm) = shortcut.clone(), conv_norm()
    expected = torch.relu(norm(conv(x)) + shortcut)
    for layers in ((conv, norm, nn.Identity(), nn.ReLU()), (conv, norm, nn.ReLU(inplace=True))):
        torch.testing.assert_close(_steps.apply(x, *layers, shortcut=shortcut), expected, rtol=1e-5, atol=1e-5)
    assert passes == [(True, "relu", True)] * 2
    assert torch.equal(shortcut, kept)
    found = _steps.apply(x, conv, norm, nn.ReLU(), shortcut=shortcut.contiguous())  # another memory format
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(RuntimeError, match="must match"):
        _steps.apply(x, conv, norm, nn.ReLU(), shortcut=features(16, side=5))


def _kept_by_a_hook(conv, x, call):
    seen = []
    conv.register_forward_hook(lambda layer, args, output: seen.append(output))
    y = call(x)
    torch.testing.assert_close(seen[0], nn.functional.conv2d(x, conv.weight, conv.bias, padding=1))
    return y


def _global_hook(conv, x, call):
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda layer, args, output: seen.append(type(layer)))
    y = call(x)
    handle.remove()
    assert nn.BatchNorm2d in seen
    return y


def _counted(conv, x, call):
    with FlopCounterMode(display=False):
        return call(x)


def _with_gradients(conv, x, call):
    with torch.enable_grad():
        y = call(x)
        y.sum().backward()
    assert conv.weight.grad is not None
    return y.detach()


def _by_vmap(conv, x, call):
    return torch.func.vmap(lambda one: call(one[None])[0])(x)


def _another_backend(conv, x, call):
    with use_backend("torch"):
        return call(x)


def _contiguous(conv, x, call):
    return call(x.contiguous())


def _compiled(conv, x, call):
    return torch.compile(call, backend="eager")(x)


@torch.no_grad()
@pytest.mark.parametrize(
    "way",
    [_kept_by_a_hook, _global_hook, _counted, _with_gradients, _by_vmap, _another_backend, _contiguous, _compiled],
)
def test_where_somebody_looks_on_the_layers_are_called(way, passes):
    layers = conv_norm(nn.ReLU())
    x = features(8)
    expected = layers(x)
    torch.testing.assert_close(way(layers[0], x, lambda x: _steps.apply(x, layers)), expected)
    assert not passes


class _Doubled(nn.ReLU):
    def forward(self, x):
        return 2 * super().forward(x)


class _Passing(Involution2d):
    def forward(self, x):
        return x


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        lambda layers: layers[1].train(),
        lambda layers: setattr(layers[1], "running_mean", None) or setattr(layers[1], "running_var", None),
        lambda layers: layers[1].double(),
        lambda layers: layers[1].register_forward_hook(lambda *_: None),
        lambda layers: setattr(layers[1], "forward", lambda x: x + 1),
        lambda layers: setattr(layers, "1", nn.InstanceNorm2d(16)),
    ],
    ids=["training", "batch statistics", "another type", "hook", "patched", "another norm"],
)
def test_other_norms_stay(change, passes):
    layers = conv_norm(nn.ReLU())
    change(layers)
    x = features(8)
    try:
        expected = copy.deepcopy(layers)(x)
    except RuntimeError:  # torch mixes no float64 into this
        with pytest.raises(RuntimeError, match="mixed dtype"):
            _steps.apply(x, layers)
        return
    torch.testing.assert_close(_steps.apply(x, layers), expected)
    assert not passes


@torch.no_grad()
def test_parameters_without_memory_are_not_read(passes):
    layers, x = conv_norm(), features(8)
    layers[1].weight.untyped_storage().resize_(0)
    assert not cpu.can_read(x, layers[1].weight)
    assert cpu.can_read(x, layers[1].bias)


@torch.no_grad()
def test_subclasses_do_what_they_say(passes):
    x = features(8)
    layers = conv_norm(_Doubled())
    torch.testing.assert_close(_steps.apply(x, layers), layers(x), rtol=1e-5, atol=1e-5)
    kept = x.clone()
    _steps.apply(x, _Passing(8, kernel_size=3, group_channels=4), nn.BatchNorm2d(8).eval(), nn.ReLU())
    assert torch.equal(x, kept)


# ------------------------------------------------------------------------------------------------ the CoT layer


@torch.no_grad()
def test_every_part_of_a_cot_layer_can_be_watched():
    x = features(32)
    names = [name for name, module in CoTLayer(32).named_modules() if name]
    for name in names:
        layer = CoTLayer(32).eval()
        expected, calls = layer(x), []
        layer.get_submodule(name).register_forward_hook(lambda *_, calls=calls: calls.append(1))
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
        assert calls or name == "embed.0" or name in ("embed", "conv1x1"), name


@torch.no_grad()
def test_parts_that_were_replaced_are_called():
    x, layer = features(32), CoTLayer(32).eval()
    layer.act = _Doubled()
    plain = copy.deepcopy(layer).double()
    torch.testing.assert_close(layer(x).double(), plain(x.double()), rtol=1e-4, atol=1e-5)
    layer = CoTLayer(32).eval()
    layer.se = nn.Sequential(nn.Conv2d(32, 64, 1))
    plain = copy.deepcopy(layer).double()
    torch.testing.assert_close(layer(x).double(), plain(x.double()), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("place", "part"),
    [
        ("embed.4", nn.GroupNorm(1, 36)),
        ("se.0", nn.Conv2d(32, 32, 1, groups=2)),
        ("se.3", nn.Conv2d(32, 64, 3, padding=1)),
    ],
    ids=["norm of all maps", "grouped", "3x3"],
)
def test_parts_of_another_shape_are_called(place, part):
    x, layer = features(32), CoTLayer(32).eval()
    parent, index = place.split(".")
    layer.get_submodule(parent)[int(index)] = part
    expected = copy.deepcopy(layer).double()(x.double())
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_step_that_was_replaced_on_one_layer_is_taken():
    x, layer = features(32), CoTLayer(32).eval()
    static = layer.key_embed(x)
    layer.fusion = lambda static, dynamic: torch.full((*static.shape[:2], 2), 0.5)
    expected = (static + layer.dynamic_context(x, static)) / 2
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


class _Own(CoTLayer):
    def fusion(self, static, dynamic):
        return torch.full((*static.shape[:2], 2), 0.5)


@torch.no_grad()
def test_a_subclass_may_change_a_step():
    x, layer = features(32), _Own(32).eval()
    static = layer.key_embed(x)
    expected = (static + layer.dynamic_context(x, static)) / 2
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


# ----------------------------------------------------------------------------------------------------- networks


@torch.no_grad()
@pytest.mark.parametrize("folded", [False, True], ids=["", "folded"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cotnet_micro", {}),
        ("cotnet_micro", {"cardinality": 2, "base_width": 48, "key_groups": 8}),
        ("cotnet_micro", {"plain": "se", "avg_down": True, "cot_stages": [3, 4], "alternate_stage": 3}),
        ("cotnet_micro", {"downsample": "blur", "output_stride": 8}),
        ("cotnet_micro", {"context": "linear"}),
        ("rednet_micro", {}),
        ("contextual_resnet_micro", {}),
        ("contextual_resnet_micro", {"extra_input": True}),
    ],
)
def test_networks_equal_themselves_in_float64(name, arguments, folded, passes):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, **arguments)
    model.train()
    model(torch.randn(2, 3, 64, 64))
    for parameter in model.parameters():  # norms that start at zero would hide the branches
        if parameter.dim() == 1 and not parameter.any():
            parameter.fill_(0.5)
    model = (fuse(model) if folded else model.eval()).to(memory_format=torch.channels_last)
    x = features(3, 64)
    expected = copy.deepcopy(model).double()(x.double())
    torch.testing.assert_close(model(x).double(), expected, rtol=1e-4, atol=1e-4)
    assert passes
