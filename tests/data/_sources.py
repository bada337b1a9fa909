"""The same forty small pictures, cats and dogs, as every kind of source."""

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np

from _pictures import make_folder, picture, png_bytes

CLASSES = ("cat", "dog")
PER_CLASS = 20


def pictures():
    """(class, index, PNG bytes)."""
    for name in CLASSES:
        for index in range(PER_CLASS):
            yield name, index, png_bytes(picture(name, index))


def folder(root: Path) -> str:
    return str(make_folder(root / "photos", dict.fromkeys(CLASSES, PER_CLASS)))


def table(root: Path) -> str:
    make_folder(root, dict.fromkeys(CLASSES, PER_CLASS))
    rows = [(f"{name}/{index:03d}.png", name) for name in CLASSES for index in range(PER_CLASS)]
    write_table(root / "photos.csv", [("path", "label"), *rows])
    return str(root / "photos.csv")


def write_table(path: Path, rows, **options) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, **options).writerows(rows)
    return path


def shards(root: Path) -> str:
    samples = [
        (f"{index:03d}-{name}", {"png": data, "cls": str(CLASSES.index(name)).encode()})
        for name, index, data in pictures()
    ]
    write_shard(root / "photos-00.tar", samples[::2])
    write_shard(root / "photos-01.tar", samples[1::2])
    return str(root / "photos-{00..01}.tar")


def write_shard(path: Path, samples, mode: str = "w") -> Path:
    """Write (key, {suffix: bytes or what JSON takes}) pairs."""
    with tarfile.open(path, mode, format=tarfile.USTAR_FORMAT) as tar:
        for key, files in samples:
            for suffix, data in files.items():
                data = data if isinstance(data, bytes) else json.dumps(data).encode()
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def parquet(root: Path) -> str:
    import pyarrow
    import pyarrow.parquet

    names, _, data = zip(*pictures(), strict=True)
    columns = {"image": [{"bytes": d, "path": None} for d in data], "label": list(names)}
    pyarrow.parquet.write_table(pyarrow.table(columns), root / "photos.parquet")
    return f"hf:{root / 'photos.parquet'}"


def saved(root: Path) -> str:
    hub_dataset().save_to_disk(root / "saved")
    return f"hf:{root / 'saved'}"


def hub_dataset(rows=None, names=CLASSES):
    """A `datasets.Dataset` of (class number, image bytes) rows."""
    import datasets

    rows = rows or [(CLASSES.index(name), data) for name, _, data in pictures()]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    return datasets.Dataset.from_dict(
        {"image": [{"bytes": data, "path": None} for _, data in rows], "label": [label for label, _ in rows]},
        features=features,
    )


def cifar_records(count: int, label_bytes: int, classes: int, seed: int = 0) -> np.ndarray:
    """(count, label_bytes + 3072) uint8, as the binary version keeps them; every class comes up."""
    generator = np.random.default_rng(seed)
    rows = generator.integers(0, 256, (count, label_bytes + 3072), dtype=np.uint8)
    rows[:, label_bytes - 1] = np.arange(count) % classes
    return rows


SPLIT_HERE = {"folder": folder, "table": table, "shards": shards, "parquet": parquet, "saved": saved}


def write_tar(path, files, **fields):
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))
    return path
