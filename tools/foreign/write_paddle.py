"""Write a RedNet of PaddleClas with random weights, and what it computes.

Runs in an environment of its own, which `tools/verify_weights.py` makes: ``python write_paddle.py '{"out": …}'``.
"""

import json
import sys

import numpy as np
import paddle
from paddle_rednet import noise, rednet

job = json.loads(sys.argv[1])


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
    {k: paddle.to_tensor(noise(k, tuple(v.shape)).astype("float32")) for k, v in net.state_dict().items()}
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
