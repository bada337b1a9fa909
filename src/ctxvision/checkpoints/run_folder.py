"""Where the best checkpoint of a training lies."""

import os
from pathlib import Path

BEST = "checkpoints/best.ckpt"


def checkpoint_of(path: str | os.PathLike[str]) -> str:
    """Return the best checkpoint of a run folder of ``ctxvision train``, and any other path or name as it is."""
    best = Path(path, BEST)
    return str(best) if best.is_file() else os.fspath(path)
