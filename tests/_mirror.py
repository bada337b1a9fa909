"""A server on this machine in the place of those that keep pretrained weights, and files for it to serve."""

import contextlib
import http.server
import pickle
import threading

import timm
import torch

from ctxvision.checkpoints.published import _OPENMMLAB


class Mirror(http.server.ThreadingHTTPServer):
    """Answers every request with ``content``, and counts the requests.

    It answers with ``status``, says that ``claims`` bytes come, and waits for ``gate`` before it sends any.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.status, self.claims, self.asked = b"", 200, None, 0
        self.gate = threading.Event()
        self.gate.set()

    def url(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        mirror = self.server
        mirror.asked += 1
        self.send_response(mirror.status)
        self.send_header("Content-Length", str(mirror.claims or len(mirror.content)))
        self.end_headers()
        half = len(mirror.content) // 2
        with contextlib.suppress(OSError):  # nobody waits any more
            self.wfile.write(mirror.content[:half])
            mirror.gate.wait(30)
            self.wfile.write(mirror.content[half:])

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def mirror():
    """A mirror that serves while the context lasts."""
    server = Mirror()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.gate.set()
        server.shutdown()
        thread.join()
        server.server_close()


def rednet_file(name, seed=0):
    """The bytes of a ``.pdparams`` file of a RedNet with random weights, as PaddleClas lays it out."""
    torch.manual_seed(seed)
    arrays = {}
    for ours, value in timm.create_model(name).state_dict().items():
        theirs = ours.replace("running_mean", "_mean").replace("running_var", "_variance")
        for paddle, own in _OPENMMLAB.items():
            if theirs.startswith(own) or (own.startswith(".") and own in theirs):
                theirs = theirs.replace(own, paddle, 1)
                break
        if not ours.endswith("num_batches_tracked"):
            arrays[theirs] = (value.T if value.ndim == 2 else value).contiguous().numpy()
    return pickle.dumps(arrays, 4)
