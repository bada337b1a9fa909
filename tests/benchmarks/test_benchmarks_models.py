import csv

import pytest
import timm
import torch
from torch import nn

import ctxvision.ops.aggregation
from benchmarks import cli
from benchmarks.gate import RedGate
from benchmarks.models import report, run
from benchmarks.models.check import check_network
from benchmarks.models.memory import peak_in_fresh_process
from benchmarks.models.networks import (
    SE_PEER,
    Steps,
    _seresnet50d_without_pool,
    build,
    random_batch,
    selected,
)
from benchmarks.settings import Settings
from ctxvision.models import count_macs
from ctxvision.nn.layouts import to_layout
from ctxvision.ops import _backend
from ctxvision.timing.preparation import set_batch_norm_statistics

MICRO = "cotnet_micro"
STATED = Settings(torch.device("cpu"), torch.float32, threads=2, batch=8, repeats=1, seconds=0)


def test_smoke_run_appends_both_formats_and_passes(tmp_path):
    out = tmp_path / "models.csv"
    command = ["models", "--smoke", "--device", "cpu", "--threads", "1", "--skip-memory", "--only", MICRO]
    assert cli.main([*command, "--out", str(out)]) == 0
    assert cli.main([*command, "--sweep", "batch", "--out", str(out)]) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == run.COLUMNS
    compared = [row for row in rows if row["sweep"] == "none"]
    assert {(row["layout"], row["pass"]) for row in compared} == {
        (layout, which) for layout in ("channels_last", "nchw") for which in ("inference", "training step")
    }
    assert [row["batch"] for row in rows if row["sweep"] == "batch"] == ["1", "1", "2", "2"]
    for row in rows:
        assert float(row["images_s"]) == pytest.approx(1e3 * int(row["batch"]) / float(row["p50_ms"]), rel=1e-4)


class _DependsOnLayout(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.by = by

    def forward(self, x):
        y = x.mean((2, 3)) * self.weight
        return y if x.is_contiguous() else y * self.by


@pytest.mark.parametrize(("by", "message"), [(1 + 1e-3, "error"), (float("nan"), "6 of 6 numbers are not finite")])
def test_red_gate_where_formats_differ(by, message):
    with pytest.raises(RedGate, match=f"odd, channels_last.*{message}"):
        check_network("odd", Steps(_DependsOnLayout(by), autocast=False), 8)


def test_red_gate_where_an_operator_is_broken(monkeypatch, tmp_path):
    local = ctxvision.ops.aggregation
    right = local.aggregate
    monkeypatch.setattr(
        local, "aggregate", lambda *args: right(*args) * (1 if _backend._forced == "torch" else 1 + 1e-2)
    )
    out = tmp_path / "models.csv"
    assert (
        cli.main(["models", "--smoke", "--device", "cpu", "--threads", "1", "--only", MICRO, "--out", str(out)])
        == 1
    )
    assert not out.exists()


def test_every_branch_of_a_built_network_contributes():
    model = build("contextual_convnext_micro")
    assert all(p.abs().max() > 1e-5 for name, p in model.named_parameters() if not name.endswith("bias"))


def test_settling_keeps_activations_in_range():
    model = build("rednet26")
    set_batch_norm_statistics(model, 32)
    steps = Steps(model.eval(), autocast=False)
    assert steps.infer(random_batch(32, 2, "nchw", steps.device)).abs().max() < 1e4


def test_training_step_works_and_leaves_the_weights():
    steps = Steps(build(MICRO).train(), autocast=False)
    to_layout(steps.model, "channels_last")
    before = [parameter.clone() for parameter in steps.model.parameters()]
    steps.train(random_batch(32, 2, "channels_last", steps.device))
    assert all(torch.equal(a, b) for a, b in zip(before, steps.model.parameters(), strict=True))
    momenta = [state["momentum_buffer"] for state in steps._optimizer.state.values()]
    assert len(momenta) == len(before)
    assert max(momentum.abs().max() for momentum in momenta) > 0


def test_peer_has_the_stem_and_the_strides_of_se_cotnetd50():
    with torch.device("meta"):
        peer, ours = _seresnet50d_without_pool(), timm.create_model("se_cotnetd50")
        image = torch.zeros(1, 3, 64, 64)
        shapes = [[f.shape for f in net.eval().forward_intermediates(image)[1]][-4:] for net in (peer, ours)]
    assert shapes[0] == shapes[1]
    widths = [m.out_channels for m in peer.conv1 if isinstance(m, nn.Conv2d)]
    assert widths == [32, 32, 64]
    assert not any(isinstance(module, nn.MaxPool2d) for module in peer.modules())
    assert count_macs(peer) / 1e9 == pytest.approx(4.4, abs=0.1)


def test_ratios_use_each_network_s_better_format():
    rows = [
        {"network": name, "layout": layout, "pass": which, "p50_ms": ms, "images_s": 8e3 / ms, "peak_mib": peak}
        for which in ("inference", "training step")
        for name, layout, ms, peak in (
            ("cotnet50", "channels_last", 100, 120), ("cotnet50", "nchw", 200, ""),
            ("resnet50", "channels_last", 300, ""), ("resnet50", "nchw", 90, 100),
        )
    ]  # fmt: skip
    lines = report.target_table(rows, STATED).splitlines()[2:]
    cells = [[cell.strip() for cell in line.split("|")][1:6] for line in lines]
    assert cells == [
        ["cotnet50 ÷ resnet50, inference, images/s", "0.9", "≥ 0.85", "≥ 1.00", "at least"],
        ["cotnet50 ÷ resnet50, training step, images/s", "0.9", "≥ 0.75", "≥ 0.9", "stretch"],
        ["cotnet50 ÷ resnet50, training step, peak memory", "1.20", "≤ 1.30", "≤ 1.10", "at least"],
    ]


def test_unknown_network_is_refused(capsys):
    assert cli.main(["models", "--device", "cpu", "--only", "cotnet5O"]) == 1
    assert "cotnet5O" in capsys.readouterr().err


def test_the_peer_of_our_own_making_has_a_name():
    assert selected([SE_PEER, MICRO, MICRO], ()) == [SE_PEER, MICRO]


@pytest.mark.process
def test_peak_memory_counts_weights_gradients_and_momentum():
    small = Settings(torch.device("cpu"), torch.float32, threads=1, batch=2, repeats=1, seconds=0)
    peak = peak_in_fresh_process("cotnet_micro", 32, "channels_last", small)
    weights = sum(parameter.numel() for parameter in build(MICRO).parameters()) * 4 / 2**20
    assert 3 * weights < peak < 3 * weights + 100
