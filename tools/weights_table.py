"""Print the table of pretrained weights for README and docs: ``python tools/weights_table.py``."""

from ctxvision.models._weights import WEIGHTS, WITHHELD


def table() -> str:
    """Return the Markdown table."""
    lines = [
        "| network | source | top-1 published there (%) | file (MB) | licence | state |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in WEIGHTS.items():
        lines.append(
            f"| `{name}` | [{found.project}]({found.url}) | {found.top1} | {found.megabytes} | {found.license} | "
            "networks verified equal; accuracy not measured by us |"
        )
    for name, withheld in WITHHELD.items():
        lines.append(f"| `{name}` | {withheld.project} | | | | not offered: {withheld.reason} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
