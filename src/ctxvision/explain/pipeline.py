"""Looks into a trained network of any task while it reads some images."""

import logging
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from os import PathLike
from typing import cast

from PIL import Image
from torch import Tensor

from ctxvision.data import BadImageError
from ctxvision.models._figures import evaluation_mode
from ctxvision.runs import RunError
from ctxvision.tasks.classification.class_sets import is_contextual
from ctxvision.tasks.registry import module_of
from ctxvision.tasks.training import TrainingTask

from .explanation import ExplainedNetwork, Explainer, Explanation, Opened, Request, Source

_log = logging.getLogger(__name__)


def explain(
    network: TrainingTask | Opened,
    images: Source | Iterable[Source],
    *,
    class_name: str | None = None,
    layer: str | None = None,
    against: TrainingTask | Opened | None = None,
    against_layer: str | None = None,
    truth: str | None = None,
    threshold: float = 0.5,
    data: Iterable[tuple[Tensor, Tensor]] | None = None,
    data_name: str = "data",
    strict: bool = False,
) -> Explanation:
    """Look into a trained network while it reads some images or videos.

    The arrays are computed now; figures are drawn when they are first asked for. What the page and the files of
    ``ctxvision explain`` show is made from the result.

    Args:
        network: What `ctxvision.inference.open_predictor` or `ctxvision.tasks.load_task` opened, on the device to
            use. It must have its layers: exported networks cannot be explained.
        images: Paths, images of PIL's, or for a video network paths or open videos.
        class_name: Class to explain in every image; by default what the network answers or finds.
        layer: Name of a layer for Grad-CAM; by default see `grad_cam`, `box_cams`, `pixel_cams` and `frame_cams`.
        against: A second network of the same task and classes, to compare with.
        against_layer: Name of its layer for Grad-CAM.
        truth: True class of all the images, for a classifier; by default the name of an image's folder, where
            there is such a class.
        threshold: Lowest score, from 0 to 1, of the boxes of a detector that are explained.
        data: Batches of images (B, C, H, W) and their classes (B,), on the network's device, such as a data
            loader, to follow the classes through a contextual classifier. They are gone through more than once.
        data_name: What to call ``data``.
        strict: Whether an image that cannot be read is an error; by default it is left out, with a warning, and
            listed in ``bad_images``.

    Raises:
        RunError: The networks cannot be explained or compared, or an output is not a number.
        LayerError: The layer that was asked for cannot be used.
        BadImageError: An image cannot be read, and ``strict`` is set.
        ValueError: There is no such class, or ``data`` is given for a network without a class funnel.

    Examples:
        >>> import timm, ctxvision
        >>> from ctxvision.tasks import ClassificationTask
        >>> spec = {"class_names": ["cat", "dog", "emu"], "input_size": [3, 64, 64]}
        >>> task = ClassificationTask("cotnet_micro", spec)
        >>> explanation = explain(task, Image.new("RGB", (80, 60)), class_name="dog")
        >>> (image,) = explanation.images
        >>> image.cams[0].map.shape, image.kernels[0].name
        ((64, 64), 'layer1.0.conv2')
        >>> [figure.file for figure in image.figures][:2]
        ['image1-grad-cam.png', 'image1-sums.png']
    """
    request = _request(network, against, layer, against_layer)
    kind = request.network.task.kind
    for name in (class_name, truth):
        require_class(name, request.network.class_names)
    if data is not None and not follows_classes(request.network.task):
        raise ValueError("data is for contextual classifiers; this network has no class funnel to follow")
    request = replace(request, class_name=class_name, truth=truth, threshold=threshold)
    explanation = Explanation(request, [])
    alone = isinstance(images, str | PathLike | Image.Image) or hasattr(images, "read")
    sources = cast(Iterable[Source], [images] if alone else images)
    with ExitStack() as as_they_were:
        for one in request.networks:
            as_they_were.enter_context(evaluation_mode(one.task))
        explainer: Explainer = module_of("explain", kind).Explainer(request)
        for number, source in enumerate(sources, 1):
            file = str(source) if isinstance(source, str | PathLike) else f"image {number}"
            try:
                found = explainer.look(source, file, f"image{len(explanation.images) + 1}")
            except BadImageError as error:
                if strict:
                    raise
                _log.warning("skipped %s: %s", file, error.reason)
                explanation.bad_images.append({"path": file, "reason": error.reason})
            else:
                explanation.images.append(found)
        if explanation.images:
            explanation.sections = explainer.sections(data, data_name)
    return explanation


def require_class(name: str | None, class_names: list[str]) -> None:
    """Refuse a name that is not one of a network's classes.

    Raises:
        ValueError: The name is not ``None`` and not one of them.
    """
    if name is not None and name not in class_names:
        shown = ", ".join(class_names[:5]) + (", …" if len(class_names) > 5 else "")
        raise ValueError(f"no class {name!r}; the network's classes are {shown}")


def follows_classes(task: TrainingTask) -> bool:
    """Tell whether classes can be followed through a network: a contextual classifier."""
    return task.kind == "classification" and is_contextual(task.model)


def _request(
    network: TrainingTask | Opened,
    against: TrainingTask | Opened | None,
    layer: str | None,
    against_layer: str | None,
) -> Request:
    """Open the networks, and name them; with letters before the names where these are the same.

    Raises:
        RunError: They cannot be explained, or are not of the same task and classes.
    """
    first = _opened(network, layer)
    if against is None:
        return Request(replace(first, label=first.model_name))
    second = _opened(against, against_layer)
    called = second.name or "the network to compare with"
    if second.task.kind != first.task.kind:
        raise RunError(f"{called}: its task is {second.task.kind}, not {first.task.kind}")
    odd = sorted(set(second.class_names) ^ set(first.class_names))
    if odd:
        raise RunError(f"{called}: has not the same classes; {odd[0]!r} is a class of one network only")
    one, other = first.model_name, second.model_name
    labels = (f"A: {one}", f"B: {other}") if one == other else (one, other)
    return Request(replace(first, label=labels[0]), replace(second, label=labels[1]))


def _opened(network: TrainingTask | Opened, layer: str | None) -> ExplainedNetwork:
    if isinstance(network, TrainingTask):
        return ExplainedNetwork(network, "", layer)
    if network.module is None:
        raise RunError(f"{network.source}: an exported network has no layers to look into; give the checkpoint")
    return ExplainedNetwork(network.module, str(network.source), layer)
