"""transformers 5 opens what `ctxvision publish` writes, and takes our networks as backbones."""

import numpy as np
import pytest
import timm
import torch
from _publishing import SPEC, task_of
from PIL import Image

import ctxvision.models  # noqa: F401
from ctxvision.publish import publish

PUBLISHED = ("cotnet_micro", "rednet_micro", "contextual_convnext_micro", "contextual_resnet50")


@pytest.fixture(params=PUBLISHED)
def folder(request, made_once):
    return (
        made_once(f"published-{request.param}", lambda root: publish(task_of(request.param), root / "net")) / "net"
    )


@pytest.fixture
def own(folder):
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def close(found, expected):
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_classifier_has_our_logits_and_labels(folder, own):
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        assert close(model(IMAGES).logits, own(IMAGES))
    assert list(model.config.id2label.values()) == SPEC["class_names"]


def test_features_without_the_head(folder, own):
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        found = model(IMAGES, output_hidden_states=True)
        assert close(found.last_hidden_state, own.forward_features(IMAGES))
        for ours, theirs in zip(own.forward_intermediates(IMAGES)[1], found.hidden_states, strict=True):
            assert close(theirs, ours)


def test_pipeline_classifies_a_picture_as_timm_does(folder, own, tmp_path):
    from transformers import pipeline

    pixels = np.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    answers = pipeline("image-classification", model=str(folder), top_k=6)(str(tmp_path / "image.png"))
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(own), is_training=False)
    with torch.inference_mode():
        expected = own(prepare(Image.fromarray(pixels))[None]).float().softmax(1)[0]
    found = {answer["label"]: answer["score"] for answer in answers}
    assert found == pytest.approx(dict(zip(SPEC["class_names"], expected.tolist(), strict=True)), abs=1e-5)


def test_image_processor_prepares_as_timm_does(folder, own):
    from transformers import AutoImageProcessor

    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype=np.uint8))
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(own), is_training=False)
    found = AutoImageProcessor.from_pretrained(folder)(image)["pixel_values"]
    assert close(torch.as_tensor(found), prepare(image)[None])


def test_saved_again_both_open_it(folder, own, tmp_path):
    from transformers import AutoModelForImageClassification

    AutoModelForImageClassification.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "saved").eval()
    theirs = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    with torch.inference_mode():
        assert close(again(IMAGES).logits, own(IMAGES))
        assert torch.equal(theirs(IMAGES), own(IMAGES))


def test_fine_tuning_with_another_number_of_classes(folder):
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(folder, num_labels=7, ignore_mismatched_sizes=True)
    model.train().gradient_checkpointing_enable()
    result = model(IMAGES, labels=torch.tensor([0, 6]))
    result.loss.backward()
    assert result.logits.shape == (2, 7)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("options", [{"dtype": torch.bfloat16}, {"device_map": "cpu"}], ids=str)
def test_ways_of_loading(folder, own, options):
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(folder, **options).eval()
    with torch.inference_mode():
        found = model(IMAGES).logits.float()
    assert found.isfinite().all()
    if "dtype" not in options:
        with torch.inference_mode():
            assert close(found, own(IMAGES))


@pytest.mark.parametrize("indices", [(1, 2, 3, 4), (-1,), (2, 4)], ids=str)
@pytest.mark.parametrize("backbone", ["cotnet_micro", "rednet_micro"])
def test_backbone_has_resnet_s_levels(backbone, indices):
    from transformers import AutoBackbone, TimmBackboneConfig

    model = AutoBackbone.from_config(TimmBackboneConfig(backbone=backbone, out_indices=list(indices))).eval()
    maps = model(IMAGES).feature_maps
    strides = {0: 2, 1: 4, 2: 8, 3: 16, 4: 32, -1: 32}
    assert [64 // features.shape[-1] for features in maps] == [strides[index] for index in indices]
    assert [features.shape[1] for features in maps] == model.channels


@pytest.mark.parametrize("backbone", ["contextual_convnext_micro", "cotnet_micro", "rednet_micro", "test_resnet"])
def test_backbone_with_the_weights_of_a_folder(backbone, tmp_path):
    from transformers import TimmBackbone

    publish(task_of(backbone), tmp_path / "net")
    model = TimmBackbone.from_pretrained(f"local-dir:{tmp_path / 'net'}").eval()
    own = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True, features_only=True).eval()
    found = model._backbone.state_dict()
    different = {key for key, value in own.state_dict().items() if not torch.equal(value, found[key])}
    # transformers 5.24 starts BatchNorm's averages anew after timm has loaded them, of timm's own ResNets too
    assert all(key.endswith((".running_mean", ".running_var", ".num_batches_tracked")) for key in different)
    model._backbone.load_state_dict(own.state_dict())  # what the page advises
    with torch.inference_mode():
        assert torch.equal(model(IMAGES).feature_maps[-1], own(IMAGES)[-1])


@pytest.mark.parametrize(
    ("backbone", "indices"),
    [("cotnet_micro", [2, 3, 4]), ("rednet_micro", [2, 3, 4]), ("contextual_convnext_micro", [1, 2, 3])],
)
def test_detr_takes_a_training_step(backbone, indices):
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, TimmBackboneConfig

    small = {
        "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 5, "num_feature_levels": 3,
    }  # fmt: skip
    config = TimmBackboneConfig(backbone=backbone, out_indices=indices)
    model = DeformableDetrForObjectDetection(DeformableDetrConfig(backbone_config=config, **small)).train()
    logits = model(IMAGES).logits
    logits.square().mean().backward()
    assert logits.shape[:2] == (2, 5)
    assert any(p.grad is not None and p.grad.any() for key, p in model.named_parameters() if "backbone" in key)
