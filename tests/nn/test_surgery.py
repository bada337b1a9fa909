"""Surgery on small networks: what is chosen and what is kept."""

import copy

import pytest
import timm
import torch
from torch import nn

from _oracle import assert_close
from ctxvision.nn import ContextualConv2d, CoTLayer, Involution2d, plan_replacements, replace_convs

LAYERS = {"cot": CoTLayer, "involution": Involution2d, "contextual": ContextualConv2d}
KINDS = list(LAYERS)


def network(**options):
    """A stem, a plain convolution, one that changes channels and has a stride, a depthwise one."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.Conv2d(16, 16, 3, padding=1, **options),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.Conv2d(32, 32, 5, padding=2, groups=32),
        nn.Conv2d(32, 8, 1),
    )


def names(model, kind):
    return [name for name, module in model.named_modules() if isinstance(module, LAYERS[kind])]


# what is kept -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 8), (9, 6)])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (4, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_output_size_is_the_convolution_s(kind, stride, dilation, kernel, size):
    conv = nn.Conv2d(8, 16, kernel, stride, dilation * (kernel - 1) // 2, dilation).eval()
    layer = replace_convs(conv, kind)
    assert layer is not conv
    x = torch.randn(1, 8, *size)
    assert layer(x).shape == conv(x).shape


CONTEXTUAL_CASES = [
    {"kernel_size": 3, "padding": 1, "stride": 2, "bias": False},
    {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 4},
    {"kernel_size": 3, "padding": 0, "groups": 8},
    {"kernel_size": 5, "padding": "same"},
    {"kernel_size": 5, "padding": "valid", "stride": 3},
    {"kernel_size": 2, "stride": 2},
]


@pytest.mark.parametrize("conv_options", CONTEXTUAL_CASES, ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"modulation": True}, {"sampling": False}, {"weight_hidden": None}], ids=str
)
def test_contextual_computes_what_the_convolution_did(conv_options, options):
    conv = nn.Conv2d(8, 16, **conv_options).double()
    layer = replace_convs(conv, "contextual", **options)
    x = torch.randn(2, 8, 9, 10, dtype=torch.float64)
    assert_close(layer(x), conv(x), torch.float64)
    assert layer.weight is conv.weight
    assert layer.bias is conv.bias
    assert layer.prior_dim == 0


def test_an_optimiser_made_before_still_moves_contextual_weights():
    model = network()
    before = dict(model.named_parameters())
    replace_convs(model, "contextual")
    after = dict(model.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    assert any("_offsets." in name for name in after)
    assert model[2].weight_offsets.fc1.out_features == 8
    assert replace_convs(nn.Conv2d(256, 8, 3), "contextual").weight_offsets.fc1.out_features == 32
    depthwise = nn.Conv2d(256, 256, 3, groups=256)
    assert replace_convs(depthwise, "contextual").weight_offsets.fc1.out_features == 8


@pytest.mark.parametrize("kind", KINDS)
def test_dtype_mode_and_memory_format_are_the_convolution_s(kind):
    model = network().to(torch.bfloat16, memory_format=torch.channels_last).eval()
    replace_convs(model, kind, where=["1", "2"])
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not any(module.training for module in model.modules())
    wide = [p for p in model.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert len(wide) >= 1
    assert all(parameter.is_contiguous(memory_format=torch.channels_last) for parameter in wide)
    assert replace_convs(network(), kind, where=["1"])[1].training


@pytest.mark.parametrize("kind", KINDS)
def test_on_the_meta_device(kind):
    with torch.device("meta"):
        model = network()
    assert all(p.is_meta for p in replace_convs(model, kind, where=["1", "2"]).parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_new_parameters_of_a_frozen_network_can_be_trained(kind):
    model = network().requires_grad_(False)
    old = {id(parameter) for parameter in model.parameters()}
    replace_convs(model, kind, where=["1", "2"])
    assert {id(p) in old for p in model.parameters() if p.requires_grad} == {False}
    assert not any(p.requires_grad for p in model.parameters() if id(p) in old)


def test_groups_stride_and_dilation():
    cot = replace_convs(nn.Conv2d(32, 64, 3, stride=2, padding=2, dilation=2, groups=2), "cot")
    assert [name for name, _ in cot.named_children()] == ["pool", "project", "cot"]
    assert (cot.pool.kernel_size, cot.pool.stride, cot.pool.padding) == (3, 2, 1)
    assert (cot.project.kernel_size, cot.project.groups) == ((1, 1), 2)
    assert (cot.cot.groups, cot.cot.dilation, cot.cot.key_embed[0].groups) == (2, 2, 8)  # as in CoTNeXt
    involution = replace_convs(nn.Conv2d(48, 48, 5, stride=2, padding=4, dilation=2), "involution", kernel_size=7)
    assert (involution.stride, involution.dilation, involution.kernel_size, involution.groups) == (2, 2, 7, 3)
    assert replace_convs(nn.Conv2d(18, 18, 3, padding=1), "involution").groups == 2  # 9 channels share a kernel


def test_a_projection_keeps_the_scale():
    layer = replace_convs(nn.Conv2d(64, 256, 3, padding=1), "involution")
    assert 0.9 < layer.project(torch.randn(4, 64, 16, 16)).std() < 1.1


def test_a_convolution_used_twice_stays_one_layer():
    shared = nn.Conv2d(16, 16, 3, padding=1)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), shared, nn.ReLU(), nn.Sequential(shared))
    plan = plan_replacements(model, "involution", where="3.0")
    assert [(item.name, item.aliases) for item in plan.replaced] == [("1", ("3.0",))]
    replace_convs(model, "involution", where="3.0")
    assert model[1] is model[3][0]
    assert isinstance(model[1], Involution2d)


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_deepcopy_export_and_compile(kind):
    torch.manual_seed(1)
    model = replace_convs(network(), kind, where=["1", "2"]).eval()
    for name, parameter in model.named_parameters():
        if "_offsets." in name:
            nn.init.normal_(parameter, std=0.1)
    x = torch.randn(2, 3, 9, 8)
    expected = model(x)
    other = replace_convs(network(), kind, where=["1", "2"]).eval()
    assert not torch.allclose(other(x), expected)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), expected)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    exported = torch.export.export(model, (x,)).module()
    assert_close(exported(x), expected, torch.float32)
    assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), expected, torch.float32)


# what is chosen ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (None, ["1", "2", "3"]),
        ("2", ["2"]),
        (["1", "3"], ["1", "3"]),
        ("[0-2]", ["0", "1", "2"]),
        (lambda name, conv: conv.stride == (2, 2), ["2"]),
        (lambda name, conv: conv.in_channels == 3, ["0"]),
    ],
)
def test_where(where, expected):
    model = network()
    plan = plan_replacements(model, "contextual", where)
    assert [item.name for item in plan.replaced] == expected
    assert names(model, "contextual") == [], "a plan does not touch the network"
    assert names(replace_convs(model, "contextual", where), "contextual") == expected


@pytest.mark.parametrize(
    "where", ["layer2", "layer2.*", "layer2.*.conv?", [2], 2, ["layer2.0", "layer2.1.conv[12]"]]
)
def test_where_means_modules_patterns_and_stages(where):
    plan = plan_replacements(timm.create_model("resnet18"), "cot", where)
    assert [item.name for item in plan.replaced] == [f"layer2.{b}.conv{c}" for b in (0, 1) for c in (1, 2)]


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("efficientnet_b0", {1: "blocks.1", 2: "blocks.2", 3: "blocks.3 blocks.4", 4: "blocks.5 blocks.6"}),
        ("convnext_atto", {1: "stages.0", 4: "stages.3"}),
        ("densenet121", {1: "features.denseblock1", 4: "features.denseblock4"}),
        ("hrnet_w18_small", {3: "transition2 stage3", 4: "transition3 stage4"}),
    ],
)
def test_stages_of_timm_s_networks(name, stages):
    with torch.device("meta"):
        model = timm.create_model(name)
    for stage, modules in stages.items():
        found = {item.name for item in plan_replacements(model, "contextual", stage).replaced}
        of_modules = plan_replacements(model, "contextual", modules.split()).replaced
        assert found == {item.name for item in of_modules}


def test_stages_do_not_depend_on_output_stride():
    model = timm.create_model("resnet18", output_stride=8)
    replaced = plan_replacements(model, "cot", [4]).replaced
    assert {item.name.split(".")[0] for item in replaced} == {"layer4"}
    replace_convs(model, "cot", [4])
    assert {module.dilation for module in model.modules() if isinstance(module, CoTLayer)} == {2, 4}


def test_a_part_of_a_network_has_no_stem():
    layer = timm.create_model("resnet18").layer1
    assert plan_replacements(layer, "cot").replaced[0].name == "0.conv1"


def test_layers_of_ours_are_left_alone():
    model = replace_convs(network(), "cot", where="1")
    assert [item.name for item in plan_replacements(model, "involution").replaced] == ["2", "3"]
    with pytest.raises(ValueError, match="stands inside a layer of ours"):
        replace_convs(model, "involution", where="1.key_embed.0")


def test_plan_reads_well():
    assert str(plan_replacements(network(), "cot")).splitlines() == [
        "cot: 2 convolutions replaced, 2 left",
        "  1: Conv2d(16, 16, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1)) -> CoTLayer",
        "  2: Conv2d(16, 32, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))"
        " -> AvgPool2d -> Conv2d -> CoTLayer",
        "  0: stays, it belongs to the stem; name it in where to replace it",
        "  3: stays, it is depthwise, and a CoT layer mixes channels; pass groups=1 to let it",
    ]
