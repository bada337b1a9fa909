import numpy as np
import pytest
import torch

from _networks import lively, same_state, state
from ctxvision.explain import class_fates, class_funnel


def by_hand(funnel):
    """What became of the true class of one image, from its funnel: lost step, winner, last class kept."""
    kept = [{c for c, keep in zip(s.classes, s.kept, strict=True) if keep} for s in funnel.stages]
    for step, stage in enumerate(funnel.stages):
        if all(funnel.target not in later for later in kept[step:]):
            ranked = [c for c in stage.classes if c in kept[step]]
            head = step == len(funnel.stages) - 1
            return step, funnel.prediction if head else stage.classes[0], ranked[-1]
    return len(funnel.stages), funnel.target, funnel.target


@pytest.mark.parametrize("selection", ["reduce", "rerank"])
def test_every_image_is_followed_to_the_step_that_loses_it(selection):
    model = lively("contextual_convnext_micro", num_classes=30, selection=selection)
    images, targets = torch.randn(24, 3, 32, 32), torch.arange(24) % 6 * 5
    answers = model(images).argmax(1)
    targets[:4] = answers[:4]  # some are right
    batches = [(images[:9], targets[:9]), (images[:0], targets[:0]), (images[9:], targets[9:])]
    before = state(model)
    fates = class_fates(model, batches)
    assert same_state(before, state(model))
    funnels = class_funnel(model, images, targets)
    expected = [by_hand(funnel) for funnel in funnels]
    assert (
        list(zip(fates.lost.tolist(), fates.winners.tolist(), fates.replaced_by.tolist(), strict=True)) == expected
    )
    assert len({step for step, *_ in expected}) >= 3  # the data has something to tell
    assert fates.answers.tolist() == answers.tolist()
    for row, funnel in enumerate(funnels):
        for step, stage in enumerate(funnel.stages):
            assert fates.ranks[row, step] == (stage.true_rank or 0)
            kept = [s for s, keep in zip(stage.scores, stage.kept, strict=True) if keep]
            assert fates.cutoffs[row, step] == pytest.approx(min(kept), abs=1e-5)
            if stage.true_rank is None:
                assert np.isnan(fates.scores[row, step])
            else:
                assert fates.scores[row, step] == pytest.approx(stage.scores[stage.true_rank - 1], abs=1e-5)


@pytest.mark.parametrize("selection", ["reduce", "rerank"])
def test_the_tables_count_the_images(selection):
    model = lively("contextual_convnext_micro", num_classes=12, selection=selection)
    images, targets = torch.randn(40, 3, 32, 32), torch.randint(0, 12, (40,))
    targets[:8] = model(images[:8]).argmax(1)
    fates = class_fates(model, [(images, targets)])
    steps = len(fates.steps)
    table = fates.lost_by_class()
    for c in range(12):
        for step in range(steps + 1):
            assert table[c, step] == sum(
                t == c and lost == step for t, lost in zip(fates.targets, fates.lost, strict=True)
            )
    pairs = {}
    for true, step, winner in zip(fates.targets, fates.lost, fates.winners, strict=True):
        if step < steps:
            pairs[int(true), int(step), int(winner)] = pairs.get((int(true), int(step), int(winner)), 0) + 1
    listed = fates.lost_to()
    assert {entry[:3]: entry[3] for entry in listed} == pairs
    assert [entry[3] for entry in listed] == sorted(pairs.values(), reverse=True)
    recall = fates.recall()
    for step in range(steps):
        assert recall[step] == np.mean([lost > step for lost in fates.lost])
    assert recall[-1] == (fates.answers == fates.targets).mean()
    assert (np.diff(recall) <= 0).all()


def test_recall_is_what_the_evaluation_counts():
    from ctxvision.explain import collect_predictions

    model = lively("contextual_convnext_micro", num_classes=30)
    batches = [(torch.randn(16, 3, 32, 32), torch.randint(0, 30, (16,)))]
    fates, known = class_fates(model, batches), collect_predictions(model, batches)
    assert [stage.name for stage in known.stages] == list(fates.steps)
    assert [stage.survived / 16 for stage in known.stages] == fates.recall().tolist()
    assert [(stage.scored, stage.kept) for stage in known.stages] == list(
        zip(fates.scored, fates.kept, strict=True)
    )


def test_what_cannot_be_followed():
    with pytest.raises(ValueError, match="contextual network"):
        class_fates(lively("resnet10t"), [])
    with pytest.raises(ValueError, match="no images"):
        class_fates(lively("contextual_convnext_micro"), [])
