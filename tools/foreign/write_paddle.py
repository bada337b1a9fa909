"""Write a RedNet of PaddleClas with random weights, and what it computes.

Runs in an environment of its own, which `tools/verify_weights.py` makes: ``python write_paddle.py '{"out": …}'``.
Only PaddleClas' own file of the network is imported; its package asks for OpenCV, faiss and more.
"""

import importlib.util
import json
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import paddle

job = json.loads(sys.argv[1])
root = Path(importlib.util.find_spec("paddle").origin).parents[1] / "paddleclas/ppcls"
for name in ("", ".arch", ".arch.backbone", ".arch.backbone.model_zoo", ".utils"):
    module = types.ModuleType(f"ppcls{name}")
    module.__path__ = [str(root.joinpath(*name.split(".")))]
    sys.modules[module.__name__] = module
sys.modules["ppcls.utils.save_load"] = types.ModuleType("ppcls.utils.save_load")
sys.modules["ppcls.utils.save_load"].load_dygraph_pretrain = None  # downloads; not used

from ppcls.arch.backbone.model_zoo import rednet  # noqa: E402


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return noise seeded by the name, in the range of trained values, also for statistics."""
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


def build():
    """Build the network of the job; the small one has their blocks, fewer and narrower."""
    if job["network"] != "small":
        return getattr(rednet, job["network"])(class_num=job["classes"])
    net = rednet.RedNet(rednet.BottleneckBlock, 26, class_num=job["classes"])
    net.inplanes = 64
    for stage, (planes, depth) in enumerate(zip(job["planes"], job["depths"], strict=True), 1):
        setattr(
            net, f"layer{stage}", net._make_layer(rednet.BottleneckBlock, planes, depth, 1 if stage == 1 else 2)
        )
    net.fc = paddle.nn.Linear(4 * job["planes"][-1], job["classes"])
    return net


net = build()
net.eval()
net.set_state_dict(
    {k: paddle.to_tensor(fill(k, tuple(v.shape)).astype("float32")) for k, v in net.state_dict().items()}
)
paddle.save(net.state_dict(), job["out"], protocol=job.get("protocol", 4))
stages, arrays = [], {}
for stage in (1, 2, 3, 4):
    getattr(net, f"layer{stage}").register_forward_post_hook(lambda layer, inputs, output: stages.append(output))
with paddle.no_grad():
    for size in job["sizes"]:
        stages.clear()
        images = np.random.default_rng(size).normal(size=(1, 3, size, size)).astype("float32")
        arrays[f"logits_{size}"] = net(paddle.to_tensor(images)).numpy()
        arrays |= {f"stage{i}_{size}": value.numpy() for i, value in enumerate(stages, 1)}
np.savez(job["answers"], **arrays)
