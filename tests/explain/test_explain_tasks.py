"""``ctxvision explain`` for detectors, segmentation and video: the page, the numbers, and what there is not."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from _checkpoints import enliven
from _page import Page
from ctxvision.cli import main
from ctxvision.data import DetectionData, SegmentationSpec, read_image
from ctxvision.data.video.writing import write_video
from ctxvision.explain import box_cams, pixel_cams
from ctxvision.inference import predictor_of
from ctxvision.tasks import load_task
from ctxvision.tasks.detection import DetectionTask
from ctxvision.tasks.segmentation import SegmentationTask
from ctxvision.tasks.video import VideoTask

pytestmark = pytest.mark.slow

HOSTILE = '<script>alert("1")'
SIZES = {"width": 16, "hidden": 16, "norm": "batch", "test_proposals": 20, "min_size": 64, "max_size": 96}
DETECTOR = {**SIZES, "anchor_sizes": (12, 20, 32, 48, 80), "score_threshold": 0.0, "detections": 6}


def save(task, path):
    """Write what ``ctxvision train`` would leave."""
    values = {name: list(v) if isinstance(v, tuple) else v for name, v in task.hparams.items()}
    mark = {"ctxvision": {"task": task.kind}, "hyper_parameters": values, "state_dict": task.state_dict()}
    torch.save(mark, path)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Checkpoints without training, two images, a file that is none, and a clip."""
    root = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    spec = DetectionData("digits-scenes#train=1,val=1,size=64").spec.to_dict()
    spec["class_names"][4] = HOSTILE
    for name, model in (("det", "contextual_convnext_micro"), ("det2", "rednet_micro")):
        save(DetectionTask(model, spec, detector="mask_rcnn", **DETECTOR), root / f"{name}.ckpt")
    colors = [[0, 0, 0], [255, 0, 0], [0, 255, 0]]
    classes = {"class_names": ["sky", "tree", HOSTILE], "input_size": [3, 64, 64], "colors": colors}
    pixels = SegmentationSpec.from_dict({**classes, "mean": [0.5] * 3, "std": [0.25] * 3}).to_dict()
    narrow = {"pyramid_channels": 16, "channels": 16}
    for name, model in (("seg", "cotnet_micro"), ("seg2", "contextual_convnext_micro")):
        save(SegmentationTask(model, pixels, decoder_args=narrow), root / f"{name}.ckpt")
    clip = {
        "class_names": ["up", HOSTILE],
        "input_size": [3, 32, 32],
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "frames": 3,
    }
    torch.manual_seed(4)  # networks for which another frame than the first says most
    for name, model in (("vid", "cotnet_micro"), ("vid2", "contextual_convnext_micro"), ("vid3", "rednet_micro")):
        save(enliven(VideoTask(model, clip)), root / f"{name}.ckpt")
    torch.manual_seed(1)
    save(enliven(VideoTask("contextual_convnext_micro", clip)), root / "vid2.ckpt")
    noise = np.random.default_rng(0)
    (root / "in").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(noise.integers(0, 255, (64, 80, 3), dtype=np.uint8)).save(root / "in" / name)
    (root / "in" / "bad.png").write_bytes(b"hello")
    write_video(root / "clip.mp4", noise.integers(0, 255, (8, 32, 32, 3), dtype=np.uint8))
    return root


def explain(*words):
    return main(["explain", *map(str, words)])


def read(out):
    numbers = json.loads((out / "explain.json").read_text())
    text = (out / "explain.html").read_text()
    page = Page(text)
    assert not re.search(r"https?:|@import|\bon\w+=[\"']|#0101", text)
    assert "<script" not in text
    labels = [svg["aria-label"] for svg in page.named("svg") if svg.get("role") == "img"]
    assert labels == [figure["alt"] for figure in numbers["figures"]]
    assert {figure["file"] for figure in numbers["figures"]} == {
        f"figures/{p.name}" for p in out.glob("figures/*")
    }
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in page.named("img"))
    return numbers, page.text


def test_a_detector_s_boxes(made, tmp_path, capsys):
    out = tmp_path / "out"
    against = ["--against", made / "det2.ckpt", "--threshold", 0.0]
    assert explain(made / "det.ckpt", made / "in", "--out", out, *against) == 0
    assert capsys.readouterr().out.strip() == str(out / "explain.html")
    numbers, text = read(out)
    assert (numbers["task"], numbers["has_funnel"]) == ("detection", False)
    assert "There is no class funnel here" in text
    assert [(b["path"], b["reason"]) for b in numbers["bad_images"]] == [
        (str(made / "in/bad.png"), "not an image")
    ]
    task = load_task(made / "det.ckpt")
    for entry in numbers["images"]:
        image = torch.from_numpy(np.array(read_image(entry["file"], "RGB"))).permute(2, 0, 1) / 255
        with torch.no_grad():
            (found,) = task([image])
        assert [o["score"] for o in entry["objects"]] == pytest.approx(found["scores"].tolist(), rel=1e-4)
        cams = box_cams(task.model, image, found["boxes"][:3], found["labels"][:3])
        for thing, cam in zip(entry["objects"], cams, strict=False):
            assert thing["class"] == task.data_spec["class_names"][cam.label - 1]
            assert thing["grad_cam"]["layer"] == cam.cam.layer.name
            np.testing.assert_allclose(
                thing["grad_cam"]["map"], cam.cam.raw, rtol=1e-2, atol=1e-3 * np.abs(cam.cam.raw).max()
            )
        assert "grad_cam" not in entry["objects"][3]
        assert "boxes the 3 with the highest scores are explained" in entry["notes"][0]
        assert all(bend["layer"].startswith("network.backbone.features.body.") for bend in entry["bends"])
        assert all(bend["grid_exact"] for bend in entry["bends"])
        assert len(entry["against"]["same_boxes"]) == 3


def test_nothing_found_is_said(made, tmp_path):
    out = tmp_path / "out"
    assert explain(made / "det.ckpt", made / "in/a.png", "--out", out, "--threshold", 1, "--class", "3") == 0
    numbers, text = read(out)
    assert "No box of class 3 has a score of 100% or more" in text
    assert numbers["images"][0]["objects"] == []
    assert numbers["images"][0]["figures"] == []
    assert "No tap moves" in text  # of a network without training


def test_only_one_class_of_boxes(made, tmp_path):
    task = load_task(made / "det2.ckpt")
    image = torch.from_numpy(np.array(Image.open(made / "in/a.png"))).permute(2, 0, 1) / 255
    with torch.no_grad():
        (found,) = task([image])
    name = task.data_spec["class_names"][int(found["labels"][0]) - 1]
    out, layer = tmp_path / "out", "network.backbone.features.body.layer3"
    words = ["--out", out, "--threshold", 0, "--class", name, "--layer", layer]
    assert explain(made / "det2.ckpt", made / "in/a.png", *words) == 0
    numbers, text = read(out)
    assert {thing["class"] for thing in numbers["images"][0]["objects"]} == {name}
    assert numbers["images"][0]["objects"][0]["grad_cam"]["layer"] == layer
    assert "kernels" in numbers["images"][0]
    assert "class funnel" not in text  # nobody looks for it in RedNet


def test_the_pixels_of_segmentation(made, tmp_path):
    out = tmp_path / "out"
    words = ["--out", out, "--against", made / "seg2.ckpt"]
    assert explain(made / "seg.ckpt", made / "in/a.png", *words) == 0
    numbers, _ = read(out)
    task = load_task(made / "seg.ckpt")
    image = SegmentationSpec.from_dict(task.data_spec).eval_transform()(read_image(made / "in/a.png", "RGB"))
    (entry,) = numbers["images"]
    cams = pixel_cams(task.model, image)
    assert [row["class"] for row in entry["classes"]] == [
        task.data_spec["class_names"][c.cam.target] for c in cams
    ]
    assert sum(row["share"] for row in entry["classes"]) == pytest.approx(1)
    for row, cam in zip(entry["grad_cam"], cams, strict=True):
        assert row["pixels"] == cam.mask.sum()
        np.testing.assert_allclose(
            row["map"], cam.cam.raw, rtol=1e-2, atol=1e-3 * np.abs(cam.cam.raw).max() + 1e-9
        )
    assert {layer["layer"].split(".")[0] for layer in entry["kernels"]} == {"backbone"}
    assert entry["against"]["grad_cam"] or "takes no pixel" in entry["notes"][-1]


def test_a_class_without_pixels_is_said(made, tmp_path):
    task = load_task(made / "seg.ckpt")
    with torch.no_grad():
        task.model.decoder.get_submodule(_classifier(task)).bias[1] = -100.0
    save(task, tmp_path / "never.ckpt")
    assert explain(tmp_path / "never.ckpt", made / "in/a.png", "--out", tmp_path / "out", "--class", "tree") == 0
    numbers, text = read(tmp_path / "out")
    assert "cotnet_micro takes no pixel for tree, so there is nothing to explain." in text
    assert numbers["images"][0]["grad_cam"] == []


def _classifier(task):
    return [name for name, m in task.model.decoder.named_modules() if isinstance(m, torch.nn.Conv2d)][-1]


def test_the_frames_of_a_clip(made, tmp_path):
    out = tmp_path / "out"
    assert explain(made / "vid.ckpt", made / "clip.mp4", "--out", out, "--class", HOSTILE) == 0
    numbers, text = read(out)
    (entry,) = numbers["images"]
    assert entry["grad_cam"]["class"] == HOSTILE
    assert len(entry["grad_cam"]["maps"]) == len(entry["grad_cam"]["frames"]) == 3
    assert HOSTILE in text


@pytest.mark.parametrize(("name", "part"), [("vid2", "sampling_offsets"), ("vid3", "span")])
def test_layers_are_shown_in_the_frame_that_says_most(made, tmp_path, name, part):
    assert explain(made / f"{name}.ckpt", made / "clip.mp4", "--out", tmp_path / "out") == 0
    numbers, _ = read(tmp_path / "out")
    (entry,) = numbers["images"]
    frames, maps = entry["grad_cam"]["frames"], entry["grad_cam"]["maps"]
    place = int(np.argmax([np.max(values) for values in maps]))
    assert place  # by these weights not the first, which would hide a mistake
    assert entry["layers_of_frame"] == frames[place]
    assert any(figure["title"].endswith(f", frame {frames[place]}") for figure in numbers["figures"])
    # the same, watched while the task classifies the whole clip
    task, seen = load_task(made / f"{name}.ckpt"), {}
    (said,) = predictor_of(task)(made / "clip.mp4", workers=0)
    clip = torch.from_numpy(said.pixels).permute(0, 3, 1, 2) / 255
    for layer, module in task.model.named_modules():
        if hasattr(module, part):
            getattr(module, part).register_forward_hook(
                lambda _module, _inputs, output, layer=layer: seen.setdefault(layer, output)
            )
    with torch.no_grad():
        task.classify((clip[None] - 0.5) / 0.25)
    for row in entry["bends" if name == "vid2" else "kernels"]:
        if name == "vid2":
            shift = seen.pop(row["layer"])[0][place].unflatten(0, (-1, 2))
            expected = shift.norm(dim=1).mean() * 32 / shift.shape[-1]
            assert row["mean_distance_pixels"] == pytest.approx(float(expected), rel=1e-3)
        else:
            kernels = seen.pop(row["layer"])[place].unflatten(0, (row["groups"], -1))
            assert row["mean_sum_by_group"] == pytest.approx(
                kernels.sum(1).mean((1, 2)).tolist(), rel=1e-3, abs=1e-5
            )
    assert not seen


@pytest.mark.parametrize(
    ("checkpoint", "options", "code", "reason"),
    [
        ("det", "--class zebra", 2, "--class: no class 'zebra'; the network's classes are 0, 1"),
        ("det", "--threshold 2", 2, "--threshold: must be a number from 0 to 1, got '2'"),
        ("det", "--truth 3", 2, "--truth is for classification"),
        ("det", "--data digits", 2, "--data is for classification"),
        ("det", "--against seg.ckpt", 1, "seg.ckpt: its task is segmentation, not detection"),
        ("det", "--layer layer9 --threshold 0", 1, "no layer 'layer9' that returns a map"),
        ("seg", "--threshold 0.5", 2, "--threshold is for detectors"),
        ("seg", "--layer layer9", 1, "no layer 'layer9' that returns a map"),
    ],
)
def test_mistakes_are_explained_in_one_line(
    made, tmp_path, monkeypatch, capsys, checkpoint, options, code, reason
):
    monkeypatch.chdir(made)
    out = tmp_path / "out"
    assert explain(f"{checkpoint}.ckpt", "in/a.png", "--out", out, *options.split()) == code
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_broken_weights_are_said(made, tmp_path, capsys):
    task = load_task(made / "seg.ckpt")
    for parameter in task.model.parameters():
        parameter.data.fill_(3e38)  # a number, but what is computed with it overflows
    save(task, tmp_path / "nan.ckpt")
    assert explain(tmp_path / "nan.ckpt", made / "in/a.png", "--out", tmp_path / "out") == 1
    assert "NaN or infinite; its weights are broken" in capsys.readouterr().err
    assert explain(made / "seg.ckpt", made / "in/bad.png", "--out", tmp_path / "out") == 1
    assert "no image could be read, so nothing was written" in capsys.readouterr().err
