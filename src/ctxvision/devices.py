"""The device that ``auto`` means: the same for every command."""


def resolved(name: str) -> str:
    """Return the device that a word means, for example ``"cuda"`` for ``"auto"`` where there is a GPU.

    A Mac's ``mps`` is taken only where it is named: nothing here is tested on it, and it has no float64.

    Args:
        name: Name of a device such as ``"cpu"``, ``"cuda:1"`` or ``"mps"``; ``"gpu"`` is another word for
            ``"cuda"``, and ``"auto"`` is CUDA where there is any, else the CPU.
    """
    if name == "auto":
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda" if name == "gpu" else name
