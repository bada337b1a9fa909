"""Explanations of classifiers: Grad-CAM of a class, the class funnel of an image, class sets over a data set."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from ctxvision.data import DataSpec, DigitsData, ImageData
from ctxvision.inference.predictor import Given
from ctxvision.plots.pixels import is_small, seen_pixels, thumbnail
from ctxvision.runs import RunError
from ctxvision.tasks.classification.class_sets import is_contextual

from .cams import grad_cam, where_most
from .classes import Funnel, class_embeddings, class_fates, class_funnel, on_a_plane, similarities
from .explanation import (
    ExplainedNetwork,
    ImageExplanation,
    Preview,
    Request,
    Row,
    Section,
    Table,
    TaskExplainer,
    ranked,
    require_finite,
)
from .figures.cams import CamPanel, cam_picture
from .figures.classes import funnel_picture, off_diagonal, plane_picture, similarity_picture
from .figures.fates import lost_picture, lost_to_picture, recall_picture
from .figures.layers import class_offsets_picture
from .layer_contents import add_layer_contents, of_stages
from .offsets import contextual_layers, offsets_by_class

Batches = Iterable[tuple[Tensor, Tensor]]
"""Images (B, C, H, W) and their classes (B,), gone through more than once."""

_CLASSES = 100  # more have no similarity matrix in the JSON file


class Explainer(TaskExplainer):
    """Explains what a classifier answers."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.model = request.network.task.model
        self.specs = [cast(DataSpec, network.predictor.data_spec) for network in request.networks]

    @cached_property
    def plane(self) -> np.ndarray:
        """The places of the class embeddings on a plane, (C, 2)."""
        return on_a_plane(class_embeddings(self.model))

    def look(self, source: Given, file: str, name: str) -> ImageExplanation:
        """Explain the answer for one image, or the class that was asked for; see `explanation.Explainer`."""
        request, names = self.request, self.request.network.class_names
        views = [
            spec.eval_transform()(picture) for spec, picture in zip(self.specs, self.pictures(source), strict=True)
        ]
        truth = request.truth or _folder_of(source, names)
        panels = [
            self._answer(network, spec, view, file)
            for network, spec, view in zip(request.networks, self.specs, views, strict=True)
        ]
        (panel, chances), spec = panels[0], self.specs[0]
        explained = ImageExplanation(file, [panel.cam], [other.cam for other, _ in panels[1:]])
        for network, (_, theirs) in zip(request.networks, panels, strict=True):
            rows = [Row(row["class"], row["probability"]) for row in ranked(theirs, network.class_names)]
            explained.tables.append(Table(network.label, rows))
        answer = names[int(chances.argmax())]
        uri = thumbnail(views[0], spec.mean, spec.std)
        explained.previews = [Preview(uri, f"{file}, answered {answer}", pixelated=is_small(views[0]))]
        explained.entry = {"truth": truth, **_numbers(panel, chances, names), "against": None}
        if request.against is not None:
            explained.entry["against"] = _numbers(*panels[1], request.against.class_names)
        explained.drawings.append(partial(cam_picture, [panel for panel, _ in panels], f"{name}-grad-cam"))
        view = _batch(request.network, views[0])
        if is_contextual(self.model):
            self._add_funnel(explained, view, truth, answer, name)
        # taps are shown where the evidence is
        add_layer_contents(explained, self.model, view, panel.image, where_most(panel.cam.map), name)
        return explained

    def _answer(
        self, network: ExplainedNetwork, spec: DataSpec, view: Tensor, file: str
    ) -> tuple[CamPanel, np.ndarray]:
        """Explain what one network answers in its own view (C, H, W), or the class that was asked for."""
        image, names = _batch(network, view), network.class_names
        chances = network.task(image)[0].float().softmax(0)
        require_finite(chances, file)
        wanted = self.request.class_name
        target = int(chances.argmax()) if wanted is None else names.index(wanted)
        (cam,) = grad_cam(network.task.model, image, [target], layer=network.layer)
        pixels = seen_pixels(view, spec.mean, spec.std)
        panel = CamPanel(network.label, pixels, cam, names[target], float(chances[target]))
        return panel, chances.cpu().numpy()

    def _add_funnel(
        self, explained: ImageExplanation, view: Tensor, truth: str | None, answer: str, name: str
    ) -> None:
        """Follow the true class, or else the class that was asked for or answered, through the steps."""
        names = self.request.network.class_names
        followed = truth or self.request.class_name or answer
        (funnel,) = class_funnel(self.model, view, [names.index(followed)])
        explained.funnel = funnel
        what = "true class" if truth else "class asked for" if self.request.class_name else None
        explained.drawings += [
            partial(funnel_picture, funnel, names, f"{name}-funnel", what=what),
            lambda: plane_picture(self.plane, funnel, names, f"{name}-classes", what=what),
        ]
        explained.entry["funnel"] = _funnel_numbers(funnel, names)

    def sections(self, data: DigitsData | ImageData | Batches | None, data_name: str) -> dict[str, Section | None]:
        """Compare the class embeddings of a contextual network, and follow classes of a data set through it."""
        if not is_contextual(self.model):
            return {"embeddings": None, "data": None}
        if isinstance(data, DigitsData | ImageData):
            data = _ValidationBatches(data, self.request.network)
        found = None if data is None else self._data(data, data_name)
        return {"embeddings": self._embeddings(), "data": found}

    def _embeddings(self) -> Section:
        names = self.request.network.class_names
        matrices = []
        for network in self.request.networks:
            order = [network.class_names.index(name) for name in names]
            matrices.append((network.label, similarities(class_embeddings(network.task.model)[order])))
        numbers = {
            "plane": [[round(float(x), 4), round(float(y), 4)] for x, y in self.plane],
            "similarity": [_similarity(label, cosines, names) for label, cosines in matrices],
        }
        return Section(numbers, [partial(similarity_picture, matrices, names)])

    def _data(self, data: Batches, data_name: str) -> Section:
        """Follow the true classes of a data set.

        Raises:
            RunError: No image can be read.
        """
        names = self.request.network.class_names
        try:
            fates = class_fates(self.model, data)
        except ValueError as error:
            raise RunError(f"{data_name}: {error}") from error
        drawings: list[Any] = [partial(recall_picture, fates), partial(lost_picture, fates, names)]
        to_whom = lost_to_picture(fates, names)
        drawings += [lambda: to_whom] if to_whom else []
        offsets = offsets_by_class(self.model, data) if contextual_layers(self.model) else []
        if offsets:
            drawings.append(partial(class_offsets_picture, of_stages(self.model, offsets), names))
        counts = fates.lost_by_class()
        steps = zip(fates.steps, fates.scored, fates.kept, fates.recall(), strict=True)
        numbers = {
            "name": data_name,
            "images": len(fates.targets),
            "steps": [{"name": n, "scored": s, "kept": k, "recall": float(r)} for n, s, k, r in steps],
            "classes": [
                {"class": name, "lost": row[:-1].tolist(), "right": int(row[-1])}
                for name, row in zip(names, counts, strict=True)
            ],
            "lost_to": [
                {"truth": names[true], "step": fates.steps[step], "to": names[winner], "images": count}
                for true, step, winner, count in fates.lost_to()[:1000]
            ],
            "bends_by_class": [
                {
                    "layer": found.name,
                    "distance_pixels": [_or_none(value) for value in found.sampling_offset],
                    "kernel_change": [_or_none(value) for value in found.weight_offset],
                }
                for found in offsets
            ],
        }
        return Section(numbers, drawings)


class _ValidationBatches:
    """The validation batches of a data module, on a network's device, as often as they are wanted."""

    def __init__(self, data: DigitsData | ImageData, network: ExplainedNetwork) -> None:
        self._data, self._task = data, cast(Any, network.task)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self._data.val_dataloader():
            images, targets = self._data.on_after_batch_transfer(batch, 0)
            if len(images):
                device = self._task.device
                yield images.to(device, memory_format=self._task.memory_format), targets.to(device)


def _folder_of(source: Given, names: Sequence[str]) -> str | None:
    """Return the name of an image's folder if it is the name of a class, else ``None``."""
    if not isinstance(source, str | PathLike):
        return None
    folder = Path(source).absolute().parent.name
    return folder if folder in names else None


def _batch(network: ExplainedNetwork, view: Tensor) -> Tensor:
    task: Any = network.task
    batch: Tensor = view[None].to(task.device, memory_format=task.memory_format)
    return batch


def _numbers(panel: CamPanel, chances: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    return {
        "answer": names[int(chances.argmax())],
        "predictions": ranked(chances, names),
        "grad_cam": {
            "class": panel.class_name,
            "probability": panel.probability,
            **panel.cam.to_dict(),
            "scored_by": panel.cam.scored_by,
        },
    }


def _funnel_numbers(funnel: Funnel, names: Sequence[str]) -> dict[str, Any]:
    loss = funnel.loss()
    return {
        **funnel.to_dict(names),
        "lost_at": loss and loss.step,
        "lost_to": loss and names[loss.to],
        "replaced_by": loss and names[loss.replaced_by],
    }


def _similarity(label: str, cosines: np.ndarray, names: Sequence[str], limit: int = 20) -> dict[str, Any]:
    """Describe the cosines (C, C) of the classes of one network, with the most similar pairs."""
    others = off_diagonal(cosines)
    first, second = np.nonzero(np.triu(np.ones_like(cosines, dtype=bool), 1))
    order = np.argsort(-cosines[first, second], kind="stable")[:limit]
    few = len(names) <= _CLASSES
    return {
        "network": label,
        "mean": float(others.mean()),
        "std": float(others.std()),
        "highest": float(others.max()),
        "most_similar": [
            {"classes": [names[first[k]], names[second[k]]], "cosine": float(cosines[first[k], second[k]])}
            for k in order
        ],
        "matrix": [[round(float(value), 5) for value in row] for row in cosines] if few else None,
    }


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
