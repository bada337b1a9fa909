"""What may follow ``digits-scenes#``: how many scenes, how large, and what is in them."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ctxvision.data.error import DataError
from ctxvision.data.options import check_options

from .scenes import HEIGHTS, MOST_DIGITS, Scene, Split, make_scene

_RANGES = {
    "size": (48, 4096),
    "digits": (1, 30),
    "smallest": (10, 90),
    "largest": (10, 90),
    "seed": (0, 9_999_999),
}


@dataclass(frozen=True)
class SceneOptions:
    """The embedded scenes; see `ctxvision.data.embedded.scenes.make_scene`.

    Attributes:
        train: training scenes.
        val: validation scenes.
        size: height and width.
        digits: at most so many in a scene.
        smallest: height of the smallest digit, in percent of ``size``.
        largest: height of the largest.
        seed: of the set.
    """

    train: int = 1500
    val: int = 200
    size: int = 96
    digits: int = MOST_DIGITS
    smallest: int = round(100 * HEIGHTS[0])
    largest: int = round(100 * HEIGHTS[1])
    seed: int = 0

    @classmethod
    def read(cls, where: str, options: Mapping[str, str]) -> "SceneOptions":
        """Read the options of a DATA argument.

        Raises:
            DataError: an option that there is not, or a value out of range.
        """
        values = asdict(cls())
        for name, text in check_options(where, options, tuple(values)).items():
            lowest, highest = _RANGES.get(name, (1, 9_999_999))
            if not re.fullmatch("[0-9]{1,7}", text) or not lowest <= int(text) <= highest:
                raise DataError(f"{where}: {name} must be a whole number from {lowest} to {highest}, got {text!r}")
            values[name] = int(text)
        if values["smallest"] > values["largest"]:
            raise DataError(f"{where}: smallest={values['smallest']} is more than largest={values['largest']}")
        return cls(**values)

    def make(self, split: Split, index: int) -> Scene:
        """Compose one scene of a split."""
        heights = self.smallest / 100, self.largest / 100
        return make_scene(self.seed, index, self.size, split, digits=self.digits, heights=heights)
