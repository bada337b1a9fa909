"""Batches of clips: sources, bad videos, order, workers, views."""

import logging

import pytest
import torch
from _sources import write_table
from _videos import add_bad_videos, shades, write

from ctxvision.data import BadImageError, DataError, VideoData
from ctxvision.data.video.clips import ClipSpec

WORKERS = pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.process)])
SMALL = "moving-digits#train=24,val=16,size=16"


def folder(root, counts):
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            write(root / name / f"{index}.mp4", shades(4 + index, 32 + 16 * (index % 2), 48))
    return root


def batches(data, kind):
    """What a task gets."""
    loader = {"train": data.train_dataloader, "val": data.val_dataloader}[kind]()
    try:
        return [data.on_after_batch_transfer(batch, 0) for batch in loader]
    finally:
        if loader._iterator is not None:
            loader._iterator._shutdown_workers()


def video_data(source, **options):
    return VideoData(source, **{"image_size": 16, "frames": 3, "batch_size": 4, **options})


@WORKERS
def test_folder_with_bad_videos(tmp_path, workers, caplog):
    folder(tmp_path, {"train/cat": 4, "train/dog": 4, "val/cat": 3, "val/dog": 3})
    bad = [str(tmp_path / "val" / "dog" / name) for name, _ in add_bad_videos(tmp_path / "val" / "dog")]
    data = video_data(tmp_path, workers=workers)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            val = [batch for batch in batches(data, "val") if len(batch[0])]
    assert sorted(data.bad_images) == sorted(bad)
    assert len(caplog.records) == len(bad)
    assert torch.cat([targets for _, targets in val]).tolist() == [0] * 3 + [1] * 3
    assert val[0][0].shape[1:] == (3, 3, 16, 16)
    assert [tuple(clips.shape) for clips, _ in batches(data, "train")] == [(4, 3, 3, 16, 16)] * 2


def test_strict_stops_at_the_first(tmp_path):
    folder(tmp_path, {"train/cat": 2, "train/dog": 2, "val/cat": 1})
    (tmp_path / "val" / "cat" / "empty.mp4").write_bytes(b"")
    with pytest.raises(BadImageError, match=r"empty.mp4: empty, not a video"):
        batches(video_data(tmp_path, strict=True), "val")


def test_table_equals_folder(tmp_path):
    folder(tmp_path, {"cat": 4, "dog": 4})
    rows = [(f"{name}/{index}.mp4", name) for name in ("cat", "dog") for index in range(4)]
    table = write_table(tmp_path / "videos.csv", [("path", "label"), *rows, ("gone.mp4", "cat")])
    one, two = video_data(tmp_path), video_data(table)
    assert one.spec.class_names == two.spec.class_names == ("cat", "dog")
    assert "whose file does not exist" in two.notes[0]
    for kind in ("train", "val"):
        for (a, x), (b, y) in zip(batches(one, kind), batches(two, kind), strict=True):
            assert torch.equal(a, b)
            assert torch.equal(x, y)


def test_a_table_of_clips_in_one_folder(tmp_path):
    """As NTU RGB+D has them: AVI, the class in the name."""
    names = [f"S001C001P{person:03}R001A{action:03}_rgb.avi" for person in range(4) for action in (1, 2)]
    for name in names:
        write(tmp_path / name, shades(20), "mpeg4", coding={"bf": "2"})
    rows = [(name, name[17:20]) for name in names]
    table = write_table(tmp_path / "ntu.csv", [("path", "label"), *rows])
    data = video_data(table, eval_split="all")
    assert data.spec.class_names == ("001", "002")
    assert len(torch.cat([clips for clips, _ in batches(data, "val")])) == 8
    assert not data.bad_images


def test_what_is_no_video_is_counted(tmp_path):
    folder(tmp_path, {"cat": 2, "dog": 2})
    for name in ("a.txt", "b.jpg", "c.txt"):
        (tmp_path / "dog" / name).write_bytes(b"")
    assert f"{tmp_path}: left out: 2 .txt, 1 .jpg" in video_data(tmp_path).notes


@pytest.mark.process
def test_epoch_does_not_depend_on_the_workers():
    runs = []
    for workers in (0, 2):
        loader = video_data(SMALL, workers=workers, crop=True, flip=True, seed=3).train_dataloader()
        epochs = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            torch.rand(workers)  # what else draws random numbers must not matter
            epochs.append(torch.cat([batch.images for batch in loader]))
        assert not torch.equal(*epochs)
        runs.append(torch.cat(epochs))
    assert torch.equal(*runs)


def test_start_in_the_middle_gives_the_same_clips():
    whole, resumed = (video_data(SMALL, crop=True).train_dataloader() for _ in range(2))
    resumed.sampler.start_at(0, 8)
    assert torch.equal(torch.cat([b.images for b in whole])[8:], torch.cat([b.images for b in resumed]))


def test_embedded_clips_are_neither_mirrored_nor_cut():
    data = video_data("moving-digits#train=8,val=8", image_size=None, batch_size=8)
    assert data.spec.input_size == (3, 32, 32)
    (clips, targets), *_ = batches(data, "train")
    expected = data.open_video.parts["train"].clips
    order = targets.argsort()
    assert torch.equal(clips[order], data.spec.normalize(expected))


def test_views_of_a_video():
    data = video_data(SMALL, test_clips=10, test_crops=3)
    clips, _ = batches(data, "val")[0]
    assert clips.shape == (4, 30, 3, 3, 16, 16)


def test_spec_of_a_network_decides(tmp_path):
    folder(tmp_path, {"cat": 4, "dog": 4})
    spec = ClipSpec(("dog", "cat"), (3, 24, 24), (0.5,) * 3, (0.5,) * 3, frames=2, val_fraction=0.5)
    data = VideoData(tmp_path, spec=ClipSpec.from_dict(spec.to_dict()), batch_size=4)
    clips, targets = batches(data, "val")[0]
    assert clips.shape == (4, 2, 3, 24, 24)
    assert targets.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere: no such folder"),
        ("moving-digits#speed=3", "no option 'speed'"),
        ("moving-digits#train=many", "expected whole numbers"),
        ("moving-digits#frames=1", "2 or more frames"),
        ("empty", "no class folders"),
        ("hollow", "no videos in its 2 class folders"),
        ("onlyval", "has val/ but no train/"),
    ],
)
def test_sources_that_cannot_be_used(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "hollow/a", "hollow/b", "onlyval/val/a"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(DataError, match=message):
        VideoData(source)


def test_wrong_options_and_classes():
    with pytest.raises(DataError, match="1 or 3 crops"):
        VideoData(SMALL, test_crops=2)
    spec = ClipSpec(("a", "b"), (3, 8, 8), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(DataError, match="not these motions"):
        VideoData(SMALL, spec=spec)
