"""Every way to run a network, at toy size: what is timed, what is refused, what a second run does."""

import argparse
import csv
import sys

import pytest
import timm
import torch
from torch import nn

from benchmarks import cli, machine
from benchmarks.gate import RedGate
from benchmarks.matrix import cli as options
from benchmarks.matrix import environments, forms, remote, report, run
from benchmarks.matrix.comparing import compare, lowest_kept, require_rounded
from benchmarks.matrix.plan import FOREIGN, FORMS, PAIRS, TARGETS, Foreign, Group, Plan
from benchmarks.matrix.remote import CellError, Remote
from benchmarks.models.networks import PEERS
from ctxvision.export import Metadata, export_onnx, open_exported, quantize_onnx
from ctxvision.nn import CoTLayer

TOY = ["matrix", "--networks", "cotnet_micro:resnet10t", "--size", "32", "--threads", "1", "--repeats", "1",
       "--seconds", "0", "--compiler", "eager"]  # fmt: skip
EVERYWHERE = ("eager", "fused", "ort-portable", "ort-native", "compiled")  # without what is not installed, or slow


def small(name):
    """Stand for a network, so that exporters and compilers have little to do."""
    layer = CoTLayer(16) if name == "cotnet_micro" else nn.Conv2d(16, 16, 3, padding=1)
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(stem, layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 7))


def plan(**changed):
    toy = {"pairs": {"cotnet_micro": "resnet10t"}, "size": 32, "threads": 1, "repeats": 1, "seconds": 0.0}
    return Plan(**{**toy, "batches": (1,), "compiler": "eager", **changed})


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory):
    """Rows and output of two runs into one file, with one folder of exports."""
    folder = tmp_path_factory.mktemp("matrix")
    out = folder / "matrix.csv"
    command = [*TOY, "--batches", "1", "2", "--dtypes", "float32", "--forms", *EVERYWHERE]
    command += ["--exports", str(folder), "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forms, "build", small)
        patch.setattr(machine, "_git", lambda *arguments: "abc" if arguments[0] == "rev-parse" else "")
        assert cli.main(command) == 0
        first = out.read_text()
        patch.setattr(run, "_measure", None)
        assert cli.main(command) == 0
    assert out.read_text() == first  # nothing is measured twice with the same code
    with out.open() as file:
        return list(csv.DictReader(file)), command


@pytest.mark.slow
def test_every_form_is_timed_in_the_turn_of_its_peer(toy_run):
    rows, _ = toy_run
    assert tuple(rows[0]) == run.COLUMNS
    assert {row["outcome"] for row in rows} == {"timed"}
    cells = {(row["form"], row["network"], row["batch"]) for row in rows}
    assert cells == {(form, name, batch) for form in EVERYWHERE for name in ("cotnet_micro", "resnet10t")
                     for batch in "12"}  # fmt: skip
    for row in rows:
        assert float(row["images_s"]) == pytest.approx(1e3 * int(row["batch"]) / float(row["p50_ms"]), rel=1e-4)
        assert float(row["difference"]) <= 1e-4
        assert row["detail"]
        if row["network"] == row["peer"]:
            assert float(row["ratio"]) == 1


@pytest.mark.slow
def test_report_prints_what_a_file_holds(toy_run, capsys):
    rows, command = toy_run
    capsys.readouterr()
    assert cli.main([*command, "--report"]) == 0
    printed = capsys.readouterr().out
    ours = [row for row in rows if row["network"] != row["peer"]]
    weakest = min(ours, key=lambda row: float(row["ratio"]))
    assert f"weakest cell: cotnet_micro, {weakest['form']} float32, batch {weakest['batch']}" in printed
    assert "float32, batch 2" in printed
    assert "refused" not in printed


class _Wrong(nn.Module):
    """Differs from itself by a thousandth wherever our own kernels compute."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        from ctxvision.ops import _backend

        y = x.flatten(2).mean(2) * self.weight
        return y if _backend._forced == "torch" else y * (1 + 1e-3)


def test_a_cell_that_computes_something_else_has_no_speed(monkeypatch, tmp_path):
    build = forms.build
    monkeypatch.setattr(forms, "build", lambda name: _Wrong() if name == "cotnet_micro" else build(name))
    found = run.run(plan(forms=("eager",), dtypes=("float32",)), tmp_path / "m.csv")
    wrong, right = sorted(found, key=lambda row: row["network"])
    assert wrong["outcome"].startswith("refused: differs from eager float32 by 0.001 of the largest logit")
    assert wrong["p50_ms"] == wrong["images_s"] == wrong["ratio"] == ""
    assert right["outcome"] == "timed"
    said = report.report(found, False)
    assert "cotnet_micro, eager float32, batch 1: refused" in said
    assert "No cell of ours was timed." in said


def test_nothing_is_compared_with_a_peer_that_is_refused(monkeypatch, tmp_path):
    build = forms.build
    monkeypatch.setattr(forms, "build", lambda name: _Wrong() if name == "resnet10t" else build(name))
    found = run.run(plan(forms=("eager",), dtypes=("float32",)), tmp_path / "m.csv")
    assert {row["network"]: row["outcome"].partition(":")[0] for row in found} == {
        "resnet10t": "refused", "cotnet_micro": "not timed",
    }  # fmt: skip


def test_numbers_that_are_not_finite_are_refused():
    logits = torch.ones(2, 3)
    assert compare("eager", "net", logits * (1 + 5e-5), logits, "float32") == pytest.approx(5e-5, rel=1e-2)
    with pytest.raises(RedGate, match="not finite"):
        compare("eager", "net", logits * torch.nan, logits, "bfloat16")
    with pytest.raises(RedGate, match="1, 3"):
        compare("eager", "net", logits[:1], logits, "float32")


def test_bfloat16_may_round_as_torch_s_own_operators_do():
    exact = torch.tensor([[1.0, 2.0, 3.0]])
    found, of_torch = exact + torch.tensor([0.45, 0, 0]), exact + torch.tensor([0.0, 0.4, 0])
    with pytest.raises(RedGate, match=r"0.15 of the largest logit, more than 0.1$"):
        compare("eager", "net", found, exact, "bfloat16")
    assert compare("eager", "net", found, exact, "bfloat16", of_torch=lambda: of_torch) == pytest.approx(0.15)
    with pytest.raises(RedGate, match=r"0.2 of the largest logit, more than 0.17$"):
        compare("eager", "net", exact + 0.6, exact, "bfloat16", of_torch=lambda: of_torch)
    with pytest.raises(RedGate, match=r"more than 0.0001$"):
        compare("eager", "net", found, exact, "float32", of_torch=lambda: of_torch)


def test_dropped_classes_are_told_from_kept_ones():
    ratios = (1, 0.8, 0.6, 0.4)
    network = timm.create_model("contextual_convnext_micro", num_classes=30, class_ratios=ratios).eval()
    with torch.no_grad():
        logits = network(torch.randn(2, 3, 64, 64))
    lowest, kept = lowest_kept(network), 12
    assert (logits > lowest).sum(1).tolist() == [kept, kept]
    assert lowest_kept(nn.Identity()) is None
    first = logits[0].argsort()[-kept]  # the worst of those that were kept
    moved = logits.clone()
    moved[0, first] -= 2 / network.context.temperature.item() + 1
    assert compare("eager", "net", moved, logits, "bfloat16", lowest=lowest) == 0
    with pytest.raises(RedGate, match=r"keeps 4% other classes"):
        compare("eager", "net", moved, logits, "float32", lowest=lowest)
    with pytest.raises(RedGate, match="keeps 100% other classes"):
        compare("eager", "net", torch.full_like(logits, lowest - 1), logits, "bfloat16", lowest=lowest)


def test_integers_are_compared_with_what_their_file_says(tmp_path):
    net, images = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).eval(), torch.randn(8, 3, 4, 4)
    spec = {"class_names": [*"abcde"], "input_size": [3, 4, 4]}
    export_onnx(net, tmp_path / "float.onnx", metadata=Metadata("net", "classification", spec))
    path = tmp_path / "int8.onnx"
    quantize_onnx(tmp_path / "float.onnx", path, [images], input_name="images")
    feed, found = {"images": images.numpy()}, open_exported(path)(images)
    assert not torch.allclose(found, net(images), rtol=1e-4, atol=1e-6)
    require_rounded(path, feed, found)
    with pytest.raises(RedGate, match=r"differs by 0.2 of the largest logit from what its file says"):
        require_rounded(path, feed, found * 1.2)


def test_a_form_that_fails_is_its_cell_s(monkeypatch, tmp_path):
    monkeypatch.setattr(forms, "exported", lambda *_: 1 / 0)
    monkeypatch.setattr(remote, "python_with", lambda name: None)
    found = run.run(plan(forms=("ort-native", "openvino"), dtypes=("float32",)), tmp_path / "m.csv")
    said = {row["form"]: row["outcome"] for row in found}
    assert said["ort-native"].startswith("cannot run: ZeroDivisionError")
    assert len(found) == 4


def test_without_an_environment_the_reason_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(environments, "ENVIRONMENTS", environments.ROOT / "no-such-folder")
    with pytest.raises(CellError, match="no environment for paddle; `make peers`"):
        Remote("paddle", 1)
    assert set(environments.PACKAGES) == {"openvino"} | {its.runner for its in FOREIGN.values()}
    for name in environments.PACKAGES:
        assert (remote.RUNNERS / f"run_{name}.py").is_file()


RUNNER = """
import sys
sys.path.insert(0, {folder!r})
from serving import serve
print("imported")

def open_network(request, images):
    print("a library that talks")
    if request["network"] == "odd":
        raise ValueError("no such network")
    if request["network"] == "deadly":
        sys.exit("a reason")
    return lambda: images.sum((2, 3)) * request["threads"], lambda found: found, "a runner"

serve(open_network)
"""


@pytest.mark.process
def test_a_runner_s_process_opens_computes_and_fails_by_cell(monkeypatch, tmp_path):
    (tmp_path / "run_toy.py").write_text(RUNNER.format(folder=str(remote.RUNNERS)))
    monkeypatch.setattr(remote, "RUNNERS", tmp_path)
    monkeypatch.setattr(remote, "python_with", lambda name: sys.executable)
    foreign = {"net of others": Foreign("cotnet_micro", "toy", "net", ("eager",)),
               "odd of others": Foreign("cotnet_micro", "toy", "odd", ("eager",))}  # fmt: skip
    monkeypatch.setattr(forms, "build", small)
    monkeypatch.setattr(forms, "with_weights_of", lambda its, weights: lambda images: images.sum((2, 3)) * 2)
    monkeypatch.setattr(report, "FOREIGN", foreign)
    found = run.run(plan(forms=("eager",), dtypes=("float32",), foreign=foreign, threads=2), tmp_path / "m.csv")
    outcomes = {row["network"]: row["outcome"] for row in found}
    assert outcomes["net of others"] == "timed"
    assert outcomes["odd of others"] == "cannot run: ValueError: no such network"
    said = report.report(found, False)
    assert "net of others | eager" in said
    runner = Remote("toy", 1)
    with pytest.raises(CellError, match="has ended, with status 1: a reason"):
        runner.open("a", torch.zeros(1, 3, 2, 2), network="deadly")
    runner.end()


def test_groups_hold_each_network_beside_its_peer():
    groups = list(Plan(foreign=FOREIGN).groups())
    assert groups[0] == Group("eager", "float32", 1, "resnet50",
                              ("resnet50", "rednet50", "cotnet50", "contextual_resnet50", *FOREIGN))  # fmt: skip
    assert {(group.form, group.dtype) for group in groups} == {
        (f, d) for f, dtypes in FORMS.items() for d in dtypes
    }
    for group in groups:
        assert all(PAIRS.get(name, group.peer) == group.peer for name in group.networks if name not in FOREIGN)
    assert PEERS.items() <= PAIRS.items()
    assert {(form, dtype) for form, dtype, _, _ in TARGETS} <= {(group.form, group.dtype) for group in groups}


def test_rows_of_other_code_are_not_taken_up():
    shared = {"dirty": 0} | dict.fromkeys(run._SAME_RUN, "1")
    row = {name: str(value) for name, value in shared.items()}
    assert run._taken_up(row, shared)
    assert not run._taken_up(row | {"commit": "2"}, shared)
    assert not run._taken_up(row, shared | {"dirty": 1})
    assert not run._taken_up(row | {"dirty": "1"}, shared)


def test_options_are_checked(capsys):
    assert cli.main(["matrix", "--size", "0"]) == 1
    assert "--size must be at least 1, got 0" in capsys.readouterr().err
    assert cli.main(["matrix", "--networks", "cotnet101"]) == 1
    assert "cotnet101:PEER" in capsys.readouterr().err
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    made = options.plan_of(parser.parse_args(["--networks", "cotnet50", "--peers", "--forms", "aot", "eager"]))
    assert made.pairs == {"cotnet50": "resnet50"}
    assert set(made.foreign) == {"cotnet50 of kecam"}
    assert made.forms == ["eager", "aot"]


def test_targets_and_the_distance_between_aot_and_compiled():
    def row(form, network, ratio, images_s):
        place = {"form": form, "dtype": "float32", "batch": "8", "peer": "resnet50", "network": network}
        figures = {"ratio": str(ratio), "images_s": str(images_s), "difference": "0", "p50_ms": "1"}
        return {**place, **figures, "resolution": "224", "threads": "2", "device": "d", "outcome": "timed"}

    rows = [
        row("compiled", "rednet50", 9, 50),
        row("compiled", "rednet50", 1.3, 50),
        row("aot", "rednet50", 1, 45),
    ]
    said = report.report(rows, True)
    assert "rednet50 ÷ resnet50, compiled float32, batch 8" in said  # the later row counts
    assert "at least" in [cell.strip() for line in said.splitlines() if "8 " in line for cell in line.split("|")]
    assert "rednet50, aot ÷ compiled" in said
    assert "missed" in said
    assert "weakest cell: rednet50, aot float32, batch 8: 1.00 of resnet50" in said
    assert report.latest(rows)[0]["ratio"] == 1.3
