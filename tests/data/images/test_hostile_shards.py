"""Shards of strangers: every file in them is read or counted, and no header is believed."""

import io
import tarfile

import pytest
from _sources import write_tar
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from _pictures import picture, png_bytes
from ctxvision.data import DataError, find_images
from ctxvision.data.images import shards
from ctxvision.data.images.shard_index import scan_shard
from ctxvision.data.images.shards import expand, open_member

FUZZ = settings(
    max_examples=40, derandomize=True, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


NAMES = ("a::b.png", "a::.png", "::b.png", ":b.png", "a b.png", "100%.png", "a#b.png", "ü/日本.png", "n/e/s/t.png",
         "a@1+2.png", "a{1..2}.png", "../up.png", "/abs.png", "a.b.c.png")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_name_in_a_shard_is_read(tmp_path, name):
    folder = tmp_path / "x::y"
    folder.mkdir()
    data = png_bytes(picture(seed=3))
    label = name.removesuffix("png") + "cls"
    path = write_tar(folder / "a.tar", {name: data, label: b"0", "z.png": png_bytes(picture()), "z.cls": b"1"})
    found = find_images(path)
    assert len(found.train) == 2
    opened = [open_member(sample).read() for sample, _ in found.train]
    assert data in opened
    assert found.open_image is open_member


@pytest.mark.parametrize("pattern", ["a-{000000..99999999}.tar", "{0..9999}-{0..9999}.tar", "{1..2000000..1}.tar",
                                     "{0.." + "9" * 5000 + "}.tar", "{{0..999999},{0..999999}}.tar"])  # fmt: skip
def test_ranges_of_shards_are_counted_before_they_are_made(pattern):
    with pytest.raises(DataError, match="means more than 1000000 shards"):
        expand(pattern)


def test_patterns_of_shards(monkeypatch):
    assert expand("a-{00..02}-{x,y}.tar")[:3] == ["a-00-x.tar", "a-00-y.tar", "a-01-x.tar"]
    monkeypatch.setattr(shards, "_MOST_SHARDS", 1000)
    assert len(expand("{0..999}.tar")) == 1000
    with pytest.raises(DataError, match="means more than 1000 shards"):
        expand("{0..1000}.tar")
    for pattern in ("{0..3..0}.tar", "{a", "a}.tar"):
        try:
            expand(pattern)
        except DataError as error:
            assert "not a pattern of shards" in str(error)  # noqa: PT017 - some are taken as they are


def header(size, kind=b"0", name=b"0.png"):
    info = tarfile.TarInfo("0.png")
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


PETA = b"\x80" + (1 << 50).to_bytes(11, "big")
NEGATIVE = b"\xff" * 10 + b"\xfc\x00"


@pytest.mark.parametrize("size", [PETA, NEGATIVE, b"\xff" * 12])
@pytest.mark.parametrize("kind", [b"0", b"x", b"L", b"g", b"S", b"5"])
def test_headers_that_promise_too_much(tmp_path, size, kind):
    path = tmp_path / "a.tar"
    write_tar(path, {"a.png": png_bytes(picture()), "a.cls": b"0"})
    whole = path.read_bytes()
    end = 512 * 2 + -(-len(png_bytes(picture())) // 512) * 512 + 512
    path.write_bytes(whole[:end] + header(size, kind) + bytes(2048))
    members, _, problem = scan_shard(str(path))
    assert len(members) <= 1
    assert problem or kind in b"S5g"


def test_what_is_no_image_in_a_shard_is_counted(tmp_path):
    path = tmp_path / "a.tar"
    png = png_bytes(picture())
    with tarfile.open(path, "w") as tar:
        for name, data in {"a.png": png, "a.cls": b"0", "b.png": png, "b.cls": b"1", "c.heic": b"x", "c.cls": b"1",
                           "d.json": b"[" * 10**5, "d.png": png}.items():  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, kind in (("e.png", tarfile.SYMTYPE), ("f.png", tarfile.LNKTYPE), ("g.png", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    found = find_images(path)
    assert len(found.train) == 2
    note = next(note for note in found.notes if "left out: " in note)
    assert "1 .heic (needs the package pillow-heif)" in note
    assert "2 links" in note
    assert "1 devices" in note
    assert find_images(path).notes == found.notes  # from the index


@settings(FUZZ, max_examples=80)
@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_shards_have_a_reason(tmp_path, mutations):
    path = write_tar(
        tmp_path / "a.tar", {"a.png": b"x" * 600, "a.cls": b"0", "b.png": b"y", "b.json": b'{"label": 1}'}
    )
    data = bytearray(path.read_bytes())
    for place, value in mutations:
        data[place] = value
    path.write_bytes(data)
    members, _, problem = scan_shard(str(path))
    assert "\n" not in problem
    assert all(0 <= member.offset < len(data) for member in members)
