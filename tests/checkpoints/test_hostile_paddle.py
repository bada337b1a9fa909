"""Paddle's pickles: every way in which an array is written, and what an attacker makes of them."""

import contextlib
import gzip
import io
import os
import pickle
import pickletools
import struct
import tarfile
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from ctxvision.checkpoints import CheckpointError, read_state_dict

RNG = np.random.default_rng(0)
ARRAYS = {
    "conv.weight": RNG.normal(size=(4, 3, 2, 2)).astype("float32"),
    "fc.weight": RNG.normal(size=(3, 5)).astype("float32"),
    "bn._mean": RNG.normal(size=3).astype("float32"),
    "bn._variance": RNG.uniform(1, 2, 3).astype("float32"),
}
TABLE = {"StructuredToParameterName@@": {name: f"conv2d_{i}.w_0" for i, name in enumerate(ARRAYS)}}


def message(path, data):
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        read_state_dict(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    return text


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.pdparams"


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", [dict, OrderedDict, lambda items: {k: (f"p_{k}", v) for k, v in items.items()}])
def test_every_protocol_and_layout(path, protocol, kind):
    content = kind(ARRAYS)
    content.update(TABLE)
    path.write_bytes(pickle.dumps(content, protocol))
    tensors = read_state_dict(path)
    assert list(tensors) == [
        "conv.weight", "fc.weight", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked",
    ]  # fmt: skip
    torch.testing.assert_close(tensors["conv.weight"], torch.from_numpy(ARRAYS["conv.weight"]), rtol=0, atol=0)
    torch.testing.assert_close(tensors["fc.weight"], torch.from_numpy(ARRAYS["fc.weight"].T), rtol=0, atol=0)
    torch.testing.assert_close(tensors["bn.running_var"], torch.from_numpy(ARRAYS["bn._variance"]), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", ">f8"])
def test_every_order_of_bytes_and_of_axes(path, dtype):
    array = np.asfortranarray(RNG.normal(size=(4, 3, 2, 5)).astype(dtype))
    path.write_bytes(pickle.dumps({"conv.weight": array}, 4))
    read = read_state_dict(path)["conv.weight"]
    assert read.is_contiguous()
    assert np.array_equal(read.numpy(), array)


def test_empty_arrays_and_scalars(path):
    path.write_bytes(pickle.dumps({"a": np.zeros((0, 3), "f4"), "b": np.array(2.0, "f4")}, 4))
    tensors = read_state_dict(path)
    assert tensors["a"].shape == (3, 0)
    assert tensors["b"] == 2


class Code:
    def __init__(self, proof):
        self.proof = str(proof)

    def __reduce__(self):
        return os.mkdir, (self.proof,)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_code_is_refused(path, tmp_path, protocol):
    proof = tmp_path / "executed"
    for content in ({**ARRAYS, "x": Code(proof)}, {**ARRAYS, "x": np.array([Code(proof)], object)}, Code(proof)):
        text = message(path, pickle.dumps(content, protocol))
        assert "none of it was executed" in text
    assert not proof.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"a": np.array(["x"], object)}, "none of it was executed"),
        ({"a": np.array(["text"])}, "not of floating-point numbers"),
        ({"a": np.arange(3)}, "not of floating-point numbers"),
        ({"a": np.zeros(2, [("x", "f4")])}, "none of it was executed"),
        ({"a": np.zeros(2, "c8")}, "not of floating-point numbers"),
        ({"a": np.ma.masked_array([1.0, 2.0])}, "code in it"),
        ({"a": np.zeros(2, "f4"), "epoch": 3}, "1 entries are no arrays (epoch)"),
        ({3: np.zeros(2, "f4")}, "1 entries are no arrays (3)"),
        ([np.zeros(2, "f4")], "holds a list"),
        ({}, "holds no tensors"),
        ({"UnpackBigParamInfor@@": {}}, "gigabyte"),
        ({"a": {"b": np.zeros(2, "f4")}}, "1 entries are no arrays (a)"),
    ],
)
def test_what_is_no_array_of_numbers(path, content, reason):
    assert reason in message(path, pickle.dumps(content, 4))


def edited(old, new):
    data = pickle.dumps({"a": np.zeros(1000, "f4")}, 4)
    assert old in data
    return data.replace(old, new, 1)


def test_bombs(path):
    # a shape of more numbers than there are bytes
    shape = b"M" + struct.pack("<H", 1000)
    assert "impossible shape" in message(path, edited(shape, b"\x8a\x08" + struct.pack("<q", 2**50)))
    assert "with 4,000 bytes" in message(path, edited(shape, b"J" + struct.pack("<i", 2**30)))
    # the memo's number asks for room for four thousand million entries
    assert "room" in message(path, b"\x80\x02}r" + struct.pack("<I", 2**32 - 2) + b".")
    # one array under many names, one text encoded many times
    array = np.zeros(1000, "f4")
    assert "more bytes than the file has" in message(path, pickle.dumps({f"a{i}": array for i in range(99)}, 4))
    encode = b"c_codecs\nencode\n" + b"q\x00" + b"0"
    text = b"X" + struct.pack("<I", 5000) + b"a" * 5000 + b"q\x01" + b"0"
    call = b"h\x00h\x01X\x06\x00\x00\x00latin1\x86R"
    assert "more bytes than the file has" in message(path, b"\x80\x02" + encode + text + b"(" + call * 99 + b"l.")


def dict_of(keys):
    """The bytes of a pickle of a dict with None under each of the keys, which are given as bytes of a pickle."""
    return b"\x80\x02}(" + b"".join(key + b"N" for key in keys) + b"u."


def long_integer(number):
    data = pickle.encode_long(number)
    return b"\x8a" + bytes([len(data)]) + data


@pytest.mark.parametrize(
    "steps",
    [
        # empty sets, of 216 bytes for one; lists; None
        b"\x80\x04(" + b"\x8f" * 10**6 + b"t.",
        b"\x80\x04(" + b"]" * 10**6 + b"t.",
        b"\x80\x04(" + b"N" * 10**6 + b"t.",
        # tuples within tuples, of which a hash is asked; Python crashes without the limit
        b"\x80\x02}" + b")" + b"\x85" * 10**6 + b"Ns.",
        # numbers with the same hash
        dict_of(long_integer(i * (2**61 - 1)) for i in range(1, 10**5)),
        # a dict copied again and again
        b"\x80\x02ccollections\nOrderedDict\nq\x000}q\x01(K\x01K\x02u0" + b"h\x00h\x01\x85Rq\x01" * 999 + b".",
    ],
    ids=["sets", "lists", "nones", "depth", "hashes", "copies"],
)
def test_more_steps_than_arrays_take(path, steps):
    start = time.monotonic()
    text = message(path, steps)
    assert "more steps than arrays" in text or "made of another" in text
    assert time.monotonic() - start < 20  # without limits they take minutes


def test_numbers_outside_the_file(path):
    buffers = []
    data = pickle.dumps({"a": np.zeros(9, "f4")}, 5, buffer_callback=buffers.append)
    assert "outside the file" in message(path, data)
    assert "none of it was executed" in message(path, pickle.dumps({"a": np.zeros(9, "f4")}, 5))


@pytest.mark.parametrize("announced", [2**31 - 1, 2**62])
def test_numbers_that_are_announced_and_do_not_come(path, announced):
    head = b"\x80\x05\x8c\x01a"
    assert "truncated" in message(path, head + b"\x8e" + struct.pack("<Q", announced) + b"x.")  # bytes
    assert "truncated" in message(path, head + b"\x96" + struct.pack("<Q", announced) + b"x.")  # bytearray
    assert "truncated" in message(path, head + b"\x95" + struct.pack("<Q", announced) + b"x.")  # frame


def test_archives_with_that_name(path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", bytes(10**7))
    assert "is compressed" in message(path, packed.getvalue())
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(__file__, "data.pkl")
    assert "not a checkpoint" in message(path, packed.getvalue())
    for data in (gzip.compress(pickle.dumps(ARRAYS)), b"<html>Please log in</html>", bytes(1000)):
        assert "not a checkpoint" in message(path, data)


@pytest.mark.parametrize("protocol", [2, 4])
def test_the_largest_network_is_far_from_the_limits(path, protocol):
    data = pickle.dumps({f"layer{i}.conv.weight": np.zeros((1, 1, 1, 1), "f4") for i in range(2000)}, protocol)
    path.write_bytes(data)
    assert len(read_state_dict(path)) == 2000


def test_a_pickle_cannot_change_the_reader(path):
    for name in (b"numpy\ndtype\n", b"_codecs\nencode\n", b"numpy.core.multiarray\n_reconstruct\n"):
        attack = b"\x80\x02c" + name + b"N}X\x0c\x00\x00\x00__defaults__)s\x86b."
        assert "none of it was executed" in message(path, attack)
    message(path, b"\x80\x02ccollections\nOrderedDict\nN}X\x01\x00\x00\x00x)s\x86b.")
    message(path, b"\x80\x02cnumpy\nndarray\n)\x81.")
    message(path, b"\x80\x02X\x01\x00\x00\x00aQ.")  # a persistent name
    message(path, b"\x80\x02\x82\x01.")  # an extension
    test_every_protocol_and_layout(path, 2, dict)


def test_damaged_files_are_one_line(path):
    data = (Path(__file__).parent / "foreign/paddle_rednet.pdparams").read_bytes()
    for length in range(2, len(data), len(data) // 40):
        assert "truncated" in message(path, data[:length])
    assert "truncated or damaged" in message(path, data + b"x")
    places = [position for _, _, position in pickletools.genops(data)]
    for position in RNG.choice(places, 100):
        broken = bytearray(data)
        broken[position] ^= int(RNG.integers(1, 256))
        path.write_bytes(broken)
        with contextlib.suppress(CheckpointError):
            read_state_dict(path)
