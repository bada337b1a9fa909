"""Heat maps for reports: which places of some images speak for what a network says, drawn over these images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ctxvision.plots.pixels import Pixels, data_uri, under_own_heat

_FEW = 160  # pixels of the longer side of an image that is shown without any loss


@dataclass(frozen=True)
class HeatMap:
    """A heat map over an image, as a part of a page.

    Attributes:
        uri: The picture as a data URI.
        words: The words below the picture: what is explained.
        alt: A text that describes the picture for readers who do not see it.
    """

    uri: str
    words: str
    alt: str


@dataclass(frozen=True)
class Look:
    """An image of a report with its heat maps.

    Attributes:
        uri: The image itself as a data URI.
        words: The words below the image: its name, or what it shows.
        heats: The heat maps, at least one.
        right: Whether the answer is right; ``None`` where that is not the question.
    """

    uri: str
    words: str
    heats: Sequence[HeatMap]
    right: bool | None = None


def heat_map(pixels: Pixels, heat: np.ndarray, words: str) -> HeatMap:
    """Lay a Grad-CAM over an image.

    Args:
        pixels: The image, RGB from 0 to 1, (H, W, 3).
        heat: The map, (H, W) from 0 to 1; all 0 if nothing speaks for what is explained.
        words: The words below the picture: what is explained.
    """
    if not heat.max() > 0:
        alt = f"Grad-CAM for {words}: nothing speaks for it"
        return HeatMap(uri(under_own_heat(pixels, heat)), f"{words}: no evidence", alt)
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    rows, columns = heat.shape
    where = f"highest at {(x + 0.5) / columns:.0%} from the left and {(y + 0.5) / rows:.0%} from the top"
    return HeatMap(uri(under_own_heat(pixels, heat)), words, f"Grad-CAM for {words}, {where}")


def uri(pixels: Pixels) -> str:
    """Return an image, RGB from 0 to 1, (H, W, 3), as a data URI."""
    picture = Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))
    return data_uri(picture, lossless=max(picture.size) <= _FEW)
