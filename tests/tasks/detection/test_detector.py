"""How detectors are called: any sizes, any order, nothing to find, and errors that name the fault."""

import pytest
import torch
from _detectors import DETECTORS, calibrated, small, target
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxvision.tasks import TaskError

pytestmark = pytest.mark.slow

SIZES = [(64, 64), (64, 96), (96, 64), (41, 77), (77, 41), (33, 64), (100, 51)]


@pytest.fixture(scope="module", params=[("cascade_mask_rcnn", "cotnet_micro"), ("retinanet", "rednet_micro")])
def detector(request):
    torch.manual_seed(0)
    name, backbone = request.param
    made = small(name, backbone, neck="involution", detections=6).double()
    return calibrated(made, [torch.rand(3, 64, 96, dtype=torch.float64) for _ in range(2)])


@given(st.lists(st.sampled_from(SIZES), min_size=2, max_size=4), st.randoms(use_true_random=False))
@settings(max_examples=8)
def test_order_and_padding_do_not_change_a_detection(detector, sizes, random):
    """CoTNet's group norms and poolings, and every bias, would see padding that another image calls for."""
    images = [torch.rand(3, *size, dtype=torch.float64) for size in sizes]
    order = random.sample(range(len(images)), len(images))
    with torch.no_grad():
        alone = [detector([image])[0] for image in images]
        together = detector([images[i] for i in order])
    for position, index in enumerate(order):
        assert alone[index].keys() == together[position].keys()
        assert len(alone[index]["boxes"])
        for key, value in alone[index].items():
            torch.testing.assert_close(together[position][key], value, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", DETECTORS)
def test_sizes_and_ranges_of_what_is_found(name):
    detector = small(name).eval()
    images = [torch.rand(3, 40, 73), torch.rand(3, 120, 64)]
    with torch.no_grad():
        found = detector(images)
    for image, one in zip(images, found, strict=True):
        height, width = image.shape[1:]
        count = len(one["boxes"])
        assert 0 < count <= 20
        assert one["labels"].min() >= 1
        assert one["labels"].max() <= 4
        assert (one["scores"].diff() <= 0).all()
        assert (one["boxes"][:, :2] >= 0).all()
        assert (one["boxes"][:, 2:] <= torch.tensor([width, height]) + 1e-4).all()
        assert ("masks" in one) == ("mask" in name)
        if "masks" in one:
            assert one["masks"].shape == (count, 1, height, width)
            assert 0 <= one["masks"].min() <= one["masks"].max() <= 1


@pytest.mark.parametrize("head", ["convolution", "involution"])
@pytest.mark.parametrize("name", DETECTORS)
def test_images_without_any_object_train(name, head):
    if name == "retinanet":
        head = "convolution"
    detector = small(name, head=head).train()
    images = [torch.rand(3, 64, 80), torch.rand(3, 51, 64)]
    losses = detector(images, [target(64, 80, ()), target(51, 64, ())])
    assert all(loss.isfinite() for loss in losses.values())
    assert all(loss == 0 for key, loss in losses.items() if "box_reg" in key or "mask" in key)
    sum(losses.values()).backward()
    # every parameter takes part, so that several processes may wait for each other's gradients
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters() if p.requires_grad)
    assert all(b.isfinite().all() for b in detector.buffers())


def test_a_detector_learns_its_one_image():
    """Over seeds, threads and instruction sets the last losses are 0.26 to 0.43 of the first."""
    torch.manual_seed(0)
    detector = small("cascade_mask_rcnn", norm="batch", neck="involution", head="involution").train()
    images, targets = [torch.rand(3, 64, 64)] * 2, [target(64, 64)] * 2
    optimizer = torch.optim.AdamW(detector.parameters(), lr=3e-3)
    totals = []
    for _ in range(30):
        losses = detector(images, targets)
        totals.append(sum(losses.values()))
        optimizer.zero_grad()
        totals[-1].backward()
        optimizer.step()
    assert sum(totals[-6:]) / 6 < 0.6 * totals[0]


def test_training_scales_are_drawn_from_torch_s_generator_and_evaluation_has_the_last():
    detector = small(min_size=(48, 64, 80), max_size=100)
    seen = []
    detector.network.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[-2:]))
    image, truth = torch.rand(3, 50, 50), target(50, 50)
    detector.train()
    for seed in (0, 1, 2, 3, 4, 5, 0):
        torch.manual_seed(seed)
        detector([image], [truth])
    assert {side for side, _ in seen} == {64, 96}  # 48 and 80 are padded
    assert seen[0] == seen[-1]
    detector.eval()([image])
    assert seen[-1] == (96, 96)
    detector.eval()([torch.rand(3, 40, 100)])
    assert seen[-1] == (64, 128)  # 40 x 100 at most


def test_rois_are_cut_out_at_the_scale_of_the_maps_however_much_of_them_is_padding():
    """torchvision's pooling infers the scale from the size before padding: 36 of 64 pixels would look like 1/2."""
    detector = small(min_size=36).eval()
    detector([torch.rand(3, 36, 36)])
    assert detector.network.roi_heads.box_roi_pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    features = {str(i): torch.zeros(1, 16, 64 >> i, 64 >> i) for i in range(4)}
    features["0"][..., 2:4, 2:4] = 1  # pixels 8 to 16
    box = [torch.tensor([[8.0, 8, 12, 12]])]
    assert (detector.network.roi_heads.box_roi_pool(features, box, [(36, 36)]) == 1).all()


def test_input_is_left_alone():
    detector, images, targets = small("mask_rcnn"), [torch.rand(3, 50, 60)], [target(50, 60)]
    copies = images[0].clone(), {key: value.clone() for key, value in targets[0].items()}
    detector.train()(images, targets)
    assert torch.equal(images[0], copies[0])
    assert all(torch.equal(targets[0][key], copies[1][key]) for key in copies[1])


def broken(**changes):
    return [{**target(50, 60), **changes}]


@pytest.mark.parametrize(
    ("images", "targets", "message"),
    [
        ([], [], "no images"),
        ([torch.rand(1, 50, 60)], broken(), r"image 0 has shape \(1, 50, 60\); this detector takes \(3, H, W\)"),
        ([torch.rand(50, 60)], broken(), r"image 0 has shape \(50, 60\)"),
        ([torch.rand(3, 0, 60)], broken(), r"image 0 has shape \(3, 0, 60\)"),
        ([torch.zeros(3, 50, 60, dtype=torch.uint8)], broken(), "image 0 is torch.uint8; scale it to floating"),
        ([torch.rand(3, 50, 60)], None, "a target for each image: 1 images, targets: none"),
        ([torch.rand(3, 50, 60)], broken() * 2, "a target for each image: 1 images, targets: 2"),
        ([torch.rand(3, 50, 60)], [{"boxes": torch.zeros(0, 4)}], "target 0 has no 'labels'; this detector needs"),
        ([torch.rand(3, 50, 60)], broken(boxes=torch.zeros(2, 5)), r"boxes must be .* \(n, 4\), got .* \(2, 5\)"),
        ([torch.rand(3, 50, 60)], broken(labels=torch.ones(3).long()), r"labels must be int64 of shape \(2,\)"),
        ([torch.rand(3, 50, 60)], broken(labels=torch.ones(2)), r"labels must be int64 .*, got torch.float32"),
        ([torch.rand(3, 50, 60)], broken(labels=torch.tensor([0, 1])), "labels must be 1 to 4, got 0"),
        ([torch.rand(3, 50, 60)], broken(labels=torch.tensor([1, 5])), "labels must be 1 to 4, got 5"),
        (
            [torch.rand(3, 50, 60)],
            broken(boxes=torch.tensor([[1.0, 2, 3, 4], [5, 5, 5, 9]])),
            r"x1 < x2 and y1 < y2, got \[5.0, 5.0, 5.0, 9.0\]",
        ),
        (
            [torch.rand(3, 50, 60)],
            broken(boxes=torch.tensor([[1.0, 2, 3, float("nan")], [5, 5, 6, 9]])),
            r"must be finite .*, got \[1.0, 2.0, 3.0, nan\]",
        ),
        (
            [torch.rand(3, 50, 60)],
            broken(masks=torch.zeros(2, 60, 50)),
            r"target 0: masks must have shape \(2, 50, 60\), got \(2, 60, 50\)",
        ),
    ],
)
def test_input_that_does_not_fit_is_named(images, targets, message):
    with pytest.raises(TaskError, match=message):
        small("mask_rcnn").train()(images, targets)


@pytest.mark.parametrize("name", DETECTORS)
def test_boxes_that_the_resize_flattens_do_not_end_training(name):
    """Float32 is half as fine above 64 as below: of boxes one step wide, half are flat after a factor 64 / 61."""
    left = torch.linspace(61.5, 63.5, 30)
    right = torch.nextafter(left, torch.tensor(99.0))
    scaled = [side * torch.tensor(64 / 61) for side in (left, right)]
    assert 0 < (scaled[0] == scaled[1]).sum() < 30
    thin = torch.stack([left, torch.full_like(left, 5), right, torch.full_like(left, 9)], 1)
    truth = target(61, 64)
    truth = {
        "boxes": torch.cat([truth["boxes"], thin]),
        "labels": torch.cat([truth["labels"], torch.ones(30, dtype=torch.int64)]),
        "masks": torch.cat([truth["masks"], torch.zeros(30, 61, 64, dtype=torch.uint8)]),
    }
    detector = small(name).train()
    losses = detector([torch.rand(3, 61, 64)], [truth])
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_of_half_precision_weights_has_boxes_and_losses_in_float32(name):
    """As under Lightning's bf16-true: what is promoted goes on into layers whose weights are not."""
    detector = small(name, head="convolution").to(torch.bfloat16)
    images, targets = [torch.rand(3, 64, 64).bfloat16()], [target(64, 64)]
    losses = detector.train()(images, targets)
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()
    found = detector.eval()(images)[0]
    assert {value.dtype for key, value in found.items() if key != "labels"} == {torch.float32}
