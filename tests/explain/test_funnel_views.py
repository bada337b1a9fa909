import pytest
import timm
import torch

import ctxvision  # noqa: F401
from ctxvision.explain import class_funnel
from ctxvision.explain.figures.classes import funnel_picture
from ctxvision.nn.class_context import class_counts
from ctxvision.tasks.classification.class_sets import funnel_steps, is_contextual


def _model(num_classes=40, **kwargs):
    return timm.create_model("contextual_convnext_micro", num_classes=num_classes, **kwargs).eval()


def _images(count=6):
    return torch.randn(count, 3, 32, 32)


def test_sets_are_nested_sorted_and_of_the_promised_sizes():
    model, images = _model(), _images()
    funnels = class_funnel(model, images, torch.arange(6))
    counts = class_counts(40)
    assert len({f.stages[1].classes for f in funnels}) > 1  # every image has its own
    for funnel in funnels:
        assert [s.name for s in funnel.stages] == ["stage 2", "stage 3", "stage 4", "head"]
        assert [len(s.classes) for s in funnel.stages] == [40, *counts[1:]]
        assert [sum(s.kept) for s in funnel.stages] == [*counts[1:], 1]
        for stage, following in zip(funnel.stages, funnel.stages[1:], strict=False):
            kept = {c for c, keep in zip(stage.classes, stage.kept, strict=True) if keep}
            assert set(following.classes) == kept
        for stage in funnel.stages:
            assert list(stage.scores) == sorted(stage.scores, reverse=True)
            assert list(stage.kept) == sorted(stage.kept, reverse=True)  # the best are kept


def test_scores_and_answers_are_those_of_the_network():
    model, images = _model(), _images()
    with torch.inference_mode():
        output = model.forward_stages(images)
    for row, funnel in enumerate(class_funnel(model, images, [0] * 6)):
        assert funnel.prediction == int(output.logits[row].argmax())
        for stage, classes, scores in zip(funnel.stages, output.classes, output.scores, strict=True):
            expected = dict(zip(classes[row].tolist(), scores[row].tolist(), strict=True))
            assert dict(zip(stage.classes, stage.scores, strict=True)) == expected


def test_the_true_class_has_a_rank_until_it_is_dropped():
    model, images = _model(), _images(1)
    for target in range(40):
        (funnel,) = class_funnel(model, images, [target])
        ranks = [s.true_rank for s in funnel.stages]
        assert ranks[0] == funnel.stages[0].classes.index(target) + 1
        for stage, following in zip(funnel.stages, ranks[1:], strict=False):
            survived = stage.true_rank is not None and stage.kept[stage.true_rank - 1]
            assert (following is not None) == survived


def test_reranking_keeps_what_the_prior_was_made_of():
    model, images = _model(selection="rerank"), _images()
    kept = []
    for context in model.context.steps.values():
        context.register_forward_hook(lambda _module, _inputs, step: kept.append(step.kept))
    with torch.inference_mode():
        steps = funnel_steps(model, model.forward_stages(images))
    assert [s.classes.shape[1] for s in steps] == [40] * 4
    for step, expected in zip(steps, kept, strict=False):
        assert torch.equal(step.kept, expected)


def test_the_mode_of_the_network_is_restored():
    model = _model(drop_rate=0.9).train()
    first, second = (class_funnel(model, _images(2) * 0 + 1, [1, 2]) for _ in range(2))
    assert model.training
    assert first == second


@pytest.mark.parametrize("name", ["resnet10t", "contextual_convnext_micro"])
def test_networks_without_stages_are_refused(name):
    model = timm.create_model(name, num_classes=8, **({} if name == "resnet10t" else {"stages": ()}))
    assert not is_contextual(model)
    with pytest.raises(ValueError, match="contextual network"):
        class_funnel(model, _images(1), [0])


def test_as_many_targets_as_images():
    with pytest.raises(ValueError, match=r"targets must be \(B,\) = \(2,\), got \(3,\)"):
        class_funnel(_model(), _images(2), [0, 1, 2])


def test_what_was_kept_has_the_colour_of_the_legend():
    funnel = class_funnel(_model(), _images(1), torch.arange(1))[0]
    svg = funnel_picture(funnel, [f"class {c}" for c in range(40)], "f", what=None).element
    assert "--stage-" not in svg  # each stage has a place, so no colour has to say which it is
