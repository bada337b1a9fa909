"""Surgery refuses by name and reason, and leaves the network as it was."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from ctxvision.nn import ContextualConv2d, CoTLayer, Involution2d, plan_replacements, replace_convs

LAYERS = {"cot": CoTLayer, "involution": Involution2d, "contextual": ContextualConv2d}
KINDS = list(LAYERS)


def network():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.Conv2d(32, 8, 1),
    )


def hooked():
    conv = nn.Conv2d(16, 16, 3, padding=1)
    conv.register_forward_hook(lambda *_: None)
    return conv


def pruned():
    conv = nn.Conv2d(16, 16, 3, padding=1)
    prune.random_unstructured(conv, "weight", 0.5)
    return conv


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


REFUSED = [
    (lambda: nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"), KINDS, "it pads with 'reflect'"),
    (lambda: nn.Conv2d(16, 16, (3, 5), padding=(1, 2)), KINDS, r"kernel_size \(3, 5\) must be square"),
    (lambda: nn.Conv2d(16, 16, 3, (1, 2), 1), KINDS, r"stride \(1, 2\) must be equal"),
    (lambda: nn.Conv2d(16, 16, 3, 1, 1, (1, 2)), KINDS, r"dilation \(1, 2\) must be equal"),
    (lambda: nn.Conv2d(16, 16, 3, padding=(1, 0)), KINDS, r"padding \(1, 0\) must be equal"),
    (lambda: nn.ConvTranspose2d(16, 16, 3), KINDS, "a ConvTranspose2d, not a Conv2d"),
    (lambda: nn.Conv1d(16, 16, 3), KINDS, "a Conv1d, not a Conv2d"),
    (lambda: nn.LazyConv2d(16, 3), KINDS, "no shape yet"),
    (lambda: parametrizations.weight_norm(nn.Conv2d(16, 16, 3, padding=1)), KINDS, "its weight is computed"),
    (pruned, KINDS, "its weight is computed"),
    (hooked, KINDS, "it carries hooks"),
    (lambda: Doubled(16, 16, 3, padding=1), KINDS, "a Doubled has a forward of its own"),
    (lambda: timm.layers.Conv2dSame(16, 16, 3), ["contextual"], "a Conv2dSame has a forward of its own"),
    (lambda: nn.Conv2d(16, 16, 2, padding="same"), ["contextual"], "unequal zeros"),
    (lambda: nn.Conv2d(16, 16, 4, padding=1), ["cot", "involution"], "4x4 is even"),
    (lambda: nn.Conv2d(16, 16, 3), ["cot", "involution"], r"padding \(0, 0\) is not the 1"),
    (lambda: nn.Conv2d(12, 12, 3, padding=1), ["cot"], "channels 12 must be a multiple of 8"),
    (lambda: nn.Conv2d(16, 16, 3, padding=1, groups=4), ["cot"], "pass groups=1 to mix all channels"),
    (lambda: nn.Conv2d(16, 16, 3, padding=1, groups=16), ["cot"], "it is depthwise"),
]  # fmt: skip


@pytest.mark.parametrize(("conv", "kinds", "reason"), REFUSED, ids=[reason for _, _, reason in REFUSED])
def test_what_cannot_be_replaced_is_refused_by_name_and_left_by_wider_choices(conv, kinds, reason):
    for kind in kinds:
        model = nn.ModuleDict({"good": nn.Conv2d(16, 16, 3, padding=1), "bad": conv()})
        with pytest.raises(ValueError, match=rf"^replace_convs: bad cannot become '{kind}': .*{reason}"):
            replace_convs(model, kind, where=["good", "bad"])
        assert type(model["good"]) is nn.Conv2d, "nothing is replaced where something is refused"
        with pytest.raises(ValueError, match=rf"nothing in where='b\*' can become '{kind}': bad: .*{reason}"):
            replace_convs(model, kind, where="b*")
        bad = model["bad"]
        plan = plan_replacements(model, kind)
        assert [item.name for item in plan.left] == ["bad"]
        replace_convs(model, kind)
        assert isinstance(model["good"], LAYERS[kind])
        assert model["bad"] is bad


def test_sizes_padded_by_tensorflow_s_rule():
    conv = timm.layers.Conv2dSame(16, 16, 3, stride=2).eval()
    for kind in ("cot", "involution"):
        layer = replace_convs(copy.deepcopy(conv), kind)
        for size in (7, 8):
            assert layer(torch.randn(1, 16, size, size)).shape == conv(torch.randn(1, 16, size, size)).shape


def test_tied_weights():
    model = network()
    model.add_module("tied", nn.Conv2d(16, 16, 3, padding=1))
    model.tied.weight = model[1].weight
    for kind in ("cot", "involution"):
        with pytest.raises(ValueError, match=r"1 cannot become .* tied to another layer's"):
            replace_convs(model, kind, where="1")
    replace_convs(model, "contextual")
    assert model.tied.weight is model[1].weight


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("layer9", r"where='layer9' matches no spatial convolution of Sequential; it has 0, 1, 2"),
        (["1", "5*"], r"where='5\*' matches no spatial"),
        ("3", "3 has a kernel of one pixel"),
        ([], "nothing is asked for"),
        (lambda name, conv: False, "the predicate has no spatial convolution"),
        (1, "Sequential does not say what stage 1 is; name modules"),
    ],
)
def test_nothing_matches(where, reason):
    with pytest.raises(ValueError, match=reason):
        replace_convs(network(), "involution", where)


def test_a_stage_that_there_is_not():
    with pytest.raises(ValueError, match="stage 5 is; it has the stages 1, 2, 3, 4"):
        replace_convs(timm.create_model("resnet18"), "cot", 5)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="kind must be 'cot', 'involution', 'contextual', got 'conv'"):
        replace_convs(network(), "conv")
    with pytest.raises(TypeError, match=r"'cot' takes no option 'sampling'; it takes kernel_size, groups"):
        replace_convs(network(), "cot", sampling=False)
    with pytest.raises(TypeError, match=r"where takes .* got 1\.5"):
        replace_convs(network(), "cot", where=[1.5])
    with pytest.raises(ValueError, match="context must be full"):
        replace_convs(network(), "cot", context="both")


def test_a_network_that_would_hand_over_a_prior():
    with torch.device("meta"):
        model = timm.create_model("contextual_convnext_micro")
    with pytest.raises(ValueError, match="choose the contextual stages when you create it"):
        replace_convs(model, "contextual")
    assert len(plan_replacements(model, "involution").replaced) == 6
