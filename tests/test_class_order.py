"""One order of classes for every source, and the order that a run began with for all that follows."""

import csv
import io
import json
import os
import shutil
import tarfile

import pytest
import torch

from _pictures import COLOURS, make_folder, picture, png_bytes
from ctxvision.cli import main
from ctxvision.data import ImageData
from ctxvision.data.images import source as folder
from ctxvision.data.images.source import find_images, scan_folder
from ctxvision.data.video.source import find_videos

NUMBERS = ("1", "10", "2")
BY_VALUE = ("1", "2", "10")
WORDS = ("class_1", "class_10", "class_2")


def table(root, names):
    with open(root / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [("path", "label"), *((f"{n}/{i:03d}.png", n) for n in names for i in range(3))]
        )
    return root / "a.csv"


def shard(root, names):
    with tarfile.open(root / "a.tar", "w") as tar:
        for name in names:
            for index in range(3):
                for suffix, data in (("png", png_bytes(picture(name, index))), ("cls", name.encode())):
                    entry = tarfile.TarInfo(f"{name}-{index}.{suffix}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
    return root / "a.tar"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTXVISION_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(("names", "expected"), [(NUMBERS, BY_VALUE), (WORDS, WORDS), (("10", "9", "b"),) * 2])
def test_every_source_has_the_same_order(tmp_path, names, expected):
    root = make_folder(tmp_path / "set", dict.fromkeys(names, 3))
    in_parts = make_folder(
        tmp_path / "parts", {f"{part}/{name}": 3 for name in names for part in ("train", "val")}
    )
    for source in (root, in_parts, table(root, names), shard(root, names)):
        assert find_images(source).class_names == expected, source
    videos = tmp_path / "videos"
    for name in names:
        (videos / name).mkdir(parents=True)
        for index in range(2):
            (videos / name / f"{index}.mp4").touch()
    assert find_videos(videos).videos.class_names == expected


def in_the_old_order(monkeypatch):
    """As earlier versions ordered folders, and torchvision does."""
    monkeypatch.setattr(folder, "in_order", sorted)


def test_the_network_s_order_decides(tmp_path, monkeypatch):
    root = make_folder(tmp_path, dict.fromkeys(NUMBERS, 5))
    with monkeypatch.context() as context:
        in_the_old_order(context)
        old = ImageData(root)
    assert old.spec.class_names == NUMBERS
    assert ImageData(root).spec.class_names == scan_folder(root).class_names == BY_VALUE
    for data in (ImageData(root, spec=old.spec), ImageData(root, class_names=NUMBERS)):
        assert data.spec.class_names == NUMBERS
        assert data.train_samples == old.train_samples
        assert data.eval_samples == old.eval_samples
        for path, label in data.eval_samples:
            assert os.path.basename(os.path.dirname(path)) == NUMBERS[label]


def state(run):
    return torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.slow
def test_a_run_that_began_with_another_order_keeps_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(COLOURS, "1", (200, 40, 40))
    monkeypatch.setitem(COLOURS, "2", (40, 200, 40))
    make_folder(tmp_path / "data", dict.fromkeys(NUMBERS, 8))
    words = ["test_resnet", "data", "--image-size=16", "--batch-size=8", "--device=cpu", "--pictures=false"]
    words += ["--workers=0"]
    with monkeypatch.context() as context:
        in_the_old_order(context)
        assert main(["train", *words, "--out=old", "--epochs=1"]) == 0
        assert main(["evaluate", "old", "data", "--json=before.json", "--device=cpu", "--workers=0"]) == 0
        shutil.copytree("old", "as_before")
        assert main(["train", "--resume=as_before", "--epochs=2"]) == 0
    assert main(["evaluate", "old", "data", "--json=after.json", "--device=cpu", "--workers=0"]) == 0
    before, after = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("before", "after"))
    assert [row["name"] for row in after["classes"]] == list(NUMBERS)
    for part in ("classes", "confusion", "loss", "top1"):
        assert before[part] == after[part]
    assert main(["train", "--resume=old", "--epochs=2"]) == 0
    one, other = state("as_before"), state("old")
    assert all(torch.equal(one[name], other[name]) for name in one)
