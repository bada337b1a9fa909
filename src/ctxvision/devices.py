"""The device that ``auto`` means, and why one cannot be used: the same for every command."""


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


def why_unusable(name: str) -> str:
    """Say why a device of `resolved` is not here, and what to name instead; empty if it is here."""
    import torch

    kind, colon, number = name.partition(":")
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if kind not in counts or (colon and not number.isdecimal()):
        return "there are auto, cpu, cuda, cuda:1 and so on, and mps"
    if int(number or 0) < counts[kind]:
        return ""
    found = f"only {counts[kind]}" if counts[kind] else "none"
    return f"PyTorch sees {found} of this kind here; --device auto takes what there is"
