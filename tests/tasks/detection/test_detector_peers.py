"""torchvision's own detectors with the same weights give the same losses and detections."""

import pytest
import torch
from _detectors import calibrated, target
from torchvision.models.detection import fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn, retinanet_resnet50_fpn

from ctxvision.tasks.detection import build_detector

pytestmark = pytest.mark.slow

ROI = {
    "box_batch_size_per_image": 24, "rpn_post_nms_top_n_train": 30, "rpn_pre_nms_top_n_train": 30,
    "rpn_post_nms_top_n_test": 25, "rpn_pre_nms_top_n_test": 25, "box_score_thresh": 0.001, "num_classes": 5,
    "box_detections_per_img": 10,
}  # fmt: skip
OUR_ROI = {"sampled_rois": 24, "train_proposals": 30, "test_proposals": 25, "score_threshold": 0.001}
CASES = {
    "faster_rcnn": (fasterrcnn_resnet50_fpn, ROI, OUR_ROI),
    "mask_rcnn": (maskrcnn_resnet50_fpn, ROI, OUR_ROI),
    # torchvision leaves it to the caller whether there is a background class; without one classes begin at 0
    "retinanet": (
        retinanet_resnet50_fpn,
        {"num_classes": 4, "score_thresh": 0.0, "detections_per_img": 10},
        {"score_threshold": 0.0, "extra_levels_from": "pyramid"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_losses_and_detections_equal_torchvision_s(name):
    make, their_settings, our_settings = CASES[name]
    sizes = {"min_size": (48, 64), "max_size": 90}
    # weights None: nothing is downloaded
    theirs = make(weights=None, weights_backbone=None, **sizes, **their_settings).double()
    with torch.device("meta"):
        ours = build_detector(
            name, "resnet50", num_classes=4, norm="batch", detections=10, **sizes, **our_settings
        )
    images = [torch.rand(3, *shape, dtype=torch.float64) for shape in ((64, 90), (50, 64))]
    targets = [target(64, 90), target(50, 64, ())]
    targets = [{**t, "boxes": t["boxes"].double()} for t in targets]
    calibrated(theirs, images)
    names = {key.replace("backbone.body.", "backbone.features.body."): key for key in theirs.state_dict()}
    weights = {our: theirs.state_dict()[key].clone() for our, key in names.items()}
    ours.network.load_state_dict(weights, strict=True, assign=True)

    offset = int(name == "retinanet")
    shifted = [{**t, "labels": t["labels"] - offset} for t in targets]
    losses = []
    for model, own in ((theirs, shifted), (ours, targets)):
        torch.manual_seed(3)  # scales, anchors and RoIs are sampled
        losses.append(model.train()(images, own))
    assert losses[0].keys() == losses[1].keys()
    for key, loss in losses[0].items():
        assert loss > 0
        torch.testing.assert_close(losses[1][key], loss, rtol=1e-9, atol=1e-12)

    # training has moved the running statistics, of both alike; ours runs images of different sizes one by one
    theirs.eval(), ours.eval()
    with torch.no_grad():
        expected, found = [theirs([image])[0] for image in images], ours(images)
    for theirs_found, ours_found in zip(expected, found, strict=True):
        assert len(theirs_found["boxes"]) > 3
        assert theirs_found.keys() == ours_found.keys()
        torch.testing.assert_close(ours_found["labels"] - offset, theirs_found["labels"])
        for key in theirs_found.keys() - {"labels"}:
            torch.testing.assert_close(ours_found[key], theirs_found[key], rtol=1e-7, atol=1e-7)
