"""Pictures of classes, and the page about a segmentation run."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from ctxvision.data import SegmentationData
from ctxvision.evaluation.segmentation import make_segmentation_report
from ctxvision.pages.segmentation_page import render
from ctxvision.plots.overlays import class_map, colorize, overlay, with_legend
from ctxvision.runs import RunError, read_run
from ctxvision.tasks.segmentation import SegmentationTask

COLORS = [(70, 70, 70), (255, 0, 0), (0, 0, 255)]
CLASSES = np.array([[0, 1, 2, 255], [1, 1, 1, 0]])


def test_every_pixel_gets_the_colour_of_its_class():
    painted = colorize(torch.from_numpy(CLASSES), COLORS)
    expected = [[[70, 70, 70], [255, 0, 0], [0, 0, 255], [0, 0, 0]], [[255, 0, 0]] * 3 + [[70, 70, 70]]]
    assert painted.tolist() == expected
    with pytest.raises(ValueError, match="class 3 has no colour; there are 3"):
        colorize([[3]], COLORS)
    with pytest.raises(ValueError, match="class -1"):
        colorize([[-1]], COLORS)


def test_overlay_blends_with_the_image():
    image = Image.new("L", (4, 2), 200)
    assert np.asarray(overlay(image, CLASSES, COLORS, 1.0)).tolist() == colorize(CLASSES, COLORS).tolist()
    assert (np.asarray(overlay(image, CLASSES, COLORS, 0.0)) == 200).all()
    half = np.asarray(overlay(image, CLASSES, COLORS, 0.5)).astype(int)
    assert np.abs(half - (200 + colorize(CLASSES, COLORS).astype(int)) / 2).max() <= 1
    with pytest.raises(ValueError, match=r"the classes are \(4, 2\), the image is \(2, 4\)"):
        overlay(Image.new("RGB", (2, 4)), CLASSES, COLORS)


def test_class_map_is_a_mask_and_a_picture():
    file = io.BytesIO()
    class_map(CLASSES, COLORS).save(file, "PNG")
    again = Image.open(file)
    assert again.mode == "P"
    assert np.array_equal(np.asarray(again), CLASSES)
    assert np.array_equal(np.asarray(again.convert("RGB")), colorize(CLASSES, COLORS))


def test_legend_names_what_occurs_in_its_colour():
    picture = overlay(Image.new("RGB", (4, 2)), CLASSES, COLORS)
    legend = with_legend(picture, CLASSES, ("sky", "ground", "tree"), COLORS)
    assert legend.width > 40
    assert np.array_equal(np.asarray(legend)[:2, :4], np.asarray(picture))
    # ground is more frequent than sky, which is more frequent than tree
    swatches = [legend.getpixel((4 + 6 + 6, 6 + 6 + 18 * row)) for row in range(3)]
    assert swatches == [(255, 0, 0), (70, 70, 70), (0, 0, 255)]
    only = with_legend(picture, np.ones((2, 4), int), ("sky", "ground", "tree"), COLORS)
    assert only.height < legend.height


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "best.ckpt").write_bytes(b"")
    rows = "1,2,0.1,2.5,2.6,,,3.0\n2,4,0.1,2.0,2.1,0.25,0.6,3.0\n3,6,0.1,1.9,2.2,0.24,0.6,3.0\n"
    head = "epoch,step,lr,train_loss,val_loss,val_miou,val_pixel_accuracy,seconds\n"
    (folder / "metrics.csv").write_text(head + rows)
    (folder / "config.yaml").write_text("data: digits-scenes<b>\nlr: 0.1\n")
    torch.manual_seed(0)
    data = SegmentationData("digits-scenes#train=2,val=5,size=48", eval_batch_size=2)
    small = {"pyramid_channels": 16, "channels": 16}
    task = SegmentationTask("rednet_micro", data.spec.to_dict(), decoder_args=small).eval()
    found = make_segmentation_report(
        read_run(folder), task, data, data_name="digits-scenes<b>", split="val", images=3
    )
    return task, data, found


def test_numbers_are_those_of_the_whole_set(report):
    task, data, found = report
    right = labelled = 0
    truth = np.zeros(11, dtype=int)
    for images, masks in (data.on_after_batch_transfer(b, 0) for b in data.val_dataloader()):
        for image, mask in zip(images, masks, strict=True):
            counted = mask != 255
            right += int((task.segment(image).classes == mask)[counted].sum())
            labelled += int(counted.sum())
            truth += np.bincount(mask[counted], minlength=11)
    numbers = found.numbers
    assert numbers["images"] == 5
    assert numbers["pixel_accuracy"] == pytest.approx(right / labelled)
    assert [row["pixels"] for row in numbers["classes"]] == truth.tolist()
    ious = [row["iou"] for row in numbers["classes"] if row["iou"] is not None]
    assert numbers["miou"] == pytest.approx(sum(ious) / len(ious))
    assert numbers["classes_left_out"] == [row["name"] for row in numbers["classes"] if row["iou"] is None]
    assert sum(pair["pixels"] for pair in numbers["confused"]) <= labelled - right
    assert [e["position"] for e in numbers["examples"]] == [0, 1, 3]
    assert (numbers["training"]["best_epoch"], numbers["training"]["best_miou"]) == (2, 0.25)


def test_page_needs_nothing_else_and_escapes(report):
    page = render(report[2])
    assert page.count("data:image/png;base64,") == 3 * 4
    assert "<b>" not in page
    assert "digits-scenes&lt;b&gt;" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "<script" not in page
    for name in report[2].numbers["class_names"]:
        assert f"</span>\n{name}" in page or f">{name}" in page


def test_page_names_the_classes_that_the_mean_leaves_out(report):
    found = report[2]
    some = type(found)(found.numbers | {"classes_left_out": ["3", "<7>"]}, found.pictures)
    assert "over 9 of 11 classes, without &#39;3&#39;, &#39;&lt;7&gt;&#39;, of which there is no pixel" in render(
        some
    )


def test_nothing_to_report_on(tmp_path, report):
    task = report[0]
    (tmp_path / "a.ckpt").write_bytes(b"")
    empty = SegmentationData("digits-scenes#train=2,val=2,size=48")
    empty.val_dataloader = lambda: []
    with pytest.raises(RunError, match="not one image can be read"):
        make_segmentation_report(read_run(tmp_path / "a.ckpt"), task, empty, data_name="x", split="val")
    empty.val_dataloader = lambda: [([torch.zeros(3, 48, 48)], [torch.full((48, 48), 255)])]
    with pytest.raises(RunError, match="not one pixel has a class"):
        make_segmentation_report(read_run(tmp_path / "a.ckpt"), task, empty, data_name="x", split="val")
