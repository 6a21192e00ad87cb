# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Where records go: lines on a stream, lines of JSON in a file, and files that appear when they are complete.

What is written to a file survives the run, and the same run continues it: `Sink.resume`.
"""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol, TextIO

from .errors import OutputError
from .notes import MadeWith, Note
from .runner import Record
from .sources import Input, error_text


STDOUT = "-"


@dataclass
class Kept:
    """The records that an earlier run left and that belong to the inputs: the first `records` of them.

    With `images` of them successes, the last batch began behind `boundary` inputs. `dropped` records belonged to other
    inputs, and are kept in the file `backup`.
    """

    records: int = 0
    images: int = 0
    boundary: int = 0
    dropped: int = 0
    backup: str = ""

    @property
    def failed(self) -> int:
        return self.records - self.images

    def add(self, succeeded: bool, batch_size: int) -> None:
        self.records += 1
        self.images += succeeded
        # A batch ends with its last image, and errors never begin one.
        if self.images % batch_size == 0:
            self.boundary = self.records


class Sink(Protocol):
    """Takes the records of a run. `close` always comes last, after `finish` only where the run reached its end."""

    def resume(self, inputs: Iterable[Input], batch_size: int) -> Kept:
        """To be called first. Records are expected from the first one on that is not kept. Raises `OutputError`."""

    def write(self, records: list[Record]) -> None:
        """Raises `OutputError` where it cannot be done, `BrokenPipeError` where nobody reads any more."""

    def finish(self) -> None: ...

    def close(self) -> None: ...


def check_output(
    path: str, suffixes: Sequence[str], *, streams: bool = False, made_with: MadeWith | None = None
) -> None:
    """Raises `OutputError` unless a new file can be made at `path`, with one of `suffixes` at the end of its name.

    What is there already is never touched, an empty file apart, and what a run with the same `made_with` has left.
    With `streams`, devices and pipes are fine as well, and "-" for stdout.
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
        _check_is_continued(path, made_with)
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise OutputError(f"cannot write to {path!r}: there is no folder {os.path.dirname(path)!r}")
    _try_to_write(path, exists=status is not None)


def _check_is_continued(path: str, made_with: MadeWith | None) -> None:
    note = Note(path)
    if made_with is None or note.made_with is None:
        raise OutputError(f"{path!r} exists already. Name another file, or remove it first")
    note.check(path, made_with)


def _try_to_write(path: str, exists: bool) -> None:
    """Asking for permission is not enough: a file system may be read-only, full or of another kind."""
    if exists:
        flags, place = os.O_WRONLY | os.O_APPEND, path
    else:
        folder, name = os.path.split(os.path.realpath(path))
        # The longest name that will be needed.
        flags, place = os.O_WRONLY | os.O_CREAT, os.path.join(folder, f".{name}.run.json.{os.getpid()}")
    try:
        os.close(os.open(place, flags))
        if not exists:
            os.unlink(place)
    except OSError as error:
        raise OutputError(f"cannot write to {path!r}: {error_text(error)}") from None


class LineSink:
    """A line for each record with a result, on a text stream."""

    def __init__(self, stream: TextIO, line: Callable[[Record], str]):
        self.stream = stream
        self.line = line

    def resume(self, inputs: Iterable[Input], batch_size: int) -> Kept:
        return Kept()

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
    disk is full or an interruption comes in the middle of one. A file is continued where `made_with` is given and was
    given when it was begun.
    """

    def __init__(self, path: str, fields: Callable[[Any], dict[str, Any]], made_with: MadeWith | None = None):
        self.path = path
        self.fields = fields
        self.made_with = made_with
        self.lines = LinesFile(path)

    def resume(self, inputs: Iterable[Input], batch_size: int) -> Kept:
        if self.made_with is None or not self.lines.is_file:
            return Kept()
        if not self.lines.size():
            Note(self.path).write(self.made_with, "running")
            return Kept()
        return self.lines.resume(inputs, batch_size, backup=True)

    def write(self, records: list[Record]) -> None:
        self.lines.write([json_line(record, self._fields(record)) for record in records])

    def _fields(self, record: Record) -> dict[str, Any]:
        return self.fields(record.result) if record.error is None else {}

    def finish(self) -> None:
        """Every record is in the file already."""

    def close(self) -> None:
        nothing = self.lines.is_new and not self.lines.size()
        self.lines.close()
        if nothing:
            os.unlink(self.path)
            Note(self.path).remove()


class LinesFile:
    """Lines of JSON at the end of a file or on a stream, whole ones only. Raises `OutputError`."""

    def __init__(self, path: str):
        self.path = path
        self.is_new = path != STDOUT and not os.path.exists(path)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self.descriptor = os.dup(1) if path == STDOUT else os.open(path, flags, 0o666)
        except OSError as error:
            raise OutputError(f"cannot write to {path!r}: {error_text(error)}") from None
        self.is_file = stat.S_ISREG(os.fstat(self.descriptor).st_mode)
        if self.is_file and path != STDOUT:
            self._lock()

    def _lock(self) -> None:
        """Two runs would write into each other's lines. The lock goes with the process, however that ends."""
        try:
            import fcntl
        except ImportError:
            return
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise OutputError(f"another run is writing to {self.path!r}. Wait for it, or name another file") from None
        except OSError:
            return  # a file system without locks

    def size(self) -> int:
        return os.fstat(self.descriptor).st_size

    def resume(
        self,
        inputs: Iterable[Input],
        batch_size: int,
        *,
        backup: bool = False,
        fits: Callable[[dict[str, Any]], bool] = lambda line: True,
    ) -> Kept:
        """Cuts the file behind the last line that `fits` and belongs to `inputs`."""
        kept, end = Kept(), 0
        with open(self.path, "rb") as file:
            for line, item in zip(file, inputs, strict=False):
                record = parse_line(line)
                if record is None and not end and line.endswith(b"\n"):
                    raise OutputError(f"{self.path!r} does not begin with a record. Name another file, or remove it")
                if record is None or record["image"] != item.path or not fits(record):
                    break
                kept.add("error" not in record, batch_size)
                end += len(line)
            file.seek(end)
            kept.dropped = sum(parse_line(line) is not None for line in file)
        try:
            if kept.dropped and backup:
                kept.backup = _free_name(f"{self.path}.before")
                shutil.copyfile(self.path, kept.backup)
            os.ftruncate(self.descriptor, end)
        except OSError as error:
            raise OutputError(f"cannot write to {self.path!r}: {error_text(error)}") from None
        return kept

    def write(self, lines: Iterable[str]) -> None:
        data = "".join(lines).encode("ascii")
        written = 0
        try:
            while written < len(data):
                written += os.write(self.descriptor, data[written:])
        except BaseException as error:
            self._drop(written - (data.rfind(b"\n", 0, written) + 1))
            if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
                raise OutputError(f"cannot write to {self.path!r}: {error_text(error)}") from None
            raise

    def _drop(self, torn: int) -> None:
        if torn and self.is_file:
            os.ftruncate(self.descriptor, self.size() - torn)

    def close(self) -> None:
        os.close(self.descriptor)


def _free_name(path: str) -> str:
    names = itertools.chain([path], (f"{path}-{number}" for number in itertools.count(2)))
    return next(name for name in names if not os.path.lexists(name))


def json_line(record: Record, fields: dict[str, Any]) -> str:
    """`fields` stand for the result, and give way to an error."""
    return json.dumps(_content(record, fields)) + "\n"


def _content(record: Record, fields: dict[str, Any]) -> dict[str, Any]:
    return {"image": record.image, **(fields if record.error is None else {"error": record.error})}


def parse_line(line: bytes) -> dict[str, Any] | None:
    """A whole line that `json_line` can have written, else None."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("image"), str) and len(record) > 1 else None


class AsideFile:
    """A file that appears under its name when it is complete, and otherwise not at all.

    `write` raises `OutputError`. `close` without `commit` leaves nothing behind.
    """

    def __init__(self, path: str):
        self.path = path
        # Through a link, not in its place.
        self.target = os.path.realpath(path)
        folder, name = os.path.split(self.target)
        # Always of this name: what a process left that was killed is written over by the next.
        self.aside = os.path.join(folder, f".{name}.complete")
        try:
            self.file = open(self.aside, "wb+")  # noqa: SIM115 - lives as long as this object
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


class Journal:
    """What a run has written so far of an output that is a file only as a whole.

    `.NAME.part.jsonl` has a line for each record, and `.NAME.part.data` the bytes that belong to them, those of a
    record up to `end` of its line.
    """

    def __init__(self, path: str):
        self.path = path
        folder, name = os.path.split(os.path.realpath(path))
        self.lines_path = os.path.join(folder, f".{name}.part.jsonl")
        self.data_path = os.path.join(folder, f".{name}.part.data")
        self.lines = LinesFile(self.lines_path)
        try:
            self.data: BinaryIO = open(self.data_path, "ab+", buffering=0)  # noqa: SIM115
        except OSError as error:
            self.lines.close()
            raise self.failure(error) from None

    def failure(self, error: OSError) -> OutputError:
        return OutputError(f"cannot write to {self.path!r}: {error_text(error)}")

    def begin(self) -> None:
        """Nothing is kept."""
        os.ftruncate(self.lines.descriptor, 0)
        self.data.truncate(0)

    def resume(self, inputs: Iterable[Input], batch_size: int) -> Kept:
        size = os.fstat(self.data.fileno()).st_size
        kept = self.lines.resume(inputs, batch_size, fits=lambda line: line.get("end", 0) <= size)
        end = 0
        for line in self.read():
            end = line["end"]
        self.data.truncate(end)
        return kept

    def read(self) -> Iterator[dict[str, Any]]:
        with open(self.lines_path, "rb") as file:
            for line in file:
                yield json.loads(line)

    def reading(self) -> BinaryIO:
        """The data from the beginning, to be closed."""
        return open(self.data_path, "rb")

    def facts(self) -> dict[str, Any]:
        """What identifies the inputs, and how they fared."""
        return {
            "inputs": digest(line["image"] for line in self.read()),
            "records": sum(1 for _ in self.read()),
            "images": sum("error" not in line for line in self.read()),
        }

    def write(self, entries: Iterable[tuple[Record, dict[str, Any], bytes]]) -> None:
        """Each record with its fields and its bytes."""
        end = os.fstat(self.data.fileno()).st_size
        lines, pieces = [], []
        for record, fields, data in entries:
            end += len(data)
            lines.append(json.dumps({**_content(record, fields), "end": end}) + "\n")
            pieces.append(data)
        try:
            left = memoryview(b"".join(pieces))
            while left:
                left = left[self.data.write(left) :]
        except OSError as error:
            raise self.failure(error) from None
        try:
            self.lines.write(lines)
        except OutputError as error:
            raise OutputError(str(error).replace(self.lines_path, self.path)) from None

    def close(self, *, remove: bool = False) -> None:
        remove = remove or not self.lines.size()
        self.lines.close()
        self.data.close()
        if remove:
            for path in (self.lines_path, self.data_path):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)


class JournaledSink:
    """Base of the sinks whose output is written as a whole, from a journal that survives what ends a run early.

    With `made_with` None nothing is continued, and nothing is left behind where the run does not reach its end.
    """

    def __init__(self, path: str, made_with: MadeWith | None = None):
        self.path = path
        self.made_with = made_with
        self.note = Note(path)
        self.done = self.finished = False
        self.journal = Journal(path)

    def encode(self, record: Record) -> tuple[dict[str, Any], bytes]:
        """Fields of a record's line, and its bytes."""
        raise NotImplementedError

    def convert(self, journal: Journal) -> None:
        """Makes the output. Raises `OutputError` or `OSError`."""
        raise NotImplementedError

    def resume(self, inputs: Iterable[Input], batch_size: int) -> Kept:
        if self.made_with is None:
            self.journal.begin()
            return Kept()
        same = self.note.made_with == self.made_with
        if same and self.note.state == "finished" and os.path.exists(self.path):
            return self._resume_finished(inputs, batch_size)
        if same and self.note.state != "finished":
            return self.journal.resume(inputs, batch_size)
        self.journal.begin()
        self.note.write(self.made_with, "running")
        return Kept()

    def _resume_finished(self, inputs: Iterable[Input], batch_size: int) -> Kept:
        facts = self.note.facts
        if digest(item.path for item in inputs) != facts["inputs"]:
            raise OutputError(
                f"{self.path!r} is finished, and its inputs are others. Name another file, or remove it first"
            )
        self.done = True
        return Kept(facts["records"], facts["images"], facts["records"])

    def write(self, records: list[Record]) -> None:
        self.journal.write((record, *(self.encode(record))) for record in records)

    def finish(self) -> None:
        if self.done:
            return
        if self.made_with is not None:
            self.note.write(self.made_with, "finishing")
        try:
            self.convert(self.journal)
        except OSError as error:
            raise self.journal.failure(error) from None
        self.finished = True
        if self.made_with is not None:
            self.note.write(self.made_with, "finished", self.journal.facts())

    def close(self) -> None:
        nothing = not self.journal.lines.size()
        self.journal.close(remove=self.finished or self.done or self.made_with is None)
        if nothing and self.note.state == "running":
            self.note.remove()


def check_journaled(path: str, suffixes: Sequence[str], made_with: MadeWith | None) -> None:
    """As `check_output`, for a `JournaledSink`."""
    note = Note(path)
    known = note.made_with is not None and note.state in ("finishing", "finished")
    check_output(path, suffixes, made_with=made_with if known else None)
    begun = os.path.join(os.path.dirname(os.path.realpath(path)), f".{os.path.basename(path)}.part.jsonl")
    if made_with is not None and note.state == "running" and os.path.exists(begun) and os.path.getsize(begun):
        try:
            note.check(path, made_with)
        except OutputError as error:
            raise OutputError(str(error).replace("remove it first", f"remove {note.path!r} to begin anew")) from None


def digest(names: Iterable[str]) -> str:
    """Of names in their order."""
    found = hashlib.sha256()
    for name in names:
        found.update(os.fsencode(name) + b"\0")
    return found.hexdigest()[:16]
