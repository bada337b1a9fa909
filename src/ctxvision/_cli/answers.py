"""What ``ctxvision predict`` makes of answers: lines, CSV, JSON, COCO's JSON, or a file for each image."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxvision.files import write_whole
from ctxvision.foreign import json_text, visible
from ctxvision.wording import column, padded, plural

from .files import make_folder
from .messages import UserError, write_rows

if TYPE_CHECKING:
    from ctxvision.inference import Answer, Predictor

FOLDERS = ("yolo", "cityscapes")
"""Formats of which there is a file for each image."""
FORMATS = ("table", "csv", "json", "coco", *FOLDERS)
_TASKS = {"coco": "detection", "yolo": "detection", "cityscapes": "segmentation"}


class Output:
    """Takes answers one by one, and keeps no more of them than its format needs.

    Args:
        style: The format, one of `FORMATS`.
        predictor: The network that answers.
        source: The name of the network in messages.
        out: The folder for the formats of which there is a file for each image.

    Raises:
        UserError: The format is not for this task, or the folder cannot be made.
        InferenceError: The network's classes have no label ids.
    """

    def __init__(self, style: str, predictor: "Predictor", source: str, out: str | None) -> None:
        if _TASKS.get(style, predictor.task) != predictor.task:
            raise UserError(f"--format {style} is for {_TASKS[style]}; {source} is for {predictor.task}", 2)
        self.style, self.predictor, self.count = style, predictor, 0
        self._kept: list[Any] = []
        self._taken = {"classes"} if style == "yolo" else set[str]()
        if style == "cityscapes":
            from ctxvision.inference.formats import cityscapes_ids

            self._ids = cityscapes_ids(predictor.class_names)
        self.folder = make_folder(out) if style in FOLDERS and out else None

    def add(self, answer: "Answer", pictures: list[str] | None) -> None:
        """Take in an answer without an error, and the paths of its pictures where some were asked for."""
        self.count += 1
        if self.folder:
            self._write(self.folder, answer)
        elif self.style == "json":
            self._kept.append(answer.to_dict() | ({} if pictures is None else {"pictures": pictures}))
        elif self.style == "csv":
            self._kept += answer.rows()
        elif self.style == "coco":
            self._kept.append(answer)
        else:
            self._kept.append((str(answer.path), answer.summary()))

    def _write(self, folder: Path, answer: Any) -> None:
        from ctxvision.inference.formats import label_id_png, yolo_lines

        from .answer_pictures import free_name

        name = free_name(str(answer.path), self._taken)
        if self.style == "yolo":
            write_whole(folder / f"{name}.txt", yolo_lines(answer))
        else:
            write_whole(folder / f"{name}.png", label_id_png(answer, self._ids))

    def text(self) -> str:
        """Return what is to be printed or written; of a folder, how many files it has got."""
        if self.folder:
            if self.style == "yolo":
                lines = (f"{' '.join(name.split())}\n" for name in self.predictor.class_names)
                write_whole(self.folder / "classes.txt", "".join(lines))
            return f"{self.folder}: {plural(self.count, 'file')}\n"
        if self.style == "json":
            return json_text(self._kept, indent=2, allow_nan=False) + "\n"
        if self.style == "csv":
            return write_rows(self._kept, dict.fromkeys(self.predictor.answer_type.columns, ""), "csv")
        if self.style == "coco":
            from ctxvision.inference.formats import coco_dataset

            spec: Any = self.predictor.data_spec
            return json_text(coco_dataset(self._kept, spec), allow_nan=False) + "\n"
        width = column(path for path, _ in self._kept)
        return "".join(f"{padded(path, width)}  {visible(line)}\n" for path, line in self._kept)
