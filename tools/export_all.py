"""Export every network of ours at its full size and compare it with torch: ``python tools/export_all.py``.

Writes a line for each to a CSV file and prints the table of docs/export.md; ``--table`` prints it from the file.
"""

import argparse
import csv
import platform
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor, nn

from ctxvision.checkpoints.layout import our_models
from ctxvision.export import ExportError, Metadata, export_onnx, open_exported
from ctxvision.tasks.networks import create_network

CSV = Path(__file__).parents[1] / "docs" / "figures" / "export.csv"
CLASSES = 1000


def photos(size: tuple[int, int, int]) -> Tensor:
    """Return scikit-learn's two photographs and a part of one, (3, C, H, W), normalised."""
    from sklearn.datasets import load_sample_images
    from torchvision.transforms.v2 import functional

    china, flower = (torch.from_numpy(i.copy()).permute(2, 0, 1) for i in load_sample_images().images)
    cuts = [functional.resize(cut, list(size[1:])) for cut in (china, flower, flower[:, 50:300, 150:400])]
    return (torch.stack(cuts).float() / 255 - 0.45) / 0.225


def alive(name: str, images: Tensor) -> nn.Module:
    """Build a network with random weights in which nothing is silent.

    What starts at zero (last norms of branches, offsets) would hide what lies behind it, and norms without
    statistics would let deep networks overflow: the first get random values, the second those of some images.
    """
    torch.manual_seed(0)
    network = create_network(name, num_classes=CLASSES, in_chans=images.shape[1], model_args={})
    for key, parameter in network.named_parameters():
        if "_offsets" in key:
            nn.init.normal_(parameter, std=0.02)
        elif not parameter.detach().any():
            nn.init.normal_(parameter, std=0.1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # plain means over what follows
    with torch.no_grad():
        network.train()(torch.cat([images, torch.randn_like(images)]))
    return network.eval()


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference of a logit, as a share of the largest logit."""
    return float((found - expected).abs().max() / expected.abs().max())


def measure(name: str) -> dict[str, object]:
    """Export one network and compare it; in a process of its own, which gives all memory back."""
    import onnx
    import timm

    torch.set_num_threads(1)
    size = tuple(timm.get_pretrained_cfg(name).input_size)
    real = photos(size)
    network = alive(name, real)
    spec = {"class_names": [str(i) for i in range(CLASSES)], "input_size": list(size)}
    with tempfile.TemporaryDirectory() as folder:
        path, free = Path(folder) / "net.onnx", Path(folder) / "free.onnx"
        start = time.perf_counter()
        export_onnx(network, path, metadata=Metadata(name, "classification", spec))
        seconds = time.perf_counter() - start
        graph = onnx.load(path).graph
        domains = {node.domain for node in graph.node}
        assert domains <= {"", "ai.onnx"}, domains
        exported = open_exported(path)
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(3, *size, generator=generator)
        shares = {}
        for kind, images in (("random", noise), ("photos", real)):
            for batch in (1, 3):
                with torch.inference_mode():
                    expected = network(images[:batch])
                shares[f"{kind}_{batch}"] = difference(exported(images[:batch]), expected)
        # logits that are the same for all images would compare well whatever the graph does
        spread = (expected - expected.mean(0)).std() / expected.std()
        assert spread > 1e-3, f"{name}: all images have the same logits ({spread:.1e})"
        megabytes = path.stat().st_size / 1e6
        try:
            export_onnx(network, free, metadata=Metadata(name, "classification", spec, dynamic_size=True))
            dynamic = "yes"
        except ExportError as error:
            dynamic = f"no: {error}"
    return {
        "network": name,
        "input": "×".join(map(str, size[1:])),
        "megabytes": f"{megabytes:.1f}",
        "nodes": len(graph.node),
        "seconds": f"{seconds:.0f}",
        **{key: f"{value:.1e}" for key, value in shares.items()},
        "dynamic_size": dynamic,
        "peak_gb": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f}",
    }


def versions() -> str:
    """Name what exported and what ran."""
    import onnx
    import onnxruntime
    import onnxscript

    modules = (torch, onnx, onnxscript, onnxruntime)
    named = ", ".join(f"{module.__name__} {module.__version__}" for module in modules)
    return f"{named}, Python {platform.python_version()}"


def table(rows: list[dict[str, str]]) -> str:
    """Return the Markdown table."""
    lines = [
        "| network | input | MB | nodes | export (s) | random | random, 3 | photograph | photographs | any size |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    keys = (
        "input",
        "megabytes",
        "nodes",
        "seconds",
        "random_1",
        "random_3",
        "photos_1",
        "photos_3",
        "dynamic_size",
    )
    lines += [f"| `{row['network']}` | " + " | ".join(row[key] for key in keys) + " |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing in the file, one network at a time, the small ones first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", help="default: all")
    parser.add_argument("--csv", type=Path, default=CSV)
    parser.add_argument("--table", action="store_true", help="only print the table")
    args = parser.parse_args()
    rows = list(csv.DictReader(args.csv.open())) if args.csv.exists() else []
    if not args.table:
        done = {row["network"] for row in rows}
        wanted = [name for name in args.networks or our_models() if name not in done]
        wanted.sort(key=lambda name: ("micro" not in name, "26" not in name and "50" not in name, name))
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
            for name in wanted:
                try:
                    row = {key: str(value) for key, value in pool.submit(measure, name).result().items()}
                except ExportError as error:
                    print(f"{name}: {error}", flush=True)
                    continue
                print(row, flush=True)
                rows = sorted([*rows, row], key=lambda row: row["network"])
                with args.csv.open("w", newline="") as file:
                    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(rows)
    print(table(rows))
    print(f"\nWith {versions()}.")


if __name__ == "__main__":
    main()
