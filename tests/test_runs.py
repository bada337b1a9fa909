import json

import pytest

from ctxvision import runs
from ctxvision.runs import RunError, RunFolder, checkpoint_of, read_run


@pytest.fixture
def run(tmp_path):
    """A run folder of two epochs, without a network."""
    run = RunFolder(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    run.best.write_bytes(b"best")
    run.last.write_bytes(b"last")
    run.settings_file.write_text("model: rednet_micro\nlr: 0.1\n")
    run.metrics_file.write_text("epoch,step,val_top1,val_recall_2,seconds\n1,5,0.5,0.75,2.5\n2,10,0.25,,3\n")
    return run.path


def test_a_folder_and_its_checkpoint_are_the_same_run(run):
    by_folder, by_file = read_run(run), read_run(run / "checkpoints" / "best.ckpt")
    assert by_folder == by_file
    assert [(epoch.epoch, epoch.recalls, epoch.seconds) for epoch in by_folder.epochs] == [
        (1, {"2": 0.75}, 2.5),
        (2, {}, 3.0),
    ]
    assert by_folder.settings == {"model": "rednet_micro", "lr": 0.1}
    assert checkpoint_of(run) == str(by_folder.checkpoint)
    for other in (run / "checkpoints" / "last.ckpt", run / "none", "resnet50"):
        assert checkpoint_of(other) == str(other)


@pytest.mark.parametrize(
    ("here", "word", "expected"),
    [
        (".", "run", "run"),
        (".", "run/checkpoints/last.ckpt", "run"),
        ("run", "checkpoints/last.ckpt", "."),
        ("run/checkpoints", "last.ckpt", ".."),
        ("run/checkpoints", "../checkpoints/last.ckpt", ".."),
        (".", "moved/last.ckpt", "run"),
        (".", "link.ckpt", "run"),
        (".", "far/checkpoints/last.ckpt", "far"),
        (".", "none", "none"),
    ],
)
def test_the_folder_around_a_checkpoint(run, here, word, expected, monkeypatch):
    (run.parent / "moved").symlink_to(run / "checkpoints")
    (run.parent / "link.ckpt").symlink_to(run / "checkpoints" / "best.ckpt")
    (run.parent / "far").mkdir()  # its checkpoints are on another disk
    (run.parent / "far" / "checkpoints").symlink_to(run / "checkpoints")
    (run.parent / "far" / "config.yaml").touch()
    monkeypatch.chdir(run.parent / here)
    found = RunFolder.around(word).path
    assert found.resolve() == (run.parent / here / expected).resolve()
    assert found.is_absolute() is (word in ("moved/last.ckpt", "link.ckpt"))


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
    monkeypatch.setattr(runs, "_MOST_METRICS", 100)
    path.write_bytes(b"epoch,train_loss\n" + b"".join(b"%d,0.5\n" % number for number in range(1, 100)))
    found = RunFolder(run).read_rows()
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
    with pytest.raises(RunError, match=r"not a run folder.*best\.ckpt"):
        read_run(run)
    with pytest.raises(RunError, match="no such run folder or checkpoint"):
        read_run(run / "elsewhere")


def test_settings_come_back_from_the_last_start(run, caplog):
    noted = [{"settings": {"lr": 1}}, {"settings": {"lr": 2}}]
    (run / "environment.json").write_text(json.dumps(noted))
    assert read_run(run).settings["lr"] == 0.1
    assert caplog.messages == []
    for damage in (lambda path: path.write_text("{"), lambda path: path.unlink()):
        damage(run / "config.yaml")
        caplog.clear()
        assert read_run(run).settings == {"lr": 2}
        (said,) = caplog.messages
        assert said.endswith("the settings are taken from environment.json")


@pytest.mark.parametrize(
    ("text", "damage"),
    [
        (None, ""),
        ("{", "not JSON, or not all of it"),
        ("[" * 100_000, "not JSON, or not all of it"),
        ("1", "not "),
        ('{"a": 1}', "not "),
        ("[" + "1," * 200 + "1]", "is longer than"),
    ],
)
def test_damaged_notes_of_a_run_are_left_out_and_said(run, text, damage, monkeypatch):
    folder = RunFolder(run)
    for file in (folder.starts_file, folder.trackers_file, folder.lock_file):
        if text is not None:
            file.write_text(text)
    monkeypatch.setattr(runs, "_MOST_JSON", 1 << 18 if text and text.startswith("[[") else 300)
    for nothing, (found, said) in (([], folder.read_starts()), ({}, folder.read_trackers())):
        assert found == nothing
        assert said.startswith(damage)
        assert bool(said) is bool(damage)
    assert folder.read_lock() in ({}, {"a": 1})
    assert folder.noted_settings() is None


def test_folders_in_the_place_of_files(run):
    folder = RunFolder(run)
    for file in (folder.starts_file, folder.trackers_file, folder.lock_file):
        file.mkdir()
    assert folder.read_starts() == ([], "is not a file")
    assert folder.read_trackers() == ({}, "is not a file")
    assert folder.read_lock() == {}
