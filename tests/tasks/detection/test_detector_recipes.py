"""Recipes of detectors against the papers' numbers, written here once more."""

import inspect
from dataclasses import fields, replace

import pytest
import timm
import torch
from torch import nn

from ctxvision.recipes import load_recipe, recipe_names
from ctxvision.tasks.detection import build_detector, count_detector_macs
from ctxvision.tasks.detection.regions import RoIPool
from ctxvision.tasks.optimization import Optimization, build_optimizer, build_schedule
from ctxvision.training import TrainOptions

pytestmark = pytest.mark.slow

COT = ("cotnet50", "cotnext50_2x48d", "cotnet101", "cotnext101_2x48d")
AP = {  # box and mask AP: involution's table of COCO results; CoTNet, Tables 7 and 8; Contextual CNN, Table 3
    "detect-rednet-faster-rcnn-1x": {"rednet50": (39.5,)},
    "detect-rednet-faster-rcnn-neck-1x": {"rednet50": (40.2,)},
    "detect-rednet-faster-rcnn-neck-head-1x": {"rednet50": (39.2,)},
    "detect-rednet-mask-rcnn-1x": {"rednet50": (39.9, 35.7)},
    "detect-rednet-mask-rcnn-neck-1x": {"rednet50": (40.8, 36.4)},
    "detect-rednet-mask-rcnn-neck-head-1x": {"rednet50": (39.6, 35.1)},
    "detect-rednet-retinanet-1x": {"rednet50": (38.2,)},
    "detect-rednet-retinanet-neck-1x": {"rednet50": (38.2,)},
    "detect-cotnet-faster-rcnn-1x": dict(zip(COT, ((43.50,), (44.06,), (45.35,), (46.10,)), strict=True)),
    "detect-cotnet-cascade-rcnn-1x": dict(zip(COT, ((46.11,), (46.79,), (48.19,), (49.02,)), strict=True)),
    "detect-cotnet-mask-rcnn-1x": dict(
        zip(COT, ((44.06, 39.28), (44.47, 39.62), (46.17, 40.86), (46.66, 41.21)), strict=True)
    ),
    "detect-cotnet-cascade-mask-rcnn-1x": dict(
        zip(COT, ((46.94, 40.25), (47.63, 40.76), (48.97, 41.98), (49.35, 42.20)), strict=True)
    ),
    "detect-contextual-mask-rcnn-3x": {"contextual_convnext_tiny": (47.3, 42.7)},
}
DETECTOR = set(inspect.signature(build_detector).parameters) - {"backbone", "num_classes"}


def detector_of(recipe, backbone):
    settings = {key: value for key, value in recipe.settings_for(backbone).items() if key in DETECTOR}
    with torch.device("meta"):
        return build_detector(backbone=backbone, num_classes=80, **settings)


def test_every_result_has_its_recipe():
    assert [name for name in recipe_names() if name.startswith("detect-")] == sorted(AP)


@pytest.mark.parametrize("name", AP)
def test_numbers_and_names(name):
    recipe = load_recipe(name)
    metrics = ("box_ap", "mask_ap")
    assert recipe.expected == {
        model: dict(zip(metrics, values, strict=False)) for model, values in AP[name].items()
    }
    assert recipe.requires == ("init_from",)
    assert set(recipe.settings) <= DETECTOR | set(TrainOptions.__dataclass_fields__)
    assert recipe.settings["detector"].replace("_", "-") in name
    assert ("mask" in recipe.settings["detector"]) == all(len(values) == 2 for values in AP[name].values())
    assert all(timm.is_model(model) for model in recipe.models)


@pytest.mark.parametrize("name", AP)
def test_header_gives_command_paper_metric_and_cost(name):
    recipe = load_recipe(name)
    header = recipe.text[: recipe.text.index("source:")]
    assert all(line.startswith("#") for line in header.splitlines())
    assert f"ctxvision train {next(iter(recipe.models))} COCO --task detect --recipe {name} \\\n" in header
    assert "# Paper: " in header
    assert "# Expected: " in header
    if len(AP[name]) == 1:
        (values,) = AP[name].values()
        kinds = zip(("box", "mask"), values, strict=False)
        assert f"Expected: {', '.join(f'{kind} AP {value}' for kind, value in kinds)} on COCO" in header
    epochs = recipe.settings["epochs"]
    assert f"Cost: {epochs} epochs × 118 287 images = {epochs * 0.118287:.2f} M images" in header
    assert all(f" {model} " in header for model in AP[name])
    for model in [*AP[name]][:1]:  # a second each
        gmacs = count_detector_macs(detector_of(recipe, model)) / 1e9
        assert f"{model} {gmacs:.0f}" in " ".join(header.replace("#", "").split())
    assert max(map(len, recipe.text.splitlines())) <= 120


@pytest.mark.parametrize("name", AP)
def test_the_schedule_is_the_paper_s(name):
    recipe = load_recipe(name)
    settings, per_epoch = recipe.settings, 1000
    is_contextual = "contextual" in name
    epochs, falls = (36, (27, 33)) if is_contextual else (12, (8, 11))
    lr = 1e-4 if is_contextual else 0.01 if "retinanet" in name else 0.02
    has_long_warmup = "rednet" in name and ("neck" in name or "retinanet" in name)
    warmup = 2000 if has_long_warmup else 1000 if "cotnet" in name else 500
    assert (settings["epochs"], settings["batch_size"], settings["micro_batch"]) == (epochs, 16, 2)
    o = Optimization(**{f.name: settings[f.name] for f in fields(Optimization) if f.name in settings})
    optimizer = build_optimizer(nn.Linear(2, 2), replace(o, layer_decay=None))
    decays = {group["weight_decay"] for group in optimizer.param_groups} - {0}
    if is_contextual:
        assert (type(optimizer).__name__, decays) == ("AdamW", {0.05})
    else:
        assert (type(optimizer).__name__, decays) == ("SGD", {1e-4})
        assert all((g["momentum"], g["nesterov"]) == (0.9, False) for g in optimizer.param_groups)
    schedule = build_schedule(optimizer, o, epochs=epochs, steps_per_epoch=per_epoch)
    rates = {}
    for step in (0, warmup // 2, warmup, *(fall * per_epoch + late for fall in falls for late in (-2, 1))):
        schedule.step_update(step)
        rates[step] = optimizer.param_groups[0]["lr"]
    expected = [0.001 * lr, 0.5005 * lr, lr, lr, lr / 10, lr / 10, lr / 100]
    assert list(rates.values()) == pytest.approx(expected)
    clip = {"faster-rcnn-neck-head": 5.0, "mask-rcnn-neck-head": 5.0, "retinanet-neck": 40.0}
    assert settings.get("clip_grad") == clip.get(name.removeprefix("detect-rednet-").removesuffix("-1x"))


@pytest.mark.parametrize("name", AP)
def test_proposals_and_rois_are_the_authors(name):
    settings = load_recipe(name).settings
    assert settings["interpolation"] == "bilinear"
    assert settings.get("decay_norms", False) == ("rednet" in name)
    if "retinanet" in name:
        assert "roi_samples" not in settings
        return
    detector = detector_of(load_recipe(name), next(iter(AP[name])))
    rpn, heads = detector.network.rpn, detector.network.roi_heads
    assert rpn._pre_nms_top_n == {"training": 2000, "testing": 1000}
    # Detectron2's cascade, on which ResNeSt's stands, trains on twice as many
    assert rpn._post_nms_top_n == {"training": 2000 if "cascade" in name else 1000, "testing": 1000}
    pools = [module for module in heads.modules() if isinstance(module, RoIPool)]
    assert {(pool.sampling_ratio, pool.aligned) for pool in pools} == {(0, True)}


def test_the_authors_stem_brings_the_cost_to_the_paper_s():
    detector = detector_of(load_recipe("detect-rednet-faster-rcnn-1x"), "rednet50")
    assert count_detector_macs(detector) / 1e9 == pytest.approx(177.42, abs=0.01)  # of 177.9


@pytest.mark.parametrize("name", AP)
def test_sizes_and_norms_are_the_paper_s(name):
    recipe = load_recipe(name)
    sizes = recipe.settings["min_size"]
    smallest = 480 if "contextual" in name else 640 if "cotnet" in name else 800
    assert (min(sizes), max(sizes), sizes[-1], recipe.settings["max_size"]) == (smallest, 800, 800, 1333)
    assert sizes == sorted(sizes)
    model = next(iter(AP[name]))
    detector = detector_of(recipe, model)
    body = detector.network.backbone.features.body
    trained = dict.fromkeys(("conv1", "layer1", "layer2", "layer4"), False)
    for parameter_name, parameter in body.named_parameters():
        for prefix in trained:
            trained[prefix] |= parameter_name.startswith(prefix) and parameter.requires_grad
    if "rednet" in name:
        detector.train()
        assert not any(m.training for m in body.modules() if isinstance(m, nn.BatchNorm2d))
        assert trained == {"conv1": False, "layer1": False, "layer2": True, "layer4": True}
        assert not recipe.settings["sync_batchnorm"]
    elif "cotnet" in name:
        norms = [m for m in detector.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        assert all(isinstance(m, nn.SyncBatchNorm) for m in norms)
        in_body = sum(isinstance(m, nn.SyncBatchNorm) for m in body.modules())
        stages = 3 if "cascade" in name else 1
        assert len(norms) - in_body == 8 + stages * (4 + 4 * ("mask" in name))
        assert all(trained.values())
    else:
        assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in detector.modules())
        rates = [m.drop_prob for m in body.modules() if type(m).__name__ == "DropPath"]
        assert max(rates) == pytest.approx(0.1)
