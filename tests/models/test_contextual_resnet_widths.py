import pytest
import timm
import torch

import ctxvision  # noqa: F401, registers the networks


def test_a_narrow_and_shallow_plain_design_equals_timm_s_resnet():
    widths, depths = (64, 24, 40, 56), (1, 2, 1, 1)
    peer = timm.create_model("resnet50", layers=depths, channels=widths, num_classes=7).eval()
    model = timm.create_model(
        "contextual_resnet50", depths=depths, planes=widths, stages=(), num_classes=7
    ).eval()  # fmt: skip
    model.load_state_dict(peer.state_dict())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(images), peer(images))


def test_widths_reach_every_stage():
    model = timm.create_model("contextual_resnet50", depths=(1, 1, 1, 1), planes=(8, 12, 20, 28), num_classes=7)
    assert [info["num_chs"] for info in model.feature_info] == [8, 32, 48, 80, 112]
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize("arguments", [{"planes": (8, 16, 32)}, {"planes": (8, 16, 32, 0)}, {"depths": (1, 1, 1)}])
def test_widths_and_depths_are_four(arguments):
    with pytest.raises(ValueError, match="four positive integers"):
        timm.create_model("contextual_resnet50", **arguments)
