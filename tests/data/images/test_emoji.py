"""Emoji from tiny packages that the test writes into a folder, which stands for npm's registry."""

import base64
import hashlib
import io
import itertools
import json
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image, ImageColor

from ctxvision.data import DataError, open_data
from ctxvision.data.images.emoji import drawings, packages, source
from ctxvision.data.images.emoji.drawings import find_emoji, svg
from ctxvision.data.images.emoji.packages import Package, registry_url

ARTISTS = ("noto", "twemoji", "openmoji", "fluent-emoji-flat", "fxemoji")
FACES = {f"1f60{digit}": f"{word}-face" for digit, word in enumerate(("grinning", "winking", "sad", "neutral"))}
CHARS = {**FACES, "1f9e1": "orange-heart", "1f44b-1f3fb": "waving-hand-light", "2b50": "star"}


def _package(artist, names):
    """What a package holds: every drawing a colour of its own."""
    icons = {
        name: {"body": f"#{hashlib.md5((artist + name).encode()).hexdigest()[:6]}"} for name in names.values()
    }
    info = {"name": artist.title(), "author": {"name": f"{artist} people"}, "license": {"title": "CC0"}}
    chars = dict(names) if artist in drawings.BY_CODE_POINT else {}
    return {"chars": chars, "icons": {"icons": icons, "width": 8, "height": 8}, "info": info}


def _archive(files, kind=tarfile.REGTYPE):
    """Make a package's archive of (path, bytes) pairs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, content in files:
            member = tarfile.TarInfo(path)
            member.size, member.type, member.linkname = len(content), kind, "/etc/passwd"
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _json(package):
    return [(f"package/{name}.json", json.dumps(value).encode()) for name, value in package.items()]


def _publish(registry, artist, data):
    path = registry / "@iconify-json" / artist / "-" / f"{artist}-1.0.0.tgz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return Package(artist, "1.0.0", base64.b64encode(hashlib.sha512(data).digest()).decode())


def _paint(svg_string, skip_system_fonts):
    """Stand for the renderer: fill the picture with the colour that is the drawing's body."""
    side = int(svg_string.split('width="')[1].split('"')[0])
    body = svg_string.split(">")[1].split("<")[0]
    picture, buffer = (
        Image.new("RGBA", (side, side), ImageColor.getrgb(body) if body else (0, 0, 0, 0)),
        io.BytesIO(),
    )
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def registry(tmp_path, monkeypatch):
    folder = tmp_path / "registry"
    pins = [_publish(folder, artist, _archive(_json(_package(artist, CHARS)))) for artist in ARTISTS]
    monkeypatch.setattr(packages, "PACKAGES", tuple(pins))
    monkeypatch.setenv("CTXVISION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", folder.as_uri())
    monkeypatch.setitem(sys.modules, "resvg_py", SimpleNamespace(svg_to_bytes=_paint))
    return folder


def test_fetched_once_and_split_by_artist(registry, caplog):
    data = open_data("emoji#classes=all,size=16", batch_size=2)
    assert data.spec.class_names == (
        "grinning face (1f600)", "neutral face (1f603)", "orange heart (1f9e1)", "sad face (1f602)",
        "star (2b50)", "winking face (1f601)",
    )  # fmt: skip
    assert data.spec.input_size == (3, 16, 16)
    assert data.spec.crop_pct == 1
    assert {name.rpartition("/")[2] for name, _ in data.train_samples} == {
        "noto.png",
        "openmoji.png",
        "fxemoji.png",
    }
    assert {name.rpartition("/")[2] for name, _ in data.eval_samples} == {"twemoji.png"}
    assert sorted(label for _, label in data.eval_samples) == list(range(6))
    images, *_ = next(iter(data.val_dataloader()))
    assert images.shape == (2, 3, 16, 16)
    flips = [type(step).__name__ for step in data.train_dataset().transform.transforms if "Flip" in str(step)]
    assert not flips, "an arrow to the left must not be shown as one to the right"

    assert caplog.text.count("twemoji people") == 1
    assert "twemoji people (no address given), licence CC0" in Path(data.root, source.CREDITS).read_text()
    caplog.clear()
    for path in registry.rglob("*.tgz"):
        path.unlink()
    tested = open_data("emoji#classes=all,size=16,part=test")
    assert {name.rpartition("/")[2] for name, _ in tested.eval_samples} == {"fluent-emoji-flat.png"}
    assert any("validating on the drawings of fluent-emoji-flat" in note for note in tested.notes)
    assert tested.train_samples == data.train_samples
    assert tested.spec.class_names == data.spec.class_names
    open_data("emoji#classes=2,size=24,val=noto")  # another size needs no network either
    assert "fetching" not in caplog.text


def test_smaller_sets_are_parts_of_larger_ones(registry):
    names = [set(open_data(f"emoji#classes={count},size=8").spec.class_names) for count in (2, 3, 5, 6)]
    assert all(small < large for small, large in itertools.pairwise(names))
    assert all("face" in name for name in names[0]), "the largest group comes first"


def test_order_of_classes(monkeypatch):
    monkeypatch.setattr(drawings, "RUN", 2)
    monkeypatch.setattr(drawings, "WELL_DRAWN", 5)
    found = {artist: _package(artist, CHARS) for artist in ARTISTS}
    found["noto"]["chars"]["1f601"] = "winking-face-with-tongue"  # a face
    found["noto"]["icons"]["icons"]["winking-face-with-tongue"] = {"body": "new"}
    del found["fxemoji"]["icons"]["icons"]["sad-face"]
    found["fxemoji"]["icons"]["icons"]["orangeheart"] = found["fxemoji"]["icons"]["icons"].pop("orange-heart")
    found["openmoji"]["icons"]["icons"]["star"] = found["openmoji"]["icons"]["icons"]["orange-heart"]
    emoji = find_emoji(found)
    # two faces, then the other group, then the face that is left; last the one that four artists drew. The star
    # comes first by code point, so that the heart, which openmoji draws alike, is left out.
    assert [one.code for one in emoji] == ["1f600", "1f601", "2b50", "1f603", "1f602"]
    assert emoji[1].name == "winking-face-with-tongue"
    assert emoji[-1].icons.keys() == set(drawings.BY_CODE_POINT)
    assert "1f44b-1f3fb" not in {one.code for one in emoji}
    for artist in drawings.BY_CODE_POINT:
        found[artist]["chars"] = {artist: "star"}
    with pytest.raises(DataError, match="share no code point"):
        find_emoji(found)


def test_names_without_dashes(registry):
    package = {artist: _package(artist, {"1f9e1": "orange-heart"}) for artist in ARTISTS}
    package["fxemoji"]["icons"]["icons"] = {"orangeheart": {"body": ""}}
    assert find_emoji(package)[0].icons["fxemoji"] == "orangeheart"


def test_drawings_that_are_turned():
    icons = {
        "icons": {"left": {"body": "<path/>", "width": 30, "top": 2}},
        "aliases": {"right": {"parent": "left", "hFlip": True}, "odd": {"parent": "left", "rotate": 1},
                    "again": {"parent": "again"}},
        "height": 20,
    }  # fmt: skip
    assert 'viewBox="0 2 30 20"><path/></svg>' in svg(icons, "left", 48)
    assert '<g transform="translate(30 0) scale(-1 1)"><path/></g>' in svg(icons, "right", 48)
    for name, why in (("odd", "turned"), ("missing", "no drawing 'missing'"), ("again", "lead nowhere")):
        with pytest.raises(DataError, match=why):
            svg(icons, name, 48)


def test_rendered_as_drawn():
    pytest.importorskip("resvg_py")
    icons = {"icons": {"a": {"body": '<path fill="#f00" d="M0 0h4v8H0z"/>', "width": 8, "height": 8}},
             "aliases": {"b": {"parent": "a", "hFlip": True}}}  # fmt: skip
    left, right = (Image.open(io.BytesIO(drawings.render(svg(icons, name, 16)))) for name in ("a", "b"))
    assert left.size == (16, 16)
    assert left.getpixel((3, 8)) == right.getpixel((12, 8)) == (255, 0, 0, 255)
    assert left.getpixel((12, 8))[3] == right.getpixel((3, 8))[3] == 0
    with pytest.raises(DataError, match="cannot be rendered"):
        drawings.render("<svg")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("classes=1", "classes must be a whole number from 2 .* or all, got '1'"),
        ("classes=7", "classes must lie between 2 and 6, got 7"),
        ("size=4", "size must be a whole number from 8 to 512, got '4'"),
        ("val=fluent-emoji-flat", "val and test are both"),
        ("val=fxemoji", "val must be twemoji or"),  # it has not drawn all classes
        ("part=train", "part must be val or test"),
        ("artist=noto", "no option 'artist'"),
    ],
)
def test_wrong_options(registry, options, said):
    with pytest.raises(DataError, match=said):
        open_data(f"emoji#{options}")


def test_without_network(registry, monkeypatch):
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", (registry / "nowhere").as_uri())
    with pytest.raises(
        DataError, match=r"noto-1\.0\.0\.tgz: cannot be fetched .*NPM_CONFIG_REGISTRY names another"
    ):
        open_data("emoji")


def test_cache_folder_that_cannot_be_written(registry, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CTXVISION_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"file/emoji: cannot be written \(.+\); CTXVISION_CACHE names another"):
        open_data("emoji")


def test_without_the_renderer_nothing_is_fetched(registry, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(DataError, match=r"needs the package resvg_py: pip install .*emoji"):
        open_data("emoji")
    assert not list(tmp_path.rglob("cache/**/*.tgz"))


def test_hostile_packages(registry, monkeypatch, tmp_path):
    def refused(said):
        with pytest.raises(DataError, match=said):
            open_data("emoji")

    path = next(registry.rglob("twemoji*.tgz"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    refused(r"twemoji 1\.0\.0 from file:.* is not the pinned package: its SHA-512 is")
    path.write_bytes(whole)
    monkeypatch.setattr(packages, "_MOST_PACKAGE", 10)
    (tmp_path / "cache/emoji/packages/noto-1.0.0.tgz").unlink()
    refused("more than 10 bytes")
    monkeypatch.setattr(packages, "_MOST_PACKAGE", 1 << 20)
    for data, said in (
        (_archive(_json(_package("noto", CHARS)), tarfile.SYMTYPE), "holds no chars.json, icons.json, info.json"),
        (_archive([("package/chars.json", b"{")]), "cannot be read"),
        (b"no archive", "cannot be read"),
    ):
        (tmp_path / "cache/emoji/packages/noto-1.0.0.tgz").unlink(missing_ok=True)
        others = [package for package in packages.PACKAGES if package.name != "noto"]
        monkeypatch.setattr(packages, "PACKAGES", (_publish(registry, "noto", data), *others))
        refused(said)
    # what is kept is checked again
    kept = tmp_path / "cache/emoji/packages/noto-1.0.0.tgz"
    kept.write_bytes(b"other")
    refused("is not the pinned package")


@pytest.mark.parametrize(
    ("environment", "npmrc", "url"),
    [
        ({}, "", "https://registry.npmjs.org/"),
        ({}, "fund=false\n# registry=http://no\nregistry = 'http://mirror/npm'\n", "http://mirror/npm/"),
        (
            {"WHERE": "a.example"},
            "registry=http://b\n@iconify-json:registry=https://${WHERE}/\n",
            "https://a.example/",
        ),
        ({"npm_config_registry": "https://c/"}, "registry=http://b\n", "https://c/"),
        ({"NPM_CONFIG_REGISTRY": "file:///folder"}, "", "file:///folder/"),
    ],
)
def test_registry_is_npms(tmp_path, environment, npmrc, url):
    (tmp_path / "npmrc").write_text(npmrc)
    assert registry_url({**environment, "NPM_CONFIG_USERCONFIG": str(tmp_path / "npmrc")}) == url


def test_registry_that_is_none():
    with pytest.raises(DataError, match="npm's registry is 'ftp://x'"):
        registry_url({"NPM_CONFIG_REGISTRY": "ftp://x"})
