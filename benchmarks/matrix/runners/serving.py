"""What the runners share: networks opened, asked and called over pipes, one line of JSON for each request.

It is imported by files that run in environments of their own, which have numpy and little else of ours.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Call = Callable[[], Any]


def serve(
    open_network: Callable[[dict[str, Any], np.ndarray], tuple[Call, Callable[[Any], np.ndarray], str]],
) -> None:
    """Answer requests until the input ends.

    Args:
        open_network: Function from a request and images (B, C, H, W), float32, to the function that is timed, to
            one that makes an array of what it returns, and to a text that says what computes.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print would be taken for answers
    networks: dict[str, tuple[Call, Callable[[Any], np.ndarray]]] = {}

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        key = request["key"]
        if request["do"] == "open":
            call, as_array, detail = open_network(request, np.load(request["images"]))
            networks[key] = call, as_array
            np.save(request["answer"], as_array(call()))
            return {"detail": detail}
        if request["do"] == "close":
            networks.pop(key, None)
        else:
            networks[key][0]()
        return {}

    for line in sys.stdin:
        try:
            found = answer(json.loads(line))
        except Exception as error:  # whatever a runtime raises is the answer
            text = " ".join(str(error).split())[:300]
            found = {"error": f"{type(error).__name__}: {text}"}
        print(json.dumps(found), file=answers, flush=True)
