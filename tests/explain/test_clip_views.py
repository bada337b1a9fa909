"""What is said about clips: arrays against the network itself, and the labelled clip."""

import numpy as np
import pytest
import torch

from ctxvision.data import VideoData
from ctxvision.inference import predictor_of
from ctxvision.plots.clips import labelled_frames
from ctxvision.tasks.video import VideoTask


@pytest.fixture
def data():
    return VideoData("moving-digits#train=8,val=16", frames=3, batch_size=4)


def task(data, shift="both", model="contextual_convnext_micro"):
    torch.manual_seed(0)
    return VideoTask(model, data.spec.to_dict(), shift=shift).eval()


@pytest.mark.parametrize("model", ["contextual_convnext_micro", "cotnet_micro"])
def test_arrays_are_the_network_s(data, model):
    video_task = task(data, model=model)
    dataset = data.eval_dataset()
    answers = list(predictor_of(video_task)([data.open_video(name) for name, _ in dataset.samples], batch_size=5))
    clips = torch.stack([dataset[place].image for place in range(16)])
    with torch.no_grad():
        expected = video_task(clips).softmax(1)
        frames = video_task.classify(clips[:1])[1].softmax(2)
    assert np.allclose([answer.probabilities for answer in answers], expected, atol=1e-5)
    assert np.allclose(answers[0].by_frame, frames[0], atol=1e-5)
    assert answers[0].indices == (0, 1, 2)
    assert np.array_equal(answers[0].pixels, data.open_video(dataset.samples[0][0]).pixels)


def test_labels_are_below_the_frames(data):
    video_task = task(data)
    (one,) = predictor_of(video_task)(data.open_video(data.eval_samples[0][0]))
    said = (one.pixels, one.probabilities, one.by_frame, data.spec.class_names)
    shown = labelled_frames(*said, truth="left")
    assert shown.dtype == np.uint8
    assert shown.shape[0] == 3
    assert np.array_equal(shown[1, :192, :192], one.pixels[1].repeat(6, 0).repeat(6, 1))
    for frame in shown:
        assert (frame[192:] < 128).any()
    assert not np.array_equal(shown[0, 192:212], shown[1, 192:212])  # the number of the frame
    assert not np.array_equal(labelled_frames(*said)[0].shape, shown[0].shape)
