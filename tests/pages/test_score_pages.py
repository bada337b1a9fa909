"""The pages about the scores of detectors, segmentation networks and video networks."""

import base64
import dataclasses
import io
import json
import re
import types

import numpy as np
import pytest
from PIL import Image

from _page import Page
from _scored import (
    ALONE,
    detection_scores,
    detection_task,
    run_folder,
    segmentation_data,
    segmentation_scores,
    segmentation_task,
    video_data,
    video_scores,
    video_task,
)
from ctxvision.data import export_coco
from ctxvision.evaluation.video import beside, watch_videos
from ctxvision.inference import predictor_of
from ctxvision.pages import detection as detection_page
from ctxvision.pages import render_scores
from ctxvision.pages import segmentation as segmentation_page
from ctxvision.pages import video as video_page
from ctxvision.plots.clips import filmstrip
from ctxvision.runs import RunFolder


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    export_coco(root, train=2, val=4, size=64)
    return detection_scores(root)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return segmentation_scores(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def videos():
    return video_data()


def changed(scores, **numbers):
    return dataclasses.replace(scores, numbers=scores.numbers | numbers)


def needs_nothing_else(html):
    page = Page(html)
    assert html.startswith("<!doctype html>")
    assert not {"script", "link", "iframe", "object", "form", "a"} & {tag for tag, _ in page.tags}
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in page.named("img"))
    assert not re.search(r"https?://(?!www\.w3\.org)|@import|\bon\w+=[\"']", html)
    policy = next(m["content"] for m in page.named("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
    for reference in re.findall(r'(?:href="#|url\(#|aria-labelledby=")([^")]+)', html):
        assert reference in page.ids
    return page


def test_a_page_about_a_detector(detector):
    html = render_scores(detector)
    page = needs_nothing_else(html)
    assert "<scenes>" in page.text
    assert "<scenes>" not in html
    assert len(page.named("img")) == 6
    left_out = detector.numbers["classes_left_out"]
    assert f"over {10 - len(left_out)} of 10 classes, without '{left_out[0]}'" in page.text


def test_a_page_about_a_detector_with_curves(detector, tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,train_loss,val_box_ap,val_mask_ap\n1,3.5,,\n2,2.5,0.25,0.2\n")
    curve = RunFolder(tmp_path).read_metrics()
    assert curve[0]["val_box_ap"] is None
    assert curve[1]["val_mask_ap"] == 0.2
    assert "Validation AP over 2 epochs, best of boxes 25.0 %" in render_scores(changed(detector, curve=curve))


def test_a_page_about_a_segmentation_network(segmenter):
    html = render_scores(segmenter)
    page = needs_nothing_else(html)
    assert html.count("data:image/png;base64,") == 3 * 4
    assert "<b>" not in html
    assert "digits-scenes<b>" in page.text
    assert "best 25.0\u202f% in epoch 2" in html
    for name in segmenter.numbers["class_names"]:
        assert f"</span>{name}" in html
    said = "over 9 of 11 classes, without '3', '<7>', of which there is no pixel"
    assert said in Page(render_scores(changed(segmenter, classes_left_out=["3", "<7>"]))).text


def test_a_page_names_what_could_not_be_read(segmenter):
    bad = [{"path": f"<{n}>.png", "reason": "empty"} for n in range(40)]
    page = Page(render_scores(changed(segmenter, bad_images=bad)))
    assert "40 files could not be read and do not count" in page.text
    assert "<29>.png: empty" in page.text
    assert "<30>.png" not in page.text
    assert "and 10 more" in page.text


def test_a_page_about_a_video_network_beside_its_control(videos, tmp_path):
    runs = [
        run_folder(tmp_path / name, [{"val_top1": value, "seconds": 2.0} for value in values])
        for name, values in {"tsm": [0.1, 0.5], "tsn": [0.1, 0.2]}.items()
    ]
    scores, control = video_scores(videos, run=runs[0]), video_scores(videos, "none", run=runs[1])
    names = [example.file for example in scores.examples]
    both = beside(scores, control, watch_videos(predictor_of(video_task(videos, "none")), videos, names))
    numbers = json.loads(json.dumps(both.numbers))
    assert [network["name"] for network in numbers["networks"]] == ["TSM", "TSN"]
    assert [network["seconds"] for network in numbers["networks"]] == [4.0, 4.0]
    html = render_scores(both)
    page = needs_nothing_else(html)
    assert len(page.named("img")) == len(both.examples) > 0
    text = " ".join(page.text.split())
    assert "<moving>" in text
    assert "<moving>" not in html
    assert f"{numbers['networks'][0]['right']} of 16 held-out videos right" in text
    assert text.count("TSN said") == text.count("TSM said") == len(both.examples)


def test_a_page_about_one_video_network_outside_its_run_folder(videos):
    scores = video_scores(videos, run=ALONE)
    assert "<figure" not in render_scores(scores)
    assert scores.numbers["networks"][0]["seconds"] is None


def heat_maps(html):
    """The texts of the heat maps of a page, which is checked."""
    return [image["alt"] for image in needs_nothing_else(html).named("img") if image["alt"].startswith("Grad-CAM")]


def test_reports_have_heat_maps(detector, segmenter, videos):
    looks = detection_page.looks(predictor_of(detection_task()), detector)
    shown = heat_maps(detection_page.render(detector, looks))
    assert len(shown) == 2 * len(looks) > 0
    assert all(look.heats[0].words in alt for look, alt in zip(looks, shown[::2], strict=True))
    looks = segmentation_page.looks(predictor_of(segmentation_task(segmentation_data())), segmenter)
    assert len(heat_maps(segmentation_page.render(segmenter, looks))) == sum(len(look.heats) for look in looks) > 0
    scores = video_scores(videos)
    looks = video_page.looks(predictor_of(video_task(videos)), scores)
    assert len(heat_maps(video_page.render(scores, looks))) == len(looks) > 0
    rights = [look.right for look in looks]
    assert rights == sorted(rights)  # mistakes first
    # an exported network has no layers to look into
    exported = types.SimpleNamespace(module=None, data_spec=None)
    for page, found in ((detection_page, detector), (segmentation_page, segmenter), (video_page, scores)):
        assert page.looks(exported, found) == []
        assert "What the network looked at" not in page.render(found)


def test_filmstrip_shows_the_frames_in_order():
    frames = np.stack([np.full((32, 32, 3), 40 * (i + 1), np.uint8) for i in range(4)])
    image = Image.open(io.BytesIO(base64.b64decode(filmstrip(frames).partition(",")[2])))
    row = np.asarray(image.convert("RGB"))
    assert row.shape == (32, 4 * 34 - 2, 3)
    assert [int(row[0, 34 * i, 0]) for i in range(4)] == [40, 80, 120, 160]
    large = np.zeros((2, 200, 100, 3), np.uint8)
    assert Image.open(io.BytesIO(base64.b64decode(filmstrip(large).partition(",")[2]))).height == 96
