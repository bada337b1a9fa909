"""Cascade R-CNN's RoI heads, composed of torchvision's (Cai and Vasconcelos, CVPR 2018)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_inference, maskrcnn_loss
from torchvision.ops import clip_boxes_to_image

Features = dict[str, Tensor]
Sizes = list[tuple[int, int]]
Targets = list[dict[str, Tensor]]

IOU_THRESHOLDS = (0.5, 0.6, 0.7)
BOX_WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
LOSS_WEIGHTS = (1.0, 0.5, 0.25)


class CascadeRoIHeads(nn.Module):
    """Stages of RoI heads, each of which starts from the boxes of the one before and asks for a higher IoU.

    In training each stage appends the ground truth to its proposals, assigns and samples anew; ground truth among
    the samples is not handed on, the next stage appends its own. In evaluation the scores are the mean of
    the stages' probabilities, each at the boxes that it was given, as in Detectron2 and the ResNeSt detectors that
    CoTNet is compared with (the paper evaluates all classifiers at the last stage's), and masks, where the stages
    have mask heads, the mean of the stages' probabilities at the final boxes.

    Args:
        stages: RoI heads with a `ClassAgnosticPredictor` each; thresholds, box coders and, for masks, mask heads
            are theirs.
        loss_weights: The weight of each stage's loss.
    """

    def __init__(self, stages: Sequence[RoIHeads], loss_weights: Sequence[float] = LOSS_WEIGHTS) -> None:
        super().__init__()
        if len(stages) != len(loss_weights):
            raise ValueError(f"{len(stages)} stages need as many loss weights, got {len(loss_weights)}")
        self.stages = nn.ModuleList(stages)
        self.loss_weights = tuple(loss_weights)

    def in_order(self) -> list[RoIHeads]:
        """Return the stages, the first one first."""
        return list(self.stages)

    def forward(
        self, features: Features, proposals: list[Tensor], image_shapes: Sizes, targets: Targets | None = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return detections in evaluation, losses by name and stage in training.

        Args:
            features: The maps of the pyramid by name, each (B, width, H, W).
            proposals: The boxes of each image, ``(n, 4)`` as x0, y0, x1, y1.
            image_shapes: The height and width of each image before padding, in pixels.
            targets: The targets of each image in training: "boxes" ``(n, 4)``, "labels" ``(n,)`` and, for masks,
                "masks" ``(n, H, W)``.
        """
        if self.training:
            return [], self._losses(features, proposals, image_shapes, targets or [])
        return self._detections(features, proposals, image_shapes), {}

    def _losses(
        self, features: Features, proposals: list[Tensor], image_shapes: Sizes, targets: Targets
    ) -> dict[str, Tensor]:
        losses = {}
        for number, (stage, weight) in enumerate(zip(self.in_order(), self.loss_weights, strict=True), 1):
            boxes, matches, labels, goals = stage.select_training_samples(proposals, targets)
            logits, codes = _predict(stage, features, boxes, image_shapes)
            loss_classifier, loss_boxes = fastrcnn_loss(logits, codes, labels, goals)
            losses[f"loss_classifier_{number}"] = weight * loss_classifier
            losses[f"loss_box_reg_{number}"] = weight * loss_boxes
            if stage.has_mask():
                positive = [torch.where(image > 0)[0] for image in labels]
                mask_boxes = [image[chosen] for image, chosen in zip(boxes, positive, strict=True)]
                mask_matches = [image[chosen] for image, chosen in zip(matches, positive, strict=True)]
                losses[f"loss_mask_{number}"] = weight * maskrcnn_loss(
                    _mask_logits(stage, features, mask_boxes, image_shapes),
                    mask_boxes,
                    [target["masks"] for target in targets],
                    [target["labels"] for target in targets],
                    mask_matches,
                )
            if number < len(self.stages):
                refined = _refine(stage, codes, boxes, image_shapes)
                proposals = [
                    image[~_among(before, target["boxes"])]
                    for image, before, target in zip(refined, boxes, targets, strict=True)
                ]
        return losses

    def _detections(
        self, features: Features, proposals: list[Tensor], image_shapes: Sizes
    ) -> list[dict[str, Tensor]]:
        probabilities = []
        for number, stage in enumerate(self.in_order(), 1):
            logits, codes = _predict(stage, features, proposals, image_shapes)
            probabilities.append(logits.softmax(-1))
            if number < len(self.stages):
                proposals = _refine(stage, codes, proposals, image_shapes)
        # the logarithm undoes the softmax in torchvision's postprocessing
        mean = torch.stack(probabilities).mean(0).log()
        boxes, scores, labels = stage.postprocess_detections(mean, codes, proposals, image_shapes)
        detections = [
            {"boxes": b, "labels": c, "scores": s} for b, c, s in zip(boxes, labels, scores, strict=True)
        ]
        if stage.has_mask():
            of_stages = [
                maskrcnn_inference(_mask_logits(stage, features, boxes, image_shapes), labels)
                for stage in self.in_order()
            ]
            for detection, masks in zip(detections, zip(*of_stages, strict=True), strict=True):
                detection["masks"] = torch.stack(masks).mean(0)
        return detections


def _predict(
    stage: RoIHeads, features: Features, boxes: list[Tensor], image_shapes: Sizes
) -> tuple[Tensor, Tensor]:
    predicted: tuple[Tensor, Tensor]
    predicted = stage.box_predictor(stage.box_head(stage.box_roi_pool(features, boxes, image_shapes)))
    return predicted


def _mask_logits(stage: RoIHeads, features: Features, boxes: list[Tensor], image_shapes: Sizes) -> Tensor:
    logits: Tensor
    logits = stage.mask_predictor(stage.mask_head(stage.mask_roi_pool(features, boxes, image_shapes)))
    return logits


def _refine(stage: RoIHeads, codes: Tensor, boxes: list[Tensor], image_shapes: Sizes) -> list[Tensor]:
    """Return the boxes that a stage predicts, without gradients, inside their images."""
    decoded = stage.box_coder.decode(codes.detach(), boxes)
    # the same box for every class
    refined = decoded.reshape(-1, codes.shape[1] // 4, 4)[:, 0].split([len(image) for image in boxes])
    return [clip_boxes_to_image(image, shape) for image, shape in zip(refined, image_shapes, strict=True)]


def _among(boxes: Tensor, others: Tensor) -> Tensor:
    """Return which of the boxes ``(n, 4)`` are exactly one of the others ``(m, 4)``."""
    return (boxes[:, None] == others.to(boxes.dtype)[None]).all(-1).any(-1)
