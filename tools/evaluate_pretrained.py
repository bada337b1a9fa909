"""Measure pretrained weights on ImageNet's validation images: ``python tools/evaluate_pretrained.py IMAGENET``.

Prints our top-1 accuracy beside the one that the project of the weights publishes. We do not have the images:
the table of `docs/weights.md` says "not measured by us" until somebody runs this.
"""

import argparse

import timm
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

import ctxvision  # noqa: F401 - registers the networks
from ctxvision.models._weights import WEIGHTS, WITHHELD


@torch.inference_mode()
def accuracy(model: nn.Module, folder: str, device: str, workers: int, batch_size: int) -> float:
    """Return the share of images whose class is the most probable one, in per cent."""
    model = model.eval().to(device, memory_format=torch.channels_last)
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    images = ImageFolder(folder, prepare)
    if len(images.classes) != 1000:
        raise SystemExit(
            f"{folder}: holds {len(images.classes)} folders, not one for each of ImageNet's 1000 classes"
        )
    right = 0
    for batch, labels in DataLoader(images, batch_size, num_workers=workers):
        logits = model(batch.to(device, memory_format=torch.channels_last))
        right += int((logits.argmax(1).cpu() == labels).sum())
    return 100 * right / len(images)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "imagenet", metavar="IMAGENET", help="folder with one folder of images for each WordNet id"
    )
    parser.add_argument("--only", nargs="*", choices=list(WEIGHTS), help="networks to measure, by default all")
    parser.add_argument(
        "--converted", nargs=2, metavar=("NAME", "FILE"), help="measure a file of `ctxvision convert` instead"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()
    print("| network | top-1 measured (%) | top-1 published (%) |\n|---|---|---|")
    published = {name: f"{found.top1}" for name, found in WEIGHTS.items()}
    published |= {name: " or ".join(f"{file.top1}" for file in found.files) for name, found in WITHHELD.items()}
    for name in args.converted[:1] if args.converted else args.only or WEIGHTS:
        loaded = {"checkpoint_path": args.converted[1]} if args.converted else {"pretrained": True}
        model = timm.create_model(name, **loaded)
        measured = accuracy(model, args.imagenet, args.device, args.workers, args.batch_size)
        print(f"| `{name}` | {measured:.2f} | {published.get(name, '–')} |", flush=True)


if __name__ == "__main__":
    main()
