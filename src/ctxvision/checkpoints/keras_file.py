"""Keras' HDF5 files, read from strangers: layers in order, and their arrays in torch's layout."""

import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ctxvision._extras import install_command

from . import _hdf5_child
from .error import CheckpointError

MAGIC = b"\x89HDF\r\n\x1a\n"

_TORCH_NAMES = {  # Keras' own, and those of kecam's files that were written with torch
    "kernel": "weight", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean",
    "moving_variance": "running_var", "weight": "weight", "bias": "bias", "running_mean": "running_mean",
    "running_var": "running_var",
}  # fmt: skip
_SECONDS = 300


class KerasLayers(NamedTuple):
    """What a Keras file holds."""

    names: tuple[str, ...]
    """All layers in the network's order, those without weights, too."""
    weights: dict[str, dict[str, Tensor]]
    """By layer and torch's name (weight, bias, running_mean, running_var)."""


def read_layers(path: Path) -> KerasLayers:
    """Read a file of ``Model.save_weights`` or ``Model.save`` of Keras 2, without running anything in it.

    HDF5 is read by a process of its own with limits on memory and time, see `_hdf5_child`.

    Args:
        path: Path of the file; its name does not matter.

    Returns:
        The layers. Kernels are transposed to torch's layout: convolutions ``(out, in, h, w)``, dense ones
        ``(out, in)``.

    Raises:
        CheckpointError: The package h5py is not installed, or the file is damaged or was not written by Keras.
    """
    if find_spec("h5py") is None:
        raise CheckpointError(path, f"a Keras file needs the package h5py: {install_command('weights')}")
    with tempfile.TemporaryDirectory() as folder:
        arrays = Path(folder, "arrays.safetensors")
        command = [
            sys.executable,
            "-I",
            _hdf5_child.__file__,
            os.fspath(path.resolve()),
            os.fspath(arrays),
            json.dumps(sys.path),
        ]
        environment = {
            **os.environ,
            "HDF5_PLUGIN_PRELOAD": "::",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        try:
            done = subprocess.run(command, capture_output=True, env=environment, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise CheckpointError(path, f"refused: reading it takes more than {_SECONDS} s") from error
        if done.returncode == _hdf5_child.REFUSED:
            raise CheckpointError(path, _advised(done.stdout.decode("utf-8", "replace")))
        if done.returncode:
            raise CheckpointError(path, "truncated or damaged (the HDF5 library broke off); download it again")
        with safetensors.safe_open(arrays, "pt") as file:
            names = tuple(json.loads(file.metadata()["layers"]))
        tensors = {key: value.clone() for key, value in safetensors.torch.load_file(arrays).items()}
    weights: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        layer, _, kind = key.rpartition("/")
        if kind not in _TORCH_NAMES:
            raise CheckpointError(path, f"its layer {layer} has {kind}, which no layer of a CoTNet has")
        weights.setdefault(layer, {})[_TORCH_NAMES[kind]] = _in_torch_layout(value)
    return KerasLayers(names, {name: weights[name] for name in names if name in weights})


def _advised(reason: str) -> str:
    reason = " ".join(reason.split())
    return f"{reason}; download it again" if reason.startswith("truncated") else f"refused: {reason}"


def _in_torch_layout(value: Tensor) -> Tensor:
    value = value.permute(3, 2, 0, 1) if value.ndim == 4 else value.T if value.ndim == 2 else value
    return value.to(torch.float32).contiguous()
