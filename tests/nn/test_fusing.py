"""Folding BatchNorm: the same function, nothing foldable left over, nothing folded that must not be."""

import copy
import io

import pytest
import timm
import torch
from torch import nn

from _networks import everyday, shorter
from ctxvision.models import contextual, cotnet, rednet
from ctxvision.nn import fuse
from ctxvision.ops import keep_operators

ALL = [name for family in (cotnet, rednet, contextual) for name in family.default_cfgs]
PLAIN = ["resnet50", "seresnet50", "convnext_tiny"]
# each after an operator without a weight of its own per output channel
UNFOLDABLE = {
    "cotnet": ("conv2.bn",), "cotnext": ("conv2.bn",), "se_cotnetd": ("conv2.bn",), "rednet": ("bn2", "conv1.4"),
    "contextual_resnet": ("bn2", "sampling_offsets.norm"),  # the latter after the prior's part is added
}  # fmt: skip


def norms(model):
    return [name for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def trained(model):
    """Give the norms statistics and affine parameters as training does; keep the blocks' branches small."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.weight.data *= 0.1 if name.endswith("bn3") else 1.0
        elif name.endswith("span"):
            module.weight.data *= 0.1
    return model.eval()


@pytest.mark.parametrize("name", everyday([*ALL, *PLAIN]))
def test_fused_networks_compute_the_same(name):
    fewer = shorter(name) if name in ALL else {}
    model = trained(timm.create_model(name, num_classes=20, **fewer).double())
    state = {key: value.clone() for key, value in model.state_dict().items()}
    fused = fuse(model)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
        error = (fused(x) - expected).abs().max() / expected.abs().max()
    assert error <= 1e-10
    assert not [key for key, value in model.state_dict().items() if not torch.equal(value, state[key])]
    family = next((endings for start, endings in UNFOLDABLE.items() if name.startswith(start)), ())
    assert all(left.endswith(family) for left in norms(fused))
    operators = [m for m in model.modules() if type(m).__name__ in ("CoTLayer", "Involution2d")]
    bent = [m for m in model.modules() if type(m).__name__ == "ContextualConv2d" and m.bias is None]
    assert len(norms(fused)) == len(operators) + 2 * len(bent)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cotnet_micro", "rednet_micro", "contextual_convnext_micro", "resnet18"])
def test_a_fused_network_is_a_network(name):
    model = trained(timm.create_model(name, num_classes=20)).to(memory_format=torch.channels_last).train()
    fused, x = fuse(model, torch.empty(1, 3, 64, 64)), torch.randn(2, 3, 64, 64)
    assert model.training
    assert type(fused) is type(model)
    assert not any(module.training for module in fused.modules())
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in fused.parameters() if p.dim() == 4)
    with torch.no_grad():
        expected = model.eval()(x)
        torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-4)
        with keep_operators():
            program = torch.export.export(fused, (x,))
        torch.testing.assert_close(program.module()(x), fused(x))
        compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), fused(x))
        buffer = io.BytesIO()
        torch.save(fused.state_dict(), buffer)
        buffer.seek(0)
        empty = fuse(timm.create_model(name, num_classes=20), x)
        empty.load_state_dict(torch.load(buffer), strict=True)
        torch.testing.assert_close(empty(x), fused(x))


def test_half_precision_rounds_once():
    model = trained(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).bfloat16())
    fused = fuse(model, torch.empty(1, 3, 8, 8))
    exact = fuse(copy.deepcopy(model).double(), torch.empty(1, 3, 8, 8))
    assert fused[0].weight.dtype == torch.bfloat16
    assert torch.equal(fused[0].weight, exact[0].weight.bfloat16())


class Net(nn.Module):
    """Calls its layers as told."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.layers, self.run = nn.ModuleDict(layers), forward

    def forward(self, x):
        return self.run(self.layers, x)


def conv():
    return nn.Conv2d(4, 4, 3, padding=1)


def norm():
    return nn.BatchNorm2d(4)


@pytest.mark.parametrize(
    ("folds", "forward", "layers"),
    [
        (1, lambda m, x: m["bn1"](m["conv1"](x)), {"conv1": conv, "bn1": norm}),
        (1, lambda m, x: m["a"](x).relu() + m["c"](x),
         {"a": conv, "c": lambda: nn.Sequential(nn.Conv2d(4, 4, 1, padding_mode="reflect"), norm())}),
        (0, lambda m, x: m["conv1"](m["bn1"](x)), {"conv1": conv, "bn1": norm}),  # pre-activation
        (0, lambda m, x: m["bn1"](y := m["conv1"](x)) + y, {"conv1": conv, "bn1": norm}),  # a second reader
        (0, lambda m, x: (m["bn1"](y := m["conv1"](x)), y), {"conv1": conv, "bn1": norm}),  # returned as well
        (0, lambda m, x: m["bn1"](m["conv1"](m["conv1"](x))), {"conv1": conv, "bn1": norm}),  # shared convolution
        (0, lambda m, x: m["bn1"](m["a"](x)) + m["bn1"](m["b"](x)), {"a": conv, "b": conv, "bn1": norm}),
        (0, lambda m, x: m["bn1"](m["conv1"](x)) * m["conv1"].weight.sum(), {"conv1": conv, "bn1": norm}),
        (0, lambda m, x: m["bn1"](m["conv1"](x).relu()), {"conv1": conv, "bn1": norm}),
        (0, lambda m, x: m["bn1"](m["conv1"](x).add_(x)), {"conv1": conv, "bn1": norm}),
        (0, lambda m, x: m["bn1"](m["conv1"](x)),
         {"conv1": conv, "bn1": lambda: nn.BatchNorm2d(4, track_running_stats=False)}),
        (0, lambda m, x: m["bn1"](m["up"](x)), {"up": lambda: nn.ConvTranspose2d(4, 4, 2), "bn1": norm}),
        (0, lambda m, x: m["bn1"](m["fc"](x.flatten(2))),
         {"fc": lambda: nn.Linear(36, 4), "bn1": lambda: nn.BatchNorm1d(4)}),  # channels are not the last axis
        (1, lambda m, x: m["bn1"](m["fc"](x.mean((2, 3)))),
         {"fc": lambda: nn.Linear(4, 4), "bn1": lambda: nn.BatchNorm1d(4)}),
    ],
)  # fmt: skip
def test_only_what_is_proven_is_folded(folds, forward, layers):
    model = Net(forward, **{name: build() for name, build in layers.items()}).double().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            trained(module)
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    fused = fuse(model, x)
    assert len(norms(model)) - len(norms(fused)) == folds
    with torch.no_grad():
        torch.testing.assert_close(fused(x), model(x), rtol=1e-10, atol=1e-10)


class Alias(nn.Module):
    """One convolution under two names; the norm is known by the second."""

    def __init__(self):
        super().__init__()
        self.conv = conv()
        self.body = nn.Sequential(self.conv, norm())
        self.norm = self.body[1]

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_modules_with_two_names_are_folded_under_both(dtype):
    model = Alias().to(dtype).eval()
    trained(model.norm)
    x = torch.randn(2, 4, 6, 6, dtype=dtype)
    fused = fuse(model, x)
    assert fused.conv is fused.body[0]
    assert not norms(fused)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), model(x))


def changed_in_part(m, x):
    y = m["conv1"](x)
    y[:, :2] = 0
    return m["bn1"](y)


class WithoutBias(nn.Conv2d):
    def forward(self, x):
        return nn.functional.conv2d(x, self.weight, None, padding=1)


@pytest.mark.parametrize(
    ("forward", "layer"),
    [(changed_in_part, conv), (lambda m, x: m["bn1"](m["conv1"](x)), lambda: WithoutBias(4, 4, 3))],
    ids=["changed in place", "bias not applied"],
)
def test_what_is_not_a_plain_pair_stays(forward, layer):
    model = Net(forward, conv1=layer(), bn1=norm()).double().eval()
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    fused = fuse(model, x)
    assert len(norms(fused)) == 1
    with torch.no_grad():
        torch.testing.assert_close(fused(x), model(x))


def test_a_norm_with_a_hook_stays():
    model = nn.Sequential(conv(), norm()).eval()
    model[1].register_forward_hook(lambda module, args, output: output * 2)
    x = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(fuse(model, x)(x), model(x))


def test_what_cannot_be_traced_is_refused():
    with pytest.raises(ValueError, match="Sequential has no timm configuration, so it needs an example"):
        fuse(nn.Sequential(conv(), norm()))
    with pytest.raises(ValueError, match=r"Sequential cannot process \(1, 3, 8, 8\): .*channel"):
        fuse(nn.Sequential(conv(), norm()), torch.empty(1, 3, 8, 8))
