"""Class sets, prior and loss against a slow, separate re-implementation."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ctxvision.nn import ClassContext, ClassFunnel, ContextualLoss, ContextualOutput, class_counts


def make_funnel(num_classes: int, stages=(2, 3, 4), selection="reduce", seed: int = 0) -> ClassFunnel:
    torch.manual_seed(seed)
    channels = {1: 6, 2: 8, 3: 12, 4: 16}
    return ClassFunnel(
        num_classes,
        dim=10,
        channels={s: channels[s] for s in stages},
        head_channels=20,
        hidden=dict.fromkeys(stages, 7),
        head_hidden=9,
        merge_hidden=5,
        selection=selection,
    ).double()


def run(funnel: ClassFunnel, batch: int, seed: int = 1) -> ContextualOutput:
    torch.manual_seed(seed)
    steps = []
    for stage in sorted(int(s) for s in funnel.steps):
        width = funnel.steps[str(stage)].projection[0].in_features
        steps.append(funnel.narrow(stage, torch.randn(batch, width, 3, 2, dtype=torch.float64), steps))
    return funnel.score(torch.randn(batch, 20, dtype=torch.float64), steps)


@pytest.mark.parametrize(
    ("num_classes", "expected"),
    [
        (1000, (1000, 500, 200, 50)),
        (10, (10, 5, 5, 5)),
        (100, (100, 50, 20, 5)),
        (3, (3, 3, 3, 3)),
        (1, (1, 1, 1, 1)),
        (2, (2, 2, 2, 2)),
        (21841, (21841, 10920, 4368, 1092)),
    ],
)
def test_class_counts_keep_the_papers_ratios(num_classes, expected):
    assert class_counts(num_classes) == expected


@given(st.integers(1, 30000))
def test_class_counts_never_grow_and_never_fall_below_five(num_classes):
    counts = class_counts(num_classes)
    assert counts[0] == num_classes
    assert all(a >= b for a, b in itertools.pairwise(counts))
    assert min(counts) >= min(5, num_classes)


@given(num_classes=st.integers(1, 60), batch=st.integers(0, 4), seed=st.integers(0, 10_000))
def test_class_sets_are_nested_per_sample_and_of_the_promised_sizes(num_classes, batch, seed):
    output = run(make_funnel(num_classes, seed=seed), batch, seed + 1)
    counts = class_counts(num_classes)
    assert [c.shape for c in output.classes] == [(batch, n) for n in counts]
    assert [s.shape for s in output.scores] == [(batch, n) for n in counts]
    for row in range(batch):
        sets = [set(c[row].tolist()) for c in output.classes]
        assert [len(s) for s in sets] == list(counts)  # no class twice
        assert all(inner <= outer for outer, inner in itertools.pairwise(sets))
        for i in range(len(sets) - 1):  # those that went on scored at least as high as those that did not
            scored = dict(zip(output.classes[i][row].tolist(), output.scores[i][row].tolist(), strict=True))
            gone = sets[i] - sets[i + 1]
            assert not gone or min(scored[c] for c in sets[i + 1]) >= max(scored[c] for c in gone)


def test_samples_of_one_batch_keep_different_classes():
    output = run(make_funnel(200), 8)
    assert len({tuple(sorted(row.tolist())) for row in output.classes[-1]}) > 1


def test_rerank_lets_every_stage_choose_among_all_classes():
    output = run(make_funnel(40, selection="rerank"), 3)
    assert all(scores.shape == (3, 40) for scores in output.scores)
    kept = output.scores[2].topk(5, dim=1).indices  # by the last stage, 5 % of 40 but not fewer than 5
    for row in range(3):
        expected = sorted(range(40), key=lambda c: (c not in kept[row], -output.scores[3][row, c].item()))
        assert output.logits[row].argsort(descending=True).tolist() == expected


def test_temperature_starts_at_007():
    assert make_funnel(10).temperature.item() == pytest.approx(0.07, rel=1e-6)


@pytest.mark.parametrize("stages", [(2, 3, 4), (4,), (1, 2, 3, 4), (3, 4)])
def test_logits_put_dropped_classes_last_in_the_order_of_their_last_score(stages):
    output = run(make_funnel(50, stages=stages), 6)
    kept_count = output.classes[-1].shape[1]
    for row in range(6):
        last = {}
        for classes, scores in zip(output.classes, output.scores, strict=True):
            last.update(zip(classes[row].tolist(), scores[row].tolist(), strict=True))
        kept = set(output.classes[-1][row].tolist())
        expected = sorted(range(50), key=lambda c: (c not in kept, -last[c]))
        assert output.logits[row].argsort(descending=True).tolist() == expected
        assert output.logits[row].softmax(0)[expected[kept_count:]].sum() < 1e-9
        for c in kept:
            assert output.logits[row, c].item() == pytest.approx(last[c] / 0.07, rel=1e-6)


def test_dropped_classes_stay_last_at_any_temperature():
    for value in (0.01, 0.07, 0.2):
        funnel = make_funnel(30)
        funnel.logit_scale.data.fill_(math.log(1 / value))
        output = run(funnel, 4)
        kept = torch.zeros_like(output.logits, dtype=torch.bool).scatter(1, output.classes[-1], True)
        lowest_kept = output.logits.masked_fill(~kept, math.inf).amin(1)
        highest_dropped = output.logits.masked_fill(kept, -math.inf).amax(1)
        assert (highest_dropped < lowest_kept).all()


def slow_scores(layer: ClassContext, features: torch.Tensor, embeddings: torch.Tensor, classes: list[int]):
    first, norm, _, last = layer.projection
    h = features.mean((1, 2)) @ first.weight.T + first.bias
    h = (h - h.mean()) / torch.sqrt(h.var(unbiased=False) + norm.eps) * norm.weight + norm.bias
    v = torch.clamp(h, min=0) @ last.weight.T + last.bias
    return [(v @ embeddings[c] / (v.norm() * embeddings[c].norm())).item() for c in classes]


def test_scores_kept_classes_and_prior_equal_a_slow_loop():
    torch.manual_seed(0)
    layer = ClassContext(8, dim=10, hidden=7, merge_hidden=5).double()
    embeddings, x = torch.randn(30, 10).double(), torch.randn(3, 8, 4, 4).double()
    considered = torch.stack([torch.randperm(30)[:20] for _ in range(3)])
    step = layer(x, embeddings, considered, 6)
    for row in range(3):
        scores = slow_scores(layer, x[row], embeddings, considered[row].tolist())
        torch.testing.assert_close(
            step.scores[row], torch.tensor(scores, dtype=torch.float64), rtol=1e-12, atol=1e-12
        )
        order = sorted(range(20), key=lambda i: -scores[i])[:6]
        assert step.kept[row].tolist() == [considered[row, i].item() for i in order]
        merged = torch.stack([layer.embed(embeddings[c][None])[0] for c in step.kept[row]]).mean(0)
        torch.testing.assert_close(step.prior[row], layer.merge(merged[None])[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("batch", "embedded"), [(1, 6), (4, 24), (5, 30), (0, 0)])
def test_few_images_embed_only_the_classes_that_they_keep(batch, embedded):
    torch.manual_seed(0)
    layer, embeddings = ClassContext(8, dim=10, hidden=7, merge_hidden=5), torch.randn(30, 10)
    x, seen = torch.randn(batch, 8, 4, 4), []
    expected = copy.deepcopy(layer).double()(x.double(), embeddings.double(), None, 6)
    with torch.no_grad():
        sizes, linear = [], torch.nn.functional.linear
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.functional, "linear", lambda x, *rest: (sizes.append(x), linear(x, *rest))[1])
            found = layer(x, embeddings, None, 6)
    assert max(x.shape[:-1].numel() for x in sizes if x.shape[-1] == 10) == embedded
    torch.testing.assert_close(found.prior.double(), expected.prior, rtol=1e-5, atol=1e-6)
    layer.embed.register_forward_hook(lambda _, args, __: seen.append(args[0].shape))
    with torch.no_grad():
        watched = layer(x, embeddings, None, 6)
    assert seen[-1] == (30, 10)
    torch.testing.assert_close(watched.prior, found.prior, rtol=1e-5, atol=1e-6)


def test_keeping_more_than_considered_is_refused():
    with pytest.raises(ValueError, match="cannot keep 6 of 5"):
        ClassContext(8, dim=10, hidden=7, merge_hidden=5)(torch.randn(1, 8), torch.randn(5, 10), None, 6)


# equations 1 and 2 ---------------------------------------------------------------------------------


def slow_loss(output: ContextualOutput, target: torch.Tensor, alpha: float, smoothing: float) -> float:
    """Equations 1 and 2 term by term; soft targets renormalised over the classes still considered."""
    total, stages = 0.0, len(output.scores)
    for row in range(len(target)):
        for i in range(stages):
            classes = output.classes[i][row].tolist()
            logits = [s / output.temperature.item() for s in output.scores[i][row].tolist()]
            log_sum = math.log(sum(math.exp(v - max(logits)) for v in logits)) + max(logits)
            if target.dim() == 1:
                wanted = [1.0 if c == target[row].item() else 0.0 for c in classes]
            else:
                wanted = [target[row, c].item() for c in classes]
            mass = sum(wanted)
            if mass == 0:
                continue
            wanted = [(1 - smoothing) * w / mass + smoothing / len(classes) for w in wanted]
            loss = -sum(w * (v - log_sum) for w, v in zip(wanted, logits, strict=True))
            total += loss * (1.0 if i == stages - 1 else alpha)
    return total / len(target)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("selection", ["reduce", "rerank"])
@given(num_classes=st.integers(2, 60), seed=st.integers(0, 10_000), soft=st.sampled_from(["hard", "mix", "dense"]))
def test_loss_equals_equations_1_and_2(smoothing, selection, num_classes, seed, soft):
    output = run(make_funnel(num_classes, selection=selection, seed=seed), 4, seed + 1)
    target = torch.randint(num_classes, (4,))
    if soft == "mix":  # two classes per sample, as mixup and cutmix make them
        share = torch.rand(4, 1).double()
        one_hot = torch.nn.functional.one_hot(target, num_classes).double()
        target = share * one_hot + (1 - share) * one_hot.roll(1, 0)
    elif soft == "dense":
        target = torch.rand(4, num_classes).double().softmax(1)
    actual = ContextualLoss(alpha=0.15, label_smoothing=smoothing)(output, target).item()
    assert actual == pytest.approx(slow_loss(output, target, 0.15, smoothing), rel=1e-9)


def test_the_loss_counts_the_true_class_exactly_where_its_stage_considers_it():
    output = run(make_funnel(100), 20)
    target = torch.arange(20)
    for i, classes in enumerate(output.classes):
        only = ContextualOutput(
            output.logits, output.scores[i : i + 1], output.classes[i : i + 1], output.temperature
        )
        counted = ContextualLoss(reduction="none")(only, target) > 0
        considered = (classes == target[:, None]).any(1)
        assert counted.tolist() == considered.tolist()
    assert considered.sum() < 20, "the test needs samples whose class was dropped"


def test_one_hot_soft_targets_equal_hard_targets_and_gradients_flow():
    output = run(make_funnel(30), 5)
    target = torch.randint(30, (5,))
    loss = ContextualLoss()
    hard = loss(output, target)
    soft = loss(output, torch.nn.functional.one_hot(target, 30).double())
    torch.testing.assert_close(hard, soft)
    funnel = make_funnel(30)
    ContextualLoss()(run(funnel, 5), target).backward()
    assert funnel.logit_scale.grad.abs() > 0
    assert all(
        p.grad is not None and torch.isfinite(p.grad).all() for n, p in funnel.named_parameters() if "head" in n
    )


@pytest.mark.parametrize("selection", ["reduce", "rerank"])
def test_over_all_classes_every_sample_trains_every_stage(selection):
    funnel = make_funnel(100, selection=selection)
    output, target = run(funnel, 20), torch.arange(20)
    assert [scores.shape for scores in output.all_scores] == [(20, 100)] * 4
    for scores, considered, classes in zip(output.all_scores, output.scores, output.classes, strict=True):
        assert torch.equal(scores.gather(1, classes), considered)
    terms = [torch.nn.functional.cross_entropy(s / output.temperature, target) for s in output.all_scores]
    loss = ContextualLoss(alpha=0.5, over="all")(output, target)
    torch.testing.assert_close(loss, terms[-1] + 0.5 * sum(terms[:-1]))
    assert run(funnel.eval(), 20).all_scores == (), "evaluation, and what is exported, returns what it did"


def test_a_wrong_target_shape_is_named():
    output = run(make_funnel(30), 5)
    with pytest.raises(ValueError, match=r"\(5, 30\).*got \(5, 7\)"):
        ContextualLoss()(output, torch.rand(5, 7))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([0, 1, 2, 3, 30]), r"classes must lie in 0\.\.29, got 0\.\.30"),
        (torch.tensor([0, 1, 2, 3, -100]), "there is no ignore_index"),
        (torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]), "must be integers, got torch.float32"),
        (torch.tensor([True, False, True, False, True]), "must be integers, got torch.bool"),
        (-torch.ones(5, 30), "probabilities must be >= 0, got -1"),
        (torch.full((5, 30), float("nan")), "probabilities must be >= 0, got nan"),
    ],
)
def test_targets_that_do_not_exist_are_named(target, message):
    with pytest.raises(ValueError, match=message):
        ContextualLoss()(run(make_funnel(30), 5), target)


@pytest.mark.parametrize(
    "options",
    [{"alpha": -1}, {"label_smoothing": 1.0}, {"label_smoothing": -0.1}, {"reduction": "median"}],
    ids=str,
)
def test_options_of_the_loss_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="ContextualLoss"):
        ContextualLoss(**options)


def test_alpha_is_the_papers_and_reductions_agree():
    output, target = run(make_funnel(30), 5), torch.arange(5)
    each = ContextualLoss(reduction="none")(output, target)
    assert ContextualLoss().alpha == 0.15
    torch.testing.assert_close(ContextualLoss()(output, target), each.mean())
    torch.testing.assert_close(ContextualLoss(reduction="sum")(output, target), each.sum())


def test_half_precision_scores_are_divided_by_the_temperature_in_float32():
    output, target = run(make_funnel(30), 5), torch.arange(5)
    half = output._replace(scores=tuple(s.bfloat16() for s in output.scores), temperature=torch.tensor(0.01))
    single = half._replace(scores=tuple(s.float() for s in half.scores))
    torch.testing.assert_close(ContextualLoss()(half, target), ContextualLoss()(single, target), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("num_classes", "ratios"), [(0, (1, 1, 1, 1)), (-3, (1, 1, 1, 1)), (9, (1, 1)), (9, (2, 1, 1, 1))]
)
def test_class_counts_refuse_what_they_cannot_count(num_classes, ratios):
    with pytest.raises(ValueError, match="class"):
        class_counts(num_classes, ratios)
