"""Real pictures to compare exported networks on: the two photographs that come with scikit-learn."""

import torch
from torch import Tensor

from ctxvision.data.spec import filter_for_tensors
from ctxvision.inference.exported import Metadata

from .signature import Inputs


def photographs(metadata: Metadata) -> list[Inputs]:
    """Return inputs made of photographs, prepared as the network's images are: a batch, or one by one."""
    spec = metadata.data_spec
    if metadata.task == "detection":
        return [_for_detector(picture, metadata) for picture in pictures(2, spec.get("in_chans", 3))]
    height, width = spec["input_size"][1:]
    found = pictures(3, spec["input_size"][0])
    filter_ = spec.get("interpolation", "bilinear")
    images = torch.stack([_resized(picture, height, width, filter_) for picture in found])
    mean, std = (
        torch.tensor(spec.get(name, [0.5]), dtype=torch.float32, device="cpu").view(-1, 1, 1)
        for name in ("mean", "std")
    )
    images = (images - mean) / std
    if metadata.task == "video":
        # a clip that moves from one picture to the next
        share = torch.linspace(0, 1, spec["frames"], dtype=torch.float32, device="cpu").view(-1, 1, 1, 1)
        images = torch.stack([a * (1 - share) + b * share for a, b in zip(images, images.roll(1, 0), strict=True)])
    return [(images,)] if metadata.dynamic_batch else [(image[None],) for image in images]


def pictures(count: int, channels: int) -> list[Tensor]:
    """Return photographs (C, H, W) from 0 to 1, in colour or grey: two, and a part of one."""
    from sklearn.datasets import load_sample_images

    china, flower = (
        torch.from_numpy(i.copy()).permute(2, 0, 1).float() / 255 for i in load_sample_images().images
    )
    found = [china, flower, flower[:, 50:300, 150:400]][:count]
    return [picture.mean(0, keepdim=True) for picture in found] if channels == 1 else found


def _resized(picture: Tensor, height: int, width: int, interpolation: str) -> Tensor:
    from torchvision.transforms.v2 import functional

    resized: Tensor = functional.resize(picture, [height, width], filter_for_tensors(interpolation))
    return resized.clamp(0, 1)


def _for_detector(picture: Tensor, metadata: Metadata) -> Inputs:
    from ctxvision.tasks.detection.regions import make_transform

    s = metadata.settings
    filter_ = s.get("interpolation", "bilinear")
    transform = make_transform(s["min_size"], s["max_size"], s["mean"], s["std"], filter_).eval()
    prepared, _ = transform([picture])
    return prepared.tensors, torch.tensor(prepared.image_sizes[0], device="cpu")
