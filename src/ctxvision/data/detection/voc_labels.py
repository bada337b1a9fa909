"""Pascal VOC's labels: an XML file for each image (Everingham et al., IJCV 2010)."""

import functools
import math
from pathlib import Path
from xml.parsers import expat

from ctxvision.data.error import DataError
from ctxvision.data.files import in_words, read_regular
from ctxvision.data.images.reading import is_image

from .labels import LabelError, LabelledObject, LabelledPart, Labels, by_part, clipped

_MOST_BYTES = 1 << 24
_DEEPEST = 16
_SETS = (("train", "train"), ("val", "val"), ("test", "test"))

Element = dict[str, list["Element | str"]]


def find_voc(root: Path) -> Labels | None:
    """Find the parts of a data set with Pascal VOC's labels; ``None`` if it has none.

    Raises:
        DataError: A list of images cannot be read.
    """
    if not root.is_dir():
        return None
    years = sorted(root.glob("VOC2*")) + sorted((root / "VOCdevkit").glob("VOC2*"))
    if not (root / "Annotations").is_dir() and len(years) == 1:
        root = years[0]
    if (root / "Annotations").is_dir():
        return _devkit(root)
    folders = dict(by_part([folder for folder in sorted(root.iterdir()) if folder.is_dir()]))
    parts = {}
    for part, folder in (folders or {"all": root}).items():
        files = sorted(folder.glob("*.xml"))
        if files:
            parts[part] = _part({file.stem: file for file in files}, folder)
    return Labels(root, parts, None) if parts else None


def _devkit(root: Path) -> Labels | None:
    files = {file.stem: file for file in sorted((root / "Annotations").glob("*.xml"))}
    if not files:
        return None
    images = root / "JPEGImages"
    if not images.is_dir():
        images = next((root / name for name in ("images", "Images") if (root / name).is_dir()), root)
    parts = {}
    for part, name in _SETS:
        listed = root / "ImageSets" / "Main" / f"{name}.txt"
        if listed.is_file():
            try:
                lines = read_regular(listed, _MOST_BYTES).decode("utf-8-sig").splitlines()
            except (OSError, ValueError) as error:
                raise DataError(f"{listed}: {in_words(error)}") from error
            stems = [line.split()[0] for line in lines if line.strip()]
            chosen = {stem: files[stem] for stem in stems if stem in files}
            if chosen:
                parts[part] = _part(chosen, images)
    return Labels(root, parts or {"all": _part(files, images)}, None)


def _part(files: dict[str, Path], images: Path) -> LabelledPart:
    """Pair label files with the images of their names; a label file without an image is not part of it."""
    found = {path.stem: path for path in sorted(images.iterdir()) if is_image(path.name)}
    paths = [found[stem] for stem in files if stem in found]
    return LabelledPart(paths, functools.partial(_read, files=files))


def _read(image: Path, size: tuple[int, int], *, files: dict[str, Path]) -> list[LabelledObject]:
    file = files[image.stem]
    try:
        return _objects(parse_plain_xml(read_regular(file, _MOST_BYTES)), size)
    except (OSError, ValueError) as error:
        raise LabelError(f"{file.name}: {in_words(error)}") from error


def _objects(root: Element, size: tuple[int, int]) -> list[LabelledObject]:
    annotation = root.get("annotation", [{}])[0]
    if not isinstance(annotation, dict) or "annotation" not in root:
        raise LabelError("not an annotation of Pascal VOC")
    listed = _child(annotation, "size")
    sides = _number(listed, "width", 0.0), _number(listed, "height", 0.0)
    if all(sides) and sides != size:
        raise LabelError(f"is of an image of {sides[0]:g} × {sides[1]:g} pixels, not {size[0]} × {size[1]}")
    objects = []
    for entry in annotation.get("object", []):
        name = _text(entry, "name") if isinstance(entry, dict) else ""
        if not isinstance(entry, dict) or not name:
            raise LabelError("has an object without a name")
        corners = _child(entry, "bndbox")
        x0, y0, x1, y1 = (_number(corners, side, math.nan) for side in ("xmin", "ymin", "xmax", "ymax"))
        if not all(map(math.isfinite, (x0, y0, x1, y1))):
            raise LabelError(f"its {name!r} has no box of four numbers")
        # pixels count from 1, and the last one belongs to the box
        box = clipped((x0 - 1, y0 - 1, x1, y1), size)
        objects.append(LabelledObject(name, box, ignored=_text(entry, "difficult") == "1"))
    return objects


def _child(element: Element, name: str) -> Element:
    found = element.get(name, [{}])[0]
    return found if isinstance(found, dict) else {}


def _text(element: Element, name: str) -> str:
    found = element.get(name, [""])[0]
    return found.strip() if isinstance(found, str) else ""


def _number(element: Element, name: str, default: float) -> float:
    try:
        return float(_text(element, name))
    except ValueError:
        return default


def parse_plain_xml(data: bytes) -> Element:
    """Read XML that need not be trusted, without attributes.

    Args:
        data: The contents of a file.

    Returns:
        The elements by name, each a text or elements by name again; several of a name are in their order.

    Raises:
        ValueError: It is no XML, is nested deeply, or has a document type: that may define entities, by which a
            few lines stand for gigabytes or for other files.

    Examples:
        >>> parse_plain_xml(b"<a><b>1</b><b>2</b></a>")
        {'a': [{'b': ['1', '2']}]}
    """
    top: Element = {}
    open_elements: list[tuple[str, Element, list[str]]] = [("", top, [])]
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def refuse(*declared: object) -> None:
        raise ValueError("has a document type, which is refused")

    def start(name: str, attributes: object) -> None:
        if len(open_elements) > _DEEPEST:
            raise ValueError(f"is nested more than {_DEEPEST} deep")
        open_elements.append((name, {}, []))

    def end(name: str) -> None:
        _, children, texts = open_elements.pop()
        open_elements[-1][1].setdefault(name, []).append(children or "".join(texts))

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = lambda text: open_elements[-1][2].append(text)
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError) as error:  # of an encoding that there is not
        raise ValueError(f"not XML ({error})") from error
    return top
