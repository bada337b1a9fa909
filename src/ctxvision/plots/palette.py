"""All colours of the figures: on a page in light and dark, in print, of heat maps, of many classes."""

from typing import NamedTuple

HEAT, SIGNED, SHARES = "viridis", "PuOr", "cividis"
"""matplotlib's colour maps for evidence, for what has a sign, and for shares: legible to the colour-blind."""

OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""Colours that people who see fewer colours can tell apart (Okabe and Ito, Color Universal Design, 2008)."""


class Ink(NamedTuple):
    """The colours of one figure, as ``#rrggbb``.

    Attributes:
        text: The colour of words and of important lines.
        line: The colour of axes and grids.
        soft: The colour of parts that are less important than the others.
        page: The colour of the background.
        true: The colour that marks the true class.
        answer: The colour that marks the answer of the network.
        stages: The colours of stages 1 to 4 of a network.
    """

    text: str
    line: str
    soft: str
    page: str
    true: str
    answer: str
    stages: tuple[str, str, str, str]

    def of(self, step: str) -> str:
        """Return the colour of a step of the class funnel: ``"stage 2"``, …, ``"head"``."""
        return self.stages[int(step[-1]) - 1] if step[-1].isdigit() else self.text

    @property
    def series(self) -> tuple[str, ...]:
        """The colours of curves, in the order in which they are drawn."""
        return (self.answer, self.true, self.text, self.stages[1], self.stages[2], self.soft)


THEMED = Ink(
    "#010101", "#010102", "#010105", "#010106", "#010104", "#010103", ("#010107", "#010108", "#010109", "#01010a")
)
"""Stand-ins for the page's own colours, in which matplotlib cannot draw; they are replaced in its SVG."""

PRINTED = Ink(
    "#1b1f24", "#d4d9df", "#59636e", "#ffffff", "#b34700", "#0b5cad", ("#59636e", "#7b4fb5", "#00766c", "#0b5cad")
)
"""Colours on white paper."""

_VARIABLES = Ink(
    "currentColor",
    "var(--line)",
    "var(--soft)",
    "var(--page)",
    "var(--orange)",
    "var(--blue)",
    ("var(--stage-1)", "var(--stage-2)", "var(--stage-3)", "var(--stage-4)"),
)


def _pairs(of: Ink, to: Ink) -> dict[str, str]:
    return dict(zip((*of[:-1], *of.stages), (*to[:-1], *to.stages), strict=True))


ON_PAGE = _pairs(THEMED, _VARIABLES)
"""The page's CSS variable for each stand-in."""

ON_PAPER = _pairs(_VARIABLES, PRINTED)
"""The colour on paper for each of the page's CSS variables."""
