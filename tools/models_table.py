"""Print the README's table of networks, counted from the code: ``python tools/models_table.py``.

With ``--write`` the counts go into the file that `ctxvision models` shows, `src/ctxvision/models/networks.csv`.
"""

import csv
import io
import sys
from pathlib import Path

import timm
import torch

from ctxvision.checkpoints.layout import our_models
from ctxvision.models import count_macs, paper_result

FILE = Path(__file__).parents[1] / "src" / "ctxvision" / "models" / "networks.csv"


def counted() -> list[dict[str, str]]:
    """Build every network, and return what it costs and what its paper reports."""
    rows = []
    for name in our_models():
        with torch.device("meta"):
            model = timm.create_model(name)
        size, result = model.pretrained_cfg["input_size"], paper_result(name)
        rows.append(
            {
                "name": name,
                "params": str(sum(p.numel() for p in model.parameters())),
                "macs": str(count_macs(model, size)),
                "input_size": "x".join(map(str, size)),
                "top1": str(result.top1) if result else "",
                "source": result.source if result else "",
            }
        )
    return rows


def as_csv(rows: list[dict[str, str]]) -> str:
    """Return the text of the file."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_markdown(rows: list[dict[str, str]]) -> str:
    """Return the table of the README."""
    lines = [
        "| network | input | parameters (M) | GMACs | top-1 in the paper (%) | source of top-1 |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        paper = f"{row['top1']} | {row['source']}" if row["top1"] else "– | ours, small"
        size, params, macs = row["input_size"].split("x")[-1], int(row["params"]) / 1e6, int(row["macs"]) / 1e9
        lines.append(f"| `{row['name']}` | {size} | {params:.2f} | {macs:.3f} | {paper} |")
    return "\n".join(lines)


if __name__ == "__main__":
    found = counted()
    if "--write" in sys.argv:
        FILE.write_text(as_csv(found), encoding="utf-8")
    print(as_markdown(found))
