"""Every task, from every kind of source: files and what is in memory get the same answers, bad ones a reason."""

import json
import math

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from _checkpoints import segmentation_task, video_task, write_classifier
from ctxvision.checkpoints import CheckpointError
from ctxvision.data.video.writing import write_video
from ctxvision.export import ExportError
from ctxvision.inference import Classes, Clip, InferenceError, Objects, Pixels, open_predictor, predictor_of
from ctxvision.tasks import load_task

ANSWERS = {"classification": Classes, "detection": Objects, "segmentation": Pixels, "video": Clip}


EXPORTED = ["net.onnx", "net.pt2"]
KINDS = ["run", "best.ckpt", "published", *(pytest.param(name, marks=pytest.mark.slow) for name in EXPORTED)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two images and two videos with a bad file between them."""
    root = tmp_path_factory.mktemp("files")
    generator = np.random.default_rng(0)
    for name in ("a", "c"):
        Image.fromarray(generator.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(root / f"{name}.png")
        write_video(root / f"{name}.mp4", generator.integers(0, 255, (9, 40, 48, 3), dtype=np.uint8))
    for name in ("b.png", "b.mp4"):
        (root / name).write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module", params=ANSWERS)
def model(request, networks_of):
    """The name of a task, and a folder with its network."""
    return request.param, networks_of(request.param)


def plain(answer):
    return json.loads(json.dumps(answer.to_dict(), allow_nan=False))


def assert_near(found, expected, at=""):
    """Compare plain values; an exported graph adds its sums in another order."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), at
        for name in expected:
            if name != "segmentation":  # whose pixels may lie on the threshold
                assert_near(found[name], expected[name], f"{at}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), at
        for place, pair in enumerate(zip(found, expected, strict=True)):
            assert_near(*pair, f"{at}[{place}]")
    elif isinstance(expected, float) and not at.endswith("area"):
        assert math.isclose(found, expected, rel_tol=1e-2, abs_tol=2e-3), at
    elif not isinstance(expected, float):
        assert found == expected, at


@pytest.mark.parametrize("source", KINDS)
def test_every_source_answers_like_the_task(model, source, exported, files):
    kind, root = model
    if source == "published" and kind != "classification":
        pytest.skip("classifiers alone are published")
    predictor = open_predictor(exported(kind, source) if source in EXPORTED else root / source)
    ending = ".mp4" if kind == "video" else ".png"
    paths = [files / f"{name}{ending}" for name in "abc"]
    assert (predictor.task, len(predictor.class_names)) == (kind, len(predictor.data_spec.class_names))
    assert (predictor.module is None) == (source not in KINDS[:2])
    answers = list(predictor(paths, threshold=0.1, workers=0))
    assert [answer.path for answer in answers] == list(map(str, paths))
    assert all(type(answer) is ANSWERS[kind] for answer in answers)
    bad = answers[1]
    assert bad.error
    assert bad.to_dict() == {predictor.sample_name: str(paths[1]), "error": bad.error}
    assert (bad.rows(), bad.summary()) == ([], bad.error)
    expected = predictor_of(load_task(root / "best.ckpt"))(paths, threshold=0.1)
    for answer, wanted in zip(answers, expected, strict=True):
        assert_near(plain(answer), plain(wanted))
        assert all(tuple(row) == answer.columns for row in answer.rows())


def test_what_is_in_memory_gets_the_answer_of_its_file(model, files):
    kind, root = model
    predictor = open_predictor(root / "best.ckpt", optimize="none")  # a prepared copy rounds otherwise
    if kind == "video":
        from ctxvision.data.video.reading import VideoFile, VideoInMemory

        path, video = files / "a.mp4", VideoFile(files / "a.mp4")
        pixels = video.read(range(video.frames))
        given = [pixels, torch.from_numpy(pixels).permute(0, 3, 1, 2), video, VideoInMemory(pixels)]
    else:
        path = files / "a.png"
        pixels = np.asarray(Image.open(path))
        given = [pixels, torch.from_numpy(pixels.copy()).permute(2, 0, 1), Image.open(path)]
    (expected,) = predictor(path, threshold=0.1)
    one_by_one = predictor(given, threshold=0.1, batch_size=1)  # a batch of another size rounds otherwise
    for answer in (*one_by_one, *(next(predictor(one, threshold=0.1)) for one in given)):
        assert answer.path is None
        assert plain(answer) == plain(expected) | {predictor.sample_name: None}
    several = pixels[None].repeat(2, 0)
    assert [plain(one) for one in predictor(several, threshold=0.1, batch_size=1)] == [plain(answer)] * 2


def test_folders_stand_for_the_files_below_them(model, files, caplog):
    root = model[1]
    predictor = open_predictor(root / "best.ckpt")
    answers = list(predictor(files))
    assert [answer.path[-6] for answer in answers] == ["/"] * 3
    assert "left out: 3 ." in caplog.text
    with pytest.raises(InferenceError, match=f"no {predictor.sample_name}s in this folder"):
        predictor(root / "run")


def test_nothing_in_nothing_out(model):
    predictor = open_predictor(model[1] / "best.ckpt")
    assert list(predictor([])) == []
    assert len(predictor.raw([])) == 0 if model[0] in ("detection", "segmentation") else True


def test_output_that_is_no_number_is_no_answer(model, files):
    kind, root = model
    task = load_task(root / "best.ckpt")
    for parameter in task.model.parameters():
        parameter.data.fill_(math.nan)
    ending = ".mp4" if kind == "video" else ".png"
    good, bad = predictor_of(task)([files / f"a{ending}", files / f"b{ending}"])
    assert bad.error
    if kind != "detection":  # torchvision leaves out what has no score
        assert "NaN or infinite" in good.error


def test_worker_processes_change_nothing(model, files):
    predictor = open_predictor(model[1] / "best.ckpt")
    given = [str(path) for path in sorted(files.glob("*.mp4" if model[0] == "video" else "*.png"))]
    alone, shared = (list(map(plain, predictor(given, workers=workers))) for workers in (0, 2))
    assert alone == shared


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"threshold": 1.5}, "threshold must be between 0 and 1, got 1.5"),
        ({"crops": 2}, "crops 1 or 3, got 1 and 2"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"workers": -1}, "workers at least 0, got 1 and -1"),
    ],
)
def test_impossible_values_are_refused_before_the_work(options, message):
    predictor = predictor_of(video_task())
    with pytest.raises(InferenceError, match=message):
        predictor([], **options)


def test_pixels_of_another_kind_are_refused():
    images, videos = predictor_of(segmentation_task()), predictor_of(video_task())
    for given in (np.zeros((8, 8, 3)), torch.zeros(3, 8, 8), np.zeros((8, 8, 4), np.uint8)):
        with pytest.raises(InferenceError, match=r"in memory (is|are|holds)"):
            list(images([given]))
    for given in (np.zeros((4, 8, 8, 3)), torch.zeros(4, 3, 8, 8), np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(InferenceError, match=r"in memory (is|are)"):
            list(videos([given]))


def test_a_network_with_pretrained_weights(monkeypatch):
    network = timm.create_model("test_resnet")
    monkeypatch.setattr("ctxvision.tasks.classification.task.pretrained_network", lambda name: network)
    predictor = open_predictor("test_resnet.r160_in1k")
    assert torch.equal(predictor.network.fc.weight, network.fc.weight)
    assert predictor.model_name == "test_resnet"
    assert predictor.data_spec.input_size == (3, 160, 160)
    assert len(set(predictor.class_names)) == 1000
    assert predictor.class_names[:2] == ("tench", "goldfish")
    (answer,) = predictor(np.zeros((40, 60, 3), np.uint8), top_k=2)
    assert len(answer.top) == 2


def test_a_source_that_is_none(tmp_path):
    write_classifier(tmp_path / "net.ckpt")
    with pytest.raises(CheckpointError, match="no such file"):
        open_predictor(tmp_path / "missing.ckpt")
    with pytest.raises(ExportError, match="no such file"):
        open_predictor(tmp_path / "missing.onnx")
    with pytest.raises(CheckpointError, match="did you mean resnet"):
        open_predictor("resnet5O")
    with pytest.raises(CheckpointError, match="no pretrained weights"):
        open_predictor("cotnet_micro")
    with pytest.raises(InferenceError, match="device 'quantum' cannot be used"):
        open_predictor(tmp_path / "net.ckpt", "quantum")
