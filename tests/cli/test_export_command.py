"""``ctxvision export``: what it refuses before any work."""

import pytest

from _checkpoints import detection_task, segmentation_task, video_task, write_task
from ctxvision.cli import main
from ctxvision.export import ExportError
from ctxvision.tasks import ClassificationTask


@pytest.mark.parametrize(
    ("make", "words", "message"),
    [
        (video_task, ["--dynamic-size"], "--dynamic-size: clips are always resized"),
        (lambda: detection_task("faster_rcnn"), ["--fixed-size"], "--fixed-size: detectors resize"),
        (segmentation_task, ["--int8=digits"], "--int8 compares top-1 of classifiers"),
        (segmentation_task, ["--fixed-size", "--dynamic-size"], "not allowed with"),
        (segmentation_task, ["--int8=digits", "--ops=native"], "--int8 quantises graphs of standard operators"),
        (segmentation_task, ["--ops=fast"], "--ops: there is no 'fast'; there are"),
    ],
)
def test_refusals(make, words, message, tmp_path, capsys):
    checkpoint = write_task(make(), tmp_path / "net.ckpt")
    try:
        code = main(["export", str(checkpoint), str(tmp_path / "net.onnx"), *words])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["net.ckpt"]


@pytest.mark.parametrize(
    ("suffix", "words", "expected"),
    [(".onnx", [], "portable"), (".onnx", ["--ops=native"], "native"), (".pt2", [], "native"),
     (".pt2", ["--ops=portable"], "portable")],
)  # fmt: skip
def test_what_the_operators_become(suffix, words, expected, tmp_path, monkeypatch):
    checkpoint = write_task(segmentation_task(), tmp_path / "net.ckpt")
    asked = []

    def export(network, path, *, operators, **options):
        path.write_text("a file")
        asked.append(operators)
        return 0.0

    for name in ("export_onnx", "export_pt2"):
        monkeypatch.setattr(f"ctxvision.export.{name}", export)
    assert main(["export", str(checkpoint), str(tmp_path / f"net{suffix}"), *words]) == 0
    assert asked == [expected]


@pytest.mark.parametrize(
    ("kind", "options", "way"),
    [("classification", ["--dynamic-size"], "leaving out --dynamic-size"), ("segmentation", [], "--fixed-size")],
)
def test_who_cannot_have_any_size_is_told_how_to_have_one(kind, options, way, tmp_path, capsys, monkeypatch):
    if kind == "segmentation":
        task = segmentation_task(size=32)
    else:
        spec = {"class_names": ["cat", "dog"], "input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
        spec |= {"interpolation": "bicubic", "crop_pct": 1.0}
        task = ClassificationTask("test_resnet", spec).eval()
    write_task(task, tmp_path / "net.ckpt")

    def refuse(*_args, **_kwargs):
        raise ExportError("torch cannot export this network for any size: a reason")

    monkeypatch.setattr("ctxvision.export.export_onnx", refuse)
    assert main(["export", str(tmp_path / "net.ckpt"), str(tmp_path / "net.onnx"), *options]) == 1
    assert f"for any size: a reason; {way} exports for 32 × 32 alone" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["net.ckpt"]


def test_a_folder_in_the_place_of_the_file(tmp_path, capsys):
    (tmp_path / "net.onnx").mkdir()
    assert main(["export", "nothing.ckpt", str(tmp_path / "net.onnx")]) == 1
    assert "cannot be written (is a folder)" in capsys.readouterr().err
