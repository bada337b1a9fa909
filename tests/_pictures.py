"""Small picture files, good and bad, for the tests of data and command line."""

import io
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"cat": (200, 40, 40), "dog": (40, 200, 40), "emu": (40, 40, 200)}


def picture(name: str = "cat", seed: int = 0, size: tuple[int, int] = (24, 20)) -> Image.Image:
    """A noisy picture in its class's colour."""
    noise = np.random.default_rng(seed).integers(-30, 30, (size[1], size[0], 3))
    colour = np.array(COLOURS.get(name, (120, 120, 120)))
    return Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8))


def make_folder(root: Path, counts: dict[str, int], order: int = 1) -> Path:
    """Write ``counts[folder]`` PNGs into every folder below root, forwards or backwards."""
    for folder, count in list(counts.items())[::order]:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count)[::order]:
            picture(Path(folder).name, index).save(root / folder / f"{index:03d}.png")
    return root


def png_bytes(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of 40 kB that says it is 30000 × 30000."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (30000).to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


BAD = {  # suffix .png or .jpg; what the reason must say
    "truncated.png": (png_bytes(picture(size=(200, 200)))[:-2000], "truncated"),
    "text.jpg": (b"this is not a picture\n", "not an image"),
    "empty.png": (b"", "not an image"),
    "bomb.png": (bomb(), "decompression bomb"),
    "narrow.png": (png_bytes(Image.new("RGB", (1, 3000))), "unequal"),
    "damaged.png": (png_bytes(picture())[:60] + b"\0" * 400, ""),
    "script.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "not an image"),
}


def add_bad_files(folder: Path) -> list[str]:
    """Write one file of every bad kind; returns their paths."""
    for name, (data, _) in BAD.items():
        (folder / name).write_bytes(data)
    return sorted(str(folder / name) for name in BAD)
