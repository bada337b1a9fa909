import pytest

from ctxvision.explain import ReportError, read_run


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
    ("text", "reason"),
    [
        ("epoch,seconds\n", "no epoch"),
        ("step\n1\n", "not the metrics"),
        ("epoch\none\n", "not the metrics"),
        ("epoch,val_top1\n1,high\n", "not the metrics"),
        ("", "no epoch"),
    ],
)
def test_damaged_metrics(run, text, reason):
    (run / "metrics.csv").write_text(text)
    with pytest.raises(ReportError, match=rf"metrics\.csv: {reason}"):
        read_run(run)


def test_what_was_not_measured_is_none(run):
    (run / "metrics.csv").write_text("epoch,train_loss,val_top1,seconds\n1,,0.5\n")
    (epoch,) = read_run(run).epochs
    assert (epoch.train_loss, epoch.val_loss, epoch.val_top1, epoch.seconds) == (None, None, 0.5, None)


@pytest.mark.parametrize("text", ["- a list\n", "{", "\x00"])
def test_damaged_settings(run, text):
    (run / "config.yaml").write_text(text)
    with pytest.raises(ReportError, match=r"config\.yaml: not"):
        read_run(run)


@pytest.mark.parametrize("missing", ["metrics.csv", "checkpoints/best.ckpt"])
def test_not_a_run(run, missing):
    (run / missing).unlink()
    with pytest.raises(ReportError, match=f"not a run folder.*{missing}"):
        read_run(run)
    with pytest.raises(ReportError, match="no such run folder or checkpoint"):
        read_run(run / "elsewhere")
