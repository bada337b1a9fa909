import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks import cli, rows
from benchmarks.ablations import drawings, priors, report, where
from benchmarks.ablations import train as training
from benchmarks.ablations.drawings import VIEWS, Drawings, open_task
from benchmarks.ablations.networks import BUDGETS, NETWORKS, ONE_RATE, TOLERANCE, arguments, build, cost, names_of
from benchmarks.ablations.published import COMPARISONS, PUBLISHED, published_difference
from benchmarks.ablations.run import Job, chosen_alpha, fingerprint, missing, run, selected
from benchmarks.ablations.settings import ALPHAS, SIZES, TRIAL_SEEDS, Recipe
from benchmarks.ablations.train import Normaliser, Outcome, train
from benchmarks.settings import Settings
from ctxvision.data.images.emoji import packages, source
from ctxvision.nn import ContextualConv2d

CPU = torch.device("cpu")
HUNDRED = SIZES["100"]
RECIPE = Recipe(epochs=2, lr=3e-3, warmup_epochs=1, batch=16, curve=1)
RECIPES = {"contextual": RECIPE, "residual": RECIPE}
TINY = replace(HUNDRED, classes="6", num_classes=6, side=16, recipes=RECIPES)
SETTINGS = Settings(CPU, torch.float32, 1, 16, 1, 0.0, 16)
AS_IS = Normaliser(torch.zeros(1), torch.ones(1))


@pytest.fixture
def emoji(tmp_path, monkeypatch):
    """Six classes in the cache folder, as if they had been fetched and rendered."""
    monkeypatch.setenv("CTXVISION_CACHE", str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        patch.setattr(source, "_render_all", lambda folder, size: None)
        folder = source.rendered(TINY.side)
    random, artists = np.random.default_rng(0), [package.name for package in packages.PACKAGES]
    for number in range(6):
        for artist in artists:
            pixels = random.integers(0, 256, (TINY.side, TINY.side, 4), dtype=np.uint8)
            pixels[..., : number + 4] //= 2
            path = folder / f"1f60{number}" / f"{artist}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    (folder / "classes.json").write_text(json.dumps([(f"1f60{n}", f"face-{n}", artists) for n in range(6)]))
    open_task.cache_clear()
    yield folder
    open_task.cache_clear()


def test_task_holds_artists_apart(emoji):
    task = open_task("6", TINY.side)
    assert len(task.train.classes) == 36
    assert task.val.classes.tolist() == task.test.classes.tolist() == list(range(6)) * VIEWS
    for part, artist in ((task.val, "twemoji"), (task.test, "fluent-emoji-flat")):
        with Image.open(emoji / "1f602" / f"{artist}.png") as image:
            assert image.mode == "RGBA"
            pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255
        on_white = pixels[:3] * pixels[3:] + 1 - pixels[3:]
        assert (part.images[2] - on_white).abs().max() < 2 / 255
        assert not torch.equal(part.images[2], part.images[8])  # another view
    assert torch.equal(
        drawings.shown_again(Drawings(task.val.images[:6], torch.arange(6))).images, task.val.images
    )


def test_moved_drawings_are_never_mirrored():
    corner = torch.ones(200, 3, 32, 32)
    corner[:, :, 4:14, 4:14] = 0  # upper left
    moved = drawings.moved(corner, torch.Generator().manual_seed(0))
    ink = (1 - moved.mean(1)).clamp(min=0)
    assert (ink[:, :16, :16].sum((1, 2)) > ink[:, 16:, 16:].sum((1, 2))).all()
    assert (ink[:, :16, :16].sum((1, 2)) > ink[:, :16, 16:].sum((1, 2))).float().mean() > 0.9


@pytest.mark.parametrize("size", SIZES)
def test_parameters_are_equal_within_the_tolerance(size):
    for name in names_of(SIZES[size]):
        assert cost(name, SIZES[size]).params == pytest.approx(
            BUDGETS[size][NETWORKS[name].family], rel=TOLERANCE
        ), name


def test_ablations_are_what_they_are_called():
    plain, deformable, weights, full = (
        build(name, HUNDRED) for name in ("plain", "deformable", "weight_offsets", "contextual")
    )
    assert plain.context is None
    assert deformable.context is None
    names = {model: "".join(dict(model.named_parameters())) for model in (plain, deformable, weights, full)}
    assert [("sampling_offsets" in n, "weight_offsets" in n) for n in names.values()] == [
        (False, False), (True, False), (False, True), (True, True)
    ]  # fmt: skip
    usual = {name for name in NETWORKS if not name.endswith(ONE_RATE)}
    assert {name for name in usual if NETWORKS[name].has_stage_losses} == {
        "zero_prior", "extra_input", "weight_offsets", "contextual", "contextual_reduce", "centred", "weighted"
    }  # fmt: skip
    for name in set(NETWORKS) - usual:
        same, slow = NETWORKS[name], NETWORKS[name.removesuffix(ONE_RATE)]
        assert same == slow._replace(offset_lr_scale=1.0)
        assert slow.offset_lr_scale == 0.1
    with torch.device("meta"):  # two rates are for networks with offsets, and for no others
        bent = {
            name for name in usual if any("_offsets." in n for n, _ in build(name, HUNDRED).named_parameters())
        }
    assert bent == {name for name in usual if NETWORKS[name].offset_lr_scale != 1}
    kinds = {type(block.conv2).__name__ for block in build("resnet", HUNDRED).layer3}
    assert kinds == {"Conv2d"}
    assert {type(block.conv2).__name__ for block in build("involution", HUNDRED).layer3} == {"Involution2d"}


def _stirred(name):
    """Build a network whose convolutions bend to the prior; at the start they do not."""
    torch.manual_seed(0)
    model = build(name, TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model.eval()


def test_controls_change_the_prior_and_nothing_else(emoji):
    images = open_task("6", TINY.side).test.images[:6]
    model, zeroed = _stirred("contextual"), _stirred("zero_prior")
    with torch.no_grad():
        before = model(images)
        with priors.changed(model, priors.zero()):
            without = model(images)
        assert not torch.allclose(before, without)
        torch.testing.assert_close(zeroed(images), without)
        with priors.recorded(model) as found:
            torch.testing.assert_close(model(images), before)
        assert list(found) == ["2", "3", "4"]
        with priors.changed(model, priors.of_another()), priors.recorded(model) as swapped:
            model(images)
        torch.testing.assert_close(swapped["2"][0], found["2"][0].roll(1, 0))
        mean = {stage: torch.cat(batches).mean(0) for stage, batches in found.items()}
        with priors.changed(model, priors.constant(mean)), priors.recorded(model) as constant:
            model(images)
        assert priors.image_dependent(constant["3"][0]) == pytest.approx(0, abs=1e-6)
        torch.testing.assert_close(model(images), before)  # the changes are gone


def test_share_that_depends_on_the_image():
    assert priors.image_dependent(torch.tensor([[3.0, 4.0], [3.0, 4.0]])) == 0
    assert priors.image_dependent(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == 1
    assert priors.image_dependent(torch.zeros(2, 2)) == 0


def test_other_ways_to_merge_by_hand():
    for name in ("centred", "weighted"):
        model = _stirred(name)
        layer, table = model.context.steps["3"], model.context.embedding.weight
        x = torch.randn(2, layer.projection[0].in_features, 3, 3)
        with torch.no_grad():
            step, rows = layer(x, table, None, 3), layer.embed(table)
            for image in range(2):
                chosen = step.kept[image].tolist()
                if name == "centred":
                    merged = rows[chosen].mean(0) - rows.mean(0)
                else:
                    weights = torch.tensor([math.exp(step.scores[image, c].item() / 0.07) for c in chosen])
                    merged = sum(w * rows[c] for w, c in zip(weights / weights.sum(), chosen, strict=True))
                torch.testing.assert_close(step.prior[image], layer.merge(merged[None])[0])


def test_runs_repeat_bit_for_bit(emoji):
    first, second = (train("contextual", TINY, 0.5, 0, CPU) for _ in range(2))
    assert first[:-1] == second[:-1]
    assert [point.split(":")[0] for point in first.curve.split()] == ["1", "2"]
    assert len(first.kept.split()) == len(first.prior_share.split()) == 3
    assert first.temperature < 0.1
    plain = train("plain", TINY, None, 0, CPU)
    assert math.isnan(plain.zero_prior)
    assert plain.kept == ""


def test_networks_of_a_seed_see_the_same_batches(emoji, monkeypatch):
    seen = {}
    for name in ("plain", "contextual"):
        batches = seen[name] = []

        def keep(images, *rest, batches=batches, original=training.moved):
            batches.append(original(images, *rest))
            return batches[-1]

        with monkeypatch.context() as patch:
            patch.setattr(training, "moved", keep)
            train(name, TINY, 0.5, 0, CPU)
    assert len(seen["plain"]) == 2 * (36 // 16)
    assert all(torch.equal(a, b) for a, b in zip(seen["plain"], seen["contextual"], strict=True))
    assert not torch.equal(seen["plain"][0], seen["plain"][1])


def test_accuracy_and_kept_classes_by_hand(emoji):
    model, test = _stirred("contextual_reduce"), Drawings(*(t[:12] for t in open_task("6", TINY.side).test))
    right, kept = 0, [0, 0, 0]
    with torch.no_grad():
        for image, number in zip(test.images, test.classes.tolist(), strict=True):
            output = model.forward_stages(image[None])
            right += int(output.logits[0].argmax()) == number
            kept = [k + (number in c[0].tolist()) for k, c in zip(kept, output.classes[1:], strict=True)]
    count = len(test.classes)
    assert training.evaluate(model, test, AS_IS) == pytest.approx(100 * right / count)
    assert training._kept(model, test, AS_IS) == " ".join(f"{100 * k / count:.1f}" for k in kept)
    assert kept[-1] < count


OUTCOME = Outcome(
    60.0, 50.0, 90.0, 40.0, 45.0, 42.0, "10.0 20.0 30.0", "99.0 90.0 80.0", 0.07, "1:10.0 2:60.0", 1.0
)


def _fake(calls, stop_after=None):
    def trainer(name, size, alpha, seed, device):
        if len(calls) == stop_after:
            raise KeyboardInterrupt
        calls.append((name, alpha, seed))
        outcome = OUTCOME._replace(accuracy=50.0 + seed, val=60.0 + (alpha == 0.5))
        return outcome if alpha is not None else outcome._replace(kept="", prior_share="")

    return trainer


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path):
    out, names, calls = tmp_path / "rows.csv", ["plain", "contextual"], []
    trials = [("contextual", alpha, seed) for seed in TRIAL_SEEDS for alpha in ALPHAS]
    with pytest.raises(KeyboardInterrupt):
        run(names, 2, TINY, SETTINGS, out, trainer=_fake(calls, stop_after=2))
    assert calls == trials[:2]
    assert run(names, 2, TINY, SETTINGS, out, trainer=_fake(calls), most=3) == 3
    assert run(names, 2, TINY, SETTINGS, out, trainer=_fake(calls)) == 2
    reported = [("plain", None, 0), ("contextual", 0.5, 0), ("plain", None, 1), ("contextual", 0.5, 1)]
    assert calls == [*trials, *reported]
    assert run(names, 2, TINY, SETTINGS, out, trainer=_fake(calls)) == 0
    assert len(rows.read(out)) == len(calls)
    assert chosen_alpha([row for row in rows.read(out) if row["network"] == "contextual"]) == 0.5
    found = report.accuracies(out, names, TINY, CPU)
    assert {name: sorted(report.by_seed(own)) for name, own in found.items()} == {
        "plain": [0, 1],
        "contextual": [0, 1],
    }


def test_one_weight_for_all_needs_no_trials(tmp_path):
    out, names, calls = tmp_path / "rows.csv", ["plain", "contextual"], []
    assert run(names, 1, TINY, SETTINGS, out, trainer=_fake(calls), alpha=1.0) == 2
    assert calls == [("plain", None, 0), ("contextual", 1.0, 0)]
    assert list(report.accuracies(out, names, TINY, CPU, 1.0)) == names
    assert list(report.accuracies(out, names, TINY, CPU)) == ["plain"]


@pytest.mark.parametrize("value", ["-0.1", "nan", "inf", "much"])
def test_a_weight_is_a_number_from_0_on(value, capsys):
    with pytest.raises(SystemExit):
        cli.main(["ablations", f"--alpha={value}", "--report"])
    assert "--alpha" in capsys.readouterr().err


def test_other_settings_are_other_runs(tmp_path):
    out = tmp_path / "rows.csv"
    run(["plain"], 1, TINY, SETTINGS, out, trainer=_fake([]))
    assert missing(["plain"], 1, TINY, CPU, out) == []
    changed = [
        replace(TINY, recipes={"contextual": replace(RECIPE, lr=1e-3), "residual": RECIPE}),
        replace(TINY, side=64),
        replace(TINY, shared={"contextual": {**TINY.shared["contextual"], "dim": 48}}),
    ]
    for size in changed:
        assert missing(["plain"], 1, size, CPU, out) == [Job("plain", None, 0)]
    assert missing(["plain"], 1, TINY, torch.device("cuda"), out) == [Job("plain", None, 0)]
    other_family = replace(TINY, recipes={"contextual": RECIPE, "residual": replace(RECIPE, lr=1e-3)})
    assert missing(["plain"], 1, other_family, CPU, out) == []
    assert len({fingerprint(name, TINY, CPU) for name in NETWORKS}) == len(NETWORKS)


@pytest.mark.slow
@pytest.mark.process
def test_two_processes_train_as_one(emoji, tmp_path):
    both = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.csv"
        run(["plain", "cot_static"], 1, TINY, SETTINGS, out, processes)
        both.append(sorted((row["network"], row["accuracy"], row["curve"]) for row in rows.read(out)))
    assert both[0] == both[1]


def test_where_a_prior_loses_what_tells_images_apart(emoji):
    assert where.sets_differ(torch.tensor([[0, 1], [2, 0], [1, 0]])) == pytest.approx(1 / 3)
    torch.manual_seed(0)
    model, test = build("contextual", TINY), training.shuffled(open_task("6", TINY.side).test)
    steps = where.steps_of(model, test, AS_IS)
    assert list(steps) == ["2", "3", "4"]
    layer, table = model.context.steps["3"], model.context.embedding.weight
    with torch.no_grad():
        expected = layer.merge(layer.embed(table)[steps["3"]["kept"]].mean(1))
    torch.testing.assert_close(steps["3"]["prior"], expected)
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in where.report(model, test, AS_IS).splitlines()]
    assert cells[3][:2] == ["3", "5 of 6"]
    # generators start at zero: what the prior is does not matter yet
    assert [line[1:] for line in cells[-3:]] == [["0.0"] * 3] * 3


def test_how_long_weight_offsets_are(emoji):
    test = training.shuffled(open_task("6", TINY.side).test)
    model = build("no_prior", TINY)
    layers = [layer for layer in model.modules() if isinstance(layer, ContextualConv2d)]
    for layer in layers:
        nn.init.constant_(layer.weight, -0.5)
        nn.init.constant_(layer.weight_offsets.fc2.bias, 0.25)
    found = where.offsets_of(model, test, AS_IS)
    assert list(found.values()) == [pytest.approx((0.5, 0.0), abs=1e-5)] * len(layers)
    nn.init.normal_(layers[-1].weight_offsets.fc2.weight, std=10)
    *others, (length, share) = where.offsets_of(model, test, AS_IS).values()
    assert others == [pytest.approx((0.5, 0.0), abs=1e-5)] * len(others)
    assert length > 1
    assert share > 0.05
    assert where.offsets_report(model, test, AS_IS).count("\n") == 1 + len(layers)


def test_comparisons_name_networks():
    assert {name for pair in COMPARISONS for name in pair} | set(PUBLISHED) <= set(NETWORKS)
    assert published_difference("contextual", "plain") == pytest.approx(2.77)  # Contextual CNN, Table 4, in words
    assert published_difference("cot", "involution") is None


def test_tables_and_figure(tmp_path, capsys):
    out, figure = tmp_path / "rows.csv", tmp_path / "new" / "ablations.svg"
    names = ["plain", "contextual", "cot"]
    run(names, 3, HUNDRED, SETTINGS, out, trainer=_fake([]))
    asked = ["ablations", "--report", "--out", str(out), "--figure", str(figure)]
    assert cli.main(asked) == 0
    text = capsys.readouterr().out
    assert "`contextual` − `plain`" in text
    assert "`resnet`" not in text
    assert "76.58" in text
    row = next(line for line in text.splitlines() if "99 / 90 / 80" in line)
    # three seeds of 50, 51, 52 %; the controls 40, 45, 42 %
    assert [cell.strip() for cell in row.split("|")[1:7]] == [
        "`contextual`", "51.0", "-11.0", "-6.0", "-9.0", "10 / 20 / 30"
    ]  # fmt: skip
    assert "validation artist" in figure.read_text()
    first = figure.read_bytes()
    assert cli.main(asked) == 0
    assert figure.read_bytes() == first
    assert cli.main([*asked[:-1], str(tmp_path / "figure.txt")]) == 1
    assert "must end in .svg or .png" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no rows of size 100 on cuda"):
        report.accuracies(out, names, HUNDRED, torch.device("cuda"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "nothing"], "no network nothing at this size; there are plain, deformable"),
        (["--size", "400", "--only", "cot"], "no network cot at this size; there are plain, deformable"),
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
    assert selected(["cot", "plain"], HUNDRED) == ["plain", "cot"]
    assert arguments("cot", HUNDRED)["num_classes"] == 100
