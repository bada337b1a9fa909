"""Keras' HDF5 files as an attacker, or a bad disk, makes them: one clear line each."""

import contextlib
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from ctxvision._extras import install_command
from ctxvision.checkpoints import CheckpointError, convert, read_state_dict

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


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
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


def test_without_h5py_it_says_what_to_install(path, monkeypatch):
    monkeypatch.setattr("ctxvision.checkpoints.keras_file.find_spec", lambda name: None)
    assert install_command("weights") in message(path)


def test_convert_names_no_network_where_none_fits(path, tmp_path):
    with pytest.raises(CheckpointError, match="no network of ours has such tensors"):
        convert(path, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
