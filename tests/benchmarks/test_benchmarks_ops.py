import csv
import getpass
import socket

import pytest
import torch

import ctxvision.ops.aggregation
from benchmarks import cli, machine
from benchmarks.gate import RedGate, oracle
from benchmarks.ops import report, run
from benchmarks.ops.cases import CASES, Case, count_bytes, count_macs, lay_out, tiny
from benchmarks.ops.check import check_case
from benchmarks.settings import Settings
from ctxvision.nn.layouts import LAYOUTS

TINY = list(dict.fromkeys(map(tiny, CASES)))
FAST = Settings(torch.device("cpu"), torch.float32, threads=1, batch=2, repeats=2, seconds=0)


@pytest.fixture
def broken(monkeypatch):
    """Our local aggregation, a little wrong."""
    local = ctxvision.ops.aggregation
    right = local.aggregate
    monkeypatch.setattr(local, "aggregate", lambda *args: right(*args) * (1 + 1e-3))


@pytest.mark.parametrize("case", TINY, ids=lambda case: f"{case.op} {case.shape}")
def test_gate_is_green(case):
    check_case(case, FAST)


def test_gate_holds_bfloat16_to_its_tolerance():
    check_case(TINY[0], Settings(**{**vars(FAST), "dtype": torch.bfloat16}))


@pytest.mark.parametrize("case", TINY, ids=lambda case: f"{case.op} {case.shape}")
def test_peers_equal_the_oracle_with_gradients(case):
    tensors = [tensor.double() for tensor in case.tensors(2)]
    expected = oracle.outputs_and_gradients(case.oracle, tensors)
    for name, peer in case.peers().items():
        oracle.assert_close(oracle.outputs_and_gradients(peer, tensors), expected, torch.float64, name)


def test_floor_is_the_operator_without_context():
    case = next(case for case in TINY if case.op == "contextual_conv2d")
    x, weight, offset, bend = (tensor.double() for tensor in case.tensors(2))
    expected = case.ours(x, weight, 0 * offset, 0 * bend)
    oracle.assert_close(case.floor()(x, weight, offset, bend), expected, torch.float64)


def test_red_gate_names_what_failed_and_by_how_much(broken):
    with pytest.raises(
        RedGate, match=r"local_aggregation 8x5x5 k7 G2 blocked, ours, channels_last, float32: forward"
    ):
        check_case(TINY[0], FAST)


def test_red_gate_prints_no_time_and_appends_nothing(broken, tmp_path, capsys):
    out = tmp_path / "ops.csv"
    assert cli.main(["ops", "--smoke", "--device", "cpu", "--threads", "1", "--out", str(out)]) == 1
    printed = capsys.readouterr()
    assert "error 0.002" in printed.err
    assert "> 2.13e-05" in printed.err
    assert " ms" not in printed.out
    assert not out.exists()


def test_smoke_run_appends_whole_rows(tmp_path, capsys):
    out = tmp_path / "ops.csv"
    command = ["ops", "--smoke", "--device", "cpu", "--threads", "1", "--only", "k3", "--out", str(out)]
    assert cli.main(command) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == run.COLUMNS
    assert {row["candidate"] for row in rows} == {
        "ours", "unfold", "shifted sum", "ours, torch backend", "deform_conv2d", "plain convolution",
    }  # fmt: skip
    for row in rows:
        assert 0 < float(row["p10_ms"]) <= float(row["p50_ms"]) <= float(row["p90_ms"])
        assert row["repeats"] == "2"
        assert float(row["gmac_s"]) / float(row["matrix_gmac_s"]) == pytest.approx(
            float(row["matrix_share"]), rel=1e-4
        )
    # a figure was printed only for the better format of a peer, the file has both
    assert capsys.readouterr().out.count("| unfold ") == 2
    assert sum(row["candidate"] == "unfold" for row in rows) == 4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arguments_lie_as_a_network_s_do(layout):
    x, weight = (lay_out(t, layout, torch.device("cpu"), torch.float32) for t in CASES[4].tensors(1))
    assert x.is_contiguous(memory_format=LAYOUTS[layout])
    assert weight.flatten(1, 2).is_contiguous(memory_format=LAYOUTS[layout])


def test_multiply_adds_and_bytes_of_a_known_case():
    case = Case("local_aggregation", 8, 6, 3, 2)
    tensors = case.tensors(2)
    forward = 2 * 8 * 9 * 36
    assert count_macs(case.ours, tensors, "forward") == forward
    assert count_macs(case.ours, tensors, "forward+backward") == 3 * forward
    assert count_bytes(tensors, "forward") == 4 * 2 * 36 * (8 + 8 + 2 * 9)
    assert count_bytes(tensors, "forward+backward") == 2 * count_bytes(tensors, "forward")


def _row(case, layout, which, candidate, p50, share=0.5):
    return {
        "op": case.op, "shape": case.shape, "layout": layout, "pass": which, "candidate": candidate, "p50_ms": p50,
        "matrix_share": share, "copy_share": share,
    }  # fmt: skip


def test_targets_take_the_peer_s_better_format():
    case = CASES[0]
    rows = [
        _row(case, "channels_last", "forward", "ours", 1.0),
        _row(case, "nchw", "forward", "ours", 4.0),
        _row(case, "channels_last", "forward", "unfold", 200.0),
        _row(case, "nchw", "forward", "unfold", 100.0),
    ]
    lines = report.target_table(rows, FAST).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")][2:6] == ["100", "≥ 80.00", "≥ 130", "at least"]
    assert [cell.strip() for cell in lines[3].split("|")][2:6] == ["25.00", "≥ 30.00", "≥ 60.00", "missed"]
    assert lines[-1].startswith("Not the settings")


def test_every_target_names_a_case():
    named = {(case.op, case.shape) for case in CASES}
    assert {(op, shape) for op, shape, *_ in report.CPU_RATIOS} <= named
    assert ("local_aggregation", "512x7x7 k7 G32 blocked") in named


def test_rows_say_nothing_about_who_measured():
    described = machine.describe(FAST)
    assert tuple(described) == machine.COLUMNS
    words = " ".join(map(str, described.values()))
    assert socket.gethostname() not in words.split()
    assert getpass.getuser() not in words.split()
