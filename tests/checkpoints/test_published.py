"""The published networks' reference logits, through the published names."""

import pytest
import timm
import torch

import ctxvision.models  # noqa: F401 - registers the networks
from _oracle import LOGIT_TOLERANCE
from _published import (
    NAMES,
    our_name,
    published_keys,
    published_logits,
    published_state_dict,
    reference_input,
)
from _published_forms import in_published_form
from ctxvision.checkpoints import CheckpointError, from_published
from ctxvision.checkpoints.published import parts_on_backbone


@pytest.mark.parametrize("published_name", NAMES)
def test_reference_logits(published_name):
    """In the published order of operations to 1e-9, and as users run the network to the table's tolerance."""
    name = our_name(published_name)
    model = timm.create_model(name).double().eval()
    model.load_state_dict(from_published(published_state_dict(published_name), name), strict=True)
    published, image = in_published_form(model), reference_input(2, 3, 96, 96)
    with torch.no_grad():
        logits, published_logits_of_ours = model(image), published(image)
    expected = published_logits(published_name)
    scale = expected.abs().max().item()
    error = (published_logits_of_ours - expected).abs().max().item()
    tolerance = 1e-9 * scale
    if error > tolerance and published_name == "cotnet101":
        # These weights make its 33 blocks amplify one rounding to about 1e-9 of the logits: another processor's
        # matrix product is as far away as another order of summation. What the network makes of a change of its
        # input in the last bit bounds what any implementation can reach.
        tolerance = 2 * response_to_rounding(published, published_logits_of_ours)
        assert tolerance <= 1e-8 * scale
    assert error <= tolerance  # a NaN fails too
    assert (logits - expected).abs().max().item() <= LOGIT_TOLERANCE[published_name] * scale


def response_to_rounding(model, logits):
    """Largest change of the logits in four runs with the input's last bits changed at random."""
    image, changes = reference_input(2, 3, 96, 96), []
    for seed in range(4):
        up = torch.rand(image.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
        with torch.no_grad():
            changed = model(torch.where(up, torch.nextafter(image, image + 1), image))
        changes.append((changed - logits).abs().max().item())
    return max(changes)


def names_only(published_name):
    return dict.fromkeys(published_keys(published_name), torch.zeros(()))


def test_our_names_come_back_as_they_are():
    renamed = from_published(names_only("rednet38"), "rednet38")
    assert list(from_published(renamed, "rednet38")) == list(renamed)
    assert list(from_published(names_only("cotnet50"), "cotnet50")) == list(published_keys("cotnet50"))


def test_rename_keeps_every_tensor_and_its_order():
    published = {name: torch.tensor(n) for n, name in enumerate(published_keys("rednet50"))}
    renamed = from_published(published, "rednet50")
    assert [int(value) for value in renamed.values()] == list(range(len(published)))


def test_blur_pool_filters_are_dropped():
    published = names_only("se_cotnetd_50")
    renamed = from_published({**published, "layer2.0.conv2.1.filt": torch.ones(1, 1, 3, 3)}, "se_cotnetd50")
    assert list(renamed) == list(published)


def test_backbone_of_a_detector_or_a_segmentation_network():
    backbone = {name: value for name, value in names_only("rednet50").items() if not name.startswith("head.")}
    parts = dict.fromkeys(["neck.a", "decode_head.b", "decode_head.c"], torch.ones(1))
    assert list(from_published(backbone | parts, "rednet50")) == list(from_published(backbone, "rednet50"))
    assert parts_on_backbone(backbone | parts) == {"neck": 1, "decode_head": 2}
    assert parts_on_backbone(names_only("rednet50")) == parts_on_backbone(parts) == {}
    with pytest.raises(CheckpointError, match=r"segmentation checkpoint: 1 more tensors \(teacher\.a\)"):
        from_published({**backbone, "teacher.a": torch.ones(1)}, "rednet50")


def test_classifier_with_parts_of_a_detector():
    with pytest.raises(CheckpointError, match=r"2 more tensors \(neck\.a, neck\.b\)"):
        from_published(
            {**names_only("rednet50"), **dict.fromkeys(["neck.a", "neck.b"], torch.ones(1))}, "rednet50"
        )


def test_nothing_was_published_for_contextual_networks():
    with pytest.raises(CheckpointError, match="warm_start"):
        from_published({}, "contextual_resnet50")
