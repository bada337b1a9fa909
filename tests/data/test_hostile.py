"""Files of strangers: every one is read, or has a reason, in bounded memory; a bug of ours is not a reason."""
# ruff: noqa: PT017

import csv
import io
import json
import re
import subprocess
import sys

import _coco
import numpy as np
import pytest
from _sources import write_tar
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from _pictures import picture
from ctxvision._extras import explain_import, install_command
from ctxvision.data import BadImageError, DataError, find_images, read_image
from ctxvision.data.detection.coco_masks import mask_problem
from ctxvision.data.detection.coco_reading import read_coco
from ctxvision.data.images import reading as images
from ctxvision.data.table import read_table

FUZZ = settings(
    max_examples=60, derandomize=True, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


def encoded(kind, mode="RGB", **options):
    file = io.BytesIO()
    picture(size=(30, 20)).convert(mode).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [("jfif", "JPEG"), ("jpe", "JPEG"), ("mpo", "JPEG"), ("avif", "AVIF"), ("AVIFS", "AVIF"), ("apng", "PNG"),
     ("pnm", "PPM"), ("jp2", "JPEG2000"), ("j2k", "JPEG2000"), ("tga", "TGA"), ("pcx", "PCX"), ("dib", "DIB")],
)  # fmt: skip
def test_what_the_decoder_takes_is_an_image_in_folders_and_shards(tmp_path, suffix, kind):
    pytest.importorskip("PIL.AvifImagePlugin") if kind == "AVIF" else None
    data = encoded(kind)
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / f"x.{suffix}").write_bytes(data)
    found = find_images(tmp_path / "set")
    assert len(found.train) == 2
    assert not [note for note in found.notes if "left out" in note]
    close = np.abs(np.asarray(read_image(found.train[0][0]), np.int16) - np.asarray(picture(size=(30, 20)))).mean()
    assert close < 30
    write_tar(tmp_path / "a.tar", {f"0.{suffix}": data, "0.cls": b"0", f"1.{suffix}": data, "1.cls": b"1"})
    assert len(find_images(tmp_path / "a.tar").train) == 2


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "is HEIC, which needs the package pillow-heif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0", "is HEIC, which needs the package pillow-heif"),
        (b"\xff\x0a" + bytes(20), "is JPEG XL, which needs the package pillow-jxl-plugin"),
    ],
)
def test_formats_of_other_packages_are_named(tmp_path, head, reason):
    (tmp_path / "a.jpg").write_bytes(head + bytes(40))
    for source in (tmp_path / "a.jpg", io.BytesIO(head + bytes(40))):
        with pytest.raises(BadImageError) as caught:
            read_image(source, name="a.jpg")
        assert caught.value.reason == reason


@pytest.mark.parametrize("bug", [AttributeError, TypeError, ImportError, NameError, MemoryError])
def test_a_bug_is_not_a_bad_image(tmp_path, monkeypatch, bug):
    picture().save(tmp_path / "a.png")

    def fails(*_, **__):
        raise bug("of another release")

    for place, name in ((images, "_as_8_bit"), (Image, "open")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, fails)
            with pytest.raises(bug):
                read_image(tmp_path / "a.png")


def test_a_package_that_does_not_fit_is_not_called_missing():
    missing = ModuleNotFoundError("No module named 'webdataset'", name="webdataset")
    assert explain_import(missing) == f"needs the package webdataset: {install_command('data')}"
    other = ImportError("cannot import name 'Image' from 'PIL'", name="PIL")
    told = explain_import(other)
    assert re.match(r"pillow [\d.]+ does not fit \(cannot .*\); ", told, re.IGNORECASE)
    assert told.endswith(install_command("train", upgrade=True))
    assert explain_import(ModuleNotFoundError("No module named 'numpy.x'", name="numpy.x")) is None


SIDE = 4000
MOST = {"RGB": 8, "I;16": 12.5, "RGBA": 15}
"""Bytes a pixel: two thirds more are needed where whole images are copied, a third less was measured."""


MEASURE = """
import os, resource, sys
from ctxvision.data.images.reading import read_image
if os.fork():  # the peak of a child begins with what is taken now, not with that of the imports
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
for path in sys.argv[1:]:
    read_image(path)
    print(peak() - before)
"""


@pytest.mark.process
def test_a_large_image_is_in_memory_once_and_while_it_is_converted_twice(tmp_path):
    """It was there three to four times. A new process measures: in an old one freed memory is used again."""
    for mode in MOST:
        Image.new(mode, (SIDE, SIDE)).save(tmp_path / f"{mode}.png", compress_level=1)
    words = [sys.executable, "-c", MEASURE, *(str(tmp_path / f"{mode}.png") for mode in MOST)]
    took = map(int, subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())
    for most, bytes_more in zip(MOST.values(), took, strict=True):
        assert 2 * SIDE**2 < bytes_more < most * SIDE**2


def test_strips_are_the_whole(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 65536, (37, 50), dtype=np.uint16)
    Image.fromarray(noise).save(tmp_path / "16.png")
    picture(size=(50, 37)).convert("RGBA").save(tmp_path / "a.png")
    picture(size=(50, 37)).quantize(9).save(tmp_path / "p.png", transparency=3)
    picture(size=(50, 37)).convert("CMYK").save(tmp_path / "c.tif")
    paths = sorted(tmp_path.iterdir())
    whole = [np.asarray(read_image(path, mode)) for path in paths for mode in ("RGB", "L")]
    monkeypatch.setattr(images, "_STRIP", 50 * 7)
    parts = [np.asarray(read_image(path, mode)) for path in paths for mode in ("RGB", "L")]
    assert all((a == b).all() for a, b in zip(whole, parts, strict=True))


def test_the_limit_of_pixels_is_named_and_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    picture().save(tmp_path / "a.png")
    with pytest.raises(BadImageError, match=r"exceeds limit of 200 pixels.*or set CTXVISION_MAX_PIXELS"):
        read_image(tmp_path / "a.png")
    monkeypatch.setenv("CTXVISION_MAX_PIXELS", "480")
    assert read_image(tmp_path / "a.png").size == (24, 20)
    monkeypatch.setenv("CTXVISION_MAX_PIXELS", "many")
    with pytest.raises(
        DataError, match="CTXVISION_MAX_PIXELS must be a whole number of pixels, at least 1, got 'many'"
    ):
        read_image(tmp_path / "a.png")


SEEDS = [
    encoded("PNG"), encoded("PNG", "P"), encoded("JPEG"), encoded("GIF"), encoded("BMP"), encoded("TIFF"),
    encoded("WEBP"), encoded("PPM"), encoded("JPEG2000"), encoded("TIFF", compression="tiff_lzw"),
    encoded("PCX"), encoded("TGA"), *([encoded("AVIF")] if "AVIF" in images.FORMATS else []),
]  # fmt: skip
MUTATIONS = st.lists(
    st.tuples(st.integers(0, 10**6), st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255)), max_size=8
)


@settings(FUZZ, max_examples=150)
@given(st.sampled_from(SEEDS), MUTATIONS, st.integers(0, 10**6))
def test_damaged_images_have_a_reason(seed, mutations, cut):
    data = bytearray(seed)
    for place, value in mutations:
        data[place % min(len(data), 10 ** (2 + place % 3))] = value
    if cut % 3 == 0:
        del data[cut % len(data) :]
    monkey = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = 10**6
    try:
        assert read_image(io.BytesIO(bytes(data)), name="a.tga").mode == "RGB"
    except BadImageError as error:
        assert error.reason
        assert "\n" not in error.reason
    finally:
        Image.MAX_IMAGE_PIXELS = monkey


NUMBERS = st.integers(-3, 70) | st.floats() | st.sampled_from([10**400, -(10**400), 2**62, 1e308, True])
LEAVES = st.none() | NUMBERS | st.text(max_size=3)
VALUES = st.recursive(
    LEAVES, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=3), v, max_size=2)
)


@settings(FUZZ, max_examples=60)
@given(data=st.data())
def test_annotations_of_strangers_have_a_reason(data, tmp_path):
    content = _coco.content()
    for _ in range(data.draw(st.integers(1, 3))):
        entries = content[data.draw(st.sampled_from(sorted(content)))]
        if not isinstance(entries, list) or not entries:
            continue
        place = data.draw(st.integers(0, len(entries) - 1))
        if isinstance(entries[place], dict) and data.draw(st.booleans()):
            field = data.draw(st.sampled_from(sorted(entries[place])))
            inner = entries[place][field]
            if isinstance(inner, list) and inner and data.draw(st.booleans()):
                inner[data.draw(st.integers(0, len(inner) - 1))] = data.draw(VALUES)
            else:
                entries[place][field] = data.draw(VALUES)
        else:
            entries[place] = data.draw(VALUES)
    root = tmp_path
    if not (root / "train").is_dir():
        _coco.write(root)
    (root / "a.json").write_text(json.dumps(content))
    for masks in (False, True):
        try:
            found = read_coco(root / "a.json", root / "train", masks=masks)
        except DataError as error:
            assert "\n" not in str(error)
        else:
            assert len(found.images) == len(found.annotations)


@pytest.mark.parametrize("text", ["[" * 10**5, '{"images": ' + "9" * 5000 + "}", '{"a":' * 10**5])
def test_annotations_that_break_the_parser(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json"):
        read_coco(tmp_path / "a.json", tmp_path)


def test_runs_whose_sum_wraps_around():
    """Four of them are 2^64, which is no pixel at all."""
    counts = [2**62] * 4 + [40 * 60]
    assert mask_problem({"size": [40, 60], "counts": counts}, 40, 60) == "with a damaged run-length code"
    assert mask_problem([[10**400, 0, 1, 1, 2, 2]], 40, 60) == "with a polygon far outside the image"


@settings(FUZZ, max_examples=60)
@given(
    st.binary(max_size=200)
    | st.lists(st.lists(st.text(max_size=6), max_size=4), max_size=5).map(
        lambda rows: "\n".join(",".join(row) for row in [["path", "label"], *rows]).encode("utf-8", "replace")
    )
)
def test_tables_of_strangers_have_a_reason(tmp_path, data):
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_table(tmp_path / "a.csv")
    assert str(tmp_path / "a.csv") in str(caught.value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("path,label\ncat/000.png,cat\n".encode("utf-16"), "not UTF-8 text"),
        ("path,label\nä.png,cat\n".encode("cp1252"), "not UTF-8 text"),
        (b"path,label\n" + b"x" * 200_000 + b",cat\n", "field larger than field limit"),
        (b"x" * 10**6, "its first line has more than 100000 characters"),
        (b"path,label\na\0.png,cat\n", ""),
        (b"path,label\n\ncat/000.png\n", "no usable rows"),
    ],
)
def test_tables_in_other_encodings_and_sizes(tmp_path, data, reason):
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(DataError, match=reason):
        read_table(tmp_path / "a.csv")
    assert csv.field_size_limit() == 131072
