"""Decoding: every mode ends as the right 8-bit pixels, every bad file as one reason."""

import os

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


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixels(tmp_path / "a.gif")[0, 0].tolist() == pytest.approx([255, 0, 0], abs=2)


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
