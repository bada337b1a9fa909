"""Explain a trained network of any task while it reads images."""

import logging
import os
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace

from torch import Tensor

from ctxvision.data import BadImageError, DigitsData, ImageData
from ctxvision.files import near_path
from ctxvision.inference import Predictor, predictor_of
from ctxvision.inference.predictor import Given
from ctxvision.models._figures import evaluation_mode
from ctxvision.progress import Progress, counted, silent
from ctxvision.runs import RunError
from ctxvision.tasks import Task
from ctxvision.tasks.classification.class_sets import is_contextual
from ctxvision.tasks.registry import module_of
from ctxvision.wording import did_you_mean

from .explanation import ExplainedNetwork, Explanation, Request

_log = logging.getLogger(__name__)


def explain(
    network: Predictor | Task,
    images: Given | Iterable[Given],
    *,
    class_name: str | None = None,
    layer: str | None = None,
    against: Predictor | Task | None = None,
    against_layer: str | None = None,
    truth: str | None = None,
    threshold: float = 0.5,
    data: DigitsData | ImageData | Iterable[tuple[Tensor, Tensor]] | None = None,
    limit: int | None = None,
    strict: bool = False,
    network_name: str = "",
    against_name: str = "",
    data_name: str = "data",
    progress: Progress = silent,
) -> Explanation:
    """Explain a trained network while it reads images or videos.

    The arrays are computed now; figures are drawn when they are first asked for. What the page and the files of
    ``ctxvision explain`` show is made from the result.

    Args:
        network: A network of a training that `ctxvision.inference.open_predictor` has opened, or a task, on the
            device to use. Exported networks cannot be explained.
        images: The images or videos, as a predictor takes them: paths of files and folders, or images or videos in
            memory.
        class_name: The name of the class to explain in every image; by default the class that the network answers,
            or the classes that it finds.
        layer: The name of the layer for Grad-CAM; for the default see `grad_cam`, `box_cams`, `pixel_cams` and
            `frame_cams`.
        against: A second network of the same task and classes, to compare with.
        against_layer: The name of the second network's layer for Grad-CAM.
        truth: The name of the true class of all images, for a classifier; by default the name of an image's
            folder, if there is such a class.
        threshold: The lowest score, from 0 to 1, of the boxes of a detector that are explained.
        data: A data set whose classes are followed through a contextual classifier: a data module, of which the
            validation part is used, or batches of images (B, C, H, W) and their classes (B,) on the network's
            device, which are iterated more than once.
        limit: The largest number of images to explain; of more images, this number is chosen evenly, with a
            warning. By default all are explained.
        strict: Whether an image that cannot be read raises an error; by default it is left out, with a warning,
            and listed in ``bad_images``.
        network_name: The name of the network in ``explain.json``, such as the path of its checkpoint.
        against_name: The name of the second network in ``explain.json``.
        data_name: The name of ``data`` in ``explain.json``.
        progress: The function that is told how many images have been explained; see `ctxvision.progress`.

    Returns:
        The explanations of all images that could be read, and of the data set.

    Raises:
        RunError: The networks cannot be explained or compared, or an output is NaN or infinite.
        LayerError: The layer that was asked for cannot be used.
        BadImageError: An image cannot be read, and ``strict`` is set.
        InferenceError: There are no images in a folder, or an array in memory is not an image.
        ValueError: There is no such class, or ``data`` is given for a network without a class funnel.

    Examples:
        >>> import timm, ctxvision
        >>> from PIL import Image
        >>> from ctxvision.tasks import ClassificationTask
        >>> spec = {"class_names": ["cat", "dog", "emu"], "input_size": [3, 64, 64], "mean": [0.5] * 3}
        >>> spec["std"] = [0.25] * 3
        >>> task = ClassificationTask("cotnet_micro", spec)
        >>> explanation = explain(task, Image.new("RGB", (80, 60)), class_name="dog")
        >>> (image,) = explanation.images
        >>> image.cams[0].map.shape, image.kernels[0].name
        ((64, 64), 'layer1.0.conv2')
        >>> [figure.file for figure in image.figures][:2]
        ['image1-grad-cam.png', 'image1-sums.png']
    """
    with ExitStack() as as_they_were:
        first = _explained(network, network_name, layer, as_they_were)
        second = None if against is None else _explained(against, against_name, against_layer, as_they_were)
        request = Request(*_labelled(first, second), class_name, truth, threshold)
        for name in (class_name, truth):
            require_class(name, first.class_names)
        if data is not None and not follows_classes(first.task):
            raise ValueError("data is for contextual classifiers; this network has no class funnel to follow")
        explainer = module_of("explain", first.predictor.task).Explainer(request)
        explanation = Explanation(request, [])
        sources = list(first.predictor.expanded(images))
        thing = first.predictor.sample_name
        chosen = _evenly_spread(sources, limit, thing)
        for number, source in counted(chosen, progress, f"explaining {thing}s", len(chosen)):
            file = os.fspath(source) if isinstance(source, str | os.PathLike) else f"image {number}"
            try:
                found = explainer.look(source, file, f"image{len(explanation.images) + 1}")
            except BadImageError as error:
                if strict:
                    raise
                _log.warning("skipped %s: %s%s", file, error.reason, near_path(file))
                explanation.bad_images.append({"path": file, "reason": error.reason})
            else:
                explanation.images.append(found)
        if explanation.images and first.task.kind == "classification":
            explanation.sections = explainer.sections(data, data_name)
    return explanation


def require_class(name: str | None, class_names: list[str]) -> None:
    """Raise an error if a name is not one of a network's classes.

    Raises:
        ValueError: The name is not ``None`` and not a name of a class.
    """
    if name is not None and name not in class_names:
        shown = ", ".join(class_names[:5]) + (", …" if len(class_names) > 5 else "")
        hint = did_you_mean(name, class_names)
        raise ValueError(f"no class {name!r}{hint}; the network's classes are {shown}")


def follows_classes(task: Task) -> bool:
    """Return whether classes can be followed through a network, which must be a contextual classifier."""
    return task.kind == "classification" and is_contextual(task.model)


def _explained(
    network: Predictor | Task, name: str, layer: str | None, as_they_were: ExitStack
) -> ExplainedNetwork:
    """Put a network into evaluation mode, without gradients, until the stack is closed.

    Raises:
        RunError: The network is not of a training.
    """
    module = network if isinstance(network, Task) else network.module
    if module is None:
        raise RunError(
            f"{name or 'the network'}: is not the checkpoint of a training, whose layers can be looked into"
        )
    as_they_were.enter_context(evaluation_mode(module))
    predictor = predictor_of(network) if isinstance(network, Task) else network
    return ExplainedNetwork(predictor, name, layer)


def _labelled(
    first: ExplainedNetwork, second: ExplainedNetwork | None
) -> tuple[ExplainedNetwork, ExplainedNetwork | None]:
    """Name the two networks for the figures, with letters before the names if these are the same.

    Raises:
        RunError: The networks differ in their task or their classes.
    """
    one = first.predictor.model_name
    if second is None:
        return replace(first, label=one), None
    called, other = second.name or "the network to compare with", second.predictor.model_name
    if second.predictor.task != first.predictor.task:
        raise RunError(f"{called}: its task is {second.predictor.task}, not {first.predictor.task}")
    odd = sorted(set(second.class_names) ^ set(first.class_names))
    if odd:
        raise RunError(f"{called}: has not the same classes; {odd[0]!r} is a class of one network only")
    labels = (f"A: {one}", f"B: {other}") if one == other else (one, other)
    return replace(first, label=labels[0]), replace(second, label=labels[1])


def _evenly_spread(sources: list[Given], limit: int | None, thing: str) -> list[tuple[int, Given]]:
    """Choose at most ``limit`` sources evenly, with a warning if there are more; numbers start at 1."""
    numbered, count = list(enumerate(sources, 1)), len(sources)
    if limit is None or count <= limit:
        return numbered
    _log.warning("%d %ss: %d of them, evenly spread, are explained; --limit takes more", count, thing, limit)
    return [numbered[index * count // limit] for index in range(limit)]
