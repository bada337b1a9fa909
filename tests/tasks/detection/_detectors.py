"""Small detectors, images and targets for the tests."""

import torch

from ctxvision.tasks.detection import build_detector

DETECTORS = ("faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn", "retinanet")
SMALL = {
    "num_classes": 4,
    "width": 16,
    "hidden": 32,
    "min_size": 64,
    "anchor_sizes": (8, 16, 32, 64, 128),
    "train_proposals": 60,
    "test_proposals": 40,
    "sampled_rois": 40,
    "score_threshold": 0.0,
    "detections": 20,
}


def small(detector="faster_rcnn", backbone="rednet_micro", **changes):
    """A detector whose step takes a fraction of a second."""
    return build_detector(detector, backbone, **{**SMALL, **changes})


def target(height, width, boxes=((2, 3, 20, 30), (10, 10, 40, 40)), labels=(1, 4)):
    """Boxes with filled masks; without boxes, an image without any object."""
    masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = 1
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels[: len(boxes)], dtype=torch.int64),
        "masks": masks,
    }


def calibrated(detector, images):
    """Give batch norms the statistics of these images, so that activations of random weights stay in scale."""
    norms = [m for m in detector.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    for module in detector.modules():
        module.training = module in norms
    network = getattr(detector, "network", detector)
    with torch.no_grad():
        network.backbone(network.transform(images)[0].tensors)
    for norm in norms:
        norm.momentum = 0.1
    return detector.eval()
