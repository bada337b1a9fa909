"""Every command that reads a trained network, over every detector, decoder, kind of video and of classifier."""

import json
import os
from html.parser import HTMLParser

import jinja2
import numpy as np
import pytest
import torch
from PIL import Image

from _checkpoints import enliven, write_task
from ctxvision.cli import main
from ctxvision.data import DetectionData, DigitsData, SegmentationData, VideoData
from ctxvision.tasks import ClassificationTask
from ctxvision.tasks.detection import DetectionTask
from ctxvision.tasks.segmentation import SegmentationTask
from ctxvision.tasks.video import VideoTask

pytestmark = pytest.mark.slow

SCENES, CLIPS = "digits-scenes#train=1,val=2,size=64", "moving-digits#train=8,val=8"
DETECTOR = {
    "width": 16, "hidden": 32, "min_size": 64, "max_size": 64, "anchor_sizes": [8, 16, 32, 64, 96],
    "test_proposals": 20, "detections": 10, "score_threshold": 0.0,
}  # fmt: skip
PYRAMID = {"channels": 16, "pyramid_channels": 16}
NETWORKS = {
    "faster_rcnn": ("detect", "test_resnet", {"detector": "faster_rcnn"}),
    "retinanet": ("detect", "rednet_micro", {"detector": "retinanet", "extra_levels_from": "pyramid"}),
    "cascade_rcnn": ("detect", "cotnet_micro", {"detector": "cascade_rcnn", "box_head": "4conv1fc"}),
    "mask_rcnn": ("detect", "test_resnet", {"detector": "mask_rcnn", "neck": "involution", "head": "involution"}),
    "cascade_mask_rcnn": ("detect", "contextual_convnext_micro", {"detector": "cascade_mask_rcnn"}),
    "semantic_fpn": ("segment", "cotnet_micro", {"decoder_args": PYRAMID}),
    "fpn_involution": ("segment", "rednet_micro", {"decoder_args": PYRAMID | {"neck": "involution"}}),
    "fpn_windows": ("segment", "test_resnet", {"decoder_args": PYRAMID, "auxiliary": True, "window": [32, 32]}),
    "upernet": ("segment", "contextual_convnext_micro", {"decoder": "upernet", "decoder_args": {"channels": 16}}),
    "both": ("video", "test_resnet", {"shift": "both"}),
    "past": ("video", "contextual_convnext_micro", {"shift": "past"}),
    "none": ("video", "cotnet_micro", {"shift": "none"}),
    "reduce": ("classify", "contextual_convnext_micro", {}),
    "rerank": ("classify", "contextual_convnext_micro", {"model_args": {"selection": "rerank"}}),
    "no_prior": ("classify", "contextual_convnext_micro", {"model_args": {"prior": False}}),
    "plain": ("classify", "cotnet_micro", {}),
}
DATA = {"detect": SCENES, "segment": SCENES, "video": CLIPS, "classify": "digits"}


def build(kind, model, options):
    if kind == "detect":
        masks = "mask" in options["detector"]
        return DetectionTask(model, DetectionData(SCENES, masks=masks).spec.to_dict(), **DETECTOR, **options)
    if kind == "segment":
        return SegmentationTask(model, SegmentationData(SCENES).spec.to_dict(), **options)
    if kind == "video":
        return VideoTask(model, VideoData(CLIPS, frames=4, image_size=32).spec.to_dict(), **options)
    return ClassificationTask(model, DigitsData(image_size=32).spec.to_dict(), **options)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a folder of pictures and one of videos."""
    from ctxvision.data.video.writing import write_video

    pictures, videos = tmp_path_factory.mktemp("pictures"), tmp_path_factory.mktemp("videos")
    noise = np.random.default_rng(0)
    Image.fromarray(noise.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(pictures / "a.png")
    write_video(videos / "a.mp4", noise.integers(0, 255, (6, 32, 32, 3), dtype=np.uint8))
    return pictures, videos


@pytest.fixture(scope="module", params=NETWORKS)
def network(request, tmp_path_factory):
    """Return the kind of a task and a checkpoint outside any run folder."""
    kind, model, options = NETWORKS[request.param]
    torch.manual_seed(0)
    task = enliven(build(kind, model, options))
    return kind, str(write_task(task, tmp_path_factory.mktemp(request.param) / "lone.ckpt"))


class Page(HTMLParser):
    """What is no element of a whole page, or stands for nothing."""

    def __init__(self, path):
        super().__init__()
        self.open, text = [], path.read_text()
        self.feed(text)
        assert text.startswith("<!doctype html>")
        assert not self.open
        assert ">None<" not in text
        assert "nan" not in text.split("</style>")[1].split()

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img", "br", "wbr", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_evaluate_and_report(network, tmp_path, capsys):
    kind, checkpoint = network
    words = [f"--json={tmp_path / 'e.json'}", f"--html={tmp_path / 'e.html'}", "--device=cpu", "--worst=1"]
    if kind == "detect":
        words.append(f"--results={tmp_path / 'r.json'}")
    assert main(["evaluate", checkpoint, DATA[kind], *words]) == 0
    assert main(["report", checkpoint, DATA[kind], f"--out={tmp_path / 'r.html'}", "--images=1"]) == 0
    assert "could not" not in capsys.readouterr().err
    assert json.loads((tmp_path / "e.json").read_text())
    Page(tmp_path / "e.html")
    Page(tmp_path / "r.html")


def test_predict(network, files, tmp_path, capsys):
    kind, checkpoint = network
    words = [str(files[kind == "video"]), "--format=json", f"--out={tmp_path / 'p.json'}"]
    if kind != "classify":
        words += ["--draw", str(tmp_path / "drawn")]
    assert main(["predict", checkpoint, *words]) == 0
    (entry,) = json.loads((tmp_path / "p.json").read_text())
    if kind != "classify":
        assert entry["pictures"]
        assert all(os.path.getsize(path) for path in entry["pictures"])
    assert "could not" not in capsys.readouterr().err


def test_explain(network, files, tmp_path, capsys):
    kind, checkpoint = network
    words = [str(files[kind == "video"]), f"--out={tmp_path / 'x'}"]
    assert main(["explain", checkpoint, *words, *(["--threshold=0"] if kind == "detect" else [])]) == 0
    assert "could not" not in capsys.readouterr().err
    figures = json.loads((tmp_path / "x" / "explain.json").read_text())
    assert figures
    Page(tmp_path / "x" / "explain.html")


@pytest.fixture
def no_page(monkeypatch):
    def broken(*args, **options):
        raise KeyError("a bug of a page")

    monkeypatch.setattr(jinja2.Template, "render", broken)


ONE_OF_A_KIND = pytest.mark.parametrize("network", ["faster_rcnn", "semantic_fpn", "both", "plain"], indirect=True)


@ONE_OF_A_KIND
@pytest.mark.parametrize("style", ["table", "csv"])
def test_other_formats_of_predictions(network, style, files, tmp_path):
    kind, checkpoint = network
    words = [str(files[kind == "video"]), f"--format={style}", f"--out={tmp_path / style}"]
    assert main(["predict", checkpoint, *words]) == 0
    assert (tmp_path / style).read_text().strip()


@ONE_OF_A_KIND
def test_a_page_that_cannot_be_made_costs_no_numbers(network, no_page, tmp_path, capsys):
    kind, checkpoint = network
    words = [f"--json={tmp_path / 'e.json'}", "--device=cpu"]
    if kind == "detect":
        words.append(f"--results={tmp_path / 'r.json'}")
    assert main(["evaluate", checkpoint, DATA[kind], *words]) == 0
    capsys.readouterr()
    assert main(["evaluate", checkpoint, DATA[kind], *words, f"--html={tmp_path / 'e.html'}"]) == 1
    said = capsys.readouterr()
    assert "val of" in said.out
    assert said.err.count("could not") == 1
    assert "e.html could not be made: unexpected KeyError: 'a bug of a page'" in said.err
    assert json.loads((tmp_path / "e.json").read_text())
    assert (tmp_path / "r.json").exists() is (kind == "detect")
    assert main(["report", checkpoint, DATA[kind], f"--out={tmp_path / 'page.html'}"]) == 1
    assert json.loads((tmp_path / "page.json").read_text())
    assert not (tmp_path / "page.html").exists()
    assert capsys.readouterr().err.count("could not") == 1


@ONE_OF_A_KIND
def test_an_explanation_without_its_page_keeps_its_figures(network, no_page, files, tmp_path, capsys):
    kind, checkpoint = network
    (tmp_path / "x").mkdir()
    for name in ("explain.json", "explain.html"):
        (tmp_path / "x" / name).write_text("of an earlier call")
    words = [str(files[kind == "video"]), f"--out={tmp_path / 'x'}"]
    assert main(["explain", checkpoint, *words, *(["--threshold=0"] if kind == "detect" else [])]) == 1
    assert "explain.html could not be made: unexpected KeyError" in capsys.readouterr().err
    assert json.loads((tmp_path / "x" / "explain.json").read_text())
    assert list((tmp_path / "x" / "figures").iterdir())
    assert not (tmp_path / "x" / "explain.html").exists()


PICTURES = {
    "faster_rcnn": ("pages.detection.draw_boxes", "_cli.answer_pictures.draw_boxes"),
    "semantic_fpn": ("pages.segmentation.overlay", "_cli.answer_pictures.overlay"),
    "both": ("pages.video.filmstrip", "_cli.answer_pictures.labelled_frames"),
    "plain": ("pages.classification.thumbnail", None),
}


@pytest.mark.parametrize(("network", "places"), PICTURES.items(), indirect=["network"])
def test_a_picture_that_cannot_be_drawn_costs_no_numbers(network, places, files, tmp_path, capsys, monkeypatch):
    kind, checkpoint = network

    def broken(*args, **options):
        raise IndexError("a bug of a picture")

    for place in filter(None, places):
        monkeypatch.setattr(f"ctxvision.{place}", broken)
    words = [f"--json={tmp_path / 'e.json'}", "--device=cpu"]
    assert main(["evaluate", checkpoint, DATA[kind], *words]) == 0
    assert "could not" not in capsys.readouterr().err
    (tmp_path / "e.json").unlink()
    assert main(["evaluate", checkpoint, DATA[kind], *words, f"--html={tmp_path / 'e.html'}"]) == 1
    said = capsys.readouterr()
    assert "val of" in said.out
    assert "e.html could not be made: unexpected IndexError: a bug of a picture" in said.err
    assert json.loads((tmp_path / "e.json").read_text())
    if places[1]:
        draw = ["--draw", str(tmp_path / "drawn"), "--format=json"]
        assert main(["predict", checkpoint, str(files[kind == "video"]), *draw]) == 1
        said = capsys.readouterr()
        assert "pictures" not in json.loads(said.out)[0]
        assert "the pictures of 1 file could not be made: unexpected IndexError: a bug of a picture" in said.err


@pytest.mark.parametrize("network", ["faster_rcnn"], indirect=True)
def test_a_file_that_cannot_be_written_costs_no_other(network, tmp_path, capsys, monkeypatch):
    from ctxvision._cli import messages
    from ctxvision._cli.messages import UserError

    def full(path, text):
        if str(path).endswith("e.json"):
            raise UserError(f"{path}: cannot be written (no space left on device)")
        original(path, text)

    original = messages.write_whole
    monkeypatch.setattr(messages, "write_whole", full)
    words = [f"--json={tmp_path / 'e.json'}", f"--results={tmp_path / 'r.json'}", f"--html={tmp_path / 'e.html'}"]
    assert main(["evaluate", network[1], SCENES, "--device=cpu", *words]) == 1
    said = capsys.readouterr()
    assert "box AP" in said.out
    lines = said.err.splitlines()
    assert f"ctxvision: error: {tmp_path / 'e.json'}: cannot be written (no space left on device)" in lines
    assert f"ctxvision: written to {tmp_path / 'e.html'}" in lines
    assert f"ctxvision: written to {tmp_path / 'e.json'}" not in lines
    assert json.loads((tmp_path / "r.json").read_text())
    assert (tmp_path / "e.html").exists()


@pytest.mark.parametrize(
    ("network", "words"),
    [("plain", ["report", "--out=no/r.html"]), ("plain", ["predict", "--out=no/p.csv"])],
    indirect=["network"],
)
def test_places_are_looked_at_before_the_work(network, words, capsys, monkeypatch):
    def unreachable(*args, **options):
        raise AssertionError

    monkeypatch.setattr("ctxvision.tasks.load_task", unreachable)
    command, out = words
    assert main([command, network[1], "digits", out]) == 1
    assert "cannot be written (there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize("network", ["faster_rcnn"], indirect=True)
def test_results_of_images_without_truth(network, tmp_path, capsys, monkeypatch):
    original = DetectionData.on_after_batch_transfer

    def bare(self, batch, index):
        images, targets = original(self, batch, index)
        return images, [target | {"truth": []} for target in targets]

    monkeypatch.setattr(DetectionData, "on_after_batch_transfer", bare)
    words = ["evaluate", network[1], SCENES, "--device=cpu"]
    assert main(words) == 1
    assert "there are no objects" in capsys.readouterr().err
    assert main([*words, f"--results={tmp_path / 'r.json'}", f"--html={tmp_path / 'e.html'}"]) == 0
    said = capsys.readouterr()
    assert "box AP –" in said.out
    assert "there are no objects, so average precision means nothing" in said.err
    assert json.loads((tmp_path / "r.json").read_text())
    Page(tmp_path / "e.html")
