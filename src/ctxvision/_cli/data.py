"""The DATA argument of ``evaluate``: the split that a trained network has not seen."""

from ctxvision.data import DataSpec, DigitsData, ImageData, open_data

from .messages import note
from .workers import workers_for


def open_for_evaluation(
    data: str, spec: DataSpec, split: str | None, *, batch_size: int, workers: int | None, strict: bool
) -> tuple[DigitsData | ImageData, str]:
    """Open a data set for a trained network.

    Without a split it is the validation part where the data set has one, or where the network was trained
    on the rest of the same images; of any other source it is every image.

    Without a number of workers it is `workers_for` images in files, and none for the digits.

    Returns:
        The data module and the split: ``val``, ``train`` or ``all``.
    """
    if workers is None:
        workers = 0 if data == "digits" else workers_for(None, batch_size)

    def opened(eval_split: str) -> DigitsData | ImageData:
        return open_data(
            data, spec=spec, batch_size=batch_size, workers=workers, strict=strict, eval_split=eval_split
        )

    if split:
        return opened(split), split
    everything = opened("all")
    split = "val" if everything.fingerprint in ("", spec.fingerprint) else "all"
    if split == "all" and spec.fingerprint:
        note(
            "not exactly the images that were split for training: all are scored, and some may have been trained "
            "on; --split val takes the part that is held out by name"
        )
    return (everything, split) if split == "all" else (opened(split), split)
