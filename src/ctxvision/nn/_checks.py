"""What constructors of layers refuse."""


def require_positive(layer: str, **values: int) -> None:
    """Raise ``ValueError`` unless all values are integers of at least 1."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{layer}: {name} must be an integer >= 1, got {value!r}")


def require_odd_kernel(layer: str, kernel_size: int) -> None:
    """Raise ``ValueError`` unless the kernel has a middle."""
    require_positive(layer, kernel_size=kernel_size)
    if kernel_size % 2 == 0:
        raise ValueError(f"{layer}: kernel_size must be odd to keep the size, got {kernel_size}")
