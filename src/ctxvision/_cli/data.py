"""The DATA argument of ``evaluate``: the split that a trained network has not seen."""

from ctxvision.data import DataModule, DataSpec, is_embedded
from ctxvision.data import open_for_evaluation as open_unseen

from .workers import workers_for


def open_for_evaluation(
    data: str, spec: DataSpec, split: str | None, *, batch_size: int, workers: int | None, strict: bool
) -> tuple[DataModule, str]:
    """Open a data set for a trained network, see `ctxvision.data.open_for_evaluation`.

    Without a number of workers it is `workers_for` images in files, and none for the digits.

    Returns:
        The data module and the split: ``val``, ``train`` or ``all``.
    """
    if workers is None:
        workers = 0 if is_embedded(data) else workers_for(None, batch_size)
    return open_unseen(data, spec, split=split, batch_size=batch_size, workers=workers, strict=strict)
