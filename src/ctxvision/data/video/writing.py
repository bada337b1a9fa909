"""Videos and moving pictures on disk, whole or not at all."""

import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from ctxvision._extras import explain_import
from ctxvision.data.embedded.moving_digits import MOTIONS, MovingDigits
from ctxvision.data.error import DataError
from ctxvision.files import write_whole

from .reading import Frames

_CODECS = ("libx264", "libopenh264", "mpeg4")
PICTURE_SUFFIXES = (".gif", ".webp")


def write_video(path: str | os.PathLike[str], pixels: Frames, rate: int = 8) -> None:
    """Write frames as a video (``.mp4``, ``.mkv``, ``.avi``, …) or as a moving ``.gif`` or ``.webp``.

    The file is made in memory and moved to its place when it is complete.

    Args:
        path: The path to write to, whose suffix decides about the format; a file there is replaced.
        pixels: The frames, (T, H, W, 3) uint8.
        rate: The number of frames per second.

    Raises:
        DataError: There are no frames, the format is unknown, or the file cannot be written.
    """
    path = Path(path)
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or not len(pixels) or pixels.dtype != np.uint8:
        raise DataError(f"{path}: a video needs frames (T, H, W, 3) of 8 bits, got {pixels.dtype} {pixels.shape}")
    encode = _encode_picture if path.suffix.lower() in PICTURE_SUFFIXES else _encode_video
    try:
        data = encode(path, pixels, rate)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be made a video ({' '.join(str(error).split())})") from error
    try:
        write_whole(path, data)
    except OSError as error:
        raise DataError(str(error)) from error


def _encode_picture(path: Path, pixels: Frames, rate: int) -> bytes:
    first, *rest = (Image.fromarray(frame) for frame in pixels)
    options: dict[str, Any] = {"save_all": True, "append_images": rest, "duration": round(1000 / rate), "loop": 0}
    if path.suffix.lower() == ".webp":
        options["lossless"] = True
    file = io.BytesIO()
    first.save(file, path.suffix[1:].upper(), **options)
    return file.getvalue()


def _encode_video(path: Path, pixels: Frames, rate: int) -> bytes:
    try:
        import av
    except ModuleNotFoundError as error:
        raise DataError(f"videos: {explain_import(error) or error}") from error
    # half of the colour resolution takes even sides: an odd one repeats its last row
    pixels = np.pad(pixels, ((0, 0), (0, pixels.shape[1] % 2), (0, pixels.shape[2] % 2), (0, 0)), "edge")
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, f"video{path.suffix.lower()}")
        with av.open(target, "w") as container:
            stream: Any = container.add_stream(_codec(), rate=rate)
            stream.height, stream.width = pixels.shape[1:3]
            stream.pix_fmt = "yuv420p"
            for frame in pixels:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")))
            container.mux(stream.encode())
        return Path(target).read_bytes()


def _codec() -> str:
    import av

    for name in _CODECS:
        if name in av.codecs_available:
            return name
    raise DataError(f"PyAV was built without {', '.join(_CODECS)}; write .gif or .webp instead")


def export_moving_digits(
    folder: str | os.PathLike[str], *, clips: int = 80, val: int = 40, suffix: str = ".mp4", **options: int
) -> Sequence[str]:
    """Write the embedded clips as files ``train/CLASS/00000.mp4`` and ``val/CLASS/00000.mp4``.

    Args:
        folder: The folder to write to; it is made if it does not exist.
        clips: The number of clips for training.
        val: The number of clips for validation.
        suffix: The suffix of the files, which decides about their format.
        options: The options ``frames``, ``size`` and ``seed`` of `MovingDigits`.

    Returns:
        The paths, training first.
    """
    paths = []
    parts: dict[Literal["train", "val"], int] = {"train": clips, "val": val}
    for part, count in parts.items():
        digits = MovingDigits(part, count, **options)
        for motion in MOTIONS:
            os.makedirs(os.path.join(folder, part, motion), exist_ok=True)
        for name, clip in zip(digits.names(), digits.clips, strict=True):
            paths.append(os.path.join(folder, part, name + suffix))
            write_video(paths[-1], clip.permute(0, 2, 3, 1).contiguous().numpy())
    return paths
