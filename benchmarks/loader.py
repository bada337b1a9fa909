"""Does decoding keep up? Images/s of the training loader alone against what a network consumes.

    python -m benchmarks loader resnet50 photos --workers 1 2 4 8

Without DATA it writes JPEG files of ImageNet's usual size and measures with those. On a CPU the workers and the
network share the cores, so that both cannot reach their rates at once.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import timm
import torch
from PIL import Image

import ctxvision  # noqa: F401 - registers the networks

if TYPE_CHECKING:
    from ctxvision.data import ImageData

MARGIN = 1.2  # the loader should be this much faster than the network: files differ in size


class Rate(NamedTuple):
    """How fast images pass."""

    images: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Images per second."""
        return self.images / self.seconds


def loader_rate(data: "ImageData", seconds: float, clock: Callable[[], float] = time.perf_counter) -> Rate:
    """Read training batches, epoch after epoch, as fast as they come.

    The first batches are not counted: the workers have to start, and fill their queues while they do.

    Args:
        data: what to read from; its workers are ended afterwards.
        seconds: for how long; the batch that is under way is finished.
        clock: returns seconds.
    """
    loader = data.train_dataloader()
    warm_up, read, epoch = data.workers * data.prefetch + 1, 0, 0
    images, start = 0, 0.0
    try:
        while True:
            loader.sampler.set_epoch(epoch)
            for batch in loader:
                read += 1
                if read > warm_up:
                    images += len(batch.images)
                    if clock() - start >= seconds:
                        return Rate(images, clock() - start)
                elif read == warm_up:
                    start = clock()
            epoch += 1
    finally:
        if loader._iterator is not None:
            loader._iterator._shutdown_workers()


def network_rate(
    name: str, image_size: int, batch_size: int, device: torch.device, seconds: float, classes: int = 1000
) -> Rate:
    """Train a network on one batch that is already where it computes, again and again.

    With bfloat16 autocast on CUDA, in float32 elsewhere; channels-last; cross-entropy and plain SGD.
    """
    model = timm.create_model(name, num_classes=classes).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    images = torch.randn(batch_size, 3, image_size, image_size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    targets = torch.randint(classes, (batch_size,), device=device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext():
            loss = torch.nn.functional.cross_entropy(model(images).float(), targets)
        loss.backward()
        optimizer.step()

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(3):
        step()
    wait()
    steps, start = 0, time.perf_counter()
    while steps < 3 or time.perf_counter() - start < seconds:
        step()
        steps += 1
        if steps % 5 == 0:
            wait()
    wait()
    return Rate(steps * batch_size, time.perf_counter() - start)


def write_pictures(folder: Path, count: int = 400, size: tuple[int, int] = (500, 375)) -> Path:
    """Write JPEG files of two classes, about 110 kB each as ImageNet's are: smooth shapes and some noise."""
    generator = np.random.default_rng(0)
    for index in range(count):
        path = folder / f"class{index % 2}" / f"{index:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = smooth + generator.normal(0, 14, smooth.shape).astype(np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return folder


def verdict(rates: dict[int, float], network: float) -> str:
    """Say how many workers are enough.

    Args:
        rates: images/s of the loader by number of workers.
        network: images/s of the network.
    """
    enough = [workers for workers, rate in sorted(rates.items()) if rate >= MARGIN * network]
    if enough:
        return f"--workers {enough[0]} keeps up, with a fifth to spare"
    best = max(rates, key=rates.__getitem__)
    return (
        f"no number of workers keeps up: {best} reach {rates[best] / network:.0%} of what the network takes; "
        "store smaller images, augment less or use more cores"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("model", metavar="MODEL", help="a network that timm knows")
    parser.add_argument("data", metavar="DATA", nargs="?", help="any source of images; default: written for this")
    workers = sorted({0, 1, max(1, cores // 2), cores})
    parser.add_argument("--workers", type=int, nargs="+", default=workers, help="default: %(default)s")
    parser.add_argument("--image-size", type=int, default=224, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement; default: %(default)s")
    parser.add_argument("--auto-augment", help="timm's policy, e.g. rand-m9-mstd0.5-inc1")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=torch.device, default=device, help="default: %(default)s")


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    from ctxvision.data import ImageData

    if min(args.workers) < 0 or min(args.image_size, args.batch) < 1 or args.seconds <= 0:
        raise ValueError("--workers must be at least 0, --image-size and --batch at least 1, --seconds positive")
    with tempfile.TemporaryDirectory() as folder:
        source = args.data or write_pictures(Path(folder))
        rates = {}
        for workers in args.workers:
            data = ImageData(
                source,
                image_size=args.image_size,
                batch_size=args.batch,
                workers=workers,
                auto_augment=args.auto_augment,
            )
            rates[workers] = loader_rate(data, args.seconds).per_second
            print(f"loader, {workers} workers: {rates[workers]:.0f} images/s", flush=True)
    network = network_rate(args.model, args.image_size, args.batch, args.device, args.seconds).per_second
    print(f"{args.model} trains on {args.device}: {network:.0f} images/s")
    for workers, rate in rates.items():
        print(f"{workers} workers: {rate / network:.2f} of what it takes")
    print(verdict(rates, network))
