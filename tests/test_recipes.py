"""The papers' recipes against the papers' numbers, written here once more."""

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import get_type_hints

import pytest
import timm
import torch
from timm.data.auto_augment import RandAugment
from timm.data.random_erasing import RandomErasing
from torch import nn
from torchvision.transforms import ColorJitter

from _recipes import ADVANCED, DROP_PATH, GENERIC, PAIRS, TOP1, config_of, expected
from ctxvision.cli import main
from ctxvision.data import DataSpec
from ctxvision.models import paper_result
from ctxvision.nn import ContextualLoss
from ctxvision.recipes import RecipeError, load_recipe, recipe_names
from ctxvision.tasks import ClassificationTask
from ctxvision.training import ClassificationOptions
from ctxvision.training.preparation import build_task

NAMES = [name for name in recipe_names() if load_recipe(name).task == "classification"]


def spec(config, classes=1000):
    size = (3, config.image_size, config.image_size)
    names = tuple(map(str, range(classes)))
    return DataSpec(names, size, (0.5,) * 3, (0.5,) * 3, interpolation=config.interpolation)


def scheduled(task, epochs, steps_per_epoch):
    """Let the task's own schedule run without training; returns the optimiser and the rate of every step."""
    trainer = SimpleNamespace(
        max_epochs=epochs,
        accumulate_grad_batches=1,
        datamodule=SimpleNamespace(batches_per_epoch=steps_per_epoch),
        global_step=0,
    )
    object.__setattr__(task, "_trainer", trainer)
    configured = task.configure_optimizers()
    assert configured["lr_scheduler"]["interval"] == "step"
    optimizer, rates = configured["optimizer"], []
    for step in range(epochs * steps_per_epoch):
        rates.append([group["lr"] / group.get("lr_scale", 1.0) for group in optimizer.param_groups])
        trainer.global_step = step + 1
        task.lr_scheduler_step(configured["lr_scheduler"]["scheduler"], None)
    final = optimizer.param_groups[-1]["lr"] / optimizer.param_groups[-1].get("lr_scale", 1.0)
    return optimizer, rates, final


def spared_by(model):
    """Names of norms', biases, layer scales, class embeddings and temperature, by what they belong to."""
    norms = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
    names = {
        f"{m}.{p}" for m, layer in model.named_modules() if isinstance(layer, norms) for p in ("weight", "bias")
    }
    own = {name for name, _ in model.named_parameters()}
    names |= {name for name in own if name.endswith((".bias", ".gamma"))}
    names |= {"context.embedding.weight", "context.logit_scale"}
    return names & own


def test_every_recipe_is_listed_with_its_paper_s_result():
    assert sorted(TOP1) == NAMES
    for name, top1 in TOP1.items():
        assert load_recipe(name).expected == {model: {"top1": value} for model, value in top1.items()}
    for model, top1 in TOP1["cotnet-advanced"].items() | TOP1["rednet"].items():
        assert paper_result(model).top1 == top1


@pytest.mark.parametrize("name", NAMES)
def test_header_gives_command_paper_metric_and_cost(name):
    recipe = load_recipe(name)
    header = recipe.text[: recipe.text.index("source:")]
    assert all(line.startswith("#") for line in header.splitlines())
    assert f"--recipe {name}" in header
    for what in ("Paper: ", "Expected: ", "Cost: "):
        assert f"# {what}" in header
    if recipe.models:
        epochs = recipe.settings["epochs"]
        assert f"Cost: {epochs} epochs × 1 281 167 images = {epochs * 1.281167:.0f} M images" in header
        for model in recipe.models if len(recipe.models) > 1 else ():
            assert f"{model} {paper_result(model).gmacs}" in " ".join(header.split())
    assert max(map(len, recipe.text.splitlines())) <= 120


@pytest.mark.parametrize("name", NAMES)
def test_settings_have_names_and_types_that_train_knows(name):
    recipe = load_recipe(name)
    known = set(ClassificationOptions.__dataclass_fields__)
    assert set(recipe.settings) <= known
    assert all(set(own) <= known for own in recipe.models.values())
    assert all(timm.is_model(model) for model in recipe.models)
    kinds = get_type_hints(ClassificationOptions)
    for settings in (recipe.settings, *recipe.models.values()):
        for key, value in settings.items():
            kind = str(kinds[key]) if "float" in str(kinds[key]) or "int" in str(kinds[key]) else ""
            assert type(value) is float if "float" in kind else type(value) is int if kind else True, key
    assert not set(recipe.settings) & {"model", "data", "out", "recipe", "devices", "device", "seed"}


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "model"), PAIRS + GENERIC)
def test_rates_groups_and_regularisation_are_the_paper_s(recipe, model):
    config = config_of(recipe, model)
    epochs, batch, lr, decay, memory, warmup, factor, last, ema = expected(recipe, model)
    assert (config.epochs, config.batch_size or config.largest_batch, config.ema) == (epochs, batch, ema)
    with torch.device("meta"):
        task = build_task(config, SimpleNamespace(spec=spec(config)))

    per_epoch = 3
    optimizer, rates, final = scheduled(task, epochs, per_epoch)
    w, steps = warmup * per_epoch, epochs * per_epoch
    curve = [lr * (factor + (1 - factor) * t / w) for t in range(w)]
    cool = (10 if recipe == "contextual-resnet50" else 0) * per_epoch
    falls = steps - w - cool
    curve += [last + (lr - last) / 2 * (1 + math.cos(math.pi * t / falls)) for t in range(falls)] + [last] * cool
    assert all(min(row) == pytest.approx(max(row), abs=1e-15) for row in rates)
    assert [row[0] for row in rates] == pytest.approx(curve)
    assert final == pytest.approx(last, abs=1e-15)

    names = {p: name for name, p in task.model.named_parameters()}
    decays = {names[p]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays.keys() == set(names.values())
    spared = set() if recipe == "rednet" else spared_by(task.model)
    assert {name for name, value in decays.items() if not value} == spared
    assert {value for value in decays.values() if value} == {decay}
    if isinstance(memory, float):
        assert type(optimizer) is torch.optim.SGD
        assert all((group["momentum"], group["nesterov"]) == (memory, True) for group in optimizer.param_groups)
    else:
        assert type(optimizer).__name__ == "AdamW"
        assert all(tuple(group["betas"]) == memory for group in optimizer.param_groups)

    is_advanced, is_convnext = recipe == "cotnet-advanced", recipe == "contextual-convnext"
    assert task.model.drop_rate == (0.25 if is_advanced else 0)
    drop_paths = [m.drop_prob for m in task.model.modules() if type(m).__name__ == "DropPath"]
    rate = ADVANCED[model][3] if is_advanced else DROP_PATH.get(model, 0.1 if recipe == "finetune" else 0)
    assert max(drop_paths, default=0) == pytest.approx(rate)
    assert (task.mixup is not None) == (is_advanced or is_convnext)
    smoothing = task.train_loss.label_smoothing
    if task.mixup:
        mix = task.mixup
        assert (mix.mixup_alpha, mix.cutmix_alpha, mix.mix_prob, mix.switch_prob) == (0.8, 1.0, 1.0, 0.5)
        assert (mix.mode, mix.num_classes) == ("batch", 1000)
        assert smoothing == 0
        smoothing = mix.label_smoothing
    assert smoothing == 0.1
    is_contextual = model.startswith("contextual")
    assert type(task.train_loss) is (ContextualLoss if is_contextual else nn.CrossEntropyLoss)
    if is_contextual:
        small = recipe == "small"
        assert (task.train_loss.alpha, task.train_loss.over) == ((1.0, "all") if small else (0.15, "considered"))


def test_layer_scale_of_contextual_convnext_starts_at_1e_6():
    model = timm.create_model("contextual_convnext_tiny")
    gammas = [p for name, p in model.named_parameters() if name.endswith("gamma")]
    assert len(gammas) == 18
    assert all((gamma == 1e-6).all() for gamma in gammas)
    assert model.context.logit_scale.exp().item() == pytest.approx(1 / 0.07)


@pytest.mark.parametrize(("recipe", "model"), [*{pair[0]: pair for pair in PAIRS}.values(), *GENERIC])
def test_augmentation_is_the_paper_s(recipe, model):
    config = config_of(recipe, model)
    names = ("auto_augment", "color_jitter", "random_erasing", "crop_scale")
    pipeline = spec(config).train_transform(**{name: getattr(config, name) for name in names}).transforms
    crop, flip = pipeline[:2]
    assert crop.scale == (0.5 if recipe == "small" else 0.08, 1.0)
    assert crop.ratio == pytest.approx((3 / 4, 4 / 3))
    assert tuple(crop.size) == (config.image_size,) * 2
    assert config.image_size == (64 if recipe == "small" else 256 if model == "se_cotnetd152" else 224)
    assert crop.interpolation.value == ("bilinear" if recipe == "rednet" else "bicubic")
    assert flip.p == 0.5
    policies = [layer for layer in pipeline if isinstance(layer, RandAugment)]
    magnitude = {
        "cotnet-advanced": 15,
        "contextual-convnext": 9,
        "contextual-resnet50": 9,
        "finetune": 9,
        "small": 5,
    }.get(recipe)
    assert [op.magnitude for policy in policies for op in policy.ops[:1]] == ([magnitude] if magnitude else [])
    for policy in policies:
        assert policy.num_layers == 2
        assert policy.ops[0].magnitude_std == 0.5
        increasing = any("Increasing" in op.name for op in policy.ops)
        assert increasing == (recipe in ("contextual-convnext", "contextual-resnet50", "finetune"))
    # timm, like CoTNet's code, has no colour jitter beside a policy
    jitter = [layer for layer in pipeline if isinstance(layer, ColorJitter)]
    assert all(layer.brightness is layer.contrast is layer.saturation is layer.hue is None for layer in jitter)
    assert not (jitter and policies)
    erasing = [layer.probability for layer in pipeline if isinstance(layer, RandomErasing)]
    assert erasing == ([0.25] if recipe in ("contextual-convnext", "finetune") else [])


@pytest.mark.parametrize("model", [model for recipe, model in PAIRS if recipe in ("cotnet-advanced", "rednet")])
def test_a_trained_network_is_tested_as_its_published_weights_are(model):
    recipe = "rednet" if model.startswith("rednet") else "cotnet-advanced"
    config, published = config_of(recipe, model), timm.get_pretrained_cfg(model)
    assert (config.image_size, config.crop_pct) == (published.input_size[1], published.crop_pct)
    assert config.interpolation == published.interpolation == ("bilinear" if recipe == "rednet" else "bicubic")


def test_se_cotnetd152_has_two_sizes_and_contextual_resnet50_a_crop_of_its_own():
    sizes = [timm.get_pretrained_cfg(f"se_cotnetd152.{tag}") for tag in ("in1k", "in1k_320")]
    assert [(cfg.input_size[1], cfg.crop_pct) for cfg in sizes] == [(256, 0.888), (320, 0.909)]
    assert config_of("contextual-resnet50", "contextual_resnet50").crop_pct == 0.95


def test_documentation_lists_what_the_command_lists(capsys):
    assert main(["recipes"]) == 0
    page = Path(__file__).parents[1] / "docs" / "recipes.md"
    assert f"```text\n{capsys.readouterr().out}```" in page.read_text(encoding="utf-8")


def test_names_that_do_not_exist_and_models_of_others():
    with pytest.raises(RecipeError, match="no recipe 'cotnet', did you mean cotnet-default"):
        load_recipe("cotnet")
    with pytest.raises(RecipeError, match=r"no recipe '\.\./small'"):
        load_recipe("../small")
    advanced = load_recipe("cotnet-advanced")
    assert (
        advanced.settings_for("resnet50")
        == advanced.settings_for("cotnet50")
        != advanced.settings_for("cotnet101")
    )
    assert advanced.model_instead_of("resnet50") == "cotnet50"
    assert advanced.model_instead_of("cotnet101") is load_recipe("small").model_instead_of("resnet50") is None
    assert load_recipe("small").settings_for("anything")["epochs"] == 60


def test_no_recipe_setting_is_the_task_s_default_by_accident():
    """What a paper fixes is written down, so that new defaults of the command do not change a recipe."""
    for recipe, model in PAIRS:
        written = load_recipe(recipe).settings_for(model)
        assert {"epochs", "batch_size", "lr", "weight_decay", "optimizer", "schedule", "warmup_epochs"} <= set(
            written
        )
        assert {"label_smoothing", "image_size", "micro_batch"} <= set(written)
    assert re.fullmatch(r"[a-z0-9\-]+", "".join(recipe_names()))
    assert ClassificationTask.__init__.__kwdefaults__["label_smoothing"] == 0.1
