"""Contextual CNN: equal to its plain counterpart at the start, and its designs."""

import pytest
import timm
import torch

from ctxvision.checkpoints import warm_start
from ctxvision.nn import ContextualConv2d, ContextualLoss

pytestmark = pytest.mark.slow


def plain_with_random_statistics(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name).double().eval()
    for key, value in model.state_dict().items():
        if "running_var" in key:
            value.uniform_(0.5, 1.5)
        elif "running_mean" in key or key.endswith("bn3.weight"):
            value.normal_(std=0.2)
        elif key.endswith("gamma"):
            value.normal_()
    return model


@pytest.mark.parametrize(
    ("name", "plain", "design"),
    [
        ("contextual_convnext_tiny", "convnext_tiny", {}),
        ("contextual_convnext_tiny", "convnext_tiny", {"modulation": True}),
        ("contextual_convnext_small", "convnext_small", {}),
        ("contextual_convnext_base", "convnext_base", {}),
        ("contextual_resnet50", "resnet50", {}),
        ("contextual_resnet50", "resnet50", {"modulation": True}),
    ],
)
def test_at_initialisation_features_equal_the_plain_networks(name, plain, design):
    reference = plain_with_random_statistics(plain)
    model = timm.create_model(name, **design).double().eval()
    warm_start(model, reference)
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        expected, actual = reference.forward_features(x), model.forward_features(x)
        assert (actual - expected).abs().max() <= 1e-12 * expected.abs().max()
        pooled = expected.mean((2, 3)) if "convnext" in name else reference.forward_head(expected, pre_logits=True)
        torch.testing.assert_close(model.forward_head(actual, pre_logits=True), pooled, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("contextual_convnext_tiny", {1: [], 2: [0], 3: [0, 3, 6], 4: [0]}),
        ("contextual_convnext_small", {1: [], 2: [0], 3: [0, 9, 18], 4: [0]}),
        ("contextual_convnext_base", {1: [], 2: [0], 3: [0, 9, 18], 4: [0]}),
        ("contextual_resnet50", {1: [], 2: [0, 2], 3: [0, 2, 4], 4: [0, 2]}),
    ],
)
def test_which_blocks_are_contextual(name, counts):
    model = timm.create_model(name, device="meta")
    assert {stage: contextual_blocks(model, stage) for stage in counts} == counts
    moved = timm.create_model(name, device="meta", contextual_blocks=(1, (1, 2), (2,), 2))
    assert [contextual_blocks(moved, stage) for stage in (2, 3, 4)] == [[1, 2], [2], [0, 1]]


def contextual_blocks(model: torch.nn.Module, stage: int) -> list[int]:
    blocks = model.stages[stage - 1]
    blocks = getattr(blocks, "blocks", blocks)
    return [i for i, block in enumerate(blocks) if any(isinstance(m, ContextualConv2d) for m in block.modules())]


@pytest.mark.parametrize(("name", "kinds"), [("contextual_convnext_micro", 0), ("contextual_resnet50", 1)])
def test_norms_in_projections_and_generators(name, kinds):
    depths = {"depths": (1, 1, 1, 1), "contextual_blocks": (1, 1, 1, 1)}
    for norm, batch in ((None, bool(kinds)), ("layer", False), ("batch", True)):
        model = timm.create_model(name, num_classes=9, **depths, **({"norm": norm} if norm else {}))
        norms = [m for n, m in model.named_modules() if n.endswith(("projection.1", "offsets.norm"))]
        assert len(norms) == 4 + 6
        assert {isinstance(m, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d) for m in norms} == {batch}
        assert not hasattr(model.head, "norm"), "none stands before the head's projection"
        model(torch.randn(2, 3, 32, 32)).sum().backward()
    with pytest.raises(ValueError, match="norm must be 'layer' or 'batch', got 'group'"):
        timm.create_model(name, norm="group")


def test_convnext_s_linears_and_embeddings_start_as_its_own():
    model = timm.create_model("contextual_convnext_tiny", num_classes=200)
    weights = [model.context.embedding.weight, model.context.steps["3"].projection[0].weight,
               model.stages[2].blocks[0].conv_dw.weight_offsets.fc1.weight]  # fmt: skip
    assert all(0.018 < weight.std() < 0.021 for weight in weights)
    assert not model.context.head.projection[0].bias.any()
    assert 0.018 < timm.create_model("contextual_resnet50").context.embedding.weight.std() < 0.021


def test_weights_of_the_older_design_load_into_the_network_that_they_were_made_with():
    old = {"contextual_blocks": ((1,), (1,), (1, 3), (1,)), "head_norm": True, "num_classes": 30}
    torch.manual_seed(0)
    before = timm.create_model("contextual_convnext_micro", **old).eval()
    for parameter in before.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for load in (
            lambda m: m.load_state_dict(before.state_dict()),
            lambda m: warm_start(m, before.state_dict()),
        ):
            model = timm.create_model("contextual_convnext_micro", num_classes=30).eval()
            load(model)
            torch.testing.assert_close(model(images), before(images))
        other = timm.create_model("contextual_convnext_micro", num_classes=30, contextual_blocks=(1, 1, 1, 1))
        with pytest.raises(
            RuntimeError, match=r"stages.2 blocks.1.conv_dw, blocks.3.conv_dw, here blocks.0.conv_dw;"
        ):
            other.load_state_dict(before.state_dict())
    tiny = {"depths": (1, 1, 1, 1), "planes": (8, 8, 8, 8)}
    weights = timm.create_model("contextual_resnet50", norm="layer", **tiny).state_dict()
    with pytest.raises(RuntimeError, match='norm="layer", this one has "batch"; contextual_resnet50 has become'):
        timm.create_model("contextual_resnet50", **tiny).load_state_dict(weights)


DESIGNS = [
    {}, {"stages": ()}, {"stages": (4,)}, {"stages": (1, 2, 3, 4)}, {"prior": False}, {"modulation": True},
    {"selection": "rerank"}, {"weight_offsets": False}, {"sampling_offsets": False},
    {"weight_offsets": False, "sampling_offsets": False}, {"dim": 32},
]  # fmt: skip


@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_every_design_trains_and_evaluates(design):
    torch.manual_seed(0)
    model = timm.create_model("contextual_convnext_micro", num_classes=12, **design)
    x, target = torch.randn(4, 3, 32, 32), torch.arange(4)
    output = model.forward_stages(x)
    ContextualLoss()(output, target).backward()
    assert torch.equal(output.classes[0], torch.arange(12).expand(4, -1))
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(x), model.forward_stages(x).logits)
    expected = (
        1
        if design.get("stages") == () or not design.get("prior", True)
        else len(design.get("stages", (2, 3, 4))) + 1
    )
    assert len(output.scores) == expected


def test_context_as_an_extra_input_reaches_the_features():
    torch.manual_seed(0)
    model = timm.create_model("contextual_resnet50", extra_input=True, num_classes=20).eval()
    assert not any(isinstance(m, ContextualConv2d) for m in model.modules())
    for block in (model.layer2[0], model.layer3[0], model.layer4[0]):
        block.bn3.weight.data.fill_(1)
    x = torch.randn(1, 3, 64, 64)
    before = model.forward_features(x)
    model.context.embedding.weight.data.normal_()
    assert not torch.allclose(before, model.forward_features(x))


def test_a_network_without_classifier_keeps_its_context():
    torch.manual_seed(0)
    model = timm.create_model("contextual_convnext_micro", num_classes=25).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = model.forward_features(x)
        model.reset_classifier(0)
        assert torch.equal(model.forward_features(x), before)
        assert model(x).shape == (2, 256)
    with pytest.raises(ValueError, match="needs a classifier"):
        model.forward_stages(x)
    assert timm.create_model("contextual_convnext_micro", num_classes=0).context.num_classes == 1000


def test_features_that_lost_their_class_sets_are_scored_over_all_classes():
    torch.manual_seed(0)
    model = timm.create_model("contextual_convnext_micro", num_classes=25).eval()
    with torch.no_grad():
        features = model.forward_features(torch.randn(2, 3, 64, 64))
        with pytest.warns(UserWarning, match="no class sets are known"):
            logits = model.forward_head(features.clone())
    assert (logits.amax(1) - logits.amin(1) <= 2 / 0.07).all(), "no class is dropped"


@pytest.mark.parametrize(
    ("design", "message"),
    [
        ({"stages": (0, 2)}, "stages must be increasing numbers from 1 to 4"),
        ({"stages": (3, 2)}, "stages must be increasing"),
        ({"selection": "best"}, "'reduce' or 'rerank', got 'best'"),
        ({"extra_input": True}, "contextual_resnet50"),
        ({"extra_input": True, "prior": False}, "needs prior=True"),
        ({"global_pool": "catavgmax"}, "keep the number of channels"),
        ({"class_ratios": (0.5, 0.2)}, "four shares"),
        ({"class_ratios": (0.05, 0.2, 0.5, 1.0)}, "never grow"),
        ({"class_ratios": (1.0, 0.5, 0.2, 0.0)}, "four shares"),
        ({"contextual_blocks": (1, 1, 9, 1)}, "contextual_blocks must lie between 1 and depths"),
        ({"depths": (1, 1)}, "four numbers"),
        ({"hidden": 0}, "hidden must be an integer >= 1"),
    ],
)
def test_contradicting_designs_are_refused(design, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model("contextual_convnext_micro", **design)


def test_unknown_arguments_are_named_with_those_there_are():
    with pytest.raises(TypeError, match=r"no argument 'patch_size'; .*selection"):
        timm.create_model("contextual_convnext_micro", patch_size=16)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_stages_that_do_not_stride_dilate_as_timm_s_convnext(output_stride):
    depths, dims = (1, 1, 2, 1), (8, 16, 24, 32)
    few = {"depths": depths, "dims": dims, "output_stride": output_stride}
    ours = timm.create_model("contextual_convnext_micro", stages=(), contextual_blocks=(1, 1, 1, 1), **few).eval()
    theirs = timm.create_model("convnext_atto", conv_mlp=False, use_grn=False, **few).eval()
    weights = {name: torch.randn_like(value) * 0.2 for name, value in ours.state_dict().items()}
    ours.load_state_dict(weights)
    assert set(theirs.load_state_dict(weights, strict=False).missing_keys) <= {
        "head.norm.weight", "head.norm.bias", "head.fc.weight", "head.fc.bias",
    }  # fmt: skip
    images = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(
        ours.forward_features(images), theirs.forward_features(images), rtol=1e-4, atol=1e-4
    )
    reductions = [[level["reduction"] for level in network.feature_info] for network in (ours, theirs)]
    assert reductions[0] == reductions[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"plain": "bogus"}, "'conv' or 'se', got 'bogus'"),
        ({"downsample": "bogus"}, "'pool' or 'blur', got 'bogus'"),
        ({"cot_stages": (5,)}, "numbers from 1 to 4"),
        ({"alternate_stage": 9}, "numbers from 1 to 4"),
        ({"depths": (1, 1)}, "four positive integers"),
        ({"context": "both"}, "got 'both'"),
    ],
)
def test_a_misspelled_ablation_of_cotnet_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model("cotnet_micro", **arguments)


def test_saved_features_load_as_plain_tensors(tmp_path):
    model = timm.create_model("contextual_convnext_micro", num_classes=25).eval()
    with torch.no_grad():
        features = model.forward_features(torch.randn(2, 3, 64, 64))
    torch.save(features, tmp_path / "features.pt")
    assert torch.equal(torch.load(tmp_path / "features.pt", weights_only=True), features)


def test_a_pruned_extractor_says_that_it_takes_no_classifier():
    extractor = timm.create_model("contextual_convnext_micro", features_only=True)
    with pytest.raises(ValueError, match="pruned to a feature extractor"):
        extractor.model.reset_classifier(10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_order_of_a_thousand_classes(dtype):
    torch.manual_seed(0)
    model = timm.create_model("contextual_convnext_micro").eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", dtype):
        output = model.forward_stages(x)
    assert output.logits.dtype == torch.float32
    assert min(len(row.unique()) for row in output.logits) > 990
    kept = torch.zeros_like(output.logits, dtype=torch.bool).scatter(1, output.classes[-1], True)
    assert (output.logits[kept].reshape(2, -1).amin(1) > output.logits[~kept].reshape(2, -1).amax(1)).all()
