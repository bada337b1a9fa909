"""What travels with an exported network: preprocessing, class names, where it comes from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ctxvision._version import __version__

from .error import ExportError

KEY = "ctxvision"
_FORMAT = 1


@dataclass(frozen=True)
class Metadata:
    """Plain values, stored as JSON under the key ``ctxvision``.

    Attributes:
        model: registered name of the network.
        task: kind of task that it was trained for, as `ctxvision.tasks` calls it.
        data_spec: ``to_dict`` of the task's `DataSpec`, `SegmentationSpec`, `ClipSpec` or `DetectionSpec`: class
            names and, except for detection, input size and normalisation.
        dynamic_batch: whether it takes any number of images.
        dynamic_size: whether it takes any height and width.
        quantization: ``"int8"``, or ``"none"``.
        version: of this library.
        settings: what else a task needs around the graph, see `ctxvision.export.from_task`.
    """

    model: str
    task: str
    data_spec: Mapping[str, Any]
    dynamic_batch: bool = True
    dynamic_size: bool = False
    quantization: str = "none"
    version: str = __version__
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Write as JSON."""
        return json.dumps({"format": _FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> "Metadata":
        """Read what `to_json` wrote.

        Raises:
            ExportError: it is something else.
        """
        try:
            values = json.loads(text)
            if not isinstance(values, dict) or values.pop("format", None) != _FORMAT:
                raise ExportError(f"its metadata are not of format {_FORMAT} of `ctxvision export`")
            found = cls(**values)
        except (TypeError, ValueError) as error:
            raise ExportError(f"its metadata are not those of `ctxvision export` ({error})") from error
        if not isinstance(found.data_spec, dict) or not isinstance(found.settings, dict):
            raise ExportError("its metadata do not describe the images")
        return found
