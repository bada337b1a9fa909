"""EXIF orientations: how a picture that is stored lying is shown upright."""

from contextlib import suppress

from PIL import Image

_ORIENTATION = 0x0112
SIDEWAYS = 5  # from this orientation on, width and height change places
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BACK = _TURN | {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened image, 1 to 8."""
    # a broken EXIF block does not make the pixels bad; what is in it may make anything fail
    with suppress(Exception):
        value = image.getexif().get(_ORIENTATION, 1)
        if value in _TURN:
            return int(value)
    return 1


def load_oriented(image: Image.Image, size: tuple[int, int] | None = None, turned: bool = True) -> Image.Image:
    """Decode an opened image and turn it by its EXIF orientation, unless it was annotated as it is stored.

    Args:
        image: The image as PIL has opened it.
        size: The width and height that the annotations are for; where only the stored or only the turned picture
            has it, that one is returned.
        turned: Whether the turned picture is returned where the size does not tell.
    """
    # PIL turns a TIFF while it decodes it, and finds the EXIF block of some PNGs only then
    orientation = orientation_of(image) if image.format == "TIFF" else 0
    image.load()
    if not orientation:
        orientation = orientation_of(image)
        stored, upright = image.size, image.size[::-1] if orientation >= SIDEWAYS else image.size
        if orientation == 1 or (size == stored and not (turned and size == upright)):
            return image
        return image.transpose(_TURN[orientation])
    stored = image.size[::-1] if orientation >= SIDEWAYS else image.size
    if orientation == 1 or size != stored or (turned and size == image.size):
        return image
    return image.transpose(_BACK[orientation])
