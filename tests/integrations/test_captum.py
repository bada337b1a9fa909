"""captum: attributions to pixels and to layers of our networks."""

import pytest
import torch

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", ["Saliency", "IntegratedGradients", "InputXGradient", "Occlusion"])
def test_attribution_to_pixels(build, method):
    import captum.attr

    options = {"n_steps": 2, "internal_batch_size": 2} if method == "IntegratedGradients" else {}
    if method == "Occlusion":
        options = {"sliding_window_shapes": (3, 32, 32), "strides": (3, 32, 32)}
    found = getattr(captum.attr, method)(build(num_classes=5)).attribute(IMAGES.clone(), target=1, **options)
    assert found.shape == IMAGES.shape
    assert found.isfinite().all()
    assert found.any()


@pytest.mark.parametrize("level", [-1, -2])
def test_grad_cam_of_a_stage(build, level):
    from captum.attr import LayerAttribution, LayerGradCam

    model = build(num_classes=5)
    entry = model.feature_info[level]
    cam = LayerGradCam(model, model.get_submodule(entry["module"])).attribute(IMAGES.clone(), target=1)
    side = 64 // entry["reduction"]
    assert cam.shape == (2, 1, side, side)
    assert cam.any()
    assert LayerAttribution.interpolate(cam, (64, 64)).shape == (2, 1, 64, 64)


def test_activation_of_a_stage_is_the_feature_level(build):
    from captum.attr import LayerActivation

    model = build(num_classes=5)
    module = model.get_submodule(model.feature_info[-1]["module"])
    with torch.inference_mode():
        found = LayerActivation(model, module).attribute(IMAGES)
        expected = model.forward_intermediates(IMAGES, indices=1, intermediates_only=True)[0]
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
