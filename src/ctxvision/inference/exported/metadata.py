"""What travels with an exported network: preprocessing, class names, where it comes from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ctxvision._version import __version__
from ctxvision.tasks.error import TaskError
from ctxvision.tasks.limits import require_moderate

from .error import ExportError

KEY = "ctxvision"
_FORMAT = 1
_TYPES: dict[str, type] = {
    "model": str, "task": str, "data_spec": dict, "dynamic_batch": bool, "dynamic_size": bool,
    "quantization": str, "version": str, "settings": dict,
}  # fmt: skip
_OPTIONAL = {"dynamic_batch", "dynamic_size", "quantization", "version", "settings"}
_NAMES = {str: "a text", dict: "an object", bool: "true or false"}


@dataclass(frozen=True)
class Metadata:
    """Plain values, stored as JSON under the key ``ctxvision``.

    Attributes:
        model: Registered name of the network.
        task: Kind of task that the network was trained for, as `ctxvision.tasks` calls it.
        data_spec: Description of the data, ``to_dict`` of the task's `DataSpec`, `SegmentationSpec`, `ClipSpec` or
            `DetectionSpec`: class names and, except for detection, input size and normalisation.
        dynamic_batch: Whether the graph takes any number of images.
        dynamic_size: Whether the graph takes any height and width.
        quantization: Kind of quantisation, ``"int8"``, or ``"none"``.
        version: Version of this library that wrote the file.
        settings: Further settings that a task needs around the graph, see `ctxvision.export.from_task`.
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
    def from_json(cls, text: str, *, where: object = "the graph", trust: bool = False) -> "Metadata":
        """Read what `to_json` wrote.

        Args:
            text: Text in JSON that `to_json` returned.
            where: The file, for messages.
            trust: Whether the settings may ask for more than a network usually does.

        Raises:
            ExportError: The text is something else.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ExportError(f"{where}: its metadata are not JSON") from error
        if not isinstance(values, dict) or values.pop("format", None) != _FORMAT:
            raise ExportError(f"{where}: its metadata are not of format {_FORMAT} of `ctxvision export`")
        for name, kind in _TYPES.items():
            if not isinstance(values.get(name, kind() if name in _OPTIONAL else None), kind):
                raise ExportError(f"{where}: in its metadata, {name} is not {_NAMES[kind]}")
        found = cls(
            **{name: value for name, value in values.items() if name in _TYPES}
        )  # a later version has more
        try:
            require_moderate(found.task, found.data_spec, found.settings, trust=trust)
        except TaskError as error:
            raise ExportError(f"{where}: {error}") from error
        return found
