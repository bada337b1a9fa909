"""EXIF orientations: upright pictures, and annotations of the picture as it is stored or as it is shown."""

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageOps

from ctxvision.data import DataError, DetectionData, SegmentationData, read_image
from ctxvision.data.images.turned import find_turned

ORIENTATIONS = range(1, 9)
TELLS = (5, 6, 7, 8)  # where they lie on their side
BOX = (3, 5, 11, 10)  # x0, y0, x1, y1 of a bright spot, nowhere symmetrical


def spotted(size=(40, 24)):
    """The picture as it is stored, with a bright spot at BOX."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    return Image.fromarray(pixels)


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def save(path, orientation, size=(40, 24), **options):
    image = spotted(size)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif_of(orientation), **options)
    return image


def shown(image, orientation):
    """The oracle: PIL's own turn of the picture as it is stored."""
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif_of(orientation))
    return ImageOps.exif_transpose(Image.open(file))


def spot_of(image):
    rows, columns = np.nonzero(np.asarray(image.convert("L")) > 128)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_size_tells_which_picture_is_meant(tmp_path, orientation, suffix):
    path = tmp_path / f"a.{suffix}"
    stored = save(path, orientation, **({"lossless": True} if suffix == "webp" else {}))
    upright = shown(stored, orientation)
    pictures = {
        "as ever": (read_image(path), upright),
        "for the turned": (read_image(path, size=upright.size), upright),
        "for the stored": (read_image(path, size=stored.size, turned=False), stored),
        "of another size": (read_image(path, size=(7, 7)), upright),
        "told by size alone": (read_image(path, size=stored.size), stored if orientation in TELLS else upright),
    }
    for name, (found, expected) in pictures.items():
        assert found.size == expected.size, name
        assert np.abs(np.asarray(found).astype(int) - np.asarray(expected)).max() < 60, name


def test_orientation_that_is_none(tmp_path):
    for orientation in (0, 9, 77):
        save(tmp_path / "a.jpg", orientation)
        assert spot_of(read_image(tmp_path / "a.jpg", size=(40, 24))) == BOX
    image = spotted()
    image.save(tmp_path / "b.jpg", exif=b"Exif\0\0nonsense")
    assert spot_of(read_image(tmp_path / "b.jpg", size=(40, 24))) == BOX


def make_coco(root, orientations, annotated, size=(40, 24)):
    """Pictures with these orientations; boxes and sizes are of the picture as stored, or as shown."""
    images, annotations = [], []
    for number, orientation in enumerate(orientations, 1):
        image = save(root / f"images/{number}.png", orientation, size)
        seen = image if annotated == "stored" else shown(image, orientation)
        x0, y0, x1, y1 = map(int, spot_of(seen))
        images.append({"id": number, "file_name": f"{number}.png", "width": seen.width, "height": seen.height})
        box = {"id": number, "image_id": number, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        annotations.append(box)
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "spot"}]}
    (root / "a.json").write_text(json.dumps(content))
    return f"{root / 'images'}:{root / 'a.json'}"


def open_boxes(source, **options):
    data = DetectionData(source, flip=0, val_fraction=0.2, **options)
    found = {}
    for loader in (data.train_dataloader(), data.val_dataloader()):
        dataset = loader.dataset
        for index in range(len(dataset)):
            sample = dataset[index]
            boxes = sample.target.get("boxes")
            x0, y0, x1, y1 = boxes[0].int().tolist() if boxes is not None else _corners(sample.target["truth"][0])
            outside = sample.image.float().sum() - sample.image[:, y0:y1, x0:x1].float().sum()
            found[sample.target["image_id"]] = (
                sample.image[:, y0:y1, x0:x1].float().mean().item() > 250 and outside.item() == 0
            )
    return data, found


def _corners(row):
    x, y, width, height = map(int, row["bbox"])
    return x, y, x + width, y + height


@pytest.mark.parametrize("annotated", ["stored", "shown"])
def test_boxes_lie_on_their_objects_whichever_picture_was_annotated(tmp_path, annotated):
    data, found = open_boxes(make_coco(tmp_path, ORIENTATIONS, annotated))
    # where the size does not tell, the others of the set do
    assert found == dict.fromkeys(range(1, 9), True)
    remarks = [note for note in data.notes if "EXIF" in note]
    assert any("3 of 8 images have an EXIF orientation of which their size does not tell" in r for r in remarks)
    how = {"stored": "they are taken as they are stored, #exif=apply", "shown": "as it turns them, #exif=ignore"}
    assert any(how[annotated] in remark for remark in remarks)
    assert any("4 of 8 images have the size" in remark for remark in remarks) == (annotated == "stored")


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_where_no_size_tells_the_user_does(tmp_path, orientation):
    source = make_coco(tmp_path, [orientation] * 5, "stored")
    data, found = open_boxes(source)
    assert not any(found.values())  # as browsers, OpenCV and annotation tools show them
    (remark,) = data.notes
    assert "5 of 5 images" in remark
    assert "#exif=ignore takes them the other way" in remark
    _, found = open_boxes(f"{source}#exif=ignore")
    assert all(found.values())
    with pytest.raises(DataError, match="exif must be auto or apply or ignore, got 'no'"):
        open_boxes(f"{source}#exif=no")


def test_square_pictures_do_not_tell(tmp_path):
    source = make_coco(tmp_path, [6] * 5, "stored", size=(24, 24))
    data, found = open_boxes(source)
    assert not any(found.values())
    assert "upside down, mirrored or square" in data.notes[0]
    assert all(open_boxes(f"{source}#exif=ignore")[1].values())


def test_plain_pictures_cost_no_word(tmp_path):
    data, found = open_boxes(make_coco(tmp_path, [1] * 5, "stored"))
    assert all(found.values())
    assert data.notes == []


def test_headers_of_a_thousand_images_are_enough(tmp_path):
    save(tmp_path / "a.jpg", 3)
    turned, (remark,) = find_turned([(str(tmp_path / "a.jpg"), (40, 24))] * 2500, "auto")
    assert turned
    assert "1000 of 1000 images looked at" in remark
    assert find_turned([("gone.jpg", (1, 1)), (str(tmp_path), (1, 1))], "ignore") == (False, [])


def make_masks(root, orientations, annotated, size=(40, 24), own=False):
    (root / "classes.txt").parent.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("ground\nspot\n")
    for part in ("train", "val"):
        for number, orientation in enumerate(orientations):
            image = save(root / f"images/{part}/{number}.png", orientation, size)
            seen = image if annotated == "stored" or own else shown(image, orientation)
            mask = seen.convert("L").point(lambda value: int(value > 128))
            (root / f"masks/{part}").mkdir(parents=True, exist_ok=True)
            options = {"exif": exif_of(orientation)} if own else {}
            mask.save(root / f"masks/{part}/{number}.png", **options)
    return root


def fits(data):
    """Whether the mask of every validation image lies on its spot."""
    dataset = data.val_dataloader().dataset
    samples = [dataset[index] for index in range(len(dataset))]
    return [bool(((image[0] > 0) == (mask == 1)).all()) for image, mask in samples]


@pytest.mark.parametrize(("annotated", "own"), [("stored", False), ("shown", False), ("shown", True)])
def test_masks_lie_on_their_objects_whichever_picture_was_annotated(tmp_path, annotated, own):
    data = SegmentationData(make_masks(tmp_path, ORIENTATIONS, annotated, own=own))
    assert fits(data) == [True] * 8
    assert data.bad_images == {}
    assert any("EXIF" in note for note in data.notes)


def test_where_no_mask_tells_the_user_does(tmp_path):
    make_masks(tmp_path, [3, 3], "stored")
    assert fits(SegmentationData(tmp_path)) == [False, False]
    assert fits(SegmentationData(f"{tmp_path}#exif=ignore")) == [True, True]
