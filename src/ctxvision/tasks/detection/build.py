"""Detectors over any backbone: Faster, Mask, Cascade and Cascade Mask R-CNN, and RetinaNet."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import convert_sync_batchnorm
from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from ctxvision.tasks.error import TaskError
from ctxvision.tasks.features import FeatureBackbone, LayerKind, NormName, make_fpn

from .cascade import BOX_WEIGHTS, IOU_THRESHOLDS, CascadeRoIHeads
from .detector import Detector, PyramidBackbone
from .heads import (
    BoxHeadName,
    ClassAgnosticPredictor,
    in_full_precision,
    in_own_precision,
    make_box_head,
    make_box_predictor,
    make_mask_head,
    make_mask_predictor,
    make_retinanet_head,
    make_rpn_head,
)
from .regions import Interpolation, RoIPool, make_transform

DetectorName = Literal["faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn", "retinanet"]

ANCHOR_SIZES = (32, 64, 128, 256, 512)
_ROI_STRIDES = (4, 8, 16, 32)


def build_detector(
    detector: DetectorName,
    backbone: str,
    *,
    num_classes: int,
    in_chans: int = 3,
    neck: LayerKind = "convolution",
    head: LayerKind = "convolution",
    box_head: BoxHeadName = "2fc",
    width: int = 256,
    hidden: int = 1024,
    norm: NormName = "frozen",
    norm_in_heads: bool = False,
    frozen_stages: int = 0,
    extra_levels_from: Literal["backbone", "pyramid"] = "backbone",
    anchor_sizes: Sequence[int] = ANCHOR_SIZES,
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    train_proposals: int = 2000,
    test_proposals: int = 1000,
    train_candidates: int | None = None,
    test_candidates: int | None = None,
    sampled_rois: int = 512,
    roi_samples: int = 2,
    roi_aligned: bool = False,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.5,
    detections: int = 100,
    min_size: int | Sequence[int] = 800,
    max_size: int = 1333,
    interpolation: Interpolation = "bilinear",
    image_mean: Sequence[float] | None = None,
    image_std: Sequence[float] | None = None,
    drop_path_rate: float = 0.0,
    model_args: Mapping[str, Any] | None = None,
) -> Detector:
    """Build a detector without weights; see `Detector` for how it is called.

    The defaults are torchvision's; recipes say where their authors had others. RetinaNet has no use for
    ``hidden``, the candidates, proposals and RoIs.

    Args:
        detector: The kind of detector.
        backbone: The registered name of a network of timm or ours, with feature maps of strides 4 to 32
            (RetinaNet: 8 to 32).
        num_classes: The number of classes without the background; labels are 1 to ``num_classes``.
        in_chans: The number of channels of the images.
        neck: The output layers of the FPN; ``"involution"`` replaces its 3x3 convolutions by 7x7 involutions.
        head: The layers of the region proposal network and of the mask head; ``"involution"`` replaces their 3x3
            convolutions.
        box_head: The layers of the box head, see `make_box_head`.
        width: The number of channels of the FPN and of the heads' convolutions.
        hidden: The width of the box head's linear layers.
        norm: The mode of the backbone's batch norms, see `FeatureBackbone`; with ``"sync"`` all of the detector's
            batch norms are synchronised.
        norm_in_heads: Whether there is batch norm also in the FPN, in ``"4conv1fc"`` and in the mask head
            (ResNeSt's detectors, whose settings CoTNet took over).
        frozen_stages: The number of the backbone's stages that are not trained, see `FeatureBackbone`.
        extra_levels_from: Whether RetinaNet's level P6 is computed from the backbone's last feature map (the
            paper) or from the pyramid's (torchvision's default).
        anchor_sizes: The sides of the anchors, one or several for each of the five levels, in pixels of the
            resized image.
        aspect_ratios: The ratios of an anchor's height to its width.
        train_proposals: The number of boxes of an image that the region proposal network hands on in training.
        test_proposals: The number of boxes of an image that the region proposal network hands on in evaluation.
        train_candidates: The number of boxes of each level that go into the suppression (NMS) before, in training;
            by default ``train_proposals``.
        test_candidates: The same number in evaluation; by default ``test_proposals``.
        sampled_rois: The number of proposals of an image that train the heads.
        roi_samples: The number of samples of a RoI's bin in each direction; 0 takes as many as the bin is wide.
        roi_aligned: Whether RoIs count from the centres of pixels, see `RoIPool`.
        score_threshold: The lowest score of a detection; those below are left out.
        nms_threshold: The highest IoU of two detections of a class; above it, the one with the lower score is left
            out.
        detections: The largest number of detections in an image.
        min_size: The shorter side of the resized image in pixels; of several, each training image gets one at
            random from torch's generator, and evaluation uses the last.
        max_size: The largest length of the longer side of the resized image in pixels.
        interpolation: The filter of the resize, see `make_transform`.
        image_mean: The mean of each channel, which is subtracted from the image; by default ImageNet's, or their
            mean where there are not three channels.
        image_std: The standard deviation of each channel, by which the image is divided; by default ImageNet's, or
            their mean where there are not three channels.
        drop_path_rate: The probability that stochastic depth leaves out a residual branch of the backbone.
        model_args: More arguments of the backbone's constructor.

    Raises:
        TaskError: Names are unknown, the backbone has no feature maps, or settings contradict each other.

    Examples:
        >>> import torch
        >>> detector = build_detector("faster_rcnn", "rednet_micro", num_classes=10, width=32, min_size=64).eval()
        >>> found = detector([torch.rand(3, 48, 64), torch.rand(3, 50, 40)])
        >>> [sorted(image) for image in found]
        [['boxes', 'labels', 'scores'], ['boxes', 'labels', 'scores']]
    """
    has_masks, is_retinanet = "mask" in detector, detector == "retinanet"
    _check(
        detector=detector, neck=neck, head=head, box_head=box_head, norm=norm, extra_levels_from=extra_levels_from,
        num_classes=num_classes, in_chans=in_chans, width=width, hidden=hidden, train_proposals=train_proposals,
        test_proposals=test_proposals, sampled_rois=sampled_rois, detections=detections, max_size=max_size,
        train_candidates=train_candidates or train_proposals, test_candidates=test_candidates or test_proposals,
        interpolation=interpolation,
    )  # fmt: skip
    if roi_samples < 0:
        raise TaskError(f"roi_samples must be at least 0, got {roi_samples}")
    if is_retinanet and (head, box_head) != ("convolution", "2fc"):
        raise TaskError("retinanet has no region proposals and no RoI heads; leave out head and box_head")
    if "involution" in (neck, head) and width % 16:
        raise TaskError(f"width must be a multiple of 16 for involutions, got {width}")
    if len(anchor_sizes) != 5 or not all(size > 0 for size in anchor_sizes):
        raise TaskError(f"anchor_sizes must be five positive sizes, one for each level, got {tuple(anchor_sizes)}")
    features = FeatureBackbone(
        backbone,
        (8, 16, 32) if is_retinanet else _ROI_STRIDES,
        in_chans=in_chans,
        norm=norm,
        frozen_stages=frozen_stages,
        drop_path_rate=drop_path_rate,
        model_args=model_args,
    )
    make_norm = nn.BatchNorm2d if norm_in_heads else None
    extra = LastLevelMaxPool()
    if is_retinanet:
        extra = LastLevelP6P7(features.channels[-1] if extra_levels_from == "backbone" else width, width)
        extra.use_P5 = extra_levels_from == "pyramid"
    fpn = make_fpn(features.channels, width, neck, extra, make_norm)
    # anchors take their precision from it
    pyramid = in_full_precision(PyramidBackbone(features, fpn, width))
    transform = make_transform(
        _sizes(min_size, max_size),
        max_size,
        _of_channels("image_mean", image_mean, IMAGENET_DEFAULT_MEAN, in_chans),
        _of_channels("image_std", image_std, IMAGENET_DEFAULT_STD, in_chans),
        interpolation,
    )

    def finish(network: GeneralizedRCNN | RetinaNet, **options: bool) -> Detector:
        network.transform = transform
        network = convert_sync_batchnorm(network) if norm == "sync" else network
        return Detector(network, num_classes=num_classes, in_chans=in_chans, has_masks=has_masks, **options)

    if is_retinanet:
        # three sizes per octave
        octaves = tuple(tuple(int(size * 2 ** (i / 3)) for i in range(3)) for size in anchor_sizes)
        anchors = AnchorGenerator(octaves, (tuple(aspect_ratios),) * 5)
        network = RetinaNet(
            pyramid,
            num_classes,
            anchor_generator=anchors,
            head=make_retinanet_head(width, anchors.num_anchors_per_location()[0], num_classes),
            score_thresh=score_threshold,
            nms_thresh=nms_threshold,
            detections_per_img=detections,
        )
        return finish(network, has_background=False)

    def roi_pool(size: int) -> RoIPool:
        return RoIPool(size, _ROI_STRIDES, roi_samples, roi_aligned)

    def roi_heads(predictor: nn.Module, iou: float, box_weights: tuple[float, ...]) -> RoIHeads:
        heads = RoIHeads(
            roi_pool(7), in_own_precision(make_box_head(box_head, width, hidden, make_norm)), predictor, iou, iou,
            sampled_rois, 0.25, box_weights, score_threshold, nms_threshold, detections,
        )  # fmt: skip
        if has_masks:
            heads.mask_roi_pool = roi_pool(14)
            heads.mask_head = in_own_precision(make_mask_head(width, head, make_norm))
            heads.mask_predictor = make_mask_predictor(width, num_classes)
        return heads

    if "cascade" in detector:
        heads: nn.Module = CascadeRoIHeads(
            [
                roi_heads(in_full_precision(ClassAgnosticPredictor(hidden, num_classes)), iou, weights)
                for iou, weights in zip(IOU_THRESHOLDS, BOX_WEIGHTS, strict=True)
            ]
        )
    else:
        heads = roi_heads(make_box_predictor(hidden, num_classes), IOU_THRESHOLDS[0], BOX_WEIGHTS[0])
    anchors = AnchorGenerator(tuple((size,) for size in anchor_sizes), (tuple(aspect_ratios),) * 5)
    rpn = RegionProposalNetwork(
        anchors,
        make_rpn_head(width, len(aspect_ratios), head),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={
            "training": train_candidates or train_proposals,
            "testing": test_candidates or test_proposals,
        },
        post_nms_top_n={"training": train_proposals, "testing": test_proposals},
        nms_thresh=0.7,
    )
    return finish(GeneralizedRCNN(pyramid, rpn, heads, transform))


def _sizes(min_size: int | Sequence[int], max_size: int) -> tuple[int, ...]:
    sizes = (min_size,) if isinstance(min_size, int) else tuple(min_size)
    if not sizes or not all(0 < size <= max_size for size in sizes):
        raise TaskError(f"min_size must be one or several sizes from 1 to max_size {max_size}, got {min_size}")
    return sizes


def _of_channels(
    name: str, values: Sequence[float] | None, imagenet: Sequence[float], in_chans: int
) -> list[float]:
    if values is None:
        return list(imagenet) if in_chans == len(imagenet) else [sum(imagenet) / len(imagenet)] * in_chans
    if len(values) != in_chans:
        raise TaskError(f"{name} must have a value for each of {in_chans} channels, got {tuple(values)}")
    return list(values)


_CHOICES = {
    "detector": get_args(DetectorName),
    "neck": get_args(LayerKind),
    "head": get_args(LayerKind),
    "box_head": get_args(BoxHeadName),
    "norm": get_args(NormName),
    "extra_levels_from": ("backbone", "pyramid"),
    "interpolation": get_args(Interpolation),
}


def _check(**values: str | int) -> None:
    for name, value in values.items():
        choices = _CHOICES.get(name)
        if choices and value not in choices:
            raise TaskError(f"{name} must be {', '.join(choices[:-1])} or {choices[-1]}, got {value!r}")
        if isinstance(value, int) and value < 1:
            raise TaskError(f"{name} must be at least 1, got {value}")
