import math
from dataclasses import replace

import pytest
import torch
from scipy import stats

from benchmarks import cli, rows
from benchmarks.ablations import report
from benchmarks.ablations import train as training
from benchmarks.ablations.networks import BUDGETS, NETWORKS, TOLERANCE, arguments, build, cost
from benchmarks.ablations.published import COMPARISONS, PUBLISHED, published_difference
from benchmarks.ablations.run import fingerprint, missing, run, selected
from benchmarks.ablations.scenes import make_scenes
from benchmarks.ablations.settings import SIZES, Recipe
from benchmarks.ablations.statistics import Difference, paired, summarise
from benchmarks.ablations.train import Outcome, train
from benchmarks.settings import Settings

CPU = torch.device("cpu")
SMALL = SIZES["small"]
RECIPE = Recipe(epochs=2, lr=3e-3, warmup_epochs=1, batch=32)
TINY = replace(
    SMALL,
    scenes=replace(SMALL.scenes, digits=4, train_per_class=6, test_per_class=3),
    recipes={"contextual": RECIPE, "residual": RECIPE},
)
SETTINGS = Settings(CPU, torch.float32, 1, 32, 1, 0.0, 32)


@pytest.mark.parametrize("size", SIZES)
def test_parameters_are_equal_within_the_tolerance(size):
    for name in NETWORKS:
        assert cost(name, SIZES[size]).params == pytest.approx(
            BUDGETS[size][NETWORKS[name].family], rel=TOLERANCE
        ), name


def test_costs_are_those_of_the_network_that_is_trained():
    found, model = cost("cot", SMALL), build("cot", SMALL)
    assert found.params == sum(p.numel() for p in model.parameters())
    # each 1x1, grouped or dense convolution and the linear layer by hand, from the shapes that pass through
    macs = 0

    def count(module, inputs, output):
        nonlocal macs
        weights = module.weight[0].numel()
        macs += weights * output[0].numel()

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        model.eval()(torch.zeros(1, 1, 32, 32))
    aggregated = sum(9 * width * side**2 for width, side in zip((16, 32, 56, 56), (8, 4, 2, 1), strict=True))
    assert found.macs == macs + aggregated


def test_ablations_are_what_they_are_called():
    plain, deformable, weights, full = (
        build(name, SMALL) for name in ("plain", "deformable", "weight_offsets", "contextual")
    )
    assert plain.context is None
    assert deformable.context is None
    names = {model: "".join(dict(model.named_parameters())) for model in (plain, deformable, weights, full)}
    assert [("sampling_offsets" in n, "weight_offsets" in n) for n in names.values()] == [
        (False, False), (True, False), (False, True), (True, True)
    ]  # fmt: skip
    kinds = {type(block.conv2).__name__ for block in build("resnet", SMALL).layer3}
    assert kinds == {"Conv2d"}
    assert {type(block.conv2).__name__ for block in build("involution", SMALL).layer3} == {"Involution2d"}


def test_runs_repeat_bit_for_bit():
    assert train("contextual", TINY, 0, CPU)[:3] == train("contextual", TINY, 0, CPU)[:3]


def test_networks_of_a_seed_see_the_same_batches(monkeypatch):
    seen = {}
    for name in ("plain", "involution"):
        batches = seen[name] = []

        def keep(images, *rest, batches=batches, original=training.shifted):
            batches.append(original(images, *rest))
            return batches[-1]

        with monkeypatch.context() as patch:
            patch.setattr(training, "shifted", keep)
            train(name, TINY, 0, CPU)
    assert len(seen["plain"]) == 2 * (72 // 32)
    assert all(torch.equal(a, b) for a, b in zip(seen["plain"], seen["involution"], strict=True))
    assert not torch.equal(seen["plain"][0], seen["plain"][1])


def test_accuracy_and_kept_classes_by_hand():
    torch.manual_seed(0)
    model = build("contextual_reduce", TINY).eval()
    scenes = make_scenes(TINY.scenes, 0)[1]
    right = kept = 0
    with torch.no_grad():
        for image, number in zip(scenes.images, scenes.classes.tolist(), strict=True):
            output = model.forward_stages(image[None])
            right += int(output.logits[0].argmax()) == number
            kept += number in output.classes[-1][0].tolist()
    accuracy, share = training.evaluate(model, training.Normalised(scenes.images, scenes.classes, 0.0))
    assert accuracy == pytest.approx(100 * right / len(scenes.classes))
    assert share == pytest.approx(100 * kept / len(scenes.classes))
    assert share < 100
    assert training.evaluate(build("plain", TINY), training.Normalised(*scenes[:2], 0.0))[1] == 100


def _fake(calls, stop_after=None):
    def trainer(name, size, seed, device):
        if len(calls) == stop_after:
            raise KeyboardInterrupt
        calls.append((name, seed))
        return Outcome(50.0 + seed, 60.0, 100.0, 1.0)

    return trainer


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path):
    out, names, calls = tmp_path / "rows.csv", ["plain", "resnet"], []
    with pytest.raises(KeyboardInterrupt):
        run(names, 2, TINY, SETTINGS, out, trainer=_fake(calls, stop_after=3))
    assert len(rows.read(out)) == 3
    assert run(names, 2, TINY, SETTINGS, out, trainer=_fake(calls)) == 1
    assert calls == [("plain", 0), ("resnet", 0), ("plain", 1), ("resnet", 1)]
    assert run(names, 2, TINY, SETTINGS, out, trainer=_fake(calls)) == 0
    assert len({(row["fingerprint"], row["seed"]) for row in rows.read(out)}) == 4


def test_other_settings_are_other_runs(tmp_path):
    out = tmp_path / "rows.csv"
    run(["plain"], 1, TINY, SETTINGS, out, trainer=_fake([]))
    assert missing(["plain"], 1, TINY, CPU, out) == []
    changed = [
        replace(TINY, recipes={"contextual": replace(RECIPE, lr=1e-3), "residual": RECIPE}),
        replace(TINY, scenes=replace(TINY.scenes, noise=0.2)),
        replace(TINY, shared={"contextual": {**TINY.shared["contextual"], "dim": 48}}),
    ]
    for size in changed:
        assert missing(["plain"], 1, size, CPU, out) == [("plain", 0)]
    assert missing(["plain"], 1, TINY, torch.device("cuda"), out) == [("plain", 0)]
    other_family = replace(TINY, recipes={"contextual": RECIPE, "residual": replace(RECIPE, lr=1e-3)})
    assert missing(["plain"], 1, other_family, CPU, out) == []
    assert len({fingerprint(name, TINY, CPU) for name in NETWORKS}) == len(NETWORKS)


def test_two_processes_train_as_one(tmp_path):
    both = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.csv"
        run(["plain", "cot_static"], 1, TINY, SETTINGS, out, processes)
        columns = ("network", "seed", "accuracy", "train_accuracy", "kept")
        both.append(sorted(tuple(row[name] for name in columns) for row in rows.read(out)))
    assert both[0] == both[1]


def test_statistics_by_hand():
    first, second = {0: 61.0, 1: 64.0, 2: 60.0, 3: 66.0, 4: 63.0}, {4: 60.0, 3: 61.0, 2: 59.5, 1: 62.0, 0: 60.0}
    values = [1.0, 2.0, 0.5, 5.0, 3.0]
    mean = sum(values) / 5
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / 4)
    half = 2.7764451 * deviation / math.sqrt(5)  # the t quantile 0.975 with 4 degrees of freedom, from a table
    found = paired(first, second)
    assert found[:4] == pytest.approx((5, mean, mean - half, mean + half), rel=1e-6)
    order = range(5)
    assert found.p == pytest.approx(stats.ttest_rel([first[s] for s in order], [second[s] for s in order]).pvalue)
    assert summarise(second) == pytest.approx((5, 60.5, math.sqrt(4 / 4)))


def test_only_common_seeds_are_compared():
    found = paired({0: 1.0, 1: 5.0, 7: 90.0}, {0: 0.0, 1: 2.0, 3: 50.0})
    assert found[:2] == (2, 2.0)
    assert paired({0: 1.0}, {1: 1.0}) is None
    assert paired({0: 3.0}, {0: 1.0})[:2] == (1, 2.0)
    assert math.isnan(paired({0: 3.0}, {0: 1.0}).low)
    assert paired({0: 3.0, 1: 4.0}, {0: 2.0, 1: 3.0})[1:4] == (1.0, 1.0, 1.0)
    assert math.isnan(summarise({0: 3.0}).deviation)


@pytest.mark.parametrize(
    ("interval", "expected", "verdict"),
    [
        ((0.1, 2.0), 1.0, "as the paper"),
        ((-2.0, -0.1), 1.0, "opposite"),
        ((-0.1, 2.0), 1.0, "open"),
        ((math.nan, math.nan), 1.0, "open"),
        ((0.1, 2.0), None, "better"),
        ((-2.0, -0.1), None, "worse"),
        ((-2.0, -0.1), -0.5, "as the paper"),
    ],
)
def test_verdicts(interval, expected, verdict):
    low, high = interval
    assert report.verdict(Difference(5, (low + high) / 2, low, high, 0.01), expected) == verdict


def test_comparisons_name_networks():
    assert {name for pair in COMPARISONS for name in pair} | set(PUBLISHED) <= set(NETWORKS)
    assert published_difference("contextual", "plain") == pytest.approx(2.77)  # Contextual CNN, Table 4, in words
    assert published_difference("cot", "involution") is None


def test_tables_and_figure(tmp_path):
    out = tmp_path / "rows.csv"
    names = ["plain", "contextual", "cot"]
    run(names, 3, SMALL, SETTINGS, out, trainer=_fake([]))
    found = report.accuracies(out, list(NETWORKS), SMALL, CPU)
    assert list(found) == names
    text = report.report(found)
    assert "contextual − plain" in text
    assert "cot − resnet" not in text
    assert "51.0" in text
    assert "76.58" in text
    with pytest.raises(ValueError, match="no rows of size small on cuda"):
        report.accuracies(out, names, SMALL, torch.device("cuda"))


def test_the_command_reports_and_draws_without_training(tmp_path, capsys):
    out, figure = tmp_path / "rows.csv", tmp_path / "new" / "ablations.svg"
    run(["plain", "cot"], 2, SMALL, SETTINGS, out, trainer=_fake([]))
    asked = ["ablations", "--report", "--out", str(out), "--figure", str(figure)]
    assert cli.main(asked) == 0
    assert "cot" in capsys.readouterr().out
    assert "ImageNet-1k" in figure.read_text()
    first = figure.read_bytes()
    assert cli.main(asked) == 0
    assert figure.read_bytes() == first
    assert cli.main([*asked[:-1], str(tmp_path / "figure.txt")]) == 1
    assert "must end in .svg or .png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "nothing"], "no network nothing; there are plain, deformable"),
        (["--device", "mps"], "cpu or cuda"),
        (["--report", "--out", "missing.csv"], "missing.csv"),
    ],
)
def test_refusals(arguments, message, capsys):
    assert cli.main(["ablations", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["ablations", "--help"])
    assert stopped.value.code == 0
    assert "what it holds is not trained again" in " ".join(capsys.readouterr().out.split())


def test_networks_keep_their_order():
    assert selected(["cot", "plain"]) == ["plain", "cot"]
    assert arguments("cot", SMALL)["num_classes"] == 56
