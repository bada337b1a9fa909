"""torchvision's detectors as one graph: what is left out gets a score below 0 instead of another shape.

The modules are the detector's own; only the choice of boxes between them is written anew, after torchvision's
`RegionProposalNetwork`, `RoIHeads` and `RetinaNet` (torchvision 0.29), for one image of any size.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference
from torchvision.ops import nms

from ctxvision.tasks.detection import Detector
from ctxvision.tasks.detection.cascade import CascadeRoIHeads

_OUT = -1.0  # the score of what is left out
_SMALL = {"proposal": 1e-3, "detection": 1e-2}  # least sides of boxes in pixels, torchvision's


class DetectorGraph(nn.Module):
    """A detector for one image that has been resized, normalised and padded, without its pre- and postprocessing.

    Args:
        detector: Detector from `build_detector`.

    Shape:
        Images ``(1, C, H, W)``, padded by zeros to multiples of 32, and ``(2,)`` int64, height and width before
        the padding; to boxes ``(n, 4)`` in pixels of the resized image, labels ``(n,)`` from 1, scores ``(n,)``
        and, of a detector with masks, probabilities ``(n, 1, 28, 28)`` over the boxes. The best come first.
    """

    backbone: nn.Module
    head: nn.Module
    coder: BoxCoder
    roi_heads: RoIHeads | None

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        network = cast(GeneralizedRCNN | RetinaNet, detector.network)
        self.is_retinanet = not detector.has_background
        self.backbone = network.backbone
        self.head = network.head if self.is_retinanet else network.rpn.head
        source = network if self.is_retinanet else network.rpn
        for number, anchors in enumerate(source.anchor_generator.cell_anchors):
            self.register_buffer(f"anchors_{number}", anchors.float().clone(), persistent=False)
        # not modules of this one: their networks are, below
        self.coder = source.box_coder
        self.roi_heads = None if self.is_retinanet else network.roi_heads
        if self.is_retinanet:
            self.settings = (network.score_thresh, network.topk_candidates, network.nms_thresh)
            self.detections = network.detections_per_img
        else:
            rpn = network.rpn
            self.settings = (rpn._pre_nms_top_n["testing"], rpn._post_nms_top_n["testing"], rpn.nms_thresh)

    def forward(self, images: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """Detect objects on one image (1, C, H, W); the class describes inputs and outputs."""
        pyramid = self.backbone(images)
        limits = size.flip(0).to(images.dtype).repeat(2)  # (4,): x, y, x, y
        anchors = [
            _grid(getattr(self, f"anchors_{number}"), feature, images)
            for number, feature in enumerate(pyramid.values())
        ]
        if self.is_retinanet:
            return self._dense(list(pyramid.values()), anchors, limits)
        proposals, valid = self._proposals(list(pyramid.values()), anchors, limits)
        return self._of_regions(pyramid, proposals, valid, limits)

    def _proposals(
        self, features: list[Tensor], anchors: Sequence[Tensor], limits: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return boxes (n, 4) and which of them are some, (n,)."""
        before, after, threshold = self.settings
        found_boxes, found_scores = [], []
        for logits, codes, grid in zip(*self.head(features), anchors, strict=True):
            objectness, chosen = _best(_rows(logits, 1)[:, 0], before)
            boxes = self.coder.decode_single(
                _filled(_rows(codes, 4), before)[chosen], _filled(grid, before)[chosen]
            )
            boxes = _clipped(boxes, limits)
            valid = (objectness > torch.finfo(objectness.dtype).min) & _large(boxes, _SMALL["proposal"])
            scores = torch.where(valid, objectness.sigmoid(), _OUT)
            found_scores.append(_suppressed(boxes, scores, threshold))
            found_boxes.append(boxes)
        scores, best = torch.cat(found_scores).topk(min(after, before * len(anchors)))
        return torch.cat(found_boxes)[best], scores > _OUT / 2

    def _of_regions(
        self, pyramid: dict[str, Tensor], boxes: Tensor, valid: Tensor, limits: Tensor
    ) -> tuple[Tensor, ...]:
        heads = self.roi_heads
        stages: Sequence[RoIHeads] = list(heads.stages) if isinstance(heads, CascadeRoIHeads) else [heads]
        probabilities = []
        for number, stage in enumerate(stages, 1):
            logits, codes = stage.box_predictor(stage.box_head(_pooled(stage.box_roi_pool, pyramid, boxes)))
            probabilities.append(logits.softmax(-1))
            decoded = stage.box_coder.decode_single(codes, boxes).unflatten(1, (-1, 4))  # (n, 1 + N, 4)
            if number < len(stages):
                boxes = _clipped(decoded[:, 0], limits)  # the same box for every class
        scores = probabilities[0]
        if len(probabilities) > 1:
            scores = torch.stack(probabilities).mean(0).log().softmax(-1)
        by_class = _clipped(decoded[:, 1:], limits).transpose(0, 1)  # (N, n, 4)
        scores = scores[:, 1:].T
        kept = (scores > stage.score_thresh) & _large(by_class, _SMALL["detection"]) & valid
        scores = torch.where(kept, scores, _OUT)
        scores = torch.stack(
            [_suppressed(b, s, stage.nms_thresh) for b, s in zip(by_class.unbind(), scores.unbind(), strict=True)]
        )
        best, places = scores.flatten().topk(min(stage.detections_per_img, scores.numel()))
        boxes = by_class.flatten(0, 1)[places]
        labels = places // scores.shape[1] + 1
        found = [boxes, labels, best]
        if stage.has_mask():
            of_stages = [self._masks(each, pyramid, boxes, labels) for each in stages]
            found.append(of_stages[0] if len(of_stages) == 1 else torch.stack(of_stages).mean(0))
        return _of_some(found, best)

    def _masks(self, stage: RoIHeads, pyramid: dict[str, Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        features = stage.mask_head(_pooled(stage.mask_roi_pool, pyramid, boxes))
        masks: Tensor = maskrcnn_inference(stage.mask_predictor(features), [labels])[0]
        return masks

    def _dense(self, features: list[Tensor], anchors: Sequence[Tensor], limits: Tensor) -> tuple[Tensor, ...]:
        least, candidates, threshold = self.settings
        found_boxes, found_scores, found_labels = [], [], []
        head = cast(RetinaNetHead, self.head)
        classification, regression = head.classification_head, head.regression_head
        num_classes = classification.num_classes
        for feature, grid in zip(features, anchors, strict=True):
            scores = classification([feature])[0].sigmoid().flatten()
            scores, chosen = _best(torch.where(scores > least, scores, _OUT), candidates)
            place = chosen // num_classes
            codes = _filled(regression([feature])[0], candidates)[place]
            boxes = self.coder.decode_single(codes, _filled(grid, candidates)[place])
            found_boxes.append(_clipped(boxes, limits))
            found_scores.append(scores)
            found_labels.append(chosen % num_classes)
        boxes, scores, labels = (torch.cat(found) for found in (found_boxes, found_scores, found_labels))
        kept = [
            _suppressed(boxes, torch.where(labels == number, scores, _OUT), threshold)
            for number in range(num_classes)
        ]
        best, places = torch.stack(kept).amax(0).topk(min(self.detections, len(scores)))
        return _of_some([boxes[places], labels[places] + 1, best], best)


def _grid(cells: Tensor, feature: Tensor, images: Tensor) -> Tensor:
    """Move the anchors of one place (A, 4) to all places of a map; (H · W · A, 4)."""
    rows, columns = feature.shape[2:]
    y, x = (
        torch.arange(count, device=cells.device) * (images.shape[axis] // count)
        for axis, count in ((2, rows), (3, columns))
    )
    shifts = torch.stack(torch.broadcast_tensors(x, y[:, None], x, y[:, None]), -1)
    return (shifts.reshape(-1, 1, 4) + cells).reshape(-1, 4)


def _rows(map_: Tensor, width: int) -> Tensor:
    """Bring a map (1, A · width, H, W) to the order of the anchors, (H · W · A, width)."""
    return map_[0].permute(1, 2, 0).reshape(-1, width)


def _filled(rows: Tensor, count: int) -> Tensor:
    """Append rows of zeros, so that any row among the best has a place."""
    return torch.cat([rows, rows.new_zeros(count, rows.shape[1])])


def _best(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the highest values and their places; where there are too few, the least of all values."""
    least = torch.finfo(values.dtype).min
    found = torch.cat([values, values.new_full((count,), least)]).topk(count)
    return found.values, found.indices


def _clipped(boxes: Tensor, limits: Tensor) -> Tensor:
    return torch.minimum(boxes.clamp(min=0), limits)


def _large(boxes: Tensor, least: float) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2] >= least).all(-1)


def _suppressed(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Return the scores (n,), of boxes that overlap a better one or have none below 0.

    torchvision tells the tracer that `nms` keeps at least two boxes, and the graph would check it. So it does: two
    outside of every image, without a score, apart from all others.
    """
    some = (scores > _OUT / 2).nonzero()[:, 0]
    apart = boxes.new_tensor([[-2.0, -2.0, -1.0, -1.0], [-4.0, -4.0, -3.0, -3.0]])
    places = torch.cat([some, len(boxes) + torch.arange(2, device=boxes.device)])
    candidates = torch.cat([scores[some], scores.new_zeros(2)])
    kept = nms(torch.cat([boxes[some], apart]), candidates, threshold)
    found = scores.new_full((len(scores) + 2,), _OUT).scatter(0, places[kept], candidates[kept])
    return found[: len(scores)]


def _pooled(pool: Any, pyramid: dict[str, Tensor], boxes: Tensor) -> Tensor:
    """Do what `RoIPool` does: every box is read from the map that fits its size."""
    levels = pool.map_levels([boxes])
    regions = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1)  # of image 0
    total: Tensor | None = None
    for number, (name, scale) in enumerate(zip(pool.featmap_names, pool.scales, strict=True)):
        here = (levels == number).nonzero()[:, 0]
        read = torch.ops.torchvision.roi_align(
            pyramid[name], regions[here], scale, *pool.output_size, pool.sampling_ratio, pool.aligned
        )
        if total is None:
            total = read.new_zeros(boxes.shape[0], *read.shape[1:])
        total = total.index_copy(0, here, read)
    assert total is not None
    return total


def _of_some(found: Sequence[Tensor], scores: Tensor) -> tuple[Tensor, ...]:
    some = (scores > _OUT / 2).nonzero()[:, 0]
    return tuple(tensor[some] for tensor in found)
