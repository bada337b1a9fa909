"""Small networks, images and clients for the tests of the server."""

import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import numpy as np
import torch
from PIL import Image

from _processes import ABSENT
from ctxvision.data import DataSpec
from ctxvision.serve import Limits, ServedNetwork, create_app
from ctxvision.tasks import ClassificationTask
from ctxvision.tasks.checkpoint_file import save_checkpoint

NAMES = ("ant", "bee", "cat", "dog", "emu", "fox", "gnu", "hen", "ibis", "jay")
SPEC = DataSpec(NAMES, (3, 32, 32), (0.5,) * 3, (0.25,) * 3, crop_pct=1.0)


def write_checkpoint(path, model="contextual_convnext_micro", spec=SPEC, seed=0):
    """Write an untrained network whose offsets are not zero."""
    torch.manual_seed(seed)
    task = ClassificationTask(model, spec.to_dict())
    for parameter in task.parameters():
        if not parameter.detach().any():
            parameter.data.normal_(std=0.1)
    # a ranking with clear gaps, whatever a batch rounds
    for parameter in task.model.get_classifier().parameters() if hasattr(task.model, "get_classifier") else ():
        parameter.data.mul_(5)
    save_checkpoint(
        {
            "ctxvision": {"task": "classification"},
            "hyper_parameters": dict(task.hparams),
            "state_dict": task.state_dict(),
        },
        path,
    )
    return path


def pixels(seed=0, width=40, height=32):
    """An image of noise, blurred so that JPEG keeps it."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image=None, kind="PNG", **options):
    file = io.BytesIO()
    (image or pixels()).save(file, kind, **options)
    return file.getvalue()


def plain_network(compute=None, name="plain", spec=SPEC):
    """A network without weights; its logits are the means of thirds of the image."""

    def means(images):
        return torch.nn.functional.adaptive_avg_pool2d(images, (2, 5)).mean(1).flatten(1)

    return ServedNetwork(name, name, spec, compute or means)


class Blocked:
    """Computes nothing until it is let go; tells when it has begun."""

    def __init__(self):
        import threading

        self.begun, self.free = threading.Event(), threading.Event()
        self.batches = []

    def __call__(self, images):
        self.batches.append(len(images))
        self.begun.set()
        assert self.free.wait(30)
        return torch.zeros(len(images), len(NAMES))


def client_of(app, **headers):
    """A client in the process, for use in coroutines."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://localhost", headers=headers, timeout=120
    )


def ask(app, method, path, headers=None, **options):
    """One request in the process."""

    async def once():
        async with client_of(app, **(headers or {})) as client:
            return await client.request(method, path, **options)

    return asyncio.run(once())


def app_of(*networks, access=None, examples=(), **limits):
    return create_app(
        networks or [plain_network()],
        limits=Limits(**{"max_wait_ms": 0, **limits}),
        access=access,
        examples=examples,
    )


def start_server(*words, **variables):
    """Start the command and wait until it serves; returns the process and its address."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": ABSENT,
        **variables,
    }
    environment.pop("CTXVISION_TOKEN", None)
    environment.update(variables)
    process = subprocess.Popen(
        [sys.executable, "-m", "ctxvision", "serve", *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = ""
    for line in process.stdout:
        said += line
        if " at http://" in line:
            return process, line.rpartition(" at ")[2].strip()
    raise AssertionError(f"it did not start:\n{said}")


def stop_server(process, number=signal.SIGTERM):
    process.send_signal(number)
    said, _ = process.communicate(timeout=120)
    return process.returncode, said


def exchange(address, *pieces, timeout=15.0):
    """Write bytes to a socket and read until the server closes it."""
    host, port = address.removeprefix("http://").rstrip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        for piece in pieces:
            try:
                connection.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                break
            time.sleep(0.01)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
        return answer
