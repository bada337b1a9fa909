"""What is said about clips: arrays against the network itself, the labelled clip, and the page."""

import csv
import json
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from ctxvision.data import VideoData
from ctxvision.data.video.writing import export_moving_digits
from ctxvision.evaluation.video import TrainedVideo, filmstrip, make_clips_report, render_clips
from ctxvision.explain import ReportError, read_run
from ctxvision.inference.video import predict_clip, predict_dataset
from ctxvision.plots.clips import labelled_frames
from ctxvision.tasks.video import VideoTask


@pytest.fixture
def data():
    return VideoData("moving-digits#train=8,val=16", frames=3, batch_size=4)


def task(data, shift="both", model="contextual_convnext_micro"):
    torch.manual_seed(0)
    return VideoTask(model, data.spec.to_dict(), shift=shift).eval()


def run_folder(root, values):
    (root / "checkpoints").mkdir(parents=True)
    (root / "checkpoints" / "best.ckpt").write_bytes(b"")
    with (root / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "train_loss", "val_loss", "val_top1", "val_top5", "seconds"])
        writer.writerows([n, 1.0, 1.0, value, 1.0, 2.0] for n, value in enumerate(values, 1))
    return read_run(root)


@pytest.mark.parametrize("model", ["contextual_convnext_micro", "cotnet_micro"])
def test_arrays_are_the_network_s(data, model):
    video_task = task(data, model=model)
    dataset = data.eval_dataset()
    probabilities, places = predict_dataset(video_task, dataset, batch_size=5)
    assert places == list(range(16))
    clips = torch.stack([dataset[place].image for place in places])
    with torch.no_grad():
        assert np.allclose(probabilities, video_task(clips).softmax(1), atol=1e-5)
        frames = video_task.classify(clips[:1])[1].softmax(2)
    one = predict_clip(video_task, data.open_video(dataset.samples[0][0]))
    assert np.allclose(one.probabilities, probabilities[0], atol=1e-5)
    assert np.allclose(one.by_frame, frames[0], atol=1e-5)
    assert one.indices == (0, 1, 2)
    assert np.array_equal(one.pixels, data.open_video(dataset.samples[0][0]).pixels)


def test_views_are_averaged(data):
    video_task = task(data)
    video = data.open_video(data.eval_samples[0][0])
    many = VideoData("moving-digits#train=8,val=16", frames=3, test_clips=2, test_crops=3)
    probabilities, _ = predict_dataset(video_task, many.eval_dataset(), batch_size=3)
    assert np.allclose(
        predict_clip(video_task, video, clips=2, crops=3).probabilities, probabilities[0], atol=1e-5
    )
    assert np.allclose(probabilities.sum(1), 1)


def test_bad_videos_are_left_out_and_nothing_else_is(tmp_path):
    export_moving_digits(tmp_path, clips=8, val=8, frames=3)
    (tmp_path / "val" / "left" / "00000.mp4").write_bytes(b"")
    data = VideoData(tmp_path, image_size=32, frames=3)
    probabilities, places = predict_dataset(task(data), data.eval_dataset(), batch_size=3)
    assert len(probabilities) == 7
    missing = next(i for i, (name, _) in enumerate(data.eval_samples) if "left/" in name)
    assert missing not in places
    for path in (tmp_path / "val").rglob("*.mp4"):
        path.write_bytes(b"")
    with pytest.raises(ReportError, match="not one video"):
        predict_dataset(task(data), data.eval_dataset())


def test_labels_are_below_the_frames(data):
    video_task = task(data)
    one = predict_clip(video_task, data.open_video(data.eval_samples[0][0]))
    said = (one.pixels, one.probabilities, one.by_frame, data.spec.class_names)
    shown = labelled_frames(*said, truth="left")
    assert shown.dtype == np.uint8
    assert shown.shape[0] == 3
    assert np.array_equal(shown[1, :192, :192], one.pixels[1].repeat(6, 0).repeat(6, 1))
    for frame in shown:
        assert (frame[192:] < 128).any()
    assert not np.array_equal(shown[0, 192:212], shown[1, 192:212])  # the number of the frame
    assert not np.array_equal(labelled_frames(*said)[0].shape, shown[0].shape)


class Page(HTMLParser):
    """Collects what a page refers to, and its words."""

    def __init__(self):
        super().__init__()
        self.sources, self.tags, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href") and not value.startswith("#")]

    def handle_data(self, data):
        self.words.append(data)


def test_page_stands_alone_and_says_the_numbers(data, tmp_path):
    trained = [
        TrainedVideo("TSM", run_folder(tmp_path / "tsm", [0.1, 0.5]), task(data)),
        TrainedVideo("TSN", run_folder(tmp_path / "tsn", [0.1, 0.2]), task(data, "none")),
    ]
    made = make_clips_report(trained, data, "<moving>")
    report = json.loads(json.dumps(made.numbers))
    assert report["videos"] == 16
    assert report["chance"] == 1 / 8
    dataset = data.eval_dataset()
    for network, entry in zip(report["networks"], trained, strict=True):
        probabilities, _ = predict_dataset(entry.task, dataset)
        right = probabilities.argmax(1) == [target for _, target in dataset.samples]
        assert network["right"] == right.sum()
        assert [c["right"] for c in network["classes"]] == [
            int(right[np.array([t for _, t in dataset.samples]) == label].sum()) for label in range(8)
        ]
        assert network["seconds"] == 4.0
    html = render_clips(made)
    page = Page()
    page.feed(html)
    assert all(source.startswith("data:image/") for source in page.sources)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert page.tags.count("img") == len(made.strips.by_place())
    text = " ".join("".join(page.words).split())
    assert "<moving>" in text
    assert "<moving>" not in html
    assert f"{report['networks'][0]['right']} of 16 held-out videos right" in text
    assert "TSN" in text


def test_page_of_one_network_outside_its_run_folder(data):
    from ctxvision.explain import Run

    report = make_clips_report([TrainedVideo("TSM", Run("x.ckpt", (), {}), task(data))], data, "clips")
    html = render_clips(report)
    assert "<figure" not in html
    assert report.numbers["networks"][0]["seconds"] is None


def test_filmstrip_shows_the_frames_in_order():
    import base64
    import io

    from PIL import Image

    frames = np.stack([np.full((32, 32, 3), 40 * (i + 1), np.uint8) for i in range(4)])
    image = Image.open(io.BytesIO(base64.b64decode(filmstrip(frames).partition(",")[2])))
    row = np.asarray(image.convert("RGB"))
    assert row.shape == (32, 4 * 34 - 2, 3)
    assert [int(row[0, 34 * i, 0]) for i in range(4)] == [40, 80, 120, 160]
    large = np.zeros((2, 200, 100, 3), np.uint8)
    assert Image.open(io.BytesIO(base64.b64decode(filmstrip(large).partition(",")[2]))).height == 96
