"""RedNets of PaddleClas, in an environment that has it and Paddle: started by ``benchmarks.matrix``."""

from typing import Any

import numpy as np
import paddle
from paddle_rednet import noise, rednet
from serving import Call, serve


def open_network(request: dict[str, Any], images: np.ndarray) -> tuple[Call, Any, str]:
    """Build a network and write its weights to ``request["weights"]``."""
    paddle.set_device("cpu")
    net = getattr(rednet, request["network"])(class_num=1000)
    net.eval()
    weights = {name: noise(name, tuple(value.shape)) for name, value in net.state_dict().items()}
    net.set_state_dict({name: paddle.to_tensor(value.astype("float32")) for name, value in weights.items()})
    paddle.save(net.state_dict(), request["weights"], protocol=4)
    given = paddle.to_tensor(images)

    def call() -> Any:
        with paddle.no_grad():
            return net(given)

    return call, lambda found: found.numpy(), f"PaddlePaddle {paddle.__version__}"


if __name__ == "__main__":
    serve(open_network)
