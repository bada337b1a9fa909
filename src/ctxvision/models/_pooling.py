"""The global pool before a head."""

from timm.layers import SelectAdaptivePool2d


def make_pool(pool_type: str, num_classes: int) -> SelectAdaptivePool2d:
    """Return timm's global pool; it keeps two axes of size 1, or with ``""`` the map.

    Raises:
        ValueError: If the type is unknown, or there is no pool for a classifier to follow.
    """
    if not pool_type and num_classes:
        raise ValueError("global_pool='' leaves a map that no classifier can follow; it needs num_classes=0")
    try:
        return SelectAdaptivePool2d(pool_type=pool_type, flatten=False)
    except AssertionError as error:
        raise ValueError(
            f"unknown global_pool {pool_type!r}; timm has avg, max, avgmax, catavgmax, fast..."
        ) from error
