"""Checkpoints of strangers: none takes the memory or the time, and a damaged one is noticed."""

import json
import os
import random
import time
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from _checkpoints import detection_task, segmentation_task, video_task, write_classifier, write_task
from _hostile_files import Trap, rewritten
from ctxvision.checkpoints import CheckpointError, read_state_dict
from ctxvision.cli import main
from ctxvision.tasks import load_task
from ctxvision.tasks.checkpoint_file import save_checkpoint

KINDS = ("classification", "segmentation", "video", "detection")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One checkpoint of each kind."""
    folder = tmp_path_factory.mktemp("good")
    write_classifier(folder / "classification.ckpt")
    small = {"decoder_args": {"pyramid_channels": 16, "channels": 16}}
    write_task(segmentation_task(**small), folder / "segmentation.ckpt")
    write_task(video_task(), folder / "video.ckpt")
    write_task(detection_task("retinanet"), folder / "detection.ckpt")
    return {kind: folder / f"{kind}.ckpt" for kind in KINDS}


@pytest.fixture(scope="module")
def contents(files):
    return {kind: torch.load(path, weights_only=True) for kind, path in files.items()}


def refusal(read, path):
    """What a reader says that refuses a file; empty if it takes it."""
    try:
        read(path)
    except CheckpointError as error:
        return str(error)
    return ""


def changed(contents, tmp_path, **settings):
    """Write a checkpoint with other settings; those with a dot lie in the description of its data."""
    arguments = dict(contents["hyper_parameters"])
    spec = dict(arguments["data_spec"])
    for name, value in settings.items():
        (spec if name.startswith("spec_") else arguments)[name.removeprefix("spec_")] = value
    save_checkpoint({**contents, "hyper_parameters": {**arguments, "data_spec": spec}}, tmp_path / "a.ckpt")
    return tmp_path / "a.ckpt"


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (
            "classification",
            {"spec_input_size": [3, 100_000, 100_000]},
            "input_size is 100,000.*2,048",
        ),
        ("segmentation", {"spec_input_size": [3, 64, 100_000]}, "100,000.*2,048"),
        ("video", {"spec_input_size": [3, 100_000, 64]}, "100,000.*2,048"),
        ("video", {"spec_frames": 10**6}, "frames is 1,000,000.*1,024"),
        ("video", {"spec_input_size": [3, 2048, 2048], "spec_frames": 64}, "values of an input is"),
        ("detection", {"min_size": 100_000}, "min_size is 100,000.*8,192"),
        ("detection", {"max_size": [10**6]}, "max_size is 1,000,000"),
        ("detection", {"detections": 10**6}, "detections is 1,000,000"),
        ("classification", {"spec_crop_pct": 1e-6}, "crop_pct is 1e-06"),
        ("segmentation", {"window": [64, 64], "window_stride": [1, 1]}, "window_stride .* 16th"),
        ("segmentation", {"window": [10**5, 10**5]}, "window is 100,000"),
        ("classification", {"model_args": {"width": 10**9}}, "width is 1,000,000,000"),
        ("classification", {"spec_class_names": ["x" * 10**6, "b", "c"]}, "longest name of a class is 1,000,000"),
        ("classification", {"spec_class_names": ["x"] * 200_000}, "number of classes is 200,000"),
        ("classification", {"model_args": {"block_args": "x" * 10**6}}, "text of 1,000,000 characters"),
        ("classification", {"warmup_epochs": 1e300}, "warmup_epochs"),
    ],
)
def test_settings_beyond_the_limits(contents, tmp_path, kind, settings, message):
    path = changed(contents[kind], tmp_path, **settings)
    with pytest.raises(CheckpointError, match=message) as raised:
        load_task(path)
    assert str(path) in str(raised.value)
    assert "--trust" in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("classification", {"model_args": {"stem_width": 65_536}}),
        ("classification", {"model_args": {"layers": [100_000, 1, 1, 1]}}),
        ("classification", {"spec_class_names": [str(n) for n in range(90_000)], "model": "vgg11"}),
        ("detection", {"width": 100_000}),
        ("detection", {"detector": "faster_rcnn", "hidden": 10**6}),
        ("segmentation", {"decoder_args": {"channels": 100_000}}),
    ],
)
def test_networks_larger_than_their_file(contents, tmp_path, kind, settings):
    """No table of limits knows all arguments of all networks; the file's own size bounds what they may build."""
    if settings.get("model_args", {}).get("stem_width") or "layers" in settings.get("model_args", {}):
        settings = {**settings, "model": "resnet26d"}
    start = time.process_time()
    with pytest.raises(CheckpointError, match="far larger than the file"):
        load_task(changed(contents[kind], tmp_path, **settings))
    assert time.process_time() - start < 60


def test_who_trusts_a_file_may_ask_for_more(contents, tmp_path):
    path = changed(contents["classification"], tmp_path, spec_input_size=[3, 4096, 4096])
    with pytest.raises(CheckpointError, match="4,096"):
        load_task(path)
    assert load_task(path, trust=True).data_spec["input_size"] == [3, 4096, 4096]
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert main(["predict", str(path), str(tmp_path / "a.png")]) == 1


@pytest.mark.parametrize("lost", [1, 5, 40, 81, 82])
def test_a_file_that_lost_its_checksum(files, tmp_path, lost):
    """What is left reads as before; the record in front of the checksum says that one follows."""
    data = files["classification"].read_bytes()
    (tmp_path / "a.ckpt").write_bytes(data[:-lost])
    with pytest.raises(CheckpointError, match="last bytes are missing"):
        load_task(tmp_path / "a.ckpt")
    (tmp_path / "a.ckpt").write_bytes(data + b"x" * lost)
    with pytest.raises(CheckpointError, match="damaged"):
        load_task(tmp_path / "a.ckpt")


def test_files_without_a_checksum_load(files, contents, tmp_path):
    """As older ones, and those that somebody has edited."""
    torch.save(contents["classification"], tmp_path / "a.ckpt")
    load_task(tmp_path / "a.ckpt")


def test_a_file_that_unpacks_to_more(files, tmp_path):
    """A megabyte that claims gigabytes of zeros is refused before a byte of them exists."""
    path = rewritten(files["classification"], tmp_path / "a.ckpt", compress=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="is compressed, from"):
        load_task(path)
    with pytest.raises(CheckpointError, match="is compressed, from"):
        read_state_dict(path)


def test_tensors_beyond_their_bytes(files, tmp_path):
    """A pickle that claims a larger storage than the archive has read foreign memory."""
    with zipfile.ZipFile(files["classification"]) as archive:
        name = next(n for n in archive.namelist() if n.endswith("/data/0"))
        size = len(archive.read(name))
    path = rewritten(files["classification"], tmp_path / "a.ckpt", change={"/data/0": lambda data: data[:4]})
    assert size > 4
    # the last member is the one behind which there is nothing
    cut = rewritten(path, tmp_path / "b.ckpt", drop=("/.data/serialization_id", "/.format_version"))
    for file in (path, cut):
        try:
            tensors = load_task(file).state_dict()
        except CheckpointError:
            continue
        assert all(value.isfinite().all() for value in tensors.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("ending", "value"), [("weight", float("nan")), ("bias", float("inf")), ("running_var", -1.0)]
)
def test_weights_that_are_no_numbers(contents, tmp_path, kind, ending, value):
    state = dict(contents[kind]["state_dict"])
    name = [n for n in state if n.endswith(ending)][-1]
    state[name] = state[name].clone(memory_format=torch.contiguous_format)
    state[name].view(-1)[0] = value
    save_checkpoint({**contents[kind], "state_dict": state}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=f"(NaN or infinity|negative).*{name}"):
        load_task(tmp_path / "a.ckpt")


def test_outputs_that_are_no_numbers(contents, tmp_path, capsys):
    """Finite weights may still overflow: the image is named, and what is written stays JSON."""
    state = dict(contents["classification"]["state_dict"])
    for name in state:
        if name.endswith("fc.weight"):
            state[name] = torch.full_like(state[name], 3e38)
    save_checkpoint({**contents["classification"], "state_dict": state}, tmp_path / "a.ckpt")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    assert main(["predict", str(tmp_path / "a.ckpt"), str(tmp_path / "a.png"), "--format=json"]) == 1
    found = capsys.readouterr()
    assert json.loads(found.out) == []
    assert "a.png: the output of the network for it is NaN or infinite" in found.err


def test_pickles_with_code(contents, tmp_path):
    torch.save({**contents["classification"], "extra": Trap(tmp_path / "pwned")}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="refused"):
        load_task(tmp_path / "a.ckpt")
    assert not (tmp_path / "pwned").exists()


PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(data=st.data())
def test_settings_of_other_types(contents, tmp_path_factory, kind, data):
    """Any value of any other type ends in one line, or in a network."""
    arguments = contents[kind]["hyper_parameters"]
    spec = arguments["data_spec"]
    name = data.draw(st.sampled_from([*(f"spec_{n}" for n in spec), *arguments]))
    value = data.draw(PLAIN)
    path = changed(contents[kind], tmp_path_factory.mktemp("fuzz"), **{name: value})
    assert "\n" not in refusal(load_task, path)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32))
def test_flipped_bytes(files, tmp_path_factory, seed):
    """Without its checksum, which would notice all of them, a file reads, or is refused in one line."""
    chance = random.Random(seed)
    data = bytearray(files["classification"].read_bytes())
    data = bytearray(_without_checksum(bytes(data)))
    for _ in range(chance.choice((1, 3, 20))):
        # mostly in the records of the archive and the pickle, which lie at both ends
        where = chance.choice((chance.randrange(4000), len(data) - 1 - chance.randrange(4000)))
        data[where % len(data)] = chance.randrange(256)
    path = tmp_path_factory.mktemp("flip") / "a.ckpt"
    path.write_bytes(data)
    for read in (load_task, read_state_dict):
        assert "\n" not in refusal(read, path)


def _without_checksum(data):
    return data[:-84] + b"\0\0"


@settings(max_examples=80)
@given(seed=st.integers(0, 2**32))
def test_safetensors_with_lying_headers(seed, tmp_path_factory):
    import safetensors.torch

    chance = random.Random(seed)
    data = bytearray(safetensors.torch.save({"a": torch.ones(3), "b": torch.zeros(2, 2)}))
    if chance.random() < 0.2:  # the header's length
        data[: chance.randrange(1, 9)] = os.urandom(0) or bytes(chance.randrange(256) for _ in range(8))
    for _ in range(chance.randrange(4)):
        data[chance.randrange(len(data))] = chance.choice(b'0123456789[]{},":-x\xff')
    path = tmp_path_factory.mktemp("st") / "a.safetensors"
    path.write_bytes(data)
    assert "\n" not in refusal(read_state_dict, path)
