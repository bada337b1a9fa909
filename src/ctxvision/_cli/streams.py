"""Where commands write: a reader that has gone, or a full disk, ends neither a training nor other work."""

import codecs
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

# a pipe that nobody reads (``| head``), a terminal that was closed
_GONE = (errno.EPIPE, errno.EIO)


class _Lasting(io.FileIO):
    """A file whose later content is lost once something could not be written."""

    lost: OSError | None = None

    def write(self, data):  # type: ignore[no-untyped-def]
        """Write, or throw away from now on."""
        try:
            return super().write(data)
        except OSError as error:
            self.lost = error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(memoryview(data).cast("B"))


class Streams:
    """What became of the output of a command."""

    def __init__(self) -> None:
        self._files: dict[str, _Lasting] = {}

    def add(self, name: str) -> None:
        """Replace ``sys.stdout`` or ``sys.stderr``, unless somebody catches it in a way of their own."""
        stream: TextIO | None = getattr(sys, name)
        if stream is None:  # closed before we began
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process
            return
        buffer = getattr(stream, "buffer", None)
        if type(getattr(buffer, "raw", buffer)) is not io.FileIO or not isinstance(stream, io.TextIOWrapper):
            return
        self._files[name] = _Lasting(stream.fileno(), "w", closefd=False)
        lasting = io.TextIOWrapper(
            io.BufferedWriter(self._files[name]),
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        vars(lasting)["mode"] = "w"  # as of any text stream; a plain attribute of the object
        setattr(sys, name, lasting)

    def lost(self) -> OSError | None:
        """Return why stdout did not take everything."""
        sys.stdout.flush()
        return self._files["stdout"].lost if "stdout" in self._files else None

    @staticmethod
    def is_gone(error: OSError) -> bool:
        """Tell whether there is just nobody who reads any more."""
        return error.errno in _GONE


@contextmanager
def lasting() -> Iterator[Streams]:
    """Let stdout and stderr never fail inside this block; what cannot be encoded is written out."""
    before = sys.stdout, sys.stderr
    streams = Streams()
    streams.add("stdout")
    streams.add("stderr")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors=_WRITTEN_OUT)
    try:
        yield streams
    finally:
        for stream, old in zip((sys.stdout, sys.stderr), before, strict=True):
            if old is None:
                stream.close()
            else:
                stream.flush()
        sys.stdout, sys.stderr = before


def _write_out(error: UnicodeError) -> tuple[bytes, int]:
    """Encode bytes of file names as they are, and what an encoding lacks as an escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    written = [
        bytes([ord(letter) - 0xDC00]) if "\udc80" <= letter <= "\udcff" else letter.encode("unicode_escape")
        for letter in letters
    ]
    return b"".join(written), error.end


_WRITTEN_OUT = "ctxvision-written-out"
codecs.register_error(_WRITTEN_OUT, _write_out)
