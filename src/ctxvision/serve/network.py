"""What is served: classifiers, whatever holds them, and images to try on them."""

import io
import re
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ctxvision.data import BadImageError, DataSpec, DigitsData, list_images, read_image
from ctxvision.explain import contextual_layers
from ctxvision.inference import open_predictor
from ctxvision.inference.classification import ClassificationPredictor
from ctxvision.inference.preparing import Optimize
from ctxvision.tasks import ClassificationTask
from ctxvision.tasks.classification.class_sets import is_contextual

from .compiling import Computing
from .settings import ServeError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class ServedNetwork:
    """A trained classifier.

    Attributes:
        name: The name by which clients call the network.
        model: The registered name of the network.
        spec: The description of the classes, and of how images are prepared.
        compute: The function from normalised images (B, C, H, W) to logits (B, N).
        task: The trained task of a checkpoint; a network that has none is not explained.
        prepared: What was done to the network for speed; empty if nothing was.
    """

    name: str
    model: str
    spec: DataSpec
    compute: Callable[[Tensor], Tensor]
    task: ClassificationTask | None = None
    prepared: str = ""

    @torch.no_grad()
    def probabilities(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Classify images (C, H, W): probabilities (N,) each, on the CPU; NaN where the network is broken."""
        return list(self.compute(torch.stack(list(images))).float().softmax(1).cpu())

    def undisturbed(self) -> AbstractContextManager[object]:
        """Return a context in which no other thread of ours runs the network, so that one may look into it."""
        return self.compute.undisturbed if isinstance(self.compute, Computing) else nullcontext()

    def close(self) -> None:
        """End what is still being done to make the network faster."""
        if isinstance(self.compute, Computing):
            self.compute.close()

    def describe(self) -> dict[str, Any]:
        """Return what clients may know."""
        return {
            "name": self.name,
            "model": self.model,
            "class_names": list(self.spec.class_names),
            "input_size": list(self.spec.input_size),
            "explains": self.task is not None,
            "contextual": self.task is not None and is_contextual(self.task.model),
            "offsets": self.task is not None and bool(contextual_layers(self.task.model)),
        }


def open_networks(
    words: Sequence[str], device: str = "cpu", *, trust: bool = False, optimize: Optimize = "fuse"
) -> list[ServedNetwork]:
    """Open what a command line names: ``PATH``, or ``NAME=PATH``.

    Args:
        words: The sources that `open_predictor` opens, each perhaps with a name.
        device: The device on which networks compute; exported files need the CPU.
        trust: Whether the makers of the files are trusted, see `open_predictor`.
        optimize: How networks are prepared, exported files excepted: not at all (``"none"``); with BatchNorm
            folded (``"fuse"``); also translated by AOTInductor before this function returns, which takes minutes
            at the first time and seconds later (``"compile"``); or folded now, and translated by another process
            once a thousand images were answered (``"auto"``).

    Raises:
        ServeError: A name comes twice, a network is no classifier, or its output is no number.
        InferenceError: There is no such device; see `open_predictor`, for the errors of its files too.
    """
    networks: list[ServedNetwork] = []
    for word in words:
        name, named, path = word.partition("=")
        if not named or Path(word).exists() or not _NAME.fullmatch(name):
            name, path = "", word
        taken = {network.name for network in networks}
        predictor = open_predictor(path, device, trust=trust, optimize="none" if optimize == "none" else "fuse")
        if not isinstance(predictor, ClassificationPredictor):
            raise ServeError(f"{path}: its task is {predictor.task}; only classifiers are served")
        if name in taken:
            raise ServeError(f"{word}: two networks are called {name!r}; choose another name")
        task = predictor.module if isinstance(predictor.module, ClassificationTask) else None
        model = predictor.model_name
        name = name or _free(model, taken)
        networks.append(ServedNetwork(name, model, predictor.data_spec, predictor.raw, task))
        (chances,) = networks[-1].probabilities(
            [torch.zeros(predictor.data_spec.input_size, dtype=torch.float32, device="cpu")]
        )  # also sets much up
        if not chances.isfinite().all():
            raise ServeError(f"{word}: the output of the network is NaN or infinite; its weights are broken")
        if optimize in ("auto", "compile") and predictor.network is not None:
            compute = Computing(name, path, predictor, trust=trust, wait=optimize == "compile")
            networks[-1] = replace(networks[-1], compute=compute)
        networks[-1] = replace(networks[-1], prepared=predictor.prepared)
    return networks


def _free(model: str, taken: set[str]) -> str:
    base = re.sub(r"[^A-Za-z0-9._-]", "-", model)[:60] or "network"
    number = 1
    while (name := base if number == 1 else f"{base}-{number}") in taken:
        number += 1
    return name


_MOST = 24
_SIDE = 1024


@dataclass(frozen=True)
class ExampleImage:
    """An image as the page gets it.

    Attributes:
        name: Name that the page shows.
        data: Bytes of a PNG file.
    """

    name: str
    data: bytes


def of_folder(folder: str) -> list[ExampleImage]:
    """Read at most 24 images of a folder, evenly spread, scaled down to 1024 pixels.

    Raises:
        ServeError: There is no such folder, or no image in it can be read.
    """
    if not Path(folder).is_dir():
        raise ServeError(f"--examples {folder}: no such folder")
    paths = list_images(folder)
    count = min(len(paths), _MOST)
    found = []
    for path in (paths[index * len(paths) // count] for index in range(count)):
        try:
            name = Path(path).stem.encode("utf-8", "replace").decode()  # file names may be any bytes
            found.append(ExampleImage(name, _png(read_image(path))))
        except BadImageError:
            continue
    if not found:
        raise ServeError(f"--examples {folder}: holds no image that can be read")
    return found


def of_digits(specs: Sequence[DataSpec], count: int = 12) -> list[ExampleImage]:
    """Take held-out digits where a network was trained on the embedded ones; else nothing."""
    for spec in specs:
        if spec.class_names != tuple("0123456789"):
            continue
        data = DigitsData(spec=spec)
        if data.fingerprint != spec.fingerprint:
            continue
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(path) for path in data.export(folder, count)]
            return [
                ExampleImage(f"digit {path.stem[-1]}, not in the training set", path.read_bytes())
                for path in paths
            ]
    return []


def _png(image: Image.Image) -> bytes:
    image.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
