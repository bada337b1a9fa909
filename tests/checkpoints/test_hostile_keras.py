"""Keras' HDF5 files as an attacker, or a bad disk, makes them: one clear line each."""

import contextlib
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from ctxvision._extras import install_command
from ctxvision.checkpoints import CheckpointError, _hdf5_child, convert, read_state_dict

pytestmark = [pytest.mark.process, pytest.mark.slow]
GOOD = Path(__file__).parent / "foreign/kecam_se_cotnetd.h5"
LAYER = "stem_1_conv"
WEIGHT = f"{LAYER}/{LAYER}/kernel:0"


@pytest.fixture
def path(tmp_path):
    shutil.copy(GOOD, tmp_path / "a.h5")
    return tmp_path / "a.h5"


def message(path):
    with pytest.raises(CheckpointError) as caught:
        read_state_dict(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    return text


def edit_external_link(file, folder):
    with h5py.File(folder / "secret.h5", "w") as other:
        other["x"] = np.ones((3, 3, 3, 8), "f4")
    del file[WEIGHT]
    file[WEIGHT] = h5py.ExternalLink(str(folder / "secret.h5"), "/x")


def edit_soft_link(file, folder):
    del file[WEIGHT]
    file[WEIGHT] = h5py.SoftLink("/predictions")


def edit_raw_file(file, folder):
    (folder / "secret").write_bytes(b"secret" * 1000)
    del file[WEIGHT]
    file.create_dataset(WEIGHT, (3, 3, 3, 8), "f4", external=[(str(folder / "secret"), 0, 864)])


def edit_virtual(file, folder):
    layout = h5py.VirtualLayout((3, 3, 3, 8), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "x", (3, 3, 3, 8))
    del file[WEIGHT]
    file.create_virtual_dataset(WEIGHT, layout)


def edit_compressed(file, folder):
    del file[WEIGHT]
    file.create_dataset(WEIGHT, data=np.zeros((3000, 1000), "f4"), compression="gzip")


def edit_promised(file, folder):
    del file[WEIGHT]
    file.create_dataset(WEIGHT, (2**20, 2**20), "f4")


def edit_integers(file, folder):
    del file[WEIGHT]
    file[WEIGHT] = np.ones((3, 3, 3, 8), "i4")


def edit_many_names(file, folder):
    del file.attrs["layer_names"]
    file.attrs["layer_names"] = [LAYER] * 3


def edit_way_out(file, folder):
    file[LAYER].attrs["weight_names"] = [f"../{WEIGHT}"]


def edit_missing(file, folder):
    del file[LAYER]


def edit_no_keras(file, folder):
    del file.attrs["layer_names"]


def edit_other_network(file, folder):
    file.move(LAYER, "block1_conv1")
    names = [name for name in file.attrs["layer_names"] if name != LAYER]
    file.attrs["layer_names"] = [*names, "block1_conv1"]


def edit_circle(file, folder):
    file[f"{LAYER}/{LAYER}/again"] = file[LAYER]
    file[LAYER].attrs["weight_names"] = ["/".join([LAYER, *["again", LAYER] * 20, "kernel:0"])]
    del file[WEIGHT]


def edit_soft_circle(file, folder):
    del file[LAYER]
    file[LAYER] = h5py.SoftLink(f"/{LAYER}")


def edit_link_to_itself(file, folder):
    del file[LAYER]
    file[LAYER] = h5py.ExternalLink("a.h5", f"/{LAYER}")


def edit_filter_of_their_own(file, folder):
    del file[WEIGHT]
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((3, 3, 3, 8))
    settings.set_filter(32_768, h5py.h5z.FLAG_OPTIONAL, (1, 2))  # of no library: read without it if not there
    space = h5py.h5s.create_simple((3, 3, 3, 8))
    made = h5py.h5d.create(file.id, WEIGHT.encode(), h5py.h5t.NATIVE_FLOAT, space, settings)
    h5py.Dataset(made)[...] = 1


def edit_sparse_chunks(file, folder):
    del file[WEIGHT]
    file.create_dataset(WEIGHT, (2**30, 8), "f4", chunks=(1024, 8))[0] = 1


def edit_references(file, folder):
    del file[WEIGHT]
    file[WEIGHT] = np.array([file[LAYER].ref] * 4, h5py.ref_dtype)


def edit_names_that_are_references(file, folder):
    file[LAYER].attrs["weight_names"] = np.array([file[LAYER].ref] * 4, h5py.ref_dtype)


def edit_names_that_are_a_table(file, folder):
    file[LAYER].attrs["weight_names"] = np.zeros((20, 20), "S8")


def edit_names_that_are_numbers(file, folder):
    file[LAYER].attrs["weight_names"] = np.arange(5)


def edit_texts_as_numbers(file, folder):
    del file[WEIGHT]
    file[WEIGHT] = np.array([["a" * 1000] * 100], h5py.string_dtype())


def edit_a_named_type(file, folder):
    del file[WEIGHT]
    file[WEIGHT] = np.dtype("f4")


def edit_one_array_by_many_names(file, folder):
    names = [f"{LAYER}/w{i}" for i in range(30_000)]
    for name in names:
        file[f"{LAYER}/{name}"] = file[WEIGHT]
    for part in range(30):
        file[LAYER].attrs[f"weight_names{part}"] = np.array(names[part * 1000 : (part + 1) * 1000], "S")
    del file[LAYER].attrs["weight_names"]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (edit_circle, "is missing"),
        (edit_soft_circle, "link to elsewhere"),
        (edit_link_to_itself, "link to elsewhere"),
        (edit_filter_of_their_own, "compressed"),
        (edit_sparse_chunks, "lacks numbers"),
        (edit_references, "floating-point"),
        (edit_names_that_are_references, "no list of names"),
        (edit_names_that_are_a_table, "no list of names"),
        (edit_names_that_are_numbers, "no list of names"),
        (edit_texts_as_numbers, "floating-point"),
        (edit_a_named_type, "floating-point"),
        (edit_one_array_by_many_names, "more bytes than the file has"),
        (edit_external_link, "link to elsewhere"),
        (edit_soft_link, "link to elsewhere"),
        (edit_raw_file, "lie in another file"),
        (edit_virtual, "lie in another file"),
        (edit_compressed, "compressed"),
        (edit_promised, "lacks numbers"),
        (edit_integers, "floating-point"),
        (edit_many_names, "twice"),
        (edit_way_out, "leads elsewhere"),
        (edit_missing, "is missing"),
        (edit_no_keras, "not of Keras"),
        (edit_other_network, "not of a CoTNet"),
    ],
)
def test_attacks_are_refused(path, tmp_path, edit, reason):
    with h5py.File(path, "r+") as file:
        edit(file, tmp_path)
    assert reason in message(path)


def test_many_references_to_one_long_text(path):
    """The file has 4 MB, and its list of names 12 GB."""
    text, count = "x" * 3_000_000, 4000
    with h5py.File(path, "r+") as file:
        del file.attrs["layer_names"]
        file.attrs["layer_names"] = [text, *["y"] * (count - 1)]
    data = path.read_bytes()
    start = data.index(struct.pack("<I", len(text)))  # a reference: length, address of a heap and place in it
    while data[start : start + 4] == data[start + 16 : start + 20] or data[start + 16 : start + 20] != b"\1\0\0\0":
        start = data.index(struct.pack("<I", len(text)), start + 1)
    path.write_bytes(data[:start] + data[start : start + 16] * count + data[start + 16 * count :])
    assert "than its size" in message(path)


def test_cut_files(path):
    data = GOOD.read_bytes()
    for length in (8, 9, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        assert "truncated or damaged" in message(path)


def test_flipped_bytes_never_raise_anything_else(path):
    data, rng = GOOD.read_bytes(), np.random.default_rng(0)
    for _ in range(4):
        broken = bytearray(data)
        for position in rng.integers(8, 60_000, 40):
            broken[position] ^= int(rng.integers(1, 256))
        path.write_bytes(broken)
        with contextlib.suppress(CheckpointError):
            read_state_dict(path)


def test_pools_after_the_layers_are_said_to_be_others(path):
    with h5py.File(path, "r+") as file:
        names = list(file.attrs["layer_names"])
        pool = next(name for name in names if name.endswith("_cot_pool"))
        names.remove(pool)
        names.insert(names.index(f"{pool.removesuffix('pool')}attention_scores"), pool)
        file.attrs["layer_names"] = names
    assert "CotNetSE152D" in message(path)


def test_a_folder_that_cannot_be_written_is_no_fault_of_the_file(path, tmp_path):
    out = tmp_path / "gone" / "arrays.safetensors"
    command = [sys.executable, "-I", _hdf5_child.__file__, path, out, json.dumps(sys.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == _hdf5_child.REFUSED
    assert done.stdout.startswith(f"its arrays cannot be written to {out.parent} (")


def test_without_h5py_it_says_what_to_install(path, monkeypatch):
    monkeypatch.setattr("ctxvision.checkpoints.keras_file.find_spec", lambda name: None)
    assert install_command("weights") in message(path)


def test_convert_names_no_network_where_none_fits(path, tmp_path):
    with pytest.raises(CheckpointError, match="no network of ours has such tensors"):
        convert(path, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
