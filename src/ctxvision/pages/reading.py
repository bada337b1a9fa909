"""How to read the pictures and numbers of our pages: one text, for pages, the server and the documentation."""

import html
from collections.abc import Sequence
from typing import NamedTuple


class Topic(NamedTuple):
    """One thing on a page that a reader may not know.

    Attributes:
        title: The words under which the page shows it.
        text: A few sentences: what it is, how to read it, what it does not say.
    """

    title: str
    text: str


TOPICS = {
    "accuracy": Topic(
        "Accuracy",
        "Top-1 is the share of images whose most probable class is the true one, top-5 that of images whose "
        "true class is among the five most probable. The interval says how far chance alone may have moved the "
        "number: with few images it is wide, and two networks whose intervals overlap much can hardly be told "
        "apart.",
    ),
    "confusion": Topic(
        "Which class was taken for which",
        "Each row holds the images of one true class, each column those that got one answer. The diagonal is "
        "right; a large number off it names two classes that the network mixes up.",
    ),
    "calibration": Topic(
        "How sure the network is",
        "Of all answers given with 80 % confidence, 80 % should be right. Where the bars stay below the dashed "
        "line the network is too sure of itself, where they stand above it is not sure enough.",
    ),
    "curves": Topic(
        "Curves over the epochs",
        "A loss should fall and an accuracy rise. Where the validation gets worse while the training still "
        "gets better, the network learns its training images by heart. Curves that are equal everywhere are "
        "drawn once, with all their names.",
    ),
    "precision": Topic(
        "Average precision",
        "For each class all boxes are sorted by their score; AP is high if the first ones are right and none is "
        "missing. AP50 counts a box that overlaps the true one by half as right; AP is the mean over stricter and "
        "stricter overlaps, up to 95 %. 100 % is perfect, and more than 50 % is good on everyday photos.",
    ),
    "iou": Topic(
        "IoU",
        "The pixels that truth and prediction have in common, as a share of all pixels that are in either. It "
        "is 100 % if the two are the same and 0 % if they do not meet. The mean counts each class alike, "
        "however small.",
    ),
    "clips": Topic(
        "Frames and clips",
        "The answer is given for the whole clip. What the network would say of each frame alone stands in "
        "brackets: where the frames disagree, the motion has decided.",
    ),
    "grad-cam": Topic(
        "Heat maps (Grad-CAM)",
        "Yellow places hold what speaks for the class, dark ones nothing. Each map is scaled to its own "
        "highest value: compare where two maps are bright, not how bright. A map is as coarse as the layer it "
        "comes from, and it shows what the answer rests on, not whether it is right. Evidence beside the "
        "object means that the network may have learnt the background.",
    ),
    "funnel": Topic(
        "The class funnel",
        "A contextual network narrows the classes down while it looks. Each stage compares the image with the "
        "classes that are left, by a similarity from −1 to 1, keeps the most similar ones and drops the rest. "
        "What was dropped cannot be the answer any more, unless the network was built to choose among all "
        "classes again. Compare bars within one stage only, as each stage has a measure of its own.",
    ),
    "offsets": Topic(
        "Taps that move",
        "A convolution reads the image on a regular grid of places, its taps; the hollow dots show it. A "
        "contextual convolution moves its taps, to the filled dots, and changes its weights according to the "
        "classes that are left. Before training no tap moves. Far moves are neither good nor bad; look at "
        "which places they reach.",
    ),
    "kernels": Topic(
        "Kernels of the network’s own making",
        "An ordinary convolution mixes the neighbours of every place by the same weights. Involution (RedNet) "
        "and CoT (CoTNet) make these weights anew at each place of each image. Violet adds a neighbour, brown "
        "subtracts it. Channels are treated in groups, each with weights of its own.",
    ),
    "contexts": Topic(
        "Static and dynamic context",
        "A CoT layer looks at the surroundings of a place in two ways: with fixed weights (static), and with "
        "attention that depends on the image (dynamic). Both are then mixed, channel by channel.",
    ),
    "classes": Topic(
        "Classes that are alike",
        "A contextual network describes each class by a list of numbers, its embedding. Classes that lie close "
        "together on the map, or whose cosine is near 1, look alike to it and are easily mixed up.",
    ),
}  # fmt: skip
"""What pages may explain, by short names."""

PAGES = {
    "classification": ("accuracy", "curves", "confusion", "calibration", "grad-cam", "funnel"),
    "detection": ("precision", "curves", "grad-cam"),
    "segmentation": ("iou", "curves", "grad-cam"),
    "video": ("accuracy", "clips", "curves", "grad-cam"),
    "explanation": ("grad-cam", "funnel", "classes", "offsets", "kernels", "contexts"),
    "server": ("grad-cam", "funnel", "offsets", "kernels", "contexts"),
}
"""The topics of each kind of page, in their order."""

HEADING = "How to read this page"


def as_html(topics: Sequence[str]) -> str:
    """Return topics as a part of a page that opens when its heading is chosen; nothing if there are no topics.

    Args:
        topics: The short names of the topics, keys of `TOPICS`.
    """
    if not topics:
        return ""
    parts = (TOPICS[name] for name in topics)
    rows = "\n".join(f"<dt>{html.escape(part.title)}</dt><dd>{html.escape(part.text)}</dd>" for part in parts)
    return f'<details class="reading"><summary>{HEADING}</summary>\n<dl>\n{rows}\n</dl></details>'


def as_markdown() -> str:
    """Return all topics for the documentation."""
    return "\n\n".join(f"**{part.title}.** {part.text}" for part in TOPICS.values())
