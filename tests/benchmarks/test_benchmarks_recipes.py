"""Every family by its own recipes on small data: what is changed, what is kept, what is trained again."""

import json
import math

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from benchmarks import cli, rows
from benchmarks.recipes import pictures
from benchmarks.recipes import run as running
from benchmarks.recipes.plan import _STEPS, DATA, FAMILIES, SIDES, Pair, pairs, settings_of
from benchmarks.settings import Settings
from ctxvision.data.detection.coco_values import to_mask
from ctxvision.data.embedded.digits import CLASS_NAMES, digit_keys, held_out_digits, load_digits
from ctxvision.data.segmentation.data import find_pixels
from ctxvision.recipes import load_recipe, recipe_names
from ctxvision.training.settings import basis_of

SETTINGS = Settings(torch.device("cpu"), torch.float32, 1, 64, 1, 0.0, 32)
COT = Pair("cotnet-default", "cotnet")


def options_of(pair, side, **more):
    recipe = load_recipe(pair.recipe)
    given = {"data": DATA[recipe.task].source, "recipe": pair.recipe, "task": recipe.task, "init_from": "x"}
    given |= settings_of(pair, side, 0) | more
    return basis_of(given).complete(given)


def test_every_recipe_of_a_paper_is_there_with_every_family_that_it_names():
    papers = {name for name in recipe_names() if load_recipe(name).source != "ours"}
    assert {pair.recipe for pair in pairs()} == papers
    assert {pair.family for pair in pairs()} == set(FAMILIES)
    assert len(set(pairs())) == len(pairs())
    assert set(_STEPS) < papers


@pytest.mark.parametrize("pair", pairs(), ids="/".join)
def test_what_a_recipe_fixes_is_kept_and_shares_of_the_run_stay(pair):
    recipe = load_recipe(pair.recipe)
    usual, data = recipe.settings_for(next(iter(recipe.models))), DATA[recipe.task]
    for side in SIDES:
        options = options_of(pair, side)
        for name in ("optimizer", "weight_decay", "decay_norms", "schedule", "label_smoothing", "mixup", "cutmix"):
            if name in usual:
                assert getattr(options, name) == usual[name], name
        ratio = data.batch / usual["batch_size"]
        descent = usual["optimizer"] in ("sgd", "momentum")
        rate = usual["lr"] * ratio if descent else max(usual["lr"] * math.sqrt(ratio), 1e-3)
        if usual.get("detector") == "retinanet":
            rate = 2 * usual["lr"]
            assert options.clip_grad == 5.0
        assert options.lr == pytest.approx(rate)
        if usual.get("warmup_epochs"):
            assert options.warmup_epochs / options.epochs == pytest.approx(
                usual["warmup_epochs"] / usual["epochs"]
            )
        assert options.epochs * (data.size // data.batch) >= _STEPS.get(pair.recipe, data.steps)


def test_the_plain_network_has_nothing_of_ours_and_a_detector_of_ours_its_wide_stem():
    assert options_of(COT, "plain").model_args == {"cot_stages": []}
    pair = Pair("detect-rednet-mask-rcnn-neck-1x", "rednet")
    assert options_of(pair, "ours").model_args == {"stem_kernel_size": 7}
    assert options_of(pair, "plain").model_args == {"cot_stages": []}


@pytest.mark.parametrize("family", ["contextual_convnext", "contextual_resnet"])
def test_contextual_networks_rerank_and_have_the_loss_of_their_recipe(family):
    name, arguments = FAMILIES[family].ours
    assert timm.create_model(name, **arguments, device="meta").context.selection == "rerank"
    (pair,) = (pair for pair in pairs() if pair.family == family and pair.recipe.startswith("contextual"))
    options = options_of(pair, "ours")
    assert (options.stage_alpha, options.loss_classes) == (0.15, "considered")


@pytest.mark.parametrize("network", [side for family in FAMILIES.values() for side in family], ids=str)
def test_the_networks_can_be_built(network):
    name, arguments = network
    timm.create_model(name, num_classes=10, **arguments, device="meta")


@pytest.fixture
def trained(monkeypatch):
    """Runs without training: ours reaches 90 %, plain 91 %."""
    calls = []

    def train(pair, side, seed, work, steps):
        calls.append((*pair, side, seed))
        columns = dict.fromkeys(running.COLUMNS[len(running.machine.COLUMNS) + 1 :], 0)
        value = 90.0 if side == "ours" else 91.0
        return columns | {"recipe": pair.recipe, "family": pair.family, "side": side, "seed": seed, "value": value}

    monkeypatch.setattr(running, "trained", train)
    return calls


def test_what_the_file_has_is_not_trained_again(trained, tmp_path, capsys):
    out = tmp_path / "rows.csv"
    assert running.run([COT], 1, SETTINGS, out, tmp_path) == 2
    assert running.run([COT], 2, SETTINGS, out, tmp_path) == 2
    assert [call[2:] for call in trained] == [("ours", 0), ("plain", 0), ("ours", 1), ("plain", 1)]
    assert len(rows.read(out)) == 4
    assert running.run([COT], 1, SETTINGS, out, tmp_path, steps=30) == 2  # another run
    assert cli.main(["recipes", "--report", "--out", str(out), "--only", "cotnet-default cotnet"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert [cell.strip() for cell in line.split("|")[1:-1]] == [
        "cotnet-default", "cotnet", "top1", "2", "10", "90.0", "91.0", "3.1", "yes"
    ]  # fmt: skip


def test_other_data_are_another_run(monkeypatch):
    before = running.fingerprint(COT, "ours", None)
    monkeypatch.setitem(DATA, "classification", DATA["classification"]._replace(source="digits"))
    assert running.fingerprint(COT, "ours", None) != before


def test_boards_hold_four_digits_each_under_a_mask_of_its_class(tmp_path):
    found = find_pixels(pictures.digit_boards(tmp_path, 3))
    assert (len(found.train), len(found.val), found.class_names[:2]) == (3, 100, ("background", "0"))
    pixels, targets = load_digits()
    held_out = held_out_digits(digit_keys(targets))
    for pairs_of, split in ((found.train, ~held_out), (found.val[:2], held_out)):
        digits = {
            picture.numpy().tobytes(): int(target)
            for picture, target in zip(pixels[split], targets[split], strict=True)
        }
        for image, mask in pairs_of:
            board, classes = (np.array(Image.open(path)) for path in (image, mask))
            assert board.shape == classes.shape == (64, 64)
            for part in (np.s_[y : y + 32, x : x + 32] for y in (0, 32) for x in (0, 32)):
                assert (classes[part] > 0).sum() == (board[part] > 127).sum() > 0
                (number,) = set(classes[part].ravel()) - {0}
                assert any(
                    target == number - 1 and np.array_equal(enlarged(raw), board[part])
                    for raw, target in digits.items()
                )


def test_sheets_hold_digits_in_tight_boxes_with_masks_of_their_ink(tmp_path):
    pixels, targets = load_digits()
    held_out = held_out_digits(digit_keys(targets))
    folder = pictures.digit_sheets(tmp_path, 5)
    for split, kept, count in (("train", ~held_out, 5), ("val", held_out, 100)):
        listed = json.loads((folder / "annotations" / f"instances_{split}.json").read_text())
        assert [one["name"] for one in listed["categories"]] == list(CLASS_NAMES)
        assert len(listed["images"]) == count == len({one["image_id"] for one in listed["annotations"]})
        assert count < len(listed["annotations"]) < 2 * count
        of_split = [enlarged(picture.numpy().tobytes()) > 127 for picture in pixels[kept]]
        for one in listed["annotations"]:
            sheet = np.array(Image.open(folder / split / f"{one['image_id']:04d}.png"))
            mask = to_mask(one["segmentation"], *sheet.shape).astype(bool)
            (x, y, width, height), inside = one["bbox"], np.zeros_like(mask)
            inside[y : y + height, x : x + width] = True
            assert sheet.shape == (64, 64)
            assert mask.sum() == one["area"] == (mask & inside & (sheet > 127)).sum()
            ink = mask[y : y + height, x : x + width]
            assert np.array_equal(tight(ink), ink)
            same = [number for number, digit in enumerate(of_split) if np.array_equal(tight(digit), ink)]
            assert one["category_id"] - 1 in targets[kept][same].tolist()


def tight(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def enlarged(raw):
    return np.array(Image.fromarray(np.frombuffer(raw, np.uint8).reshape(8, 8)).resize((32, 32), Image.BICUBIC))


@pytest.mark.parametrize(
    ("ours", "plain", "verdict"), [(90, 91, "yes"), (70, 91, "learns"), (12, 12, "no"), (95, 60, "yes")]
)
def test_verdicts(ours, plain, verdict, tmp_path, monkeypatch):
    values = {"ours": ours, "plain": plain}
    monkeypatch.setattr(
        running, "trained", lambda pair, side, *_: dict.fromkeys(
            running.COLUMNS[len(running.machine.COLUMNS) + 1 :], 0) | {"value": float(values[side])}
    )  # fmt: skip
    running.run([COT], 1, SETTINGS, tmp_path / "rows.csv", tmp_path)
    assert running.report(tmp_path / "rows.csv", [COT]).endswith(f"{verdict} |")


def test_a_recipe_that_does_not_exist(capsys):
    assert cli.main(["recipes", "--only", "alexnet", "--report"]) == 1
    assert "--only alexnet: no such recipe; there are contextual-convnext, " in capsys.readouterr().err
