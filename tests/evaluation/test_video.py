"""The scores of a video network against the network itself, over views and without bad videos."""

import numpy as np
import pytest
import torch

from _scored import video_data, video_scores, video_task
from ctxvision.data import VideoData, export_moving_digits
from ctxvision.evaluation import EvaluationError, evaluate
from ctxvision.inference import predictor_of


@pytest.fixture(scope="module")
def data():
    return video_data()


@pytest.mark.parametrize("shift", ["both", "none"])
def test_numbers_are_the_network_s(data, shift):
    scores, task, dataset = video_scores(data, shift), video_task(data, shift), data.eval_dataset()
    with torch.no_grad():
        predictions = task(torch.stack([dataset[place].image for place in range(16)])).argmax(1).numpy()
    targets = np.array([target for _, target in dataset.samples])
    right = predictions == targets
    assert scores.numbers["videos"] == 16
    assert scores.numbers["chance"] == 1 / 8
    (network,) = scores.numbers["networks"]
    assert network["right"] == right.sum()
    assert [c["right"] for c in network["classes"]] == [int(right[targets == label].sum()) for label in range(8)]
    assert network["seconds"] is None
    assert (network["name"], network["shift"]) == ("TSM" if shift == "both" else "TSN", shift)
    names = [name for name, _ in dataset.samples]
    for example in scores.examples:
        (clip,) = example.clips
        assert clip.top[0].name == scores.numbers["class_names"][predictions[names.index(example.file)]]
        assert np.array_equal(clip.pixels, data.open_video(example.file).pixels)


def test_views_are_averaged(data):
    predictor = predictor_of(video_task(data))
    many = VideoData("moving-digits#train=8,val=16", frames=3, test_clips=2, test_crops=3)
    clips, _ = next(iter(many.val_dataloader()))[:2]
    said = predictor.raw(clips).softmax(1).numpy()
    videos = [data.open_video(name) for name, _ in many.eval_samples]
    answers = list(predictor(videos, clips=2, crops=3))
    assert np.allclose(said, [answer.probabilities for answer in answers], atol=1e-5)
    scores = evaluate(predictor, "moving-digits#train=8,val=16", clips=2, crops=3)
    targets = [target for _, target in many.eval_samples]
    assert scores.numbers["networks"][0]["right"] == int((said.argmax(1) == targets).sum())


def test_bad_videos_are_left_out_and_nothing_else_is(data, tmp_path):
    export_moving_digits(tmp_path, clips=8, val=8, frames=3)
    (tmp_path / "val" / "left" / "00000.mp4").write_bytes(b"")
    scores = evaluate(predictor_of(video_task(data)), tmp_path, workers=0)
    assert (scores.numbers["videos"], scores.numbers["unread"], scores.skipped) == (7, 1, 1)
    assert not [c for c in scores.numbers["networks"][0]["classes"] if c["name"] == "left" and c["images"]]
    assert all("/left/" not in example.file for example in scores.examples)
    for path in (tmp_path / "val").rglob("*.mp4"):
        path.write_bytes(b"")
    with pytest.raises(EvaluationError, match="not one video can be read"):
        evaluate(predictor_of(video_task(data)), tmp_path, workers=0)
