"""What `ctxvision explain` says about some images: the numbers, and the pictures that belong to them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctxvision._version import __version__
from ctxvision.plots.figures import is_small, thumbnail
from ctxvision.plots.style import seen_pixels
from ctxvision.tasks import ClassificationTask
from ctxvision.tasks.classification.class_sets import is_contextual

from .embeddings import class_embeddings, on_a_plane
from .error import ReportError
from .explanation_classes import network_labels, of_classes, of_data
from .explanation_layers import of_kernels, of_offsets, where_most
from .fates import class_fates
from .funnel import class_funnel
from .generated_kernels import kernel_layers
from .grad_cam import GradCam, grad_cam
from .offsets import contextual_layers
from .pictures import Picture
from .pictures.cam import CamPanel, cam_picture
from .pictures.classes import plane_picture
from .pictures.funnel import funnel_picture

SCHEMA_VERSION = 1
_TOP = 5


@dataclass(frozen=True)
class Subject:
    """An image to explain.

    Attributes:
        file: what to call it.
        image: input of the network, normalised, (C, H, W).
        against: input of the other network, which may differ in size and normalisation; ``None`` without one.
        truth: index of the true class, if it is known.
    """

    file: str
    image: Tensor
    against: Tensor | None = None
    truth: int | None = None


@dataclass(frozen=True)
class Against:
    """A network to compare with.

    Attributes:
        checkpoint: what the user calls it.
        task: of the same classes, in any order.
        layer: for Grad-CAM; ``None`` chooses.
    """

    checkpoint: str
    task: ClassificationTask
    layer: str | None = None


@dataclass
class Explanation:
    """All that a page shows.

    Attributes:
        numbers: plain Python values, what ``explain.json`` holds.
        thumbnails: data URIs, one per image.
        pixelated: whether the images have so few pixels that they are best enlarged without smoothing.
        of_images: pictures of each image.
        of_classes: pictures of the class embeddings.
        of_data: pictures of the data set.
    """

    numbers: dict[str, Any]
    thumbnails: list[str] = field(default_factory=list)
    pixelated: bool = False
    of_images: list[list[Picture]] = field(default_factory=list)
    of_classes: list[Picture] = field(default_factory=list)
    of_data: list[Picture] = field(default_factory=list)

    @property
    def pictures(self) -> list[Picture]:
        """All pictures, in the order of the page."""
        return [*(p for group in self.of_images for p in group), *self.of_classes, *self.of_data]


def make_explanation(
    task: ClassificationTask,
    subjects: Sequence[Subject],
    *,
    checkpoint: str,
    asked: int | None = None,
    layer: str | None = None,
    against: Against | None = None,
    data: Callable[[], Iterable[tuple[Tensor, Tensor]]] | None = None,
    data_name: str | None = None,
) -> Explanation:
    """Look into a trained network while it reads some images.

    Args:
        task: on the device to use.
        subjects: the images.
        checkpoint: what the user calls the network.
        asked: class to explain in every image; by default each image's answer.
        layer: for Grad-CAM; by default see `grad_cam`.
        against: what to compare with.
        data: opens the batches of a data set, to follow its true classes through a contextual network.
        data_name: what the user calls it.

    Raises:
        ReportError: not one image of the data set can be read, or an answer is not a number.
        LayerError: see `grad_cam`.
    """
    names = tuple(task.data_spec["class_names"])
    contextual = is_contextual(task.model)
    plane = on_a_plane(class_embeddings(task.model)) if contextual else None
    numbers: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "ctxvision": __version__,
        "checkpoint": checkpoint,
        "model": task.hparams["model"],
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "class_names": list(names),
        "input_size": list(task.data_spec["input_size"]),
        "against": against and {"checkpoint": against.checkpoint, "model": against.task.hparams["model"]},
        "labels": list(network_labels(task, against and against.task)[: 2 if against else 1]),
        "images": [],
    }
    made = Explanation(numbers, pixelated=all(is_small(subject.image) for subject in subjects))
    for index, subject in enumerate(subjects, 1):
        entry, pictures = _of_image(task, subject, f"image{index}", asked, layer, against, plane)
        numbers["images"].append(entry | {"figures": [picture.file for picture in pictures]})
        made.of_images.append(pictures)
        made.thumbnails.append(thumbnail(subject.image, task.data_spec["mean"], task.data_spec["std"]))
    numbers["embeddings"] = None
    if contextual:
        numbers["embeddings"], picture = of_classes(task, against and against.task, plane)
        made.of_classes.append(picture)
    numbers["data"] = None
    if data is not None and contextual:
        numbers["data"], made.of_data = of_data(task, data, str(data_name))
    numbers["figures"] = [
        {"file": f"figures/{picture.file}", "title": picture.title, "alt": picture.alt}
        for picture in made.pictures
    ]
    return made


def _of_image(
    task: ClassificationTask,
    subject: Subject,
    name: str,
    asked: int | None,
    layer: str | None,
    against: Against | None,
    plane: np.ndarray | None,
) -> tuple[dict[str, Any], list[Picture]]:
    names, image = task.data_spec["class_names"], _on_device(task, subject.image)
    chances = _probabilities(task, image, subject.file)
    answer = int(chances.argmax())
    explained = answer if asked is None else asked
    followed = next(c for c in (subject.truth, asked, answer) if c is not None)
    pixels = _pixels(task, subject.image)
    (cam,) = grad_cam(task.model, image, [explained], layer=layer)
    label, other = network_labels(task, against and against.task)
    panels = [CamPanel(label, pixels, cam, names[explained], float(chances[explained]))]
    entry: dict[str, Any] = {
        "file": subject.file,
        "truth": None if subject.truth is None else names[subject.truth],
        "answer": names[answer],
        "predictions": _ranking(chances, names),
        "grad_cam": _cam_numbers(cam, names[explained], chances[explained]),
        "against": None,
    }
    if against is not None and subject.against is not None:
        entry["against"], panel = _of_other(against, subject, None if asked is None else names[asked], other)
        panels.append(panel)
    pictures = [cam_picture(panels, f"{name}-grad-cam")]
    if plane is not None:
        (funnel,) = class_funnel(task.model, image, [followed])
        what = "true class" if subject.truth is not None else None if asked is None else "class asked for"
        pictures += [
            funnel_picture(funnel, names, f"{name}-funnel", what=what),
            plane_picture(plane, funnel, names, f"{name}-classes", what=what),
        ]
        entry["funnel"] = {
            "followed": names[followed],
            **_loss(task, image, followed),
            "stages": [
                {
                    "name": stage.name,
                    "rank": stage.true_rank,
                    "classes": [
                        {"class": names[c], "score": score, "kept": kept}
                        for c, score, kept in zip(stage.classes, stage.scores, stage.kept, strict=True)
                    ],
                }
                for stage in funnel.stages
            ],
        }
    if contextual_layers(task.model):
        # taps are shown where the evidence is
        entry["bends"], more = of_offsets(task.model, image, pixels, where_most(cam.map), name)
        pictures += more
    if kernel_layers(task.model):
        entry["kernels"], more = of_kernels(task.model, image, pixels, name)
        pictures += more
    return entry, pictures


def _loss(task: ClassificationTask, image: Tensor, followed: int) -> dict[str, str | None]:
    """Return where the class was lost, to whom, and who has its place; ``None`` if it is the answer."""
    names = task.data_spec["class_names"]
    fates = class_fates(task.model, [(image, torch.tensor([followed], device=image.device))])
    step = int(fates.lost[0])
    if step == len(fates.steps):
        return {"lost_at": None, "lost_to": None, "replaced_by": None}
    winner, last = int(fates.winners[0]), int(fates.replaced_by[0])
    return {"lost_at": fates.steps[step], "lost_to": names[winner], "replaced_by": names[last]}


def _of_other(
    against: Against, subject: Subject, asked: str | None, label: str
) -> tuple[dict[str, Any], CamPanel]:
    """Explain the other network's answer, or the class that was asked for, in its own view of the image."""
    task, names = against.task, list(against.task.data_spec["class_names"])
    image = _on_device(task, subject.against)
    chances = _probabilities(task, image, subject.file)
    explained = int(chances.argmax()) if asked is None else names.index(asked)
    (cam,) = grad_cam(task.model, image, [explained], layer=against.layer)
    numbers = {
        "answer": names[int(chances.argmax())],
        "predictions": _ranking(chances, names),
        "grad_cam": _cam_numbers(cam, names[explained], chances[explained]),
    }
    return numbers, CamPanel(
        label, _pixels(task, subject.against), cam, names[explained], float(chances[explained])
    )


def _on_device(task: ClassificationTask, image: Tensor) -> Tensor:
    return image[None].to(task.device, memory_format=task.memory_format)


def _probabilities(task: ClassificationTask, image: Tensor, file: str) -> np.ndarray:
    with torch.no_grad():
        chances = task(image)[0].float().softmax(0).cpu().numpy()
    if not np.isfinite(chances).all():
        raise ReportError(f"{file}: the output of the network is NaN or infinite; its weights are broken")
    return chances


def _pixels(task: ClassificationTask, image: Tensor) -> np.ndarray:
    mean, std = (np.array(task.data_spec[name], np.float32) for name in ("mean", "std"))
    return seen_pixels(image.float().numpy(), mean, std)


def _ranking(chances: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    order = np.argsort(-chances, kind="stable")[:_TOP]
    return [{"class": names[c], "probability": float(chances[c])} for c in order]


def _cam_numbers(cam: GradCam, class_name: str, probability: float) -> dict[str, Any]:
    return {
        "class": class_name,
        "probability": float(probability),
        "layer": cam.layer.name,
        "size": list(cam.layer.size),
        "scored_by": cam.scored_by,
        "map": [[float(f"{value:.5g}") for value in row] for row in cam.raw],
    }
