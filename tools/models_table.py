"""Print the README's table of networks, measured from the code: ``python tools/models_table.py``."""

import timm
import torch

from ctxvision.checkpoints.layout import our_models
from ctxvision.models import count_macs, paper_result


def table() -> str:
    """Return the Markdown table; parameters and multiply-adds are counted, accuracies are the papers'."""
    lines = [
        "| network | input | parameters (M) | GMACs | top-1 in the paper (%) | source of top-1 |",
        "|---|---|---|---|---|---|",
    ]
    for name in our_models():
        with torch.device("meta"):
            model = timm.create_model(name)
        size, result = model.pretrained_cfg["input_size"], paper_result(name)
        parameters = sum(p.numel() for p in model.parameters()) / 1e6
        paper = f"{result.top1} | {result.source}" if result else "– | ours, small"
        lines.append(
            f"| `{name}` | {size[-1]} | {parameters:.2f} | {count_macs(model, size) / 1e9:.3f} | {paper} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
