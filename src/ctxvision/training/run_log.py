"""The file ``train.log`` of a run: what the training has said, and when, also where a terminal showed a bar."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ctxvision.foreign import visible
from ctxvision.runs import RunFolder

FILE_ONLY = logging.getLogger("ctxvision.training.file")
"""What is logged here goes into the file of the run alone."""
FILE_ONLY.propagate = False
FILE_ONLY.setLevel(logging.INFO)


class _RunLog(logging.FileHandler):
    """Appends one line for each record; a disk that is full does not end a training."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        return f"{moment} {record.levelname:7} {visible(record.getMessage())}"

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class _Early(logging.Handler):
    """Keeps records until there is a file for them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def collected() -> Iterator[list[logging.LogRecord]]:
    """Yield a list of what is logged in this block, which `kept` takes once the run has a folder."""
    early, logger = _Early(), logging.getLogger("ctxvision")
    logger.addHandler(early)
    try:
        yield early.records
    finally:
        logger.removeHandler(early)


@contextmanager
def kept(run: RunFolder, early: Sequence[logging.LogRecord] = ()) -> Iterator[None]:
    """Append to the file of a run what is logged while this block lasts, and the error that ends it.

    What is logged with a level that the logger ``ctxvision`` leaves out does not reach the file; the commands let
    results (INFO) through.

    Args:
        run: Folder of the run, which exists.
        early: Records of before the run had a folder.
    """
    try:
        handler = _RunLog(run.log_file, encoding="utf-8", errors="backslashreplace")
    except OSError:  # the checkpoints, which are worth more, say so
        yield
        return
    for record in early:
        handler.handle(record)
    loggers = logging.getLogger("ctxvision"), FILE_ONLY
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    except BaseException as error:
        FILE_ONLY.error("ended: %s", " ".join(str(error).split()) or type(error).__name__)
        raise
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()
