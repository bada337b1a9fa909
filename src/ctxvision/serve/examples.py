"""Images to try: of a folder, or the embedded digits that a network was not trained on."""

import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ctxvision.data import BadImageError, DataSpec, DigitsData, list_images, read_image

from .error import ServeError

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
