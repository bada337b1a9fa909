"""PaddleClas' own file of RedNet, and noise for its weights; in an environment that has it and Paddle.

Only that file is imported; the package asks for OpenCV, faiss and more.
"""

import importlib.util
import sys
import types
import zlib
from pathlib import Path

import numpy as np

_ROOT = Path(importlib.util.find_spec("paddle").origin).parents[1] / "paddleclas/ppcls"
for _part in ("", ".arch", ".arch.backbone", ".arch.backbone.model_zoo", ".utils", ".utils.save_load"):
    _module = types.ModuleType(f"ppcls{_part}")
    _module.__path__ = [str(_ROOT.joinpath(*_part.split(".")))]
    sys.modules[_module.__name__] = _module
sys.modules["ppcls.utils.save_load"].load_dygraph_pretrain = None  # downloads; not used

rednet = importlib.import_module("ppcls.arch.backbone.model_zoo.rednet")


def noise(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return noise seeded by the name of a weight, in the range of trained values, also for statistics."""
    random, kind = np.random.default_rng(zlib.crc32(name.encode())), name.rpartition(".")[2]
    if kind == "_variance":
        return random.uniform(0.5, 1.5, shape)
    if len(shape) > 1:
        fan_in = shape[0] if name.startswith("fc") else int(np.prod(shape[1:]))
        return random.normal(0, np.sqrt(2 / fan_in), shape) * (0.05 if ".conv2.conv2.conv." in name else 1)
    if kind == "weight":
        # an involution multiplies features by features: without damping depth makes them overflow
        damped = {"bn1": 0.2, "bn3": 0.05} if name.startswith("layer") else {}
        return random.uniform(0.5, 1.5, shape) * damped.get(name.split(".")[-2], 1)
    return random.normal(0, 0.1, shape)
