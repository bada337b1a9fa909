"""RedNets of PaddleClas, in an environment that has it and Paddle: started by ``benchmarks.matrix``."""

import importlib.util
import sys
import types
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from serving import Call, serve

# PaddleClas' own file of the network alone; its package asks for OpenCV, faiss and more
root = Path(importlib.util.find_spec("paddle").origin).parents[1] / "paddleclas/ppcls"
for part in ("", ".arch", ".arch.backbone", ".arch.backbone.model_zoo", ".utils", ".utils.save_load"):
    module = types.ModuleType(f"ppcls{part}")
    module.__path__ = [str(root.joinpath(*part.split(".")))]
    sys.modules[module.__name__] = module
sys.modules["ppcls.utils.save_load"].load_dygraph_pretrain = None  # downloads; not used

from ppcls.arch.backbone.model_zoo import rednet  # noqa: E402


def _noise(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return noise in the range of trained values, seeded by the name of the weight."""
    noise, kind = np.random.default_rng(zlib.crc32(name.encode())), name.rpartition(".")[2]
    if kind == "_variance":
        return noise.uniform(0.5, 1.5, shape)
    if len(shape) > 1:
        fan_in = shape[0] if name.startswith("fc") else int(np.prod(shape[1:]))
        return noise.normal(0, np.sqrt(2 / fan_in), shape) * (0.05 if ".conv2.conv2.conv." in name else 1)
    if kind == "weight":
        # an involution multiplies features by features: without damping depth makes them overflow
        damped = {"bn1": 0.2, "bn3": 0.05} if name.startswith("layer") else {}
        return noise.uniform(0.5, 1.5, shape) * damped.get(name.split(".")[-2], 1)
    return noise.normal(0, 0.1, shape)


def open_network(request: dict[str, Any], images: np.ndarray) -> tuple[Call, Any, str]:
    """Build a network and write its weights to ``request["weights"]``."""
    paddle.set_device("cpu")
    net = getattr(rednet, request["network"])(class_num=1000)
    net.eval()
    weights = {name: _noise(name, tuple(value.shape)) for name, value in net.state_dict().items()}
    net.set_state_dict({name: paddle.to_tensor(value.astype("float32")) for name, value in weights.items()})
    paddle.save(net.state_dict(), request["weights"], protocol=4)
    given = paddle.to_tensor(images)

    def call() -> Any:
        with paddle.no_grad():
            return net(given)

    return call, lambda found: found.numpy(), f"PaddlePaddle {paddle.__version__}"


if __name__ == "__main__":
    serve(open_network)
