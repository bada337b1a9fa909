"""The run for a GPU: all of it at toy sizes in Triton's interpreter, and what it does when things go wrong."""

import contextlib
import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import ctxvision.ops.aggregation
from benchmarks import cli
from benchmarks.gate import RedGate
from benchmarks.gpu import items, run
from benchmarks.gpu.plan import Plan, Stage, Verify, full, smoke
from benchmarks.gpu.problems import BENT, LOCAL, PROBLEMS, TINY

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory):
    """Rows and output of ``python -m benchmarks gpu --smoke``."""
    out = tmp_path_factory.mktemp("gpu") / "gpu.csv"
    command = [sys.executable, "-m", "benchmarks", "gpu", "--smoke", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    with out.open() as file:
        return list(csv.DictReader(file)), done.stdout


@pytest.mark.slow
@pytest.mark.process
def test_everything_runs_at_toy_sizes(smoke_run):
    rows, printed = smoke_run
    assert "Nothing failed." in printed
    by_stage = {stage.name: [row for row in rows if row["stage"] == stage.name] for stage in full().stages}
    assert {row["outcome"] for row in by_stage["correctness"]} == {"equal"}
    assert {row["candidate"] for row in by_stage["operators"]} == {
        "ours", "ours, torch backend", "unfold", "shifted sum", "deform_conv2d", "plain convolution",
    }  # fmt: skip
    ways = {(row["what"], row["pass"], row["candidate"]) for row in by_stage["networks"]}
    assert ("contextual_convnext_micro 32 px", "training step", "compiled") in ways
    assert ("resnet18 32 px", "inference", "compiled") in ways
    for case in smoke().stages[-1].items:
        its = [row for row in by_stage["tiles"] if row["what"].startswith(case.case.op)]
        assert sum("in use" in row["outcome"] for row in its) == 1
        assert sum("fastest" in row["outcome"] for row in its) == 1
        assert len({row["candidate"] for row in its}) > 4


@pytest.mark.slow
@pytest.mark.process
def test_printed_summary_names_the_weakest_network(smoke_run):
    rows, printed = smoke_run
    ours = [row for row in rows if row["stage"] == "networks" and not row["what"].startswith(row["peer"])]
    slowest = min({row["what"] for row in ours}, key=lambda what: max(
        float(row["ratio"]) for row in ours if row["what"] == what))  # fmt: skip
    assert f"weakest: {slowest}" in printed


def test_plan_holds_what_the_kernels_are_asked_for():
    plan = full()
    assert [stage.name for stage in plan.stages] == ["correctness", "operators", "networks", "tiles"]
    assert [stage.until for stage in plan.stages] == sorted(stage.until for stage in plan.stages)
    verified = plan.stages[0].items
    assert {(item.problem, item.dtype) for item in verified} == {
        (problem, dtype) for problem in PROBLEMS for dtype in ("float32", "float16", "bfloat16")
    }
    for op in (LOCAL, BENT):
        its = [problem for problem in PROBLEMS if problem.op == op]
        assert any(problem.stride != (1, 1) for problem in its)
        assert any(problem.dilation != (1, 1) for problem in its)
    assert {problem.grouping for problem in PROBLEMS if problem.op == LOCAL} == {"blocked", "interleaved"}
    assert {"", "m", "wb", "wmb", "w"} <= {problem.optional for problem in PROBLEMS if problem.op == BENT}
    assert Plan.unpacked(plan.packed()) == plan


@pytest.mark.parametrize("problem", [*TINY, *PROBLEMS[len(PROBLEMS) - 11 :]], ids=lambda problem: problem.shape)
def test_problems_are_ones_that_the_operators_take(problem, monkeypatch):
    """The backend of this machine is compared in place of Triton."""
    monkeypatch.setattr(items, "use_backend", lambda name: contextlib.nullcontext())
    rows = list(items.work(Verify(problem, "float32"), smoke()))
    assert [row["outcome"] for row in rows] == ["equal", "equal"]


def test_wrong_numbers_are_rows_and_a_failure(monkeypatch):
    right = ctxvision.ops.aggregation.aggregate
    monkeypatch.setattr(ctxvision.ops.aggregation, "aggregate", lambda *args: right(*args) * (1 + 1e-3))
    monkeypatch.setattr(items, "use_backend", lambda name: contextlib.nullcontext())
    rows = []
    with pytest.raises(RedGate, match=r"2 of 2 layouts; the first: WRONG: local_aggregation .* forward"):
        rows.extend(row for row in _collect(rows, items.work(Verify(TINY[0], "float32"), smoke())))
    assert all(row["outcome"].startswith("WRONG") for row in rows)
    assert len(rows) == 2


def _collect(into, found):
    for row in found:
        into.append(row)
    yield from ()


SCRIPT = """
import json, os, sys, time
def say(**words): print(json.dumps(words), flush=True)
for number in map(int, sys.argv[1].split(",")):
    say(item=number, event="start")
    print("a library talks")
    say(item=number, event="row", row={"what": f"item {number}", "outcome": "timed"})
    if number in DIES: os._exit(9)
    if number in POISONS: say(item=number, event="failure", error="CUDA error: illegal address"); sys.exit(3)
    if number in HANGS: time.sleep(600)
    say(item=number, event="end")
"""


def _run_scripted(monkeypatch, tmp_path, processes=1, minutes=1.0, **when):
    script = SCRIPT
    for word in ("DIES", "POISONS", "HANGS"):
        script = script.replace(word, str(when.get(word.lower(), ())))
    monkeypatch.setattr(
        run, "_command", lambda plan, stage, numbers: [sys.executable, "-c", script, ",".join(map(str, numbers))]
    )
    work = tuple(Verify(TINY[0], "float32") for _ in range(4))
    plan = replace(smoke(), stages=(Stage("correctness", work, 1.0, processes),))
    out = tmp_path / "rows.csv"
    failed = run.run(plan, minutes, out)
    with out.open() as file:
        return failed, [row["what"] for row in csv.DictReader(file)], out.with_suffix(".failures.txt")


@pytest.mark.process
@pytest.mark.parametrize("processes", [1, 2])
def test_a_process_that_dies_is_followed_by_another(monkeypatch, tmp_path, processes):
    failed, done, failures = _run_scripted(monkeypatch, tmp_path, processes, dies=(1,))
    assert failed == 1
    assert sorted(done) == ["item 0", "item 1", "item 2", "item 3"]
    assert "its process ended" in failures.read_text()


@pytest.mark.process
def test_a_device_that_answers_no_more_costs_one_item(monkeypatch, tmp_path):
    failed, done, failures = _run_scripted(monkeypatch, tmp_path, poisons=(0, 2))
    assert failed == 2
    assert done == ["item 0", "item 1", "item 2", "item 3"]
    assert failures.read_text().count("illegal address") == 2


@pytest.mark.process
def test_time_that_is_up_stops_what_hangs_and_keeps_the_rows(monkeypatch, tmp_path):
    failed, done, failures = _run_scripted(monkeypatch, tmp_path, minutes=3 / 60, hangs=(1,))
    assert failed == 1
    assert done == ["item 0", "item 1"]
    assert "the stage's time was up" in failures.read_text()


@pytest.mark.process
def test_a_process_that_cannot_start_is_not_started_for_ever(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "_command", lambda *_: [sys.executable, "-c", "raise ImportError('no triton here')"])
    plan = replace(smoke(), stages=(Stage("correctness", (Verify(TINY[0], "float32"),) * 3, 1.0, 2),))
    assert run.run(plan, 1.0, tmp_path / "rows.csv") > 0
    assert "no triton here" in (tmp_path / "rows.failures.txt").read_text()


def test_command_wants_a_gpu_or_a_file_for_toy_rows(capsys):
    assert cli.main(["gpu", "--smoke"]) == 1
    assert "--smoke needs --out" in capsys.readouterr().err


@pytest.mark.process
def test_a_lent_machine_needs_torch_timm_and_triton_only():
    """Whatever an extra brings is made missing."""
    code = """
import sys
import timm
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"lightning", "torchmetrics", "jsonargparse", "matplotlib", "onnx", "onnxruntime",
                                  "starlette", "uvicorn", "jinja2", "faster_coco_eval", "h5py", "httpx"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import benchmarks.cli, benchmarks.gpu.run, benchmarks.gpu.worker
benchmarks.cli.parser().parse_args(["gpu"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
