"""A process of its own for some items: a wrong address on a GPU ends one process, and not the run."""

import json
import sys

import torch

from benchmarks.gpu.items import work
from benchmarks.gpu.plan import Plan

POISONED = 3
"""Exit status: the device answers no more to this process, another one must go on."""


def main(packed: str, stage: str, numbers: str) -> int:
    """Do items of a stage, by number; print a line of JSON for every start, row, failure and end."""
    plan = Plan.unpacked(packed)
    items = next(each.items for each in plan.stages if each.name == stage)
    for number in map(int, numbers.split(",")):
        _say(item=number, event="start")
        try:
            for row in work(items[number], plan):
                _say(item=number, event="row", row=row)
        except Exception as error:
            text = f"{type(error).__name__}: {error}".strip()
            _say(item=number, event="failure", error=text[:2000])
            if plan.device == "cuda" and not _answers():
                return POISONED
        _say(item=number, event="end")
        torch.compiler.reset()
        if plan.device == "cuda":
            torch.cuda.empty_cache()
    return 0


def _answers() -> bool:
    try:
        torch.cuda.synchronize()
        return bool((torch.ones(2, device="cuda") * 2).sum().item() == 4)
    except Exception:
        return False


def _say(**words: object) -> None:
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
