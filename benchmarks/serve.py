"""How many images a server answers, how fast, and whether its memory stays flat; against one unbatched torch loop.

    python -m benchmarks serve CHECKPOINT

A real server process on this machine's loopback; as many connections as are asked for, each sending its next
request when it has its answer; a 429 counts, and is sent again after a pause. The clients share the processor with
the server, and so send bytes that are ready: a whole HTTP library took as much of the processor as the server.
"""

import argparse
import asyncio
import io
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import torch
from PIL import Image

from benchmarks.machine import COLUMNS as MACHINE
from benchmarks.machine import describe
from benchmarks.rows import append, check
from benchmarks.settings import RESULTS, Settings

if TYPE_CHECKING:
    from ctxvision.inference.preparing import Optimize

COLUMNS = (
    *MACHINE, "model", "optimize", "image_px", "connections", "batch", "queue", "max_wait_ms", "requests",
    "refused_429", "failed", "seconds", "images_per_s", "p50_ms", "p99_ms", "mean_batch", "rss_after_warm_up_mib",
    "rss_last_mib", "rss_highest_mib", "loop_images_per_s",
)  # fmt: skip
_WARM_UP = 0.1  # share of the requests before memory counts
_PAUSE, _TIMEOUT = 0.02, 60.0  # seconds


@dataclass
class Load:
    """What the clients saw.

    Attributes:
        seconds: each answer's time.
        refused: answers 429.
        failed: other answers than 200, and none.
        memory: resident MiB of the server, with the number of answers before it.
    """

    seconds: list[float] = field(default_factory=list)
    refused: int = 0
    failed: int = 0
    memory: list[tuple[int, float]] = field(default_factory=list)


def resident(pid: int) -> float:
    """Return the memory that a process holds, MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def pictures(side: int, count: int = 16) -> list[bytes]:
    """Make PNG files of smooth noise."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(count):
        file = io.BytesIO()
        coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(file, "PNG")
        found.append(file.getvalue())
    return found


def _request(address: str, file: bytes) -> bytes:
    """Return what a client sends for a file: written once, because clients share the processor with the server."""
    edge = b"--edge-of-a-part"
    head = b'Content-Disposition: form-data; name="image"; filename="image"\r\n\r\n'
    body = b"\r\n".join([edge, head + file, edge + b"--", b""])
    host = urlsplit(address).netloc
    lines = (
        "POST /predict?top_k=1 HTTP/1.1",
        f"Host: {host}",
        f"Content-Type: multipart/form-data; boundary={edge[2:].decode()}",
        f"Content-Length: {len(body)}",
        "",
        "",
    )
    return "\r\n".join(lines).encode() + body


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Read an answer; returns its status, and whether the connection ends with it."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = re.search(rb"\r\ncontent-length: (\d+)", head)
    if length:
        await reader.readexactly(int(length[1]))
    return int(head.split(b" ", 2)[1]), not length or b"\r\nconnection: close" in head


async def load(address: str, pid: int, files: list[bytes], requests: int, connections: int) -> Load:
    """Send requests over a number of connections, each after the answer to the one before."""
    found, left = Load(), iter(range(requests))
    words = [_request(address, file) for file in files]
    place = urlsplit(address)

    async def one() -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        for number in left:
            while True:
                start = time.perf_counter()
                try:
                    streams = streams or await asyncio.open_connection(place.hostname, place.port)
                    streams[1].write(words[number % len(words)])
                    status, ends = await asyncio.wait_for(_answer(streams[0]), _TIMEOUT)
                except (OSError, EOFError, ValueError, IndexError, asyncio.TimeoutError):
                    status, ends = 0, True
                if ends and streams:
                    streams[1].close()
                    streams = None
                if status != 429:
                    break
                found.refused += 1
                await asyncio.sleep(_PAUSE)
            found.seconds.append(time.perf_counter() - start)
            found.failed += status != 200
            if len(found.seconds) % max(1, requests // 50) == 0:
                found.memory.append((len(found.seconds), resident(pid)))
        if streams:
            streams[1].close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return found


@torch.no_grad()
def loop_rate(checkpoint: str, files: list[bytes], images: int, optimize: "Optimize" = "fuse") -> float:
    """Decode and classify one image after the other, without server or batch; returns images/s.

    The network is prepared as that of the server is.
    """
    from ctxvision.data import read_image
    from ctxvision.serve import open_networks

    (network,) = open_networks([checkpoint], optimize=optimize)
    spec = network.spec
    transform = spec.eval_transform()
    network.probabilities([torch.zeros(spec.input_size)])
    start = time.perf_counter()
    for number in range(images):
        image = transform(read_image(io.BytesIO(files[number % len(files)]), spec.color_mode, "image"))
        network.probabilities([image])
    return images / (time.perf_counter() - start)


def start(checkpoint: str, args: argparse.Namespace) -> tuple["subprocess.Popen[str]", str]:
    """Start the server; returns its process and address."""
    options = ["--port", "0", "--optimize", args.optimize, "--batch", args.batch, "--queue", args.queue]
    options += ["--max-wait-ms", args.max_wait_ms]
    words = [sys.executable, "-m", "ctxvision", "serve", f"net={checkpoint}", *map(str, options)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    for line in process.stderr:
        if " at http://" in line:
            # what it says later must not fill the pipe
            threading.Thread(target=sys.stderr.writelines, args=(process.stderr,), daemon=True).start()
            return process, line.rpartition(" at ")[2].strip()
    raise ValueError("the server did not start")


def mean_batch(address: str) -> float:
    """Ask the server for the images of an average batch."""
    import httpx

    lines = (line.rpartition(" ")[::2] for line in httpx.get(f"{address}metrics").text.splitlines())
    values = {name: value for name, value in lines if name.startswith("ctxvision_batch_images_")}
    total, count = (float(values[f'ctxvision_batch_images_{what}{{model="net"}}']) for what in ("sum", "count"))
    return total / count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=".ckpt file or run folder of a classifier")
    parser.add_argument("--requests", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--connections", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=16, help="of the server; default: %(default)s")
    parser.add_argument("--queue", type=int, default=64, help="of the server; default: %(default)s")
    parser.add_argument("--max-wait-ms", type=float, default=5.0, help="of the server; default: %(default)s")
    parser.add_argument("--image-px", type=int, default=64, help="side of what is sent; default: %(default)s")
    parser.add_argument(
        "--optimize",
        choices=("none", "fuse", "compile"),
        default="fuse",
        help="how the network of the server and of the loop is prepared; default: %(default)s",
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch; default: %(default)s")
    parser.add_argument("--out", type=Path, default=RESULTS / "serve.csv", help="CSV file (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Measure, print, and append a row."""
    if min(args.requests, args.connections, args.batch, args.queue, args.image_px, args.threads) < 1:
        raise ValueError(
            "--requests, --connections, --batch, --queue, --image-px and --threads must be at least 1"
        )
    from ctxvision.serve import open_networks

    check(args.out, COLUMNS)
    torch.set_num_threads(args.threads)
    files = pictures(args.image_px)
    loop = loop_rate(args.checkpoint, files, max(1, args.requests // 10), args.optimize)
    process, address = start(args.checkpoint, args)
    try:
        began = time.perf_counter()
        found = asyncio.run(load(address, process.pid, files, args.requests, args.connections))
        seconds = time.perf_counter() - began
        batch = mean_batch(address)
    finally:
        process.terminate()
        process.wait(30)
    if process.returncode:
        raise ValueError(f"the server ended with {process.returncode}")
    warm = [mib for answered, mib in found.memory if answered >= _WARM_UP * args.requests] or [float("nan")]
    (network,) = open_networks([args.checkpoint])
    p50, p99 = np.quantile(found.seconds, [0.5, 0.99]) * 1e3
    row = {
        **describe(Settings(torch.device("cpu"), torch.float32, args.threads, args.batch, 1, 0.0)),
        "model": network.model,
        "optimize": args.optimize,
        "image_px": args.image_px,
        "connections": args.connections,
        "batch": args.batch,
        "queue": args.queue,
        "max_wait_ms": args.max_wait_ms,
        "requests": args.requests,
        "refused_429": found.refused,
        "failed": found.failed,
        "seconds": seconds,
        "images_per_s": args.requests / seconds,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "mean_batch": batch,
        "rss_after_warm_up_mib": warm[0],
        "rss_last_mib": warm[-1],
        "rss_highest_mib": max(warm),
        "loop_images_per_s": loop,
    }
    for name in COLUMNS[len(MACHINE) :]:
        print(f"{name:>22}: {row[name]:.4g}" if isinstance(row[name], float) else f"{name:>22}: {row[name]}")
    append(args.out, COLUMNS, [row])
