"""timm's optimisers and schedules as the tasks use them, against formulas written here."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ctxvision.tasks import TaskError
from ctxvision.tasks.networks import create_network
from ctxvision.tasks.optimization import Optimization, build_optimizer, build_schedule


def curve(name, steps, *, epochs, steps_per_epoch, args=None, **options):
    """The learning rate of every step, and the one after the last."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=options["lr"])
    o = Optimization(schedule=name, schedule_args=args, **options)
    schedule = build_schedule(optimizer, o, epochs=epochs, steps_per_epoch=steps_per_epoch)
    rates = [optimizer.param_groups[0]["lr"]]
    for step in range(1, steps + 1):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@settings(max_examples=30)
@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(0, 10),
    st.floats(0, 1),
    st.floats(0.01, 1),
    st.floats(0, 0.01),
)
def test_cosine(after, per_epoch, warmup, factor, lr, low):
    steps, w = (warmup + after) * per_epoch, warmup * per_epoch
    options = {"epochs": warmup + after, "steps_per_epoch": per_epoch, "warmup_epochs": warmup}
    rates = curve("cosine", steps, lr=lr, warmup_factor=factor, min_lr=low, **options)
    expected = [lr * (factor + (1 - factor) * t / w) for t in range(w)]
    expected += [low + (lr - low) * (1 + math.cos(math.pi * t / (steps - w))) / 2 for t in range(steps - w + 1)]
    assert rates == pytest.approx(expected, abs=1e-12)


def test_fractions_of_an_epoch_warm_up():
    rates = curve("cosine", 10, lr=1.0, epochs=1, steps_per_epoch=10, warmup_epochs=0.2)
    assert rates[:3] == pytest.approx([0, 0.5, 1])
    assert rates[10] == pytest.approx(0)


@pytest.mark.parametrize("name", ["cosine", "poly"])
def test_a_cool_down_stays_at_the_lowest_rate(name):
    rates = curve(name, 20, lr=1.0, min_lr=0.1, epochs=10, steps_per_epoch=2, warmup_epochs=2, cooldown_epochs=3)
    falling = curve(name, 14, lr=1.0, min_lr=0.1, epochs=7, steps_per_epoch=2, warmup_epochs=2)
    assert rates[:15] == pytest.approx(falling)
    assert rates[13] > 0.1
    assert rates[14:] == pytest.approx([0.1] * 7)
    with pytest.raises(
        TaskError, match="warm-up of 2 epochs and a cool-down of 3 leave nothing of 5; train longer"
    ):
        curve(name, 1, lr=1.0, epochs=5, steps_per_epoch=2, warmup_epochs=2, cooldown_epochs=3)


class Listing(nn.Sequential):
    """Two layers and a norm, of which a network spares the first weight."""

    def no_weight_decay(self):
        return {"0.weight"}


@pytest.mark.parametrize("layer_decay", [None, 0.5])
@pytest.mark.parametrize("decay_norms", [False, True])
@pytest.mark.parametrize("decay", [0.1, 0.0])
def test_norms_and_biases_are_decayed_on_request_and_what_a_network_spares_never(layer_decay, decay_norms, decay):
    model = Listing(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 2))
    o = Optimization(optimizer="sgd", weight_decay=decay, layer_decay=layer_decay, decay_norms=decay_norms)
    names = {p: name for name, p in model.named_parameters()}
    groups = build_optimizer(model, o).param_groups
    decays = {names[p]: group["weight_decay"] for group in groups for p in group["params"]}
    assert decays.keys() == set(names.values())
    usual = {"2.weight"} if not decay_norms else set(names.values()) - {"0.weight"}
    assert {name for name, value in decays.items() if value} == (usual if decay else set())


def test_multistep_counts_from_the_start_of_the_run():
    # the papers' "divided by 10 at epochs 20 and 40" of 50
    args = {"decay_milestones": [20, 40], "decay_rate": 0.1}
    rates = curve("multistep", 99, lr=0.01, epochs=50, steps_per_epoch=2, warmup_epochs=1, args=args)
    assert rates[:3] == pytest.approx([0, 0.005, 0.01])
    # timm falls one step before the milestone
    assert rates[3:39] == pytest.approx([0.01] * 36)
    assert rates[39:79] == pytest.approx([0.001] * 40)
    assert rates[79:] == pytest.approx([0.0001] * 21)


def test_step():
    rates = curve("step", 8, lr=1.0, epochs=4, steps_per_epoch=2, args={"decay_epochs": 1, "decay_rate": 0.5})
    assert rates == pytest.approx([1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625])


def test_poly():
    # Cityscapes: (1 - t/T)^0.9
    rates = curve("poly", 20, lr=0.01, epochs=2, steps_per_epoch=10, args={"decay_rate": 0.9})
    assert rates == pytest.approx([0.01 * (1 - t / 20) ** 0.9 for t in range(21)])


def test_warmup_must_end():
    with pytest.raises(TaskError, match=r"a warm-up of 5 epochs leaves nothing of 5"):
        curve("cosine", 1, lr=1.0, epochs=5, steps_per_epoch=1, warmup_epochs=5)


def network(name):
    return create_network(name, num_classes=10, in_chans=3, model_args={})


def test_layer_decay_slows_the_layers_near_the_input():
    model = network("contextual_convnext_micro")
    o = Optimization(lr=1e-3, weight_decay=0.05, layer_decay=0.5)
    optimizer = build_optimizer(model, o)
    build_schedule(optimizer, o, epochs=2, steps_per_epoch=1)
    names = {p: name for name, p in model.named_parameters()}
    group = {names[p]: g for g in optimizer.param_groups for p in g["params"]}
    assert group.keys() == set(names.values())
    # the stem, then 2 + 2 + 4 + 2 blocks and 3 reductions of resolution, then the rest
    depths = {round(math.log2(1 / g["lr_scale"])) for g in optimizer.param_groups}
    deepest = max(depths)
    assert group["stem.0.weight"]["lr"] == pytest.approx(1e-3 * 0.5**deepest)
    blocks = [f"stages.{s}.blocks.{b}.mlp.fc1.weight" for s, n in enumerate((2, 2, 4, 2)) for b in range(n)]
    scales = [group[name]["lr_scale"] for name in blocks]
    assert scales == sorted(scales)
    assert len(set(scales)) == len(blocks)
    assert group["context.embedding.weight"]["lr"] == pytest.approx(1e-3)
    assert group["context.embedding.weight"]["weight_decay"] == 0
    assert group["context.logit_scale"]["weight_decay"] == 0
    assert group["stem.0.weight"]["weight_decay"] == 0.05
    assert group["stem.0.bias"]["weight_decay"] == 0


def test_schedule_moves_all_layers_together():
    o = Optimization(optimizer="sgd", lr=1.0, weight_decay=0.1, layer_decay=0.75, warmup_epochs=1)
    optimizer = build_optimizer(network("rednet_micro"), o)
    schedule = build_schedule(optimizer, o, epochs=4, steps_per_epoch=5)
    for step in (3, 5, 12, 20):
        schedule.step_update(step)
        rates = {round(g["lr"] / g["lr_scale"], 9) for g in optimizer.param_groups}
        assert len(rates) == 1
    assert len({g["lr_scale"] for g in optimizer.param_groups}) > 5


@pytest.mark.parametrize(("layer_decay", "wrapped"), [(None, False), (None, True), (0.5, False)])
@pytest.mark.parametrize("decay_norms", [False, True])
def test_generators_of_offsets_have_their_share_of_the_rate_and_all_else_as_before(
    layer_decay, decay_norms, wrapped
):
    model = network("contextual_resnet_micro")
    if wrapped:  # in a detector, say
        model = nn.ModuleDict({"backbone": model})
    names = {p: name for name, p in model.named_parameters()}

    def settings_of(scale):
        o = Optimization(
            lr=1.0, weight_decay=0.1, layer_decay=layer_decay, decay_norms=decay_norms, offset_lr_scale=scale
        )
        optimizer = build_optimizer(model, o)
        schedule = build_schedule(optimizer, o, epochs=4, steps_per_epoch=5)
        schedule.step_update(7)
        held = [(names[p], group) for group in optimizer.param_groups for p in group["params"]]
        assert sorted(name for name, _ in held) == sorted(names.values()), "each in one group"
        return {name: (group["lr"], group["weight_decay"]) for name, group in held}

    usual, slow = settings_of(1.0), settings_of(0.1)
    generators = {name for name in names.values() if "weight_offsets." in name or "sampling_offsets." in name}
    assert len(generators) > 20
    for name, (lr, decay) in usual.items():
        assert slow[name] == (pytest.approx(lr * (0.1 if name in generators else 1.0)), decay), name


def test_a_network_without_offsets_and_one_of_nothing_else_take_the_share_too():
    o = Optimization(lr=1.0, offset_lr_scale=0.1)
    assert len(build_optimizer(network("rednet_micro"), o).param_groups) == 2
    part = network("contextual_resnet_micro").layer2[0].conv2.weight_offsets
    groups = build_optimizer(part, o).param_groups
    assert [group["lr_scale"] for group in groups] == [0.1] * len(groups)
    assert all(group["params"] for group in groups)


def test_arguments_reach_the_optimizer():
    model = network("rednet_micro")
    adam = build_optimizer(model, Optimization(lr=1.0, optimizer_args={"betas": [0.8, 0.9], "eps": 1e-5}))
    assert tuple(adam.defaults["betas"]) == (0.8, 0.9)
    assert adam.defaults["eps"] == 1e-5
    sgd = build_optimizer(model, Optimization(optimizer="sgd", lr=1.0, optimizer_args={"momentum": 0.8}))
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.8, True)
    assert not build_optimizer(model, Optimization(optimizer="momentum")).defaults["nesterov"]


def test_what_a_part_of_a_model_spares_is_spared_in_the_whole():
    part = create_network("contextual_convnext_micro", num_classes=3, in_chans=3, model_args={})
    spared = part.no_weight_decay()
    assert spared
    whole = nn.ModuleDict({"backbone": nn.Sequential(part), "head": nn.Linear(2, 2)})
    optimizer = build_optimizer(whole, Optimization(lr=0.1, weight_decay=0.5))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    everything = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert everything == {id(p) for p in whole.parameters()}
    for name, parameter in whole.named_parameters():
        expected = parameter.ndim > 1 and name.removeprefix("backbone.0.") not in spared
        assert (id(parameter) in decayed) == expected, name
