import json

import pytest

from ctxvision.explain import ReportError, read_run
from ctxvision.tasks import run_folder


def test_a_folder_and_its_checkpoint_are_the_same_run(trained):
    by_folder, by_file = read_run(trained), read_run(trained / "checkpoints" / "best.ckpt")
    assert by_folder == by_file
    assert [epoch.epoch for epoch in by_folder.epochs] == [1]
    assert by_folder.settings["model"] == "contextual_convnext_micro"
    assert 0 < by_folder.epochs[0].seconds < 600


def test_a_checkpoint_alone_has_no_curve(run, tmp_path):
    moved = (run / "checkpoints" / "best.ckpt").rename(tmp_path / "alone.ckpt")
    found = read_run(moved)
    assert found.epochs == ()
    assert found.settings == {}


@pytest.mark.parametrize(
    ("text", "epochs", "reason"),
    [
        (b"epoch,seconds\n", [], None),
        (b"step\n1\n", [], "its first line does not name the columns"),
        (b"", [], "its first line does not name the columns"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", [], "its first line does not name the columns"),
        (b"epoch\none\n", [], "1 of 1 rows cannot be read and is left out"),
        (b"epoch,val_top1\n1,high\n2,0.5\n", [2], "1 of 2 rows cannot be read"),
        (b"epoch,val_top1\n1,0.5\n2,0.", [1], "1 of 2 rows cannot be read"),  # of 0.75
        (b"epoch,val_top1\n1,0.5\n\x00\x00\x00\x00\n3,0.25\n", [1, 3], "1 of 3 rows cannot be read"),
        (b"epoch,val_top1\r\n1,0.5\r\n2,nan\r\n\r\n", [1, 2], None),
        (b"epoch,val_top1\n0,1\n-1,1\n1.5,1\n1_0,1\n9999999999,1\n4,1,1\n", [], "6 of 6 rows"),
        (b"epoch,epoch\n1,1\n", [], "its first line does not name the columns"),
    ],
)
def test_damaged_metrics_are_left_out_and_said(run, text, epochs, reason, caplog):
    (run / "metrics.csv").write_bytes(text)
    found = read_run(run)
    assert [epoch.epoch for epoch in found.epochs] == [row["epoch"] for row in found.rows] == epochs
    assert all(epoch.val_top1 in (None, 0.5, 0.25) for epoch in found.epochs)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (reason is not None)
    assert reason is None or f"{run / 'metrics.csv'}: {reason}" in said[0]


def test_metrics_of_another_kind_are_left_out_and_said(run, caplog, monkeypatch):
    path = run / "metrics.csv"
    path.unlink()
    for make, reason in ((lambda: None, "is missing"), (path.mkdir, "is not a file")):
        make()
        caplog.clear()
        assert read_run(run).epochs == ()
        assert caplog.messages == [f"{path}: {reason}"]
    path.rmdir()
    monkeypatch.setattr(run_folder, "_BYTES", 100)
    path.write_bytes(b"epoch,train_loss\n" + b"".join(b"%d,0.5\n" % number for number in range(1, 100)))
    found = run_folder.read_rows(path)
    assert 0 < len(found.rows) < 20
    assert "is longer than" in found.damage


def test_what_was_not_measured_is_none(run):
    (run / "metrics.csv").write_text("epoch,train_loss,val_top1,seconds\n1,,0.5\n")
    (epoch,) = read_run(run).epochs
    assert (epoch.train_loss, epoch.val_loss, epoch.val_top1, epoch.seconds) == (None, None, 0.5, None)


@pytest.mark.parametrize(
    "text",
    [
        "- a list\n",
        "{",
        "\x00",
        "a: &x 1\nb: *x\n",
        "d: 2024-13-45\n",
        "1: 2\n",
        "[" * 10_000,
        "a: !!python/name:os.system\n",
    ],
)
def test_damaged_settings_are_left_out_and_said(run, text, caplog):
    (run / "config.yaml").write_text(text)
    assert read_run(run).settings == {}
    assert [line for line in caplog.messages if "config.yaml: not" in line] == caplog.messages != []


def test_settings_are_what_json_has(run):
    (run / "config.yaml").write_text("a: 2024-01-02\nb: .nan\nc: !!set {x}\nd: [1, {e: null}]\nf: !!binary aGk=\n")
    settings = read_run(run).settings
    assert json.loads(json.dumps(settings, allow_nan=False)) == settings
    assert settings["d"] == [1, {"e": None}]


def test_not_a_run(run):
    (run / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(ReportError, match=r"not a run folder.*best\.ckpt"):
        read_run(run)
    with pytest.raises(ReportError, match="no such run folder or checkpoint"):
        read_run(run / "elsewhere")
