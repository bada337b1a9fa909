"""One filter for every resize: chosen for the data, kept in their description, used wherever the network is."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as T

from _pictures import make_folder, picture
from ctxvision.cli import main
from ctxvision.data import DataError, DataSpec, DigitsData, ImageData, SegmentationData, SegmentationSpec
from ctxvision.data.segmentation.augmentation import PixelAugmentation
from ctxvision.data.video.clips import ClipSpec, augment, view_crops
from ctxvision.inference import InferenceError
from ctxvision.inference.opening import predictor_of
from ctxvision.inference.segmentation import SegmentationPredictor
from ctxvision.tasks import ClassificationTask, SegmentationTask
from ctxvision.tasks.networks import usual_interpolation
from ctxvision.training import ClassificationOptions, OptionError

FILTERS = ("nearest", "bilinear", "bicubic")


@pytest.mark.parametrize("name", [*FILTERS, "lanczos"])
def test_images(name, tmp_path):
    root = make_folder(tmp_path, {"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 1})
    data = ImageData(root, image_size=40, interpolation=name, crop_pct=0.8)
    assert DataSpec.from_dict(data.spec.to_dict()).interpolation == name
    seen = data.eval_dataset()[0].image
    side = 50  # 40 / 0.8, of the shorter side of 24 × 20
    resized = picture("cat", 0).resize((side * 24 // 20, side), Image.Resampling[name.upper()])
    left, top = (resized.width - 40) // 2, (resized.height - 40) // 2
    expected = np.asarray(resized.crop((left, top, left + 40, top + 40)))
    assert torch.equal(data.spec.pixels(seen), torch.from_numpy(expected.copy()).permute(2, 0, 1))
    (crop,) = [
        t for t in data.spec.train_transform().transforms if type(t).__name__.startswith("RandomResizedCrop")
    ]
    assert crop.interpolation.value == name


def test_digits():
    found = [DigitsData(interpolation=name).eval_dataset()[0][0] for name in FILTERS]
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])
    spec = dataclasses.replace(DigitsData().spec, interpolation="random")
    with pytest.raises(DataError, match="no filter 'random'"):
        DigitsData(spec=spec).eval_dataset()


@pytest.mark.parametrize("name", FILTERS)
def test_clips(name):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    whole = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    expected = T.center_crop(T.resize(whole, [40, 60], InterpolationMode(name), antialias=True), [40, 40])
    assert torch.equal(view_crops(pixels, (40, 40), 1.0, 1, name)[0], expected)
    generator = torch.Generator().manual_seed(0)
    uncut = augment(pixels, (40, 40), generator, flip=False, crop=False, interpolation=name)
    assert torch.equal(uncut, expected)
    with pytest.raises(DataError, match="interpolation must be nearest, bilinear, bicubic here, got 'lanczos'"):
        ClipSpec(("a", "b"), (3, 8, 8), (0.5,) * 3, (0.5,) * 3, interpolation="lanczos")


@pytest.mark.parametrize("name", FILTERS)
def test_images_with_masks(name):
    data = SegmentationData("digits-scenes#train=1,val=1", interpolation=name)
    assert data.augmentation.interpolation == data.spec.interpolation == name
    image, mask = picture(size=(30, 20)), Image.new("L", (30, 20))
    whole = PixelAugmentation((40, 60), (2.0, 2.0), 1.0, flip=0.0, photometric=False, interpolation=name)
    pixels, _ = whole(image, mask)
    expected = T.resize_image(T.pil_to_tensor(image), [40, 60], InterpolationMode(name), antialias=True)
    assert torch.equal(pixels, expected)
    with pytest.raises(DataError, match="got 'box'"):
        SegmentationSpec(("a", "b"), (3, 8, 8), (0.5,) * 3, (0.5,) * 3, interpolation="box")


def test_the_network_chooses_where_the_user_does_not():
    assert [usual_interpolation(name) for name in ("rednet50", "cotnet50", "resnet18", "none such")] == [
        "bilinear", "bicubic", "bicubic", "bicubic"
    ]  # fmt: skip
    chosen = {
        (model, data): ClassificationOptions(model=model, data=data).completed(1).interpolation
        for model in ("rednet50", "cotnet50")
        for data in ("photos", "digits")
    }
    assert set(chosen.values()) == {"bilinear", "bicubic"}
    assert [key for key, value in chosen.items() if value == "bilinear"] == [("rednet50", "photos")]
    with pytest.raises(OptionError, match="--crop-pct must be more than 0"):
        ClassificationOptions(model="cotnet50", data="photos", crop_pct=0.0).completed(1)


@pytest.fixture(scope="module")
def trained():
    """A classifier of two classes as `ctxvision train` would leave it, resized by bilinear."""
    spec = DataSpec(("cat", "dog"), (3, 32, 32), (0.5,) * 3, (0.5,) * 3, interpolation="bilinear", crop_pct=1.0)
    return ClassificationTask("rednet_micro", spec.to_dict()).eval()


def test_a_predictor_resizes_as_it_was_trained_unless_it_is_told_otherwise(trained):
    predictor = predictor_of(trained, "cpu")
    usual = next(iter(predictor(picture()))).probabilities
    predictor.resize_by("nearest")
    other = next(iter(predictor(picture()))).probabilities
    predictor.resize_by("bilinear")
    again = next(iter(predictor(picture()))).probabilities
    assert not np.array_equal(usual, other)
    assert np.array_equal(usual, again)
    spec = {"class_names": ["a", "b"], "input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
    task = SegmentationTask("rednet_micro", spec, decoder_args={"pyramid_channels": 32, "channels": 32})
    with pytest.raises(InferenceError, match="in their own sizes; leave out the interpolation"):
        SegmentationPredictor(task.eval(), torch.device("cpu")).resize_by("bicubic")


def test_the_commands_take_it(monkeypatch, capsys):
    class Refusing:
        task = "classification"

        def resize_by(self, name):
            raise InferenceError(f"asked for {name}")

    monkeypatch.setattr("ctxvision.inference.open_predictor", lambda *args, **kwargs: Refusing())
    for words in (["predict", "x.ckpt", "a.png"], ["evaluate", "x.ckpt", "digits"]):
        assert main([*words, "--interpolation", "nearest"]) != 0
        assert "asked for nearest" in capsys.readouterr().err
