"""What the frames of a clip say together, against a loop with sets, and against the loss of single images."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxvision.nn import ContextualLoss, ContextualOutput
from ctxvision.nn.funnel import _compose
from ctxvision.tasks.video import ClipLoss, clip_consensus

TAU = torch.tensor(0.07)


def frames_output(rows, num_classes, sizes, selection="reduce"):
    """A network's output for frames, with random scores and class sets of these sizes."""
    everything = torch.arange(num_classes).expand(rows, -1)
    scores, sets, classes = [], [], everything
    for size in sizes:
        step = torch.rand(rows, classes.shape[1]) * 2 - 1
        scores.append(step.requires_grad_())
        sets.append(classes)
        kept = classes.gather(1, step.topk(size, dim=1).indices)
        classes = kept if selection == "reduce" else everything
    head = torch.rand(rows, classes.shape[1]) * 2 - 1
    scores.append(head.requires_grad_())
    sets.append(classes)
    logits = _compose(scores, sets, kept, TAU, num_classes)
    return ContextualOutput(logits, tuple(scores), tuple(sets), TAU), kept


def loop(output, kept, frames, target, alpha, smoothing):
    """Loss and logits of one clip, from its frames' sets, one class after the other."""
    num_classes = output.logits.shape[1]
    last = [[0.0] * num_classes for _ in range(frames)]
    total = 0.0
    for number, (step, classes) in enumerate(zip(output.scores, output.classes, strict=True)):
        considered = set()
        for frame in range(frames):
            for score, name in zip(step[frame].tolist(), classes[frame].tolist(), strict=True):
                last[frame][name] = score
                considered.add(name)
        mean = {c: sum(row[c] for row in last) / frames / TAU.item() for c in considered}
        norm = math.log(sum(math.exp(v) for v in mean.values()))
        loss = 0.0
        if target in considered:
            loss = sum(
                -((1 - smoothing) * (c == target) + smoothing / len(considered)) * (v - norm)
                for c, v in mean.items()
            )
        total += loss * (1 if number == len(output.scores) - 1 else alpha)
    survivors = set(kept[:frames].flatten().tolist())
    logits = [sum(row[c] for row in last) / frames / TAU.item() for c in range(num_classes)]
    return total, [v - (0 if c in survivors else 2 / TAU.item() + 1) for c, v in enumerate(logits)]


@settings(max_examples=40)
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(6, 12),
    st.floats(0, 0.3),
    st.sampled_from(["reduce", "rerank"]),
)
def test_equals_a_loop_over_frames_and_classes(clips, frames, num_classes, smoothing, selection):
    output, kept = frames_output(clips * frames, num_classes, (num_classes, 4, 2), selection)
    targets = torch.randint(num_classes, (clips,))
    clip = clip_consensus(output, frames)
    losses = []
    for index in range(clips):
        rows = slice(index * frames, (index + 1) * frames)
        part = ContextualOutput(
            output.logits[rows], tuple(s[rows] for s in output.scores), tuple(c[rows] for c in output.classes), TAU
        )
        loss, logits = loop(part, kept[rows], frames, targets[index].item(), 0.15, smoothing)
        losses.append(loss)
        assert torch.allclose(clip.logits[index], torch.tensor(logits), atol=1e-3)
    found = ClipLoss(0.15, smoothing)(clip, targets)
    assert found.item() == pytest.approx(sum(losses) / clips, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_frame_is_an_image(soft, smoothing):
    output, _ = frames_output(6, 10, (10, 5, 3))
    target = torch.rand(6, 10).softmax(1) if soft else torch.randint(10, (6,))
    clip = clip_consensus(output, 1)
    assert torch.allclose(clip.logits, output.logits, atol=1e-5)
    theirs, ours = ContextualLoss(label_smoothing=smoothing), ClipLoss(label_smoothing=smoothing)
    assert torch.allclose(ours(clip, target), theirs(output, target), atol=1e-5)
    grads = [
        torch.autograd.grad(loss, output.scores)
        for loss in (ours(clip_consensus(output, 1), target), theirs(output, target))
    ]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*grads, strict=True))
    over_all = output._replace(all_scores=tuple(torch.rand(6, 10) for _ in output.scores))
    theirs, ours = (kind(alpha=0.5, label_smoothing=smoothing, over="all") for kind in (ContextualLoss, ClipLoss))
    loss = ours(clip_consensus(over_all, 1), target)
    assert torch.allclose(loss, theirs(over_all, target), atol=1e-5)
    assert not torch.allclose(loss, ClipLoss(alpha=0.5, label_smoothing=smoothing)(clip, target), atol=1e-3)


def test_copies_of_a_frame_say_what_the_frame_says():
    output, _ = frames_output(3, 10, (10, 5, 3))
    copies = ContextualOutput(
        *(
            tuple(t.repeat_interleave(4, 0) for t in part) if isinstance(part, tuple) else part
            for part in (output.logits.repeat_interleave(4, 0), output.scores, output.classes, TAU)
        )
    )
    one, four = clip_consensus(output, 1), clip_consensus(copies, 4)
    assert torch.allclose(one.logits, four.logits, atol=1e-5)
    target = torch.randint(10, (3,))
    assert torch.allclose(ClipLoss()(one, target), ClipLoss()(four, target), atol=1e-5)


def test_class_dropped_by_all_frames_contributes_nothing_and_ranks_last():
    output, kept = frames_output(2, 10, (10, 3))
    clip = clip_consensus(output, 2)
    survivors = set(kept.flatten().tolist())
    dropped = next(c for c in range(10) if c not in survivors)
    target = torch.tensor([dropped])
    loss = ClipLoss(alpha=0.0)(clip, target)
    assert loss.item() == 0
    assert all(g is None or not g.any() for g in torch.autograd.grad(loss, output.scores, allow_unused=True))
    gone = [c for c in range(10) if c not in survivors]
    assert clip.logits[0, gone].max() < clip.logits[0, sorted(survivors)].min()


def test_class_that_one_frame_keeps_is_not_lost():
    output, kept = frames_output(2, 10, (10, 3))
    only_first = (set(kept[0].tolist()) - set(kept[1].tolist())).pop()
    clip = clip_consensus(output, 2)
    assert clip.considered[-1][0, only_first]
    assert ClipLoss(alpha=0.0)(clip, torch.tensor([only_first])) > 0


def test_plain_networks_average_their_logits():
    logits = torch.randn(6, 5)
    clip = clip_consensus(logits, 3)
    assert torch.allclose(clip, torch.stack([logits[:3].mean(0), logits[3:].mean(0)]))
    target = torch.tensor([1, 4])
    assert torch.equal(
        ClipLoss(label_smoothing=0.1)(clip, target), F.cross_entropy(clip, target, label_smoothing=0.1)
    )


@pytest.mark.parametrize("selection", ["reduce", "rerank"])
def test_order_of_frames_does_not_matter_without_shifts(selection):
    model = timm.create_model("contextual_convnext_micro", num_classes=12, selection=selection).eval()
    images = torch.randn(4, 3, 32, 32)
    one = clip_consensus(model.forward_stages(images), 4)
    two = clip_consensus(model.forward_stages(images.flip(0)), 4)
    assert torch.allclose(one.logits, two.logits, atol=1e-4)
