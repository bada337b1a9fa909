"""The check on the page `Is your CoT a CoT?` passes the published layer and none that differs."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

PAGE = Path(__file__).parents[1] / "docs" / "is-it-a-cot.md"
EXAMPLE, CHECK = re.search(
    r"```python\n(.*?)\n(yours, ours = .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL
).groups()


def given():
    """What the example defines: the imports, and a layer by the equations."""
    space = {}
    exec(EXAMPLE, space)
    return space


def test_check_has_ten_lines():
    lines = [line for line in CHECK.splitlines() if line.strip()]
    assert len(lines) <= 11, "ten, and the names to fill in"


def test_layer_by_the_equations_passes():
    exec(CHECK, given())


class AveragedOverTaps(nn.Module):
    """What is copied as CoTAttention: one number for k² taps, a softmax over the image, a plain sum."""

    def __init__(self, c, k=3):
        super().__init__()
        self.key = nn.Sequential(nn.Conv2d(c, c, k, padding=1, groups=4, bias=False), nn.BatchNorm2d(c), nn.ReLU())
        self.value = nn.Sequential(nn.Conv2d(c, c, 1, bias=False), nn.BatchNorm2d(c))
        self.attend = nn.Sequential(
            nn.Conv2d(2 * c, c // 2, 1, bias=False), nn.BatchNorm2d(c // 2), nn.ReLU(),
            nn.Conv2d(c // 2, k * k * c, 1),
        )  # fmt: skip

    def forward(self, x):
        static = self.key(x)
        attention = self.attend(torch.cat([static, x], 1)).unflatten(1, (x.shape[1], -1)).mean(2)
        return static + attention.flatten(2).softmax(2).view_as(static) * self.value(x)


def test_averaged_attention_lacks_parts_of_the_layer():
    with pytest.raises(KeyError, match=r"attend\.4|norm|fuse"):
        exec(CHECK, {**given(), "Yours": AveragedOverTaps})


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("maps * taps", "maps.mean(3, keepdim=True) * taps"),
        ("maps * taps", "maps.softmax(3) * taps"),
        ("view(b, 1, c // 8, self.k**2, h, w)", "view(b, 1, c // 8, self.k**2, h, w).flip(2)"),
        ("torch.cat([x, static], 1)", "torch.cat([static, x], 1)"),
        ("dynamic * share[:, :, 0] + static * share[:, :, 1]", "dynamic + static"),
        ("self.act(self.norm(", "self.act(("),
        ("(static + dynamic).mean", "(static + dynamic).detach().mean"),  # a wrong gradient, not a wrong output
        ("F.unfold(self.value(x)", "F.unfold(self.value(x.detach())"),
    ],
)
def test_each_difference_is_found(right, wrong):
    assert EXAMPLE.count(right) == 1
    space = {}
    exec(EXAMPLE.replace(right, wrong), space)
    with pytest.raises(AssertionError, match="not close"):
        exec(CHECK, space)


def test_involution_by_the_same_lines():
    """A layer written with unfold passes; one that multiplies matrices does not."""
    names = re.search(r"`(\{\"reduce\".*?\})`", PAGE.read_text(encoding="utf-8"))[1]
    names = names.replace("...", '"first"', 1).replace("...", '"second"')
    check = CHECK.replace("CoTLayer(64)", "Involution2d(64, kernel_size=7)")
    check = re.sub(r"names = \{.*?\}", f"names = {names}", check)

    class Unfolded(nn.Module):
        product = staticmethod(lambda kernels, taps: (kernels * taps).sum(3))

        def __init__(self, c, k=7):
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(c, c // 4, 1, bias=False), nn.BatchNorm2d(c // 4), nn.ReLU())
            self.second = nn.Conv2d(c // 4, k * k * c // 16, 1)

        def forward(self, x):
            b, c, h, w = x.shape
            kernels = self.second(self.first(x)).view(b, c // 16, 1, 49, h, w)
            taps = nn.functional.unfold(x, 7, padding=3).view(b, c // 16, 16, 49, h, w)
            return self.product(kernels, taps).view(b, c, h, w)

    class Multiplied(Unfolded):
        product = staticmethod(lambda kernels, taps: (kernels @ taps).sum(3))

    from ctxvision.nn import Involution2d

    exec(check, {**given(), "Involution2d": Involution2d, "Yours": Unfolded})
    with pytest.raises((RuntimeError, AssertionError)):
        exec(check, {**given(), "Involution2d": Involution2d, "Yours": Multiplied})
