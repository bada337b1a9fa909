import runpy
import sys

import pytest
import torch

from benchmarks import cli, rows
from benchmarks.plot.published import published
from benchmarks.plot.selection import fastest, newest
from benchmarks.plot.style import spread
from benchmarks.table import markdown
from benchmarks.targets import Target
from ctxvision.models import paper_result
from ctxvision.timing import clock

COLUMNS = ("name", "ms")
CPU = torch.device("cpu")


def test_rows_round_trip_under_one_header(tmp_path):
    path = tmp_path / "new" / "rows.csv"
    rows.append(path, COLUMNS, [{"name": "a, b", "ms": 1.23456789}])
    rows.append(path, COLUMNS, [{"ms": 2e-7, "name": 'c "d"'}])
    assert rows.read(path) == [{"name": "a, b", "ms": "1.23457"}, {"name": 'c "d"', "ms": "2e-07"}]
    assert path.read_text().count("name,ms") == 1


@pytest.mark.parametrize(
    ("before", "message"),
    [("name,seconds\n", "another schema.*ms, seconds"), ("ms,name\n", "order"), ("name,ms\na,1\nb", "not whole")],
)
def test_other_files_are_refused_and_left_alone(tmp_path, before, message):
    path = tmp_path / "rows.csv"
    path.write_text(before)
    with pytest.raises(rows.SchemaError, match=message):
        rows.append(path, COLUMNS, [{"name": "a", "ms": 1.0}])
    assert path.read_text() == before


def test_one_odd_row_keeps_all_out(tmp_path):
    path = tmp_path / "rows.csv"
    with pytest.raises(rows.SchemaError, match="seconds"):
        rows.append(path, COLUMNS, [{"name": "a", "ms": 1.0}, {"name": "b", "seconds": 1.0}])
    assert not path.exists()


def test_quantiles():
    assert clock.quantiles([n / 1e3 for n in range(11)]) == pytest.approx((1, 5, 9, 11))
    assert clock.quantiles([0.002]) == pytest.approx((2, 2, 2, 1))


def test_candidates_take_turns(monkeypatch):
    monkeypatch.setattr(clock, "MIN_SAMPLE", {"cpu": 0.0})
    log = []
    candidates = {
        "a": clock.Candidate(lambda: log.append("a"), lambda: log.append("A")),
        "b": clock.Candidate(lambda: log.append("b")),
    }
    times = clock.take_turns(candidates, CPU, repeats=3, seconds=60)
    assert "".join(log).endswith("Aab" * 3)
    assert {len(taken) for taken in times.values()} == {3}


def test_rounds_end_after_the_given_time_but_not_before_five(monkeypatch):
    monkeypatch.setattr(clock, "MIN_SAMPLE", {"cpu": 0.0})
    times = clock.take_turns({"a": clock.Candidate(lambda: None)}, CPU, repeats=50, seconds=0)
    assert len(times["a"]) == clock.MIN_ROUNDS


@pytest.mark.parametrize(
    ("measured", "at_most", "reached"),
    [
        (130, False, "stretch"),
        (129, False, "at least"),
        (79, False, "missed"),
        (float("nan"), False, "missed"),
        (1.1, True, "stretch"),
        (1.2, True, "at least"),
        (1.4, True, "missed"),
    ],
)
def test_verdicts(measured, at_most, reached):
    bounds = (1.3, 1.1) if at_most else (80, 130)
    assert Target("x", *bounds, at_most).verdict(measured) == reached


def test_markdown_is_aligned():
    lines = markdown(("what", "ms"), [("a", 1), ("longer", 23)]).splitlines()
    assert lines == ["| what   |  ms |", "| ------ | --: |", "| a      |   1 |", "| longer |  23 |"]


@pytest.mark.parametrize("command", [[], ["ops"], ["models"], ["plot"]])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*command, "--help"])
    assert stopped.value.code == 0
    assert "usage: python -m benchmarks" in capsys.readouterr().out


def test_python_dash_m(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "plot", "--rows", "missing.csv"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("benchmarks", run_name="__main__")
    assert stopped.value.code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ops", "--smoke"], "--smoke needs --out"),
        (["ops", "--device", "mps"], "cpu or cuda"),
        (["ops", "--device", "cpu", "--only", "nothing"], "no such case"),
        (["plot", "--rows", "missing.csv"], "missing.csv"),
    ],
)
def test_refusals(arguments, message, capsys):
    assert cli.main(arguments) == 1
    assert message in capsys.readouterr().err


def _row(date, sweep, network, layout, size, ms):
    return {
        "date": date, "sweep": sweep, "pass": "inference", "network": network, "layout": layout,
        "resolution": str(size), "batch": "8", "p50_ms": str(ms), "images_s": str(8e3 / ms), "device": "a CPU",
        "threads": "2", "dtype": "float32", "torch": "2", "commit": "c", "dirty": "0",
    }  # fmt: skip


def test_figures_show_the_newest_run_in_the_faster_format():
    found = [
        _row("2026-01-01", "none", "cotnet50", "nchw", 224, 1),
        _row("2026-01-02", "none", "cotnet50", "nchw", 224, 20),
        _row("2026-01-02", "none", "cotnet50", "channels_last", 224, 9),
        _row("2026-01-03", "batch", "cotnet50", "channels_last", 224, 5),
    ]
    lines = fastest(newest(found, "none"), "resolution")
    assert [row["p50_ms"] for row in lines["cotnet50"].values()] == ["9"]
    assert newest(found, "resolution") == []


def test_figures_are_drawn(tmp_path):
    found = [
        _row("2026-01-02", sweep, network, "nchw", size, ms)
        for sweep in ("none", "resolution")
        for network, ms in (("cotnet50", 10), ("resnet50", 11), ("halonet26t", 12))
        for size in ((224,) if sweep == "none" else (112, 224))
    ]
    rows.append(tmp_path / "rows.csv", tuple(found[0]), found)
    assert cli.main(["plot", "--rows", str(tmp_path / "rows.csv"), "--out", str(tmp_path)]) == 0
    accuracy = (tmp_path / "accuracy.svg").read_text()
    assert "cotnet50" in accuracy
    assert "no published accuracy: halonet26t" in accuracy
    assert "ms per megapixel" in (tmp_path / "resolution.svg").read_text()
    assert not (tmp_path / "batch.svg").exists()


def test_labels_are_spread():
    placed = spread([5.0, 0.0, 5.5, 20.0], gap=2.0)
    assert placed == pytest.approx([4.25, 0.0, 6.25, 20.0])


def test_accuracies_come_from_papers():
    assert published("cotnet50").top1 == paper_result("cotnet50").top1
    assert published("convnext_tiny").top1 == 82.1
    assert published("halonet26t") is None
