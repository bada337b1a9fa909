"""A stream equals the same frames as one long clip."""

import pytest
import torch
from torch import nn

from ctxvision.tasks import TaskError
from ctxvision.tasks.video import OnlineTsm, VideoTask

SPEC = {"class_names": list("abcdefgh"), "input_size": [3, 32, 32], "frames": 4}
SMALL = ("contextual_convnext_micro", "cotnet_micro", "rednet_micro", "resnet10t", "mobilenetv3_small_050")


def task(model, **options):
    made = VideoTask(model, SPEC, **{"shift": "past", **options}).eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return made


@pytest.mark.parametrize("model", SMALL)
@pytest.mark.parametrize("channels_last", [True, False])
def test_frame_by_frame_as_the_whole_clip(model, channels_last):
    video = task(model, channels_last=channels_last)
    clip = torch.randn(7, 3, 32, 32)  # of another length than in training
    before = clip.clone()
    with torch.no_grad():
        whole = video.classify(clip.unsqueeze(0))[1][0]
    stream = OnlineTsm(video)
    one_by_one = torch.stack([stream(frame) for frame in clip])
    scale = whole.abs().max()
    assert (one_by_one - whole).abs().max() <= 1e-5 * scale
    forgetful = torch.stack([OnlineTsm(video)(frame) for frame in clip])
    assert (forgetful[1:] - whole[1:]).abs().max() > 1e-3 * scale
    assert torch.allclose(stream.probabilities, whole.softmax(1).mean(0), atol=1e-4)
    assert stream.frames == 7
    assert torch.equal(clip, before)


def test_cache_holds_an_eighth_of_a_frame_for_each_block():
    video = task("resnet10t")
    stream = OnlineTsm(video)
    sizes = {}
    for layer in video.shifts.layers:
        video.model.get_submodule(layer).register_forward_pre_hook(
            lambda _, args, layer=layer: sizes.update({layer: args[0].numel()})
        )
    stream(torch.randn(3, 32, 32))
    assert {name: 8 * cache.numel() for name, cache in stream._cache.items()} == sizes


def test_streams_share_a_network_without_meeting():
    video = task("cotnet_micro")
    clips = torch.randn(2, 4, 3, 32, 32)
    alone = [[stream(f) for f in clip] for clip, stream in ((c, OnlineTsm(video)) for c in clips)]
    streams = [OnlineTsm(video) for _ in clips]
    for time in range(4):
        for index, stream in enumerate(streams):
            assert torch.equal(stream(clips[index, time]), alone[index][time])
    # and in step, as a batch
    both = OnlineTsm(video)
    for time in range(4):
        logits = both(clips[:, time])
        assert torch.allclose(logits, torch.stack([alone[0][time], alone[1][time]]), atol=1e-4)
    assert both.probabilities.shape == (2, 8)


def test_reset_begins_again_and_the_task_still_takes_clips():
    video = task("cotnet_micro")
    clip = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        before = video(clip.unsqueeze(0))
    stream = OnlineTsm(video)
    first = [stream(f) for f in clip]
    stream.reset()
    assert all(torch.equal(a, stream(f)) for a, f in zip(first, clip, strict=True))
    with torch.no_grad():
        assert torch.equal(video(clip.unsqueeze(0)), before)


def test_refusals():
    with pytest.raises(TaskError, match="no future frames"):
        OnlineTsm(task("resnet10t", shift="both"))
    stream = OnlineTsm(task("resnet10t"))
    with pytest.raises(TaskError, match="no frame of this stream"):
        _ = stream.probabilities
    with pytest.raises(TaskError, match=r"must be \(C, H, W\)"):
        stream(torch.zeros(32, 32))
    stream(torch.zeros(3, 32, 32))
    with pytest.raises(TaskError, match=r"\(3, 64, 64\) follows frames of \(3, 32, 32\)"):
        stream(torch.zeros(3, 64, 64))


def test_without_shifts_frames_are_by_themselves():
    video = task("resnet10t", shift="none")
    stream = OnlineTsm(video)
    frame = torch.randn(3, 32, 32)
    assert torch.equal(stream(frame), stream(frame))
