# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Where records go: lines on a stream, lines of JSON in a file, and the file that appears when it is complete."""

import itertools
import json
import os
import stat
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TextIO

from .errors import OutputError
from .runner import Record
from .sources import error_text


STDOUT = "-"


class Sink(Protocol):
    """Takes the records of a run. `close` always comes last, after `finish` only where the run reached its end."""

    def write(self, records: list[Record]) -> None:
        """Raises `OutputError` where it cannot be done, `BrokenPipeError` where nobody reads any more."""

    def finish(self) -> None: ...

    def close(self) -> None: ...


def check_output(path: str, suffixes: Sequence[str], *, streams: bool = False) -> None:
    """Raises `OutputError` unless a new file can be made at `path`, with one of `suffixes` at the end of its name.

    What is there already is never touched, an empty file apart. With `streams`, devices and pipes are fine as well,
    and "-" for stdout.
    """
    if streams and path == STDOUT:
        return
    try:
        status = os.stat(path)
    except FileNotFoundError:
        status = None
    except OSError as error:
        raise OutputError(f"cannot write to {path!r}: {error_text(error)}") from None
    if status and stat.S_ISDIR(status.st_mode):
        raise OutputError(f"cannot write to {path!r}: it is a folder")
    if status and not stat.S_ISREG(status.st_mode):
        if streams:
            return
        raise OutputError(f"cannot write to {path!r}: it is not a regular file")
    if os.path.splitext(path)[1].lower() not in suffixes:
        raise OutputError(f"cannot write to {path!r}: the name has to end in {' or '.join(suffixes)}")
    if status and status.st_size:
        raise OutputError(f"{path!r} exists already. Name another file, or remove it first")
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise OutputError(f"cannot write to {path!r}: there is no folder {os.path.dirname(path)!r}")
    _try_to_write(path, exists=status is not None)


def _try_to_write(path: str, exists: bool) -> None:
    """Asking for permission is not enough: a file system may be read-only, full or of another kind."""
    if not exists:
        AsideFile(path).close()
        return
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
    except OSError as error:
        raise OutputError(f"cannot write to {path!r}: {error_text(error)}") from None


class LineSink:
    """A line for each record with a result, on a text stream."""

    def __init__(self, stream: TextIO, line: Callable[[Record], str]):
        self.stream = stream
        self.line = line

    def write(self, records: list[Record]) -> None:
        try:
            self.stream.write("".join(self.line(record) + "\n" for record in records if record.error is None))
            self.stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"cannot write to {self.stream.name.strip('<>')}: {error_text(error)}") from None

    def finish(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """The stream is the caller's."""


class JsonLinesSink:
    """A line of JSON for each record, `{"image": PATH, **fields(result)}` or `{"image": PATH, "error": TEXT}`.

    Everything is ASCII, so that file names that are not UTF-8 survive. The file is cut back to whole lines when the
    disk is full or an interruption comes in the middle of one.
    """

    def __init__(self, path: str, fields: Callable[[Any], dict[str, Any]]):
        self.path = path
        self.fields = fields
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self.descriptor = os.dup(1) if path == STDOUT else os.open(path, flags, 0o666)
        except OSError as error:
            raise OutputError(f"cannot write to {path!r}: {error_text(error)}") from None

    def write(self, records: list[Record]) -> None:
        data = "".join(json_line(record, self._fields(record)) for record in records).encode("ascii")
        written = 0
        try:
            while written < len(data):
                written += os.write(self.descriptor, data[written:])
        except BaseException as error:
            self._drop(written - (data.rfind(b"\n", 0, written) + 1))
            if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
                raise OutputError(f"cannot write to {self.path!r}: {error_text(error)}") from None
            raise

    def _fields(self, record: Record) -> dict[str, Any]:
        return self.fields(record.result) if record.error is None else {}

    def _drop(self, torn: int) -> None:
        status = os.fstat(self.descriptor)
        if torn and stat.S_ISREG(status.st_mode):
            os.ftruncate(self.descriptor, status.st_size - torn)

    def finish(self) -> None:
        """Every record is in the file already."""

    def close(self) -> None:
        os.close(self.descriptor)


def json_line(record: Record, fields: dict[str, Any]) -> str:
    """`fields` stand for the result, and give way to an error."""
    return json.dumps({"image": record.image, **(fields if record.error is None else {"error": record.error})}) + "\n"


class AsideFile:
    """A file that appears under its name when it is complete, and otherwise not at all.

    `write` raises `OutputError`. `close` without `commit` leaves nothing behind.
    """

    _numbers = itertools.count()

    def __init__(self, path: str):
        self.path = path
        # Through a link, not in its place.
        self.target = os.path.realpath(path)
        name = f".coca-hf-{os.getpid()}-{next(self._numbers)}.part"
        self.aside = os.path.join(os.path.dirname(self.target), name)
        try:
            self.file = open(self.aside, "xb+")  # noqa: SIM115 - lives as long as this object
        except OSError as error:
            raise self.failure(error) from None

    def failure(self, error: OSError) -> OutputError:
        return OutputError(f"cannot write to {self.path!r}: {error_text(error)}")

    def write(self, data: bytes) -> None:
        try:
            self.file.write(data)
        except OSError as error:
            raise self.failure(error) from None

    def commit(self) -> None:
        """Raises `OutputError`; the file is then as good as never written."""
        try:
            self.file.close()
            os.replace(self.aside, self.target)
        except OSError as error:
            raise self.failure(error) from None

    def close(self) -> None:
        try:
            self.file.close()
        except OSError:
            pass  # what could not be flushed is about to be removed
        finally:
            if os.path.lexists(self.aside):
                os.unlink(self.aside)
