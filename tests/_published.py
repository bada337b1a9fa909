"""The published networks' reference values: made-up weights in their checkpoint layouts, and the logits.

`goldens/NAME.keys.json` lists names and shapes of a published checkpoint in order; `goldens/NAME.npz` holds
the float64 logits that the authors' network computes from `published_state_dict(NAME)` and
`reference_input(2, 3, 96, 96)`.
A weight depends on its name and shape alone, so no file of weights is needed.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

GOLDENS = Path(__file__).parent / "goldens"
NAMES = sorted(path.stem for path in GOLDENS.glob("*.npz"))


def our_name(published_name):
    """`se_cotnetd_50`, as the authors write it, is our `se_cotnetd50`."""
    return published_name.replace("cotnetd_", "cotnetd")


def published_keys(published_name):
    """Names and shapes of the published checkpoint, in order."""
    return json.loads((GOLDENS / f"{published_name}.keys.json").read_text())


def published_logits(published_name):
    """The authors' logits, `(2, 1000)` float64."""
    return torch.from_numpy(np.load(GOLDENS / f"{published_name}.npz")["logits"])


def published_state_dict(published_name, dtype=torch.float64):
    """The reference weights under their published names; counters stay int64."""
    tensors = {}
    for key, shape in published_keys(published_name).items():
        value = torch.from_numpy(np.asarray(fill(key, tuple(shape), damped=published_name.startswith("rednet"))))
        tensors[key] = value.to(dtype) if value.is_floating_point() else value
    return tensors


def fill(key, shape, damped=True):
    """The reference value of the tensor `key`: noise seeded by the name, in the range of trained values.

    `damped` shrinks the kernel generators of involution, as the reference's `fill.py` does for all names that
    end like theirs. That catches SE-CoTNetD's split-attention convolutions too, but its logits were computed
    without: they agree to 1e-13 so, and not to 10 % with it.
    """
    kind = key.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    noise = np.random.default_rng(zlib.crc32(key.encode()))
    if kind == "running_var":
        return noise.uniform(0.5, 1.5, shape)
    if kind != "running_mean" and len(shape) > 1:
        he = np.sqrt(2.0 / int(np.prod(shape[1:])))
        return noise.normal(0.0, he, shape) * (0.05 if damped and key.endswith(".conv2.conv.weight") else 1.0)
    if kind == "weight":
        return noise.uniform(0.5, 1.5, shape) * (0.2 if ".bn3." in key or key.endswith("gamma") else 1.0)
    return noise.normal(0.0, 0.1, shape)  # biases, running means


def reference_input(batch, channels, height, width, seed=0):
    """Standard-normal float64 image batch `(batch, channels, height, width)`."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(batch, channels, height, width)))
