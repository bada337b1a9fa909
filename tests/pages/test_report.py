import base64
import html
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from _page import Page
from ctxvision.cli import main
from ctxvision.evaluation import wilson_interval
from ctxvision.pages import make_report, write_report
from ctxvision.pages.classification import render_run
from ctxvision.pages.template import _breakable, _environment, duration
from ctxvision.plots.curves import curve
from ctxvision.plots.pixels import thumbnail
from ctxvision.tasks import load_task
from ctxvision.wording import percent


def _write(run, tmp_path, *options, data=()):
    out = tmp_path / "report.html"
    assert main(["report", str(run), *data, "--out", str(out), *options]) == 0
    return out.read_text(), json.loads((tmp_path / "report.json").read_text())


@pytest.fixture(scope="module")
def written(trained, tmp_path_factory):
    return _write(trained, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def written_plain(trained_plain, tmp_path_factory):
    return _write(trained_plain, tmp_path_factory.mktemp("report"))


@pytest.mark.parametrize("which", ["written", "written_plain"])
def test_the_page_is_sound_and_needs_nothing_else(which, request):
    text, _ = request.getfixturevalue(which)
    page = Page(text)
    assert not re.search(r"https?:|@import|\bon\w+=[\"']", text)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "form", "a"})
    policy = next(m["content"] for m in page.named("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
    for image in page.named("img"):
        assert image["src"].startswith("data:image/png;base64,")
        assert image["alt"]
    for svg in page.named("svg"):
        assert svg["role"] == "img"
        assert "1 epochs" in svg["aria-label"] or "Reliability diagram" in svg["aria-label"]
    for reference in re.findall(r'(?:href="#|url\(#|aria-labelledby=")([^")]+)', text):
        assert reference in page.ids
    assert text.count("url(") == text.count("url(#")


def test_names_of_classes_are_text(written, trained):
    text, numbers = written
    hostile = numbers["class_names"][0]
    assert hostile.startswith("<script>")
    assert "<script" not in text
    assert html.escape(hostile, quote=False).replace('"', "&#34;") in text
    name = '"><script>alert(1)</script>{{ 7 * 7 }}'
    renamed = json.loads(json.dumps(numbers).replace(json.dumps(hostile)[1:-1], json.dumps(name)[1:-1]))
    scores = make_report(trained).scores
    text = render_run(scores, renamed | {"model": name, "data": name, "checkpoint": name})
    assert "<script" not in text
    assert name in Page(text).text


def test_the_page_says_what_the_numbers_say(written, trained):
    text, numbers = written
    page = Page(text).text
    task = load_task(trained / "checkpoints" / "best.ckpt")
    assert numbers["parameters"] == sum(p.numel() for p in task.parameters())
    assert f"{numbers['parameters']:,}" in page
    assert f"{numbers['right']} of {numbers['images']} held-out images right" in page
    assert numbers["images"] == 7 * 2
    assert numbers["top1"] == numbers["right"] / 14
    low, high = numbers["top1_interval95"]
    assert (low, high) == wilson_interval(numbers["right"], 14)
    assert f"{percent(low)} to {percent(high)}" in page
    assert sum(c["right"] for c in numbers["classes"]) == numbers["right"]
    assert sum(c["images"] for c in numbers["classes"]) == 14
    assert sum(pair["images"] for pair in numbers["confused"]) == 14 - numbers["right"] == len(numbers["mistakes"])
    assert len(numbers["predictions"]) == 14  # fewer than --images
    for entry in numbers["predictions"]:
        assert entry["right"] == (entry["truth"] == entry["prediction"])
        assert entry["file"].startswith(entry["truth"])
    for stage in numbers["funnel"]["stages"]:
        assert stage["recall"] == stage["considered"] / 14
        assert percent(stage["recall"]) in page
    for name in ("batch_size 14", "seed"):
        assert (name in page) == (name != "seed")  # what is 0 is off, or not worth a word


def test_the_accuracy_is_that_of_evaluate_and_of_training(written, trained, tmp_path):
    _, numbers = written
    checkpoint, data = trained / "checkpoints" / "best.ckpt", trained.parent / "data"
    assert main(["evaluate", str(checkpoint), str(data), "--json", str(tmp_path / "e.json")]) == 0
    evaluated = json.loads((tmp_path / "e.json").read_text())
    assert evaluated["top1"] == pytest.approx(numbers["top1"], abs=1e-6)
    assert evaluated["top5"] == pytest.approx(numbers["top5"], abs=1e-6)
    assert numbers["training"]["best_top1"] == pytest.approx(numbers["top1"], abs=1e-5)
    assert [c["images"] for c in evaluated["classes"]] == [c["images"] for c in numbers["classes"]]


def test_the_page_shows_what_the_network_looked_at(written, written_plain):
    for text, numbers in (written, written_plain):
        page = Page(text)
        assert "What the network looked at" in page.text
        heats = [image["alt"] for image in page.named("img") if image["alt"].startswith("Grad-CAM for")]
        wrong = sum(1 for image in numbers["mistakes"][:3])
        assert len(heats) >= 2 * wrong  # of a mistake also the true class
        assert all("“" in alt for alt in heats)


def test_long_names_break_between_their_parts(written):
    assert _breakable("runs/a_long-name.of/x.png") == ("runs/<wbr>a_<wbr>long-<wbr>name.<wbr>of/<wbr>x.<wbr>png")
    assert _breakable("<b>_x") == "&lt;b&gt;_<wbr>x"
    assert _breakable("") == ""
    assert "checkpoints/<wbr>best.<wbr>ckpt" in written[0]


def test_names_of_classes_may_be_broken_where_they_have_parts():
    entry = {
        "right": False,
        "prediction": "car_left",
        "truth": "car_right",
        "probability": 0.5,
        "true_probability": 0.1,
    }
    template = _environment().from_string(
        '{% from "macros.html.j2" import answered %}{% call answered(entry, "data:", false) %}{% endcall %}'
    )
    page = template.render(entry=entry)
    assert "said <strong>car_<wbr>left</strong>" in page
    assert "is <strong>car_<wbr>right</strong>" in page


def test_funnels_of_the_json_are_nested(written):
    _, numbers = written
    assert 0 < len(numbers["funnel"]["images"]) <= 6
    for image in numbers["funnel"]["images"]:
        for stage, following in zip(image["stages"], image["stages"][1:], strict=False):
            kept = {entry["class"] for entry in stage["classes"] if entry["kept"]}
            assert kept == {entry["class"] for entry in following["classes"]}


def test_a_plain_network_has_a_sentence_instead_of_a_funnel(written_plain):
    text, numbers = written_plain
    assert numbers["funnel"] is None
    assert "resnet10t weighs all classes at once" in Page(text).text


def test_a_checkpoint_alone(run, tmp_path, capsys):
    alone = (run / "checkpoints" / "best.ckpt").rename(tmp_path / "alone.ckpt")
    assert main(["report", str(alone), "--out", str(tmp_path / "report.html")]) == 2
    assert "name the DATA" in capsys.readouterr().err
    data = run.parent / "data"
    (data / "cat").mkdir(parents=True)
    for name, picture in (("a", Image.new("RGB", (40, 40))), ("b", Image.new("L", (40, 40), 255))):
        picture.save(data / "cat" / f"{name}.png")
    (data / "cat" / "bad.png").write_bytes(b"")
    text, numbers = _write(alone, tmp_path, "--images", "0", data=(str(data),))
    assert numbers["training"] is None
    assert (numbers["split"], numbers["images"], numbers["predictions"]) == ("all", 2, [])
    assert [entry["reason"] for entry in numbers["bad_images"]] == ["empty, not an image"]
    page = Page(text)
    assert "training curve is not known" in page.text
    assert "1 file could not be read" in page.text
    assert [svg["class"] for svg in page.named("svg")] == ["reliability"]  # no curves


def test_one_line_says_what_is_missing(run, tmp_path, capsys):
    missing = "checkpoints/best.ckpt"
    (run / missing).unlink()
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert missing in error
    assert not list(tmp_path.glob("*report*"))


def test_a_page_that_cannot_be_written_leaves_nothing(trained, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    assert main(["report", str(trained), "--out", str(tmp_path / "report.html")]) == 1
    assert "no space left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [("--out report.json", "end in .html"), ("--images -1", "at least 0"), ("--batch-size 0", "at least 1")],
)
def test_wrong_options(options, reason, trained, capsys):
    assert main(["report", str(trained), *options.split()]) == 2
    assert reason in capsys.readouterr().err


def test_many_classes_become_lists(written, trained):
    _, numbers = written
    names = [f"class {i}" for i in range(60)]
    classes = [
        numbers["classes"][0] | {"name": n, "images": 5, "right": i % 6, "top1": i % 6 / 5}
        for i, n in enumerate(names)
    ]
    confused = [{"truth": names[i], "prediction": names[i + 1], "images": 60 - i} for i in range(59)]
    confusion = np.diag(np.arange(60, 1, -1), 1).tolist()
    many = numbers | {"class_names": names, "classes": classes, "confused": confused, "confusion": confusion}
    scores = make_report(trained).scores
    page = Page(render_run(scores, many | {"predictions": [], "mistakes": [], "funnel": None}))
    assert not [t for t in page.named("table") if t.get("class") == "matrix"]
    assert "The 30 least accurate of 60" in page.text
    assert "most frequent of 59 kinds" in page.text
    assert "Confusion matrix of 60 classes" in [image["alt"] for image in page.named("img")]


def test_a_report_from_python_is_that_of_the_command(written, trained, tmp_path):
    report = write_report(trained, tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    expected = written[1] | {"throughput": None}
    assert json.loads((tmp_path / "r.json").read_text()) | {"throughput": None} == expected
    assert report.scores.numbers["top1"] == expected["top1"]


def test_a_report_that_cannot_be_made_costs_no_training(trained, tmp_path, monkeypatch, caplog):
    assert write_report(tmp_path / "none", tmp_path / "r.html", required=False) is None
    assert "none: no such run folder or checkpoint; `ctxvision report` makes it later" in caplog.text

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("ctxvision.pages.report.evaluate", interrupted)
    assert write_report(trained, tmp_path / "r.html", required=False) is None
    assert "r.html could not be made: interrupted" in caplog.text
    assert not (tmp_path / "r.html").exists()
    with pytest.raises(KeyboardInterrupt):
        write_report(trained, tmp_path / "r.html")


def test_gaps_and_single_epochs_can_be_drawn():
    for values in ([0.5], [None, 0.5, None, 0.7], [None, None]):
        svg = curve({"a": values, "b": values}, "a & b", "name", percent=True)
        Page(svg)
        assert 'aria-label="a &amp; b"' in svg
        assert "#0101" not in svg


@pytest.mark.parametrize(("size", "kind"), [(32, "png"), (224, "jpeg")])
@pytest.mark.parametrize("channels", [1, 3])
def test_thumbnails(size, kind, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (channels, size, size), np.uint8)
    mean, std = (0.4,) * channels, (0.2,) * channels
    normalised = (torch.from_numpy(pixels) / 255 - 0.4) / 0.2
    uri = thumbnail(normalised, mean, std)
    assert uri.startswith(f"data:image/{kind};base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert max(picture.size) == min(size, 160)
    if kind == "png":
        assert np.array_equal(np.asarray(picture).reshape(size, size, channels).transpose(2, 0, 1), pixels)


def test_numbers_for_people():
    assert [percent(x) for x in (0, 1, 0.5, 0.9996, 0.0001, None)] == [
        "0.0\u202f%",
        "100.0\u202f%",
        "50.0\u202f%",
        ">\u202f99.9\u202f%",
        "<\u202f0.1\u202f%",
        "–",
    ]
    assert [duration(s) for s in (3.4, 59.6, 98, 7300)] == [
        "3\u202fs",
        "1\u202fmin 0\u202fs",
        "1\u202fmin 38\u202fs",
        "2\u202fh 1\u202fmin",
    ]
