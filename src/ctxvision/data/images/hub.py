"""Hugging Face ``datasets``: from its hub, from disk, or made of Parquet files or folders."""

import io
import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from huggingface_hub import constants

from ctxvision._extras import explain_import
from ctxvision._hub import cache_only, why_not_asked
from ctxvision.data.error import DataError
from ctxvision.data.labelled import DEFAULT_SPLIT, Found, LabelledSet, SplitRule, arrange, in_order
from ctxvision.data.options import check_options, choose_column
from ctxvision.data.table import LABEL_COLUMNS

IMAGE_COLUMNS = ("image", "img", "images", "jpg", "png", "picture", "pixel_values")
_VAL_SPLITS = ("validation", "val", "valid", "dev", "test")


def read_hub(
    name: str,
    *,
    options: Mapping[str, str] | None = None,
    split: SplitRule = DEFAULT_SPLIT,
) -> LabelledSet:
    """Open a data set of the package ``datasets``. No code that comes with a data set is run.

    Args:
        name: A path, of what ``save_to_disk`` wrote, a Parquet file, or a folder of these or of images; or else a
            name on the hub, with ``:CONFIG`` after it where it has several.
        options: The options of DATA: ``image`` and ``label`` name columns, ``train`` and ``val`` name splits.
        split: The rule that says which samples are held out where only one split has labels, and which classes
            there are. Rows are known by their numbers.

    Raises:
        DataError: The package is missing, the data set cannot be loaded, or its columns cannot be told.
    """
    where = f"hf:{name}"
    options = check_options(where, options, ("image", "label", "train", "val"))
    splits = _load(name, where)
    for role in ("train", "val"):
        if role in options and options[role] not in splits:
            raise DataError(f"{where}: no split {options[role]!r}; it has {', '.join(splits)}")
    train = options.get("train") or ("train" if "train" in splits else next(iter(splits)))
    image, label = _columns(splits[train], where, options)
    notes: list[str] = []
    chosen = [options["val"]] if "val" in options else [s for s in _VAL_SPLITS if s in splits and s != train]
    found = {train: _rows(splits[train], train, label, where, notes)}
    for part in chosen:
        found[part] = _rows(splits[part], part, label, where, notes)
        if any(found[part].values()):
            break
        del found[part]
    val = next((part for part in found if part != train), None)
    labelled = arrange(
        found[train],
        found[val] if val else None,
        where=f"{where} ({train})",
        where_val=f"{where} ({val})",
        split=split,
    )
    if val and val not in ("val", "valid", "validation"):
        notes.append(f"validating on {where} ({val})")
    labelled.notes[:0] = notes
    labelled.open_image = RowOpener({part: _undecoded(splits[part], image) for part in found}, image)
    return labelled


class RowOpener:
    """Opens the image of a row, by names such as ``train/17``.

    Args:
        splits: The splits, each a `datasets.Dataset`, by name.
        column: The column of the images, which holds bytes, a path, or a dictionary with either.
    """

    def __init__(self, splits: Mapping[str, Any], column: str) -> None:
        self.splits = dict(splits)
        self.column = column

    def __call__(self, name: str) -> str | BinaryIO:
        """Return the bytes of an image, not decoded, or its path."""
        split, _, row = name.rpartition("/")
        value = self.splits[split][int(row)][self.column]
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return io.BytesIO(value)
        if isinstance(value, str):
            return value
        raise ValueError(f"neither bytes nor a path, but {type(value).__name__}")


def _load(name: str, where: str) -> dict[str, Any]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise DataError(f"{where}: {explain_import(error) or error}") from error
    config = None
    if not os.path.exists(name) and ":" in name:
        name, _, config = name.rpartition(":")
    reason = "" if os.path.exists(name) else _why_not_asked(datasets, name)
    try:
        with cache_only() if reason else nullcontext():
            loaded = _open(datasets, name, config)
    except Exception as error:  # its readers, arrow's, the network's
        if not reason and isinstance(error, ImportError | NameError | AttributeError | MemoryError):
            raise  # of versions that do not fit, or of ours
        said = " ".join(str(error).split()) or type(error).__name__
        reason = f"{reason}, and it is not in the cache" if reason else said
        advice = "" if os.path.exists(name) else "; a name on the hub needs a network, a path must exist"
        raise DataError(f"{where}: cannot be loaded ({reason[:300]}){advice}") from error
    splits = dict(loaded) if isinstance(loaded, Mapping) else {str(loaded.split or "train"): loaded}
    if not splits:
        raise DataError(f"{where}: has no splits")
    return splits


def _why_not_asked(datasets: Any, name: str) -> str:
    """Say why the hub cannot be asked for a data set now; empty if it can."""
    if datasets.config.HF_HUB_OFFLINE and not constants.HF_HUB_OFFLINE:
        return "HF_DATASETS_OFFLINE is set"
    datasets.config.HF_ENDPOINT = (
        constants.ENDPOINT
    )  # the same without the slash at its end: a mirror may mind two
    return why_not_asked(f"datasets/{name}/resolve/main/README.md")


def _open(datasets: Any, name: str, config: str | None) -> Any:
    path = Path(name)
    if not path.exists():
        return datasets.load_dataset(name, config)
    if path.is_file():
        if path.suffix != ".parquet":
            raise ValueError("not a .parquet file")
        return datasets.load_dataset("parquet", data_files=str(path))
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return datasets.load_from_disk(name)
    return datasets.load_dataset(name, config)


def _columns(dataset: Any, where: str, options: Mapping[str, str]) -> tuple[str, str]:
    import datasets

    features = dataset.features
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    image = images[0] if len(images) == 1 else None
    label = labels[0] if len(labels) == 1 else None
    if "image" in options or image is None:
        image = choose_column(where, images or list(features), "image", IMAGE_COLUMNS, options)
    if "label" in options or label is None:
        columns = list(features) if "label" in options or not labels else labels
        label = choose_column(where, columns, "label", LABEL_COLUMNS, options)
    return str(image), str(label)


def _undecoded(dataset: Any, image: str) -> Any:
    import datasets

    dataset = dataset.select_columns([image])
    if isinstance(dataset.features[image], datasets.Image):
        return dataset.cast_column(image, datasets.Image(decode=False))
    return dataset


def _rows(dataset: Any, split: str, column: str, where: str, notes: list[str]) -> Found:
    """Find the rows of every class; a label that is missing or negative means that the row has none."""
    if column not in dataset.features:
        notes.append(f"{where} ({split}): no column {column!r}, left out")
        return {}
    names = getattr(dataset.features[column], "names", None)
    values = dataset[column][:]
    labels = [None if v is None or v == "" or (isinstance(v, int) and v < 0) else v for v in values]
    if any(not isinstance(label, str | int) for label in labels if label is not None):
        kinds = sorted({type(label).__name__ for label in labels})
        raise DataError(f"{where}: column {column!r} holds {', '.join(kinds)}, not one class for each image")
    texts = [None if v is None else names[v] if names else str(v) for v in labels]
    found: Found = {name: {} for name in names or in_order([text for text in texts if text is not None])}
    for row, text in enumerate(texts):
        if text is not None:
            found[text][f"{row:09d}"] = f"{split}/{row}"
    missing = texts.count(None)
    if missing:
        notes.append(f"{where} ({split}): {missing} of {len(texts)} rows have no label and are left out")
    return found
