"""RedNet: where it starts, and the kernel of its stem, which differs between tasks."""

import pytest
import timm
import torch

from ctxvision.checkpoints import warm_start
from ctxvision.models.rednet import fit_stem
from ctxvision.nn import Involution2d


def test_initialisation_is_the_authors():
    torch.manual_seed(0)
    model = timm.create_model("rednet_micro")
    spans = [m.span for m in model.modules() if isinstance(m, Involution2d)]
    assert len(spans) == 6
    assert not any(span.bias.any() for span in spans)
    assert 0.0098 < model.fc.weight.std() < 0.0102
    assert not model.fc.bias.any()
    model.reset_classifier(500)
    assert 0.0098 < model.fc.weight.std() < 0.0102


@pytest.mark.parametrize("loading", ["warm start", "pretrained"])
def test_a_classifier_s_stem_becomes_the_middle_of_a_larger_one(loading, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("rednet_micro", num_classes=4).eval()
    torch.nn.init.normal_(model.conv1[3].span.bias)
    if loading == "warm start":
        larger = timm.create_model("rednet_micro", num_classes=4, stem_kernel_size=7)
        assert not warm_start(larger, model).unused
    else:
        torch.save(model.state_dict(), tmp_path / "weights.pth")
        source = {"file": str(tmp_path / "weights.pth"), "num_classes": 4}
        larger = timm.create_model(
            "rednet_micro", num_classes=4, stem_kernel_size=7, pretrained=True, pretrained_cfg_overlay=source
        )
    assert larger.conv1[3].kernel_size == 7
    images = torch.randn(2, 3, 49, 64)
    with torch.no_grad():
        torch.testing.assert_close(larger.eval()(images), model(images))


def test_other_weights_stay_as_they_are():
    weights = timm.create_model("rednet_micro", num_classes=4).state_dict()
    same = fit_stem(weights, timm.create_model("rednet_micro"))
    assert all(same[name] is value for name, value in weights.items())
    foreign = timm.create_model("resnet18").state_dict()
    assert fit_stem(foreign, timm.create_model("resnet18")).keys() == foreign.keys()
