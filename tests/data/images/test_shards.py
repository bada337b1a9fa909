"""Shards: indexed once, read at random, and what may be wrong with them."""

import gzip
import http.server
import os
import re
import sys
import tarfile
import threading

import pytest
from _sources import shards, write_shard

from _pictures import picture, png_bytes
from ctxvision._extras import install_command
from ctxvision.data import DataError, find_images, read_image
from ctxvision.data.images import shard_index

PNG = png_bytes(picture())


def samples(*labels, suffix="cls"):
    return [(f"{i:04d}", {"png": PNG, suffix: label}) for i, label in enumerate(labels)]


def opened(found, name):
    return read_image(found.open_image(name))


def test_classes_images_and_split(tmp_path):
    found = find_images(shards(tmp_path))
    assert found.class_names == ("0", "1")
    assert len(found.train) == 32
    assert [label for _, label in found.val] == [0] * 4 + [1] * 4
    for name, label in found.train[::5] + found.val:
        index, kind = name.rpartition("::")[2].partition(".")[0].split("-")
        assert ("cat", "dog")[label] == kind
        assert opened(found, name).tobytes() == picture(kind, int(index)).tobytes()


def test_split_does_not_depend_on_the_folder_or_the_order_of_the_shards(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        shards(tmp_path / name)
    one = find_images(f"{tmp_path}/one/photos-{{00..01}}.tar")
    other = find_images(f"{tmp_path}/other/photos-{{01,00}}.tar")
    star = find_images(f"{tmp_path}/other/*.tar")
    assert one.fingerprint == other.fingerprint == star.fingerprint
    assert {name.rpartition("/")[2] for name, _ in one.val} == {name.rpartition("/")[2] for name, _ in other.val}


def test_validation_shards_and_names_of_classes(tmp_path):
    write_shard(tmp_path / "train-0.tar", samples(b"0", b"10", b"2"))
    write_shard(tmp_path / "val-0.tar", samples(b"2\n", b"0"))
    (tmp_path / "names.txt").write_text("\n".join(f"class {i}" for i in range(11)))
    data = f"{tmp_path}/train-{{0..0}}.tar#val={tmp_path}/val-0.tar"
    assert find_images(data).class_names == ("0", "2", "10")
    found = find_images(f"{data},classes={tmp_path}/names.txt")
    assert found.class_names == ("class 0", "class 2", "class 10")
    assert [label for _, label in found.val] == [0, 1]
    assert found.fingerprint == ""
    (tmp_path / "names.txt").write_text("class 0\nclass 1\n")
    with pytest.raises(DataError, match="names classes 0 to 1, but there is a label '10'"):
        find_images(f"{data},classes={tmp_path}/names.txt")


def test_class_that_is_only_in_the_validation_shards(tmp_path):
    write_shard(tmp_path / "train.tar", samples(b"0", b"1"))
    write_shard(tmp_path / "val.tar", samples(b"0", b"2"))
    with pytest.raises(DataError, match=r"train.tar has no class '2'"):
        find_images(f"{tmp_path}/train.tar#val={tmp_path}/val.tar")


@pytest.mark.parametrize(
    ("suffix", "values", "option", "classes"),
    [
        ("json", [{"label": "cat"}, {"label": "dog"}], "", ("cat", "dog")),
        ("json", [{"class": 3, "size": 1}, {"class": 20}], "", ("3", "20")),
        ("json", [{"breed": "pug"}, {"breed": "lab"}], "#label=json.breed", ("lab", "pug")),
        ("txt", [b"pug", b"lab"], "#label=txt", ("lab", "pug")),
        ("cls", [b"1", b"0"], "#image=png", ("0", "1")),
    ],
)
def test_where_labels_are(tmp_path, suffix, values, option, classes):
    write_shard(tmp_path / "a.tar", samples(*values, suffix=suffix))
    assert find_images(f"{tmp_path}/a.tar{option}").class_names == classes


def test_index_is_made_once_and_again_when_the_shard_changes(tmp_path, monkeypatch):
    scanned = []
    original = shard_index.scan_shard
    monkeypatch.setattr(shard_index, "scan_shard", lambda *a: scanned.append(a[0]) or original(*a))
    path = write_shard(tmp_path / "a.tar", samples(b"0", b"1"))
    first = find_images(path)
    assert find_images(path).train == first.train
    assert len(scanned) == 1
    find_images(f"{path}#image=png")  # another question
    assert len(scanned) == 2
    write_shard(path, samples(b"0", b"1", b"1", b"1"))
    assert len(find_images(path).train) + len(find_images(path).val) == 4
    assert len(scanned) == 3


def test_damaged_index_is_made_again(tmp_path, cache):
    path = write_shard(tmp_path / "a.tar", samples(b"0", b"1"))
    first = find_images(path)
    (index,) = (cache / "ctxvision" / "shards").glob("*.json")
    for text in ("", "[1, 2]", '[[["a"]], ""]'):
        index.write_text(text)
        assert find_images(path).train == first.train


def test_read_only_cache_is_no_harm(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CTXVISION_CACHE", str(tmp_path / "file"))
    assert len(find_images(write_shard(tmp_path / "a.tar", samples(b"0", b"1"))).train) == 2
    assert "the index is not kept" in caplog.text


def test_samples_without_label_or_image(tmp_path):
    broken = [
        ("a", {"png": PNG}),
        ("b", {"cls": b"1"}),
        ("c", {"png": PNG, "json": [1]}),
        ("d", {"png": PNG, "cls": b""}),
        ("e", {"png": PNG, "json": 3}),
        ("f", {"png": PNG, "json": b"{"}),
    ]
    path = write_shard(tmp_path / "a.tar", [*samples(b"0", b"1"), *broken])
    found = find_images(path)
    assert len(found.train) == 2
    assert f"{path}: 5 samples have no label and are left out" in found.notes
    with pytest.raises(DataError, match="a has no label"):
        find_images(path, strict=True)


@pytest.mark.parametrize("cut", [300, 700, 1000, 2048, 2048 + 512 + 100])
def test_truncated_shard(tmp_path, cut):
    path = write_shard(tmp_path / "a.tar", samples(*[b"0", b"1"] * 10))
    with tarfile.open(path) as tar:
        offsets = [info.offset for info in tar if info.name.endswith(".png")]
    path.write_bytes(path.read_bytes()[: offsets[11] + cut])
    found = find_images(path)
    assert len(found.train) + len(found.val) == 11
    assert all(opened(found, name) for name, _ in found.train + found.val)
    assert any("samples before are used" in note for note in found.notes)
    with pytest.raises(DataError, match=r"a\.tar: (not a whole tar file|truncated)"):
        find_images(path, strict=True)


@pytest.mark.parametrize("sample", [0, 11])
def test_shard_that_ends_between_two_samples(tmp_path, sample):
    path = write_shard(tmp_path / "a.tar", samples(*[b"0", b"1"] * 10))
    with tarfile.open(path) as tar:
        offsets = [info.offset for info in tar if info.name.endswith(".png")]
    path.write_bytes(path.read_bytes()[: offsets[sample]])
    if sample:
        assert any("no end mark; the 11 samples before are used" in note for note in find_images(path).notes)
    else:
        with pytest.raises(DataError, match="not a whole tar file"):
            find_images(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a whole tar file"),
        (b"this is not a tar file" * 100, "not a whole tar file"),
        (None, "compressed; unpack it with gunzip"),
    ],
)
def test_no_tar_files(tmp_path, content, message):
    path = write_shard(tmp_path / "a.tar", samples(b"0", b"1"))
    path.write_bytes(gzip.compress(path.read_bytes()) if content is None else content)
    with pytest.raises(DataError, match=message) as error:
        find_images(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("none-{0..2}.tar", "none-0.tar: no such file"),
        ("none-*.tar", "no such shards"),
        ("pipe:touch owned; cat a.tar", "pipe: is not among http"),
        ("pipe:touch owned|cat a.tar", "pipe: is not among http"),
        ("s3://bucket/a.tar", "s3: is not among http"),
    ],
)
def test_shards_that_are_not_there(tmp_path, monkeypatch, pattern, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        find_images(pattern)
    assert not os.path.exists("owned")


def test_two_samples_of_one_name(tmp_path):
    (tmp_path / "b").mkdir()
    for path in (tmp_path / "a.tar", tmp_path / "b" / "a.tar"):
        write_shard(path, samples(b"0", b"1"))
    with pytest.raises(DataError, match="two samples are called 0000"):
        find_images(f"{tmp_path}/{{a,b/a}}.tar")


def test_urls_are_fetched_once(tmp_path, cache):
    (tmp_path / "web").mkdir()
    shards(tmp_path / "web")
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=tmp_path / "web")

        def log_message(self, *_):
            requests.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/photos-{{00..01}}.tar"
            found = find_images(url)
            first = sorted(requests)
            again = find_images(url)
            assert sorted(requests) == first
            with pytest.raises(DataError, match=r"photos-02.tar: cannot be fetched"):
                find_images(url.replace("01", "02"))
        finally:
            server.shutdown()
            thread.join()
    assert set(first) == {"/photos-00.tar", "/photos-01.tar"}
    assert set(requests) - set(first) == {"/photos-02.tar"}
    assert [requests.count(path) for path in set(first)] == [first.count(path) for path in set(first)]
    assert again.train == found.train
    assert opened(found, found.train[0][0]).size == (24, 20)
    assert not list(cache.rglob("*.part*"))


def test_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    monkeypatch.delitem(sys.modules, "webdataset.shardlists", raising=False)
    with pytest.raises(
        DataError, match="a.tar: needs the package webdataset: " + re.escape(install_command("data")) + "$"
    ):
        find_images("a.tar")
