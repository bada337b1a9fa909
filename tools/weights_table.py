"""Print the table of pretrained weights for README and docs: ``python tools/weights_table.py``."""

from ctxvision.models._weights import WEIGHTS, WITHHELD


def table() -> str:
    """Return the Markdown table."""
    lines = [
        "| network | source | top-1 published there (%) | file (MB) | licence | state |",
        "|---|---|---|---|---|---|",
    ]
    rows = [(found, "networks verified equal; accuracy not measured by us") for found in WEIGHTS.values()]
    for files, reason in WITHHELD.values():
        rows += [(found, f"not offered: {reason}") for found in files]
    for found, state in rows:
        lines.append(
            f"| `{found.model}` | [{found.project}]({found.url}) | {found.top1} | {found.megabytes} | "
            f"{found.license} | {state} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
