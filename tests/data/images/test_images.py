"""Decoding: every mode ends as the right 8-bit pixels, every bad file as one reason."""

import io
import os
import zlib

import numpy as np
import pytest
from PIL import Image

from _pictures import BAD, add_bad_files, make_folder, picture
from ctxvision.data import BadImageError, list_images, read_image


def pixels(path, mode="RGB"):
    return np.asarray(read_image(path, mode))


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named_with_a_reason(tmp_path, name):
    add_bad_files(tmp_path)
    with pytest.raises(BadImageError) as error:
        read_image(tmp_path / name)
    assert error.value.path == str(tmp_path / name)
    assert BAD[name][1] in error.value.reason
    assert "\n" not in str(error.value)
    assert error.value.reason


def test_missing_file_and_folder_are_bad_images(tmp_path):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(BadImageError, match="directory"):
            read_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = 250  # a mark in the upper left corner
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    got = pixels(tmp_path / "a.jpg").astype(int)
    assert got.shape == upright.shape
    assert np.abs(got - upright).max() < 40


def test_broken_exif_does_not_make_an_image_bad(tmp_path):
    picture().save(tmp_path / "a.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff garbage")
    assert pixels(tmp_path / "a.jpg").shape == (20, 24, 3)


def test_grey_becomes_three_equal_channels(tmp_path):
    grey = picture().convert("L")
    grey.save(tmp_path / "a.png")
    assert (pixels(tmp_path / "a.png") == np.asarray(grey)[..., None]).all()
    assert (pixels(tmp_path / "a.png", "L") == np.asarray(grey)).all()


def test_16_bits_are_scaled_not_clipped(tmp_path):
    values = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        assert (pixels(tmp_path / name, "L").ravel() == np.arange(256)).all()


def test_cmyk_keeps_its_colours(tmp_path):
    picture("cat", size=(32, 32)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    red, green, blue = pixels(tmp_path / "a.jpg").reshape(-1, 3).mean(0)
    assert red > 150
    assert green < 100
    assert blue < 100


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(tmp_path, mode):
    image = Image.new("RGBA", (8, 8), (10, 10, 10, 255))
    image.paste((0, 0, 0, 0), (0, 0, 4, 8))
    image.convert(mode).save(tmp_path / "a.png")
    got = pixels(tmp_path / "a.png")
    assert (got[:, :4] == 255).all()
    assert (got[:, 4:] == 10).all()


def frames():
    return [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]


@pytest.mark.parametrize(
    ("suffix", "options"), [("webp", {"lossless": True}), ("png", {}), ("gif", {}), ("tif", {})]
)
def test_first_of_several_frames(tmp_path, suffix, options):
    path = tmp_path / f"a.{suffix}"
    first, *others = frames()
    first.save(path, save_all=True, append_images=others, **options)
    with Image.open(path) as image:
        assert image.n_frames == 3
    assert (pixels(path) == (255, 0, 0)).all()


def test_picture_before_an_animated_png(tmp_path):
    """What a program that knows no animation shows, here blue before red and green."""
    red, blue, green = frames()
    blue.save(tmp_path / "a.png", save_all=True, append_images=[red, green], default_image=True)
    assert (pixels(tmp_path / "a.png") == (0, 0, 255)).all()


def chunk(kind, data):
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png(values, colour_type, depth, *extra):
    """A PNG of an array (H, W, …) of big-endian samples."""
    header = (
        values.shape[1].to_bytes(4, "big")
        + values.shape[0].to_bytes(4, "big")
        + bytes([depth, colour_type, 0, 0, 0])
    )
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_16_bits_a_channel(tmp_path, colour_type, channels):
    values = np.zeros((16, 16, channels), ">u2") + 65535
    values[..., 0] = np.arange(256).reshape(16, 16) * 257  # 257: so that 65535 is 255
    (tmp_path / "a.png").write_bytes(png(values, colour_type, 16))
    assert (pixels(tmp_path / "a.png")[..., 0].ravel() == np.arange(256)).all()
    if colour_type == 2:
        (tmp_path / "a.ppm").write_bytes(b"P6 16 16 65535\n" + values.tobytes())
        assert (pixels(tmp_path / "a.ppm")[..., 0].ravel() == np.arange(256)).all()


def test_palette_with_transparency(tmp_path):
    indices = np.repeat([[0, 1, 2, 3]], 4, 0).astype(np.uint8)
    palette = chunk(b"PLTE", bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9]))
    (tmp_path / "a.png").write_bytes(png(indices, 3, 8, palette, chunk(b"tRNS", bytes([255, 255, 255, 0]))))
    assert pixels(tmp_path / "a.png")[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_one_pixel(tmp_path, mode):
    Image.new("RGB", (1, 1), "red").save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png", mode).shape[:2] == (1, 1)


def test_20_000_pixels(tmp_path):
    Image.new("L", (20000, 150), 7).save(tmp_path / "a.jpg")
    assert pixels(tmp_path / "a.jpg", "L").shape == (150, 20000)
    Image.new("1", (20000, 20000)).save(tmp_path / "b.png")
    with pytest.raises(BadImageError, match=r"400000000 pixels.*exceeds limit of 178956970.*scale it down"):
        read_image(tmp_path / "b.png")
    Image.new("1", (20000, 99)).save(tmp_path / "c.png")
    with pytest.raises(BadImageError, match="sides 20000 × 99 are more unequal than 200 : 1"):
        read_image(tmp_path / "c.png")


@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_jpeg(tmp_path, progressive):
    picture(size=(200, 200)).save(tmp_path / "a.jpg", progressive=progressive)
    whole = (tmp_path / "a.jpg").read_bytes()
    for share in (0.3, 0.9):
        (tmp_path / "a.jpg").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(BadImageError, match="truncated"):
            read_image(tmp_path / "a.jpg")


def test_open_files_and_arrays_are_named_too(tmp_path):
    picture().save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    assert (pixels(io.BytesIO(data)) == np.asarray(picture())).all()
    assert (pixels(picture()) == np.asarray(picture())).all()
    for content, why in ((b"", "empty, not an image"), (b"text", "not an image"), (data[:300], "truncated")):
        with pytest.raises(BadImageError, match=f"^shard.tar::a.png: .*{why}"):
            read_image(io.BytesIO(content), name="shard.tar::a.png")


def test_floating_point_and_32_bit_pixels_are_refused(tmp_path):
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "f.tif")
    Image.fromarray(np.full((8, 8), 1 << 20, np.int32)).save(tmp_path / "i.tif")
    for name in ("f.tif", "i.tif"):
        with pytest.raises(BadImageError, match="no known range"):
            read_image(tmp_path / name)


def test_the_suffix_need_not_fit(tmp_path):
    picture().save(tmp_path / "a.jpg", "WEBP", lossless=True)
    assert (pixels(tmp_path / "a.jpg") == np.asarray(picture())).all()


def test_listing_is_sorted_and_leaves_out_what_is_no_image(tmp_path):
    make_folder(tmp_path, {"b": 2, "a/deep": 1, ".hidden": 1})
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "b" / ".DS_Store.png").write_text("x")
    (tmp_path / "b" / "folder.png").mkdir()
    os.mkfifo(tmp_path / "b" / "pipe.png")
    picture().save(tmp_path / "b" / "LOUD.JPG", "JPEG")
    found = [os.path.relpath(path, tmp_path) for path in list_images(tmp_path)]
    assert found == ["a/deep/000.png", "b/000.png", "b/001.png", "b/LOUD.JPG"]


def test_links_are_followed_but_not_in_circles(tmp_path):
    make_folder(tmp_path, {"data/cat": 2})
    os.symlink(tmp_path / "data", tmp_path / "data" / "cat" / "up")
    os.symlink(tmp_path / "data" / "cat", tmp_path / "data" / "link")
    assert [os.path.relpath(p, tmp_path) for p in list_images(tmp_path / "data")] == [
        "data/cat/000.png",
        "data/cat/001.png",
        "data/link/000.png",
        "data/link/001.png",
    ]
