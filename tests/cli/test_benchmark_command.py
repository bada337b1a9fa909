"""``ctxvision benchmark``: rows, percentiles, ratios, files, errors. No time is compared with another."""

import csv
import json
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from _checkpoints import write_classifier
from ctxvision import cli
from ctxvision.models import count_macs
from ctxvision.timing import clock, comparison, subjects
from ctxvision.timing.comparison import COLUMNS, Settings, compare, ratios
from ctxvision.timing.figure import draw
from ctxvision.timing.memory import peak_in_fresh_process

FAST = {"repeats": 5, "seconds": 0.01, "memory": False, "size": 32}
QUICK = ["--repeats", "5", "--seconds", "0.01", "--size", "32", "--threads", "1", "--skip-memory"]
TINY, OURS = "test_resnet", "rednet_micro"


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A tiny network as an ONNX file for images of 32 px."""
    from ctxvision.export import Metadata, export_onnx

    path = tmp_path_factory.mktemp("timing") / "tiny.onnx"
    spec = {"class_names": ["a", "b"], "input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
    export_onnx(timm.create_model(TINY).eval(), path, metadata=Metadata(TINY, "classification", spec))
    return path


def run(capsys, *words):
    code = cli.main(["benchmark", *map(str, words)])
    return code, *capsys.readouterr()


def row(**values):
    numbers = {"p50_ms": 4.0, "p90_ms": 5.0, "p99_ms": 9.0, "images_s": 250.0, "images_s_q1": 240.0}
    shared = {"runner": "torch", "batch": 1, "size": 32, "device": "a CPU", "threads": 2, "dtype": "float32"}
    return dict.fromkeys(COLUMNS) | {"images_s_q3": 260.0, "torch": "2"} | numbers | shared | values


def test_percentiles_are_numpy_s():
    samples = np.random.default_rng(0).gamma(2, 0.01, 137)
    speeds = comparison._speeds(samples.tolist(), batch=4)
    for level, name in ((50, "p50_ms"), (90, "p90_ms"), (99, "p99_ms")):
        assert speeds[name] == pytest.approx(np.percentile(samples, level) * 1e3)
    assert speeds["mean_ms"] == pytest.approx(samples.mean() * 1e3)
    assert speeds["images_s"] == pytest.approx(4 / np.median(samples))
    assert speeds["images_s_q1"] == pytest.approx(4 / np.percentile(samples, 75))
    assert speeds["images_s_q3"] == pytest.approx(4 / np.percentile(samples, 25))
    assert speeds["samples"] == 137


def test_ratios_compare_the_samples_of_one_round():
    drift = np.array([1.0, 2.0, 4.0, 8.0])  # the machine becomes slower, for both alike
    assert ratios((drift * 2).tolist(), drift.tolist()) == (0.5, 0.5, 0.5)
    assert ratios([1, 1, 1, 1, 1], [1, 2, 3, 4, 5]) == (2, 3, 4)


def test_a_sample_of_the_latency_is_one_call():
    log = []
    candidates = {"a": clock.Candidate(lambda: log.append("a")), "b": clock.Candidate(lambda: log.append("b"))}
    samples = clock.take_turns(candidates, torch.device("cpu"), 6, 60, one_call=True)
    assert {name: len(taken) for name, taken in samples.items()} == {"a": 6, "b": 6}
    assert "".join(log).endswith("aabb" * 6)  # one that is not timed, one that is


@pytest.mark.parametrize(("seconds", "pattern"), [(1e-3, "aaaaaa"), (0.02, "aa"), (0.09, "aa"), (0.2, "a")])
def test_short_calls_find_their_data_in_the_caches(seconds, pattern, monkeypatch):
    """However long a sample is, it begins as warm as its later calls, unless a call takes long anyway."""
    log = []

    def sample(call, calls, device):
        for _ in range(calls):
            call()
        return seconds

    monkeypatch.setattr(clock, "sample", sample)
    candidates = {"a": clock.Candidate(lambda: log.append("a")), "b": clock.Candidate(lambda: log.append("b"))}
    clock.take_turns(candidates, torch.device("cpu"), 5, 60)
    assert "".join(log).endswith((pattern + pattern.replace("a", "b")) * 5)


def test_rows_say_what_was_measured():
    rows = compare(Settings([TINY, OURS], against=TINY, batches=(1, 2), **FAST))
    assert [(r["model"], r["batch"]) for r in rows] == [(TINY, 1), (OURS, 1), (TINY, 2), (OURS, 2)]
    for found in rows:
        model = timm.create_model(found["model"])
        assert list(found) == list(COLUMNS)
        assert found["gmacs"] == count_macs(model, (3, 32, 32)) / 1e9
        assert found["params_m"] == sum(p.numel() for p in model.parameters()) / 1e6
        assert 0 < found["p50_ms"] <= found["p90_ms"] <= found["p99_ms"]
        assert found["images_s"] == pytest.approx(found["batch"] / found["p50_ms"] * 1e3)
        assert found["ratio_q1"] <= found["ratio"] <= found["ratio_q3"]
        assert found["samples"] == 5
        assert found["layout"] in ("channels_last", "nchw")
        assert found["error"] is None
    assert {r["ratio"] for r in rows if r["model"] == TINY} == {1.0}


@pytest.mark.parametrize("layout", ["channels_last", "nchw"])
def test_layout_is_that_of_weights_and_images(layout, monkeypatch):
    seen = []
    real = subjects.open_subject

    def spying(*args, **options):
        subject = real(*args, **options)
        subject.network.register_forward_pre_hook(lambda module, inputs: seen.append((module, inputs[0])))
        return subject

    monkeypatch.setattr(comparison, "open_subject", spying)
    compare(Settings([OURS], layout=layout, batches=(2,), **FAST))
    module, images = seen[-1]
    weight = next(p for p in module.parameters() if p.dim() == 4 and min(p.shape[1:]) > 1)
    expected = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    assert images.is_contiguous(memory_format=expected)
    assert weight.is_contiguous(memory_format=expected)


@pytest.mark.parametrize("name", ["cotnet_micro", "rednet_micro", "contextual_convnext_micro"])
def test_bfloat16_of_each_family(name):
    subject = subjects.open_subject(name, 32, torch.device("cpu"), "bfloat16")
    logits = subject.inference(2, "channels_last")()
    assert {p.dtype for p in subject.network.parameters()} == {torch.bfloat16}
    assert logits.shape == (2, 1000)
    assert logits.isfinite().all()


def test_network_of_fixed_size_is_built_for_the_size_asked_for():
    subject = subjects.open_subject("test_vit", 64, torch.device("cpu"), "float32")
    assert timm.get_pretrained_cfg("test_vit").input_size[1] != 64
    assert subject.inference(2, "nchw")().shape == (2, 1000)


@pytest.mark.slow
def test_exported_file_has_a_row_and_keeps_its_size(exported):
    rows = compare(Settings([str(exported), TINY], against=TINY, **FAST | {"size": None}))
    assert (rows[0]["runner"], rows[0]["size"], rows[0]["gmacs"]) == ("onnx", 32, None)
    assert (rows[0]["against"], rows[0]["against_runner"]) == (TINY, "torch")
    assert rows[1]["size"] == 224
    wrong = compare(Settings([str(exported)], **FAST | {"size": 64}))
    assert "32 × 32 only" in wrong[0]["error"]


@pytest.mark.slow
def test_onnx_rows_stand_beside_torch_s():
    rows = compare(Settings([TINY], against=TINY, onnx=True, layout="channels_last", **FAST))
    assert [(r["runner"], r["error"]) for r in rows] == [("torch", None), ("onnx", None)]
    assert rows[0]["gmacs"] == rows[1]["gmacs"]
    assert [r["layout"] for r in rows] == ["channels_last", "nchw"]


@pytest.mark.slow
def test_compiled_rows_stand_beside_torch_s(monkeypatch):
    compile_network = torch.compile  # without a C++ compiler, which takes long
    monkeypatch.setattr(torch, "compile", lambda network, **options: compile_network(network, backend="eager"))
    rows = compare(Settings([TINY], against=TINY, compile=True, **FAST))
    assert [(r["runner"], r["error"]) for r in rows] == [("torch", None), ("compile", None)]


def test_peer_is_taken_at_its_fastest(monkeypatch):
    times = {f"{TINY} torch": [4.0, 2.0, 2.0], f"{TINY} compile": [1.0, 2.0, 1.0], f"{OURS} torch": [0.5] * 3}
    times |= {f"{OURS} compile": [4.0, 4.0, 2.0]}
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    monkeypatch.setattr(
        comparison, "take_turns", lambda candidates, *_, **__: {key: times[key] for key in candidates}
    )
    rows = compare(Settings([TINY, OURS], against=TINY, compile=True, layout="nchw", **FAST))
    assert {r["against_runner"] for r in rows} == {"compile"}
    # medians of what the rounds say, not of medians
    assert [r["ratio"] for r in rows] == [0.5, 1, 2, 0.5]


def test_what_fails_has_a_reason_and_the_others_go_on(monkeypatch, capsys, tmp_path):
    def refusing(network, **options):
        def fail(images):
            raise RuntimeError("no C++ compiler\nand more")

        return fail

    monkeypatch.setattr(torch, "compile", refusing)
    table = tmp_path / "rows.csv"
    code, out, err = run(capsys, TINY, "--compile", "--batch-size", "1", "--csv", table, *QUICK)
    assert code == 1
    assert len(out.splitlines()) == 2  # head and torch's row
    assert f"{TINY} (compile, batch 1): no C++ compiler" in err
    assert [r["error"] for r in csv.DictReader(table.read_text().splitlines())] == ["", "no C++ compiler"]


def test_numbers_that_are_not_finite_are_an_error(monkeypatch):
    monkeypatch.setattr(
        subjects,
        "set_batch_norm_statistics",
        lambda network, *_: network.get_classifier().bias.data.fill_(torch.nan),
    )
    rows = compare(Settings([TINY], **FAST))
    assert "NaN" in rows[0]["error"]


def peak_can_be_forgotten():
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


@pytest.mark.process
def test_memory_is_that_of_inference_in_a_process_of_its_own(tmp_path):
    file = "resnet18"
    if peak_can_be_forgotten():
        # what opening a file needs does not count: 256 MiB, as the state of an optimiser would be, one half in one
        # piece, the other in pieces of 64 KiB
        ballast = [torch.zeros(2**25), *(torch.zeros(2**14) for _ in range(2**11))]
        file = str(tmp_path / "a.ckpt")
        write_classifier(tmp_path / "a.ckpt", "resnet18", 64, optimizer_states=ballast)
    arguments = {"size": 64, "device": "cpu", "dtype": "float32", "layout": "nchw", "threads": 1, "batch": 32}
    peak = peak_in_fresh_process({"file": file, **arguments})
    weights = sum(p.numel() for p in timm.create_model("resnet18").parameters()) * 4
    largest = 32 * 64 * 32 * 32 * 4  # after the first convolution
    assert weights + largest < peak * 2**20 < weights + 20 * largest


def test_a_process_that_fails_says_why(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "Traceback …\nMemoryError: too large\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match=r"^MemoryError: too large$"):
        peak_in_fresh_process({"file": "resnet18", "batch": 1})


def test_table_csv_json_and_plot(capsys, tmp_path):
    files = {name: tmp_path / f"rows.{name}" for name in ("csv", "json", "svg")}
    places = ("--csv", files["csv"], "--json", files["json"], "--plot", files["svg"])
    code, out, _ = run(capsys, OURS, "--against", TINY, "--batch-size", "2,1,2", *places, *QUICK)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split()[:5] == ["model", "runner", "layout", "batch", "px"]
    assert lines[0].endswith(f"× {TINY}")
    assert [line.split()[0] for line in lines[1:]] == [TINY, OURS, TINY, OURS]
    rows = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert list(rows[0]) == list(COLUMNS)
    assert [r["batch"] for r in rows] == ["2", "2", "1", "1"]
    whole = json.loads(files["json"].read_text())
    assert [float(r["p50_ms"]) for r in rows] == [r["p50_ms"] for r in whole]
    text = "".join(ElementTree.parse(files["svg"]).getroot().itertext())
    assert f"{OURS}, batch 2" in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.csv", "rows.json", "rows.svg"]


def test_checkpoints_and_run_folders(capsys, tmp_path):
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    task = write_classifier(best, TINY)
    code, _, _ = run(capsys, tmp_path / "run", "--batch-size", "1", "--json", tmp_path / "rows.json", *QUICK)
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert (code, row["model"], row["size"]) == (0, str(best), 32)
    assert row["params_m"] == pytest.approx(sum(p.numel() for p in task.parameters()) / 1e6)


def test_figure_is_the_same_for_the_same_rows():
    rows = [row(model="a"), row(model="b", runner="onnx", ratio=2.0, against="a", p99_ms=900.0)]
    assert draw(rows, "svg") == draw(rows, "svg")
    assert draw(rows, "png").startswith(b"\x89PNG")
    text = draw(rows, "svg").decode()
    assert "times as fast as a" in text
    assert "b, onnxruntime" in text


def test_figure_tells_files_of_one_name_apart():
    files = ["runs/a/checkpoints/best.ckpt", "old/a/checkpoints/best.ckpt", "x/net.onnx", "resnet50"]
    text = draw([row(model=file, ratio=1.5, against=files[0]) for file in files], "svg").decode()
    for name in ("runs/a", "old/a", "x/net.onnx", "resnet50"):
        assert f">{name}<" in text
    assert "times as fast as runs/a<" in text
    text = draw([row(model=file) for file in files[1:]], "svg").decode()
    for name in ("a", "net.onnx", "resnet50"):
        assert f">{name}<" in text


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["cotnet5O"], 1, "did you mean cotnet50"),
        ([TINY, "--against", "resnet5O"], 1, "did you mean resnet50"),
        (["nowhere.ckpt"], 1, "nowhere.ckpt: no such file"),
        (["nowhere.onnx"], 1, "nowhere.onnx: no such file"),
        ([TINY, "--batch-size", "1,zero"], 2, "whole number of at least 1, got 'zero'"),
        ([TINY, "--batch-size", "0"], 2, "got '0'"),
        ([TINY, "--size", "-3"], 2, "got '-3'"),
        ([TINY, "--seconds", "0"], 2, "--seconds must be more than 0"),
        ([TINY, "--device", "quantum"], 1, "device 'quantum' cannot be used"),
        ([TINY, "--onnx", "--dtype", "bfloat16"], 2, "--onnx is for the CPU and float32"),
        ([TINY, "--channels-last", "--contiguous"], 2, "not allowed with"),
        ([TINY, "--plot", "rows.gif"], 2, "--plot must end in .svg, .png, .pdf"),
        ([TINY, "--csv", "nowhere/rows.csv"], 1, "nowhere/rows.csv: cannot be written"),
        ([TINY, "--csv", "rows", "--json", "rows"], 2, "must be different files"),
    ],
)
def test_mistakes_are_one_line_before_any_work(words, code, message, capsys, monkeypatch):
    monkeypatch.setattr(comparison, "compare", lambda *_: pytest.fail("began to work"))
    found, out, err = run(capsys, *words)
    assert (found, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1
