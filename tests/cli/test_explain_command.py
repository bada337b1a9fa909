import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from _page import Page
from _pictures import add_bad_files, picture
from ctxvision.cli import main
from ctxvision.data import DataSpec, read_image
from ctxvision.explain import class_funnel, grad_cam
from ctxvision.tasks import load_task

pytestmark = pytest.mark.slow

HOSTILE = '<script>alert("1")'  # a class of the tiny run


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three images, two of them in the folder of their class, and bad ones."""
    root = tmp_path_factory.mktemp("photos")
    for name, file in (("cat", "cat/a.png"), (HOSTILE, f"{HOSTILE}/b.png"), ("dog", "c.png")):
        (root / file).parent.mkdir(exist_ok=True)
        picture(name, size=(70, 60)).save(root / file)
    (root / "bad").mkdir()
    add_bad_files(root / "bad")
    return root


def explain(*words):
    return main(["explain", *map(str, words)])


@pytest.fixture(scope="module")
def contextual(trained, trained_plain, photos, tmp_path_factory):
    """An explanation of a contextual network against a plain one, over its data."""
    out = tmp_path_factory.mktemp("explain") / "out"
    options = ["--out", out, "--against", trained_plain, "--data", trained.parent / "data"]
    assert (
        explain(trained, photos / "cat", photos / HOSTILE, photos / "c.png", photos / "bad/text.jpg", *options)
        == 0
    )
    return out


@pytest.fixture(scope="module")
def read(contextual):
    return (contextual / "explain.html").read_text(), json.loads((contextual / "explain.json").read_text())


def test_the_page_is_sound_and_needs_nothing_else(read):
    text, numbers = read
    page = Page(text)
    assert not re.search(r"https?:|@import|\bon\w+=[\"']", text)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "form", "a"})
    policy = next(m["content"] for m in page.named("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
    for image in page.named("img"):
        assert image["src"].startswith("data:image/")
        assert image["alt"]
    labels = [svg["aria-label"] for svg in page.named("svg") if svg.get("role") == "img"]
    assert labels == [figure["alt"] for figure in numbers["figures"]]
    assert all(len(label) > 20 for label in labels)
    for image in page.named("image"):
        assert image["href"].startswith("data:image/png;base64,")
    for reference in re.findall(r'(?:href="#|url\(#|aria-labelledby=")([^")]+)', text):
        assert reference in page.ids
    assert "#0101" not in text
    assert "<script" not in text
    assert HOSTILE in page.text  # as text


def test_every_figure_is_a_file_fit_for_print(contextual, read):
    _, numbers = read
    files = {path.relative_to(contextual).as_posix() for path in (contextual / "figures").iterdir()}
    assert files == {figure["file"] for figure in numbers["figures"]}
    for file in files:
        path = contextual / file
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert image.width >= 1500
                assert image.info["dpi"][0] == pytest.approx(300, abs=1)
                assert len(np.unique(np.asarray(image.convert("L")))) > 20  # something is on it
        else:
            text = path.read_text()
            assert text.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
            assert "var(" not in text
            assert "currentColor" not in text
            assert "#0101" not in text
            Page(text)
    assert sum(path.stat().st_size for path in contextual.rglob("*")) < 6_000_000


def test_the_numbers_are_those_of_the_functions(read, trained, photos):
    _, numbers = read
    assert numbers["schema_version"] == 1
    task = load_task(trained / "checkpoints" / "best.ckpt")
    spec = DataSpec.from_dict(task.data_spec)
    assert [image["truth"] for image in numbers["images"]] == ["cat", HOSTILE, None]
    for entry in numbers["images"]:
        image = spec.eval_transform()(read_image(entry["file"], spec.color_mode))[None]
        with torch.no_grad():
            chances = task(image)[0].softmax(0)
        assert entry["answer"] == spec.class_names[chances.argmax()]
        assert entry["predictions"][0]["probability"] == pytest.approx(chances.max().item(), rel=1e-4)
        (cam,) = grad_cam(task.model, image)
        assert entry["grad_cam"]["layer"] == cam.layer.name
        np.testing.assert_allclose(entry["grad_cam"]["map"], cam.raw, rtol=1e-2, atol=1e-3 * np.abs(cam.raw).max())
        followed = entry["truth"] or entry["answer"]
        (funnel,) = class_funnel(task.model, image, [spec.class_names.index(followed)])
        assert entry["funnel"]["followed"] == followed
        for stage, view in zip(entry["funnel"]["stages"], funnel.stages, strict=True):
            assert stage["rank"] == view.true_rank
            assert [c["class"] for c in stage["classes"]] == [spec.class_names[c] for c in view.classes]
        assert len(entry["against"]["predictions"]) == 5
        assert len(entry["bends"]) == 4
    assert numbers["bad_images"] == [{"path": str(photos / "bad/text.jpg"), "reason": "not an image"}]


def test_the_data_set_is_counted_as_evaluate_counts_it(read, trained, tmp_path):
    _, numbers = read
    checkpoint, data = trained / "checkpoints" / "best.ckpt", trained.parent / "data"
    assert main(["evaluate", str(checkpoint), str(data), "--json", str(tmp_path / "e.json")]) == 0
    evaluated = json.loads((tmp_path / "e.json").read_text())
    found = numbers["data"]
    assert found["images"] == evaluated["images"]
    assert found["steps"][-1]["recall"] == pytest.approx(evaluated["top1"])
    for step, stage in zip(found["steps"], evaluated["funnel"]["stages"], strict=True):
        assert step["recall"] == pytest.approx(stage["survived"] / evaluated["images"])
    for row, expected in zip(found["classes"], evaluated["classes"], strict=True):
        assert row["right"] == expected["right"]
        assert row["right"] + sum(row["lost"]) == expected["images"]
    assert sum(row["images"] for row in found["lost_to"]) == evaluated["images"] - evaluated["right"]


def test_sections_depend_on_the_family(trained_plain, photos, tmp_path):
    assert (
        explain(trained_plain, photos / "c.png", "--out", tmp_path / "out", "--class", "dog", "--layer", "layer2")
        == 0
    )
    numbers = json.loads((tmp_path / "out" / "explain.json").read_text())
    (entry,) = numbers["images"]
    assert entry["figures"] == ["image1-grad-cam.png"]
    assert (entry["grad_cam"]["class"], entry["grad_cam"]["layer"]) == ("dog", "layer2")
    assert numbers["embeddings"] is numbers["data"] is None


def test_a_second_call_replaces_the_first_and_nothing_else(contextual, trained_plain, photos, tmp_path, capsys):
    out = shutil.copytree(contextual, tmp_path / "out")
    (out / "notes.txt").write_text("mine")
    assert explain(trained_plain, photos / "cat", "--out", out) == 0
    assert capsys.readouterr().out.strip() == str(out / "explain.html")
    assert sorted(path.name for path in out.iterdir()) == ["explain.html", "explain.json", "figures", "notes.txt"]
    assert [path.name for path in (out / "figures").iterdir()] == ["image1-grad-cam.png"]
    assert json.loads((out / "explain.json").read_text())["model"] == "resnet10t"


def test_a_folder_of_somebody_else_is_left_alone(trained_plain, photos, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("mine")
    assert explain(trained_plain, photos / "cat", "--out", tmp_path) == 1
    assert "holds no explain.json of an earlier call" in capsys.readouterr().err
    assert explain(trained_plain, photos / "cat", "--out", tmp_path / "thesis.tex") == 1
    assert "is a file" in capsys.readouterr().err
    assert explain(trained_plain, photos / "cat", "--out", tmp_path / "thesis.tex" / "out") == 1
    assert "is a file" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_bad_images_are_named_and_skipped(trained_plain, photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert explain(trained_plain, photos / "bad", photos / "c.png", "--out", out) == 0
    error = capsys.readouterr().err
    assert error.count("skipped") == 8  # one line for each, one for all
    assert "skipped 7 bad images of 8" in error
    assert explain(trained_plain, photos / "bad", "--out", tmp_path / "none") == 1
    assert "no image could be read, so nothing was written" in capsys.readouterr().err
    assert explain(trained_plain, photos / "bad", photos / "c.png", "--out", tmp_path / "none", "--strict") == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "none").exists()


def test_of_many_images_some_are_taken(trained_plain, tmp_path, capsys):
    for index in range(6):
        picture("cat", index).save(tmp_path / f"{index}.png")
    assert explain(trained_plain, tmp_path, "--out", tmp_path / "out", "--limit", 2) == 0
    assert "6 images: 2 of them" in capsys.readouterr().err
    images = json.loads((tmp_path / "out" / "explain.json").read_text())["images"]
    assert [Path(image["file"]).name for image in images] == ["0.png", "3.png"]


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        ("--limit 0", 2, "at least 1"),
        ("--class zebra", 2, "--class: no class 'zebra'; the network's classes are"),
        ("--truth zebra", 2, "--truth: no class 'zebra'"),
        ("--layer layer9", 1, "no layer 'layer9' that returns a map; did you mean layer"),
        ("--against-layer layer1", 2, "--against names"),
        ("--data digits", 2, "weighs all classes at once"),
        ("--device cuda:77", 1, "cannot be used"),
        ("--against nowhere.ckpt", 1, "no such file"),
    ],
)
def test_mistakes_are_explained_in_one_line(trained_plain, photos, tmp_path, capsys, options, code, reason):
    out = tmp_path / "out"
    assert explain(trained_plain, photos / "c.png", "--out", out, *options.split()) == code
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_networks_of_other_classes_cannot_be_compared(trained_plain, trained, photos, tmp_path, capsys):
    checkpoint = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    checkpoint["hyper_parameters"]["data_spec"]["class_names"][0] = "aardvark"
    torch.save(checkpoint, tmp_path / "other.ckpt")
    out = tmp_path / "out"
    assert explain(trained_plain, photos / "c.png", "--out", out, "--against", tmp_path / "other.ckpt") == 1
    assert "has not the same classes" in capsys.readouterr().err
    assert not out.exists()
