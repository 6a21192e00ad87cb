# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""From records to files: a function for each format, and a row in `FORMATS` that says what it holds and how it ends.

A function is given the records of a whole run and makes a file that appears when it is complete. `Stream` is for those
that are wanted as they come.
"""

import io
import json
import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from .errors import ImageError, OutputError
from .files import AsideFile, error_text, write_all, write_whole
from .images import known_formats, read_span
from .inputs import Record, Span
from .record_log import LoggedRecords
from .report import is_report, write_report


STDOUT = "-"

Content = Literal["records", "embeddings", "report"]

# Rows of a piece of a table: many small pieces are slow to read.
_GROUP_SIZE = 4096

# Records that go into a stream at a time.
_LINES_AT_ONCE = 512


@dataclass(frozen=True)
class Output:
    """A file to make: `content` "records" (what became of each input), "embeddings" or "report" (a page).

    `facts` are shown in the head of a report.
    """

    path: str
    content: Content = "records"
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """What `write` makes of records at a path. `beside` are the endings of further files that it makes."""

    content: Content
    suffix: str
    write: Callable[[LoggedRecords, Output], None]
    beside: Sequence[str] = ()
    needs: Literal["pyarrow"] | None = None


def write_json_lines(records: LoggedRecords, output: Output) -> None:
    """`{"image": PATH, ...}` or `{"image": PATH, "error": TEXT}` a line, in ASCII, for names that are not UTF-8."""
    with AsideFile(output.path) as file:
        for record in records:
            file.write(json_line(record))
        file.commit()


def json_line(record: Record) -> bytes:
    return json.dumps(record.line()).encode("ascii") + b"\n"


def write_array(records: LoggedRecords, output: Output) -> None:
    """A `.npy` array (images, dimensions) of float32, and beside it which image is in which row.

    `NAME.npy.jsonl` has a line for each input: `{"image": PATH, "row": N}` or `{"image": PATH, "error": TEXT}`.
    """
    width = next((len(record.embedding) for record in records if record.embedding is not None), 0)
    with AsideFile(output.path) as array, AsideFile(f"{output.path}.jsonl") as rows:
        array.write(_npy_header((records.images, width)))
        row = 0
        for record in records:
            line: dict[str, Any] = {"image": record.image, "error": record.error}
            if record.embedding is not None:
                array.write(record.embedding.tobytes())
                line = {"image": record.image, "row": row}
                row += 1
            rows.write(json.dumps(line).encode("ascii") + b"\n")
        array.commit()
        rows.commit()


def _npy_header(shape: tuple[int, int]) -> bytes:
    import numpy as np

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return header.getvalue()


def write_embedding_table(records: LoggedRecords, output: Output) -> None:
    """A table with the columns `image`, `embedding` (a list of float32, null where there is none) and `error`.

    Parquet's text is UTF-8: other bytes of file names are written as escapes such as `\\xff`.
    """
    pyarrow = _import_pyarrow()
    columns = [("image", pyarrow.string()), ("embedding", pyarrow.list_(pyarrow.float32()))]
    rows = ({"image": _utf8(record.image), "embedding": record.embedding, "error": record.error} for record in records)
    _write_table(output.path, [*columns, ("error", pyarrow.string())], rows)


def write_caption_table(records: LoggedRecords, output: Output) -> None:
    """A table with the columns `image`, `caption` and `error`, the one or the other null."""
    pyarrow = _import_pyarrow()
    columns = [(name, pyarrow.string()) for name in ("image", "caption", "error")]
    rows = (
        {"image": _utf8(record.image), "caption": record.fields.get("caption"), "error": record.error}
        for record in records
    )
    _write_table(output.path, columns, rows)


def _write_table(path: str, columns: list[tuple[str, Any]], rows: Iterator[dict[str, Any]]) -> None:
    pyarrow = _import_pyarrow()
    schema = pyarrow.schema(columns)
    with AsideFile(path) as aside:
        try:
            writer = pyarrow.parquet.ParquetWriter(aside.file, schema)
            try:
                for group in _groups(rows, _GROUP_SIZE):
                    writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))
                writer.close()
            finally:
                # Its destructor would write to a file that is closed by then.
                writer.is_open = False
        except OSError as error:
            raise aside.failure(error) from None
        aside.commit()


def _groups(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    group = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def write_shard(records: LoggedRecords, output: Output) -> None:
    """A WebDataset shard: for each input the image's file as it was, its caption as `.txt` and its record as `.json`.

    Samples are called by their number among the inputs, for names can be those of other files, or no names at all.
    A file that went away behind its caption, or that is no image any more, leaves its caption alone.
    """
    with AsideFile(output.path) as shard:
        for number, record in enumerate(records.with_content()):
            for name, data in _members(record, f"{number:09d}"):
                shard.write(_member(name, data))
        shard.write(bytes(2 * tarfile.BLOCKSIZE))
        shard.commit()


def _members(record: Record, key: str) -> Iterator[tuple[str, bytes]]:
    if record.error is None:
        image = _file_of(record)
        suffix = None if image is None else _suffix_of(image)
        if image is not None and suffix is not None:
            yield f"{key}.{suffix}", image
        yield f"{key}.txt", str(record.fields["caption"]).encode("utf-8", "replace")
    yield f"{key}.json", json.dumps(record.line()).encode("ascii")


def _member(name: str, data: bytes) -> bytes:
    """A file in a tar archive, header and padding included."""
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    return entry.tobuf() + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _file_of(record: Record) -> bytes | None:
    if isinstance(record.content, bytes):
        return record.content
    with suppress(OSError, ImageError):
        return read_span(record.content or Span(record.image, 0, os.path.getsize(record.image)))
    return None


def _suffix_of(image: bytes) -> str | None:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image), formats=known_formats()) as opened:
            return {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}.get(opened.format or "", (opened.format or "").lower())
    except Exception:  # the file was replaced; Pillow lets nearly any exception out of what is no image
        return None


def _utf8(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _import_pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise OutputError("writing .parquet needs pyarrow: pip install 'coca-hf[parquet]'") from None
    return pyarrow


def _write_report(records: LoggedRecords, output: Output) -> None:
    write_report(records, output.path, output.facts)


FORMATS = (
    Format("records", ".jsonl", write_json_lines),
    Format("records", ".parquet", write_caption_table, needs="pyarrow"),
    Format("records", ".tar", write_shard),
    Format("embeddings", ".npy", write_array, beside=(".jsonl",)),
    Format("embeddings", ".parquet", write_embedding_table, needs="pyarrow"),
    Format("report", ".html", _write_report),
    Format("report", ".htm", _write_report),
)
"""Everything that can be written. What a run makes decides which of them it can have."""


def as_outputs(outputs: Iterable[Output | str | os.PathLike[str]], makes: frozenset[str]) -> list[Output]:
    """Paths as what their suffix stands for, of a job that `makes` this. Raises `TypeError` for one path."""
    if isinstance(outputs, (str, bytes, os.PathLike)):
        raise TypeError(f"outputs={outputs!r} is one path: give a list of paths, [{outputs!r}]")
    return [each if isinstance(each, Output) else _output_for(os.fspath(each), makes) for each in outputs]


def _output_for(path: str, makes: frozenset[str]) -> Output:
    suffix = os.path.splitext(path)[1].lower()
    if suffix in (".html", ".htm"):
        return Output(path, "report")
    is_embedding = suffix == ".npy" or makes == {"embeddings"}
    return Output(path, "embeddings" if is_embedding else "records")


def format_of(output: Output, makes: frozenset[str]) -> Format:
    """Raises `OutputError` where nothing of that suffix can be made of it."""
    rows = [row for row in FORMATS if row.content == output.content and _can_be_made(row, makes)]
    suffix = os.path.splitext(output.path)[1].lower()
    found = next((row for row in rows if row.suffix == suffix), None)
    if found is None:
        suffixes = [row.suffix for row in rows]
        allowed = (
            f"the name has to end in {' or '.join(suffixes)}" if suffixes else f"the run makes no {output.content}"
        )
        raise OutputError(f"cannot write to {output.path!r}: {allowed}")
    return found


def _can_be_made(row: Format, makes: frozenset[str]) -> bool:
    if row.content == "embeddings":
        return "embeddings" in makes
    if row.content == "records" and "labels" in makes:
        return row.suffix == ".jsonl"
    return bool(makes & {"captions", "labels"})


def files_of(output: Output, makes: frozenset[str]) -> list[str]:
    return [output.path, *(output.path + ending for ending in format_of(output, makes).beside)]


def check_outputs(outputs: Sequence[Output], makes: frozenset[str], ours: Callable[[str], bool]) -> None:
    """
    Raises `OutputError` unless each output can be made where it is wanted. Nothing is changed.

    Args:
        ours: whether a run that this one continues has made the file that is there. Empty files and older reports
            are replaced, too; nothing else is.
    """
    taken: dict[str, str] = {}
    for output in outputs:
        _check_kind(output.path)
        row = format_of(output, makes)
        for path in files_of(output, makes):
            _check_place(path, replaced=ours(path) or (output.content == "report" and is_report(path)))
            other = taken.setdefault(os.path.realpath(path), path)
            if other is not path:
                raise OutputError(f"{path!r} is given for two outputs. Name another file for one of them")
        if row.needs == "pyarrow":
            _import_pyarrow()


def _check_kind(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if stat.S_ISDIR(mode):
        raise OutputError(f"cannot write to {path!r}: it is a folder")
    if not stat.S_ISREG(mode):
        raise OutputError(f"cannot write to {path!r}: it is not a regular file")


def _check_place(path: str, replaced: bool) -> None:
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        size = 0
    except OSError as error:
        raise OutputError(f"cannot write to {path!r}: {error_text(error)}") from None
    if size and not replaced:
        raise OutputError(f"{path!r} exists already. Name another file, or remove it first")
    if not os.path.isdir(os.path.dirname(os.path.realpath(path))):
        raise OutputError(f"cannot write to {path!r}: there is no folder {os.path.dirname(path)!r}")
    # Asking for permission is not enough: a file system may be read-only, full or of another kind.
    with AsideFile(path):
        pass
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise OutputError(f"cannot write to {path!r}: permission denied")


def is_stream(path: str) -> bool:
    """Whether what goes there is gone: stdout, a device, a pipe."""
    if path == STDOUT:
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


class RecordSink(Protocol):
    """Is given every record of a run, in the order of the inputs."""

    def write(self, records: Iterable[Record]) -> None: ...


class Stream:
    """Lines of JSON to stdout, a device or a pipe, or to a file that shows how far a run is. Whole lines only.

    Raises `OutputError`, and `BrokenPipeError` where nobody reads any more.
    """

    def __init__(self, path: str):
        self.path = path
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self.descriptor = os.dup(1) if path == STDOUT else os.open(path, flags, 0o666)
        except OSError as error:
            raise OutputError(f"cannot write to {path!r}: {error_text(error)}") from None
        self.is_file = path != STDOUT and stat.S_ISREG(os.fstat(self.descriptor).st_mode)

    def empty(self) -> None:
        if self.is_file:
            os.ftruncate(self.descriptor, 0)

    def write(self, records: Iterable[Record]) -> None:
        for group in _groups(records, _LINES_AT_ONCE):
            self._write(b"".join(map(json_line, group)))

    def _write(self, data: bytes) -> None:
        size = os.fstat(self.descriptor).st_size
        try:
            write_all(self.descriptor, data)
        except BaseException as error:
            if self.is_file:
                written = os.fstat(self.descriptor).st_size - size
                with suppress(OSError):
                    os.ftruncate(self.descriptor, size + data.rfind(b"\n", 0, written) + 1)
            if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
                raise OutputError(f"cannot write to {self.path!r}: {error_text(error)}") from None
            raise

    def close(self) -> None:
        os.close(self.descriptor)


def parse_line(line: bytes) -> dict[str, Any] | None:
    """A whole line that `json_line` can have written, else None."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("image"), str) and len(record) > 1 else None


def as_record(line: dict[str, Any]) -> Record:
    """What `json_line` made a line of."""
    fields = {name: value for name, value in line.items() if name not in ("image", "error")}
    return Record(line["image"], fields, line.get("error"))


class Sidecars:
    """Captions as a `.txt` beside each image that is a file. What is there is kept, unless `replace`."""

    def __init__(self, *, replace: bool = False):
        self.replace = replace
        self.written = self.kept = 0

    def write(self, records: Iterable[Record]) -> None:
        """Raises `OutputError`."""
        for record in records:
            if record.error is None and os.path.isfile(record.image):
                self._write(sidecar_path(record.image), str(record.fields["caption"]))

    def _write(self, path: str, caption: str) -> None:
        data = caption.encode("utf-8", "replace") + b"\n"
        if os.path.lexists(path) and not self.replace:
            with suppress(OSError), open(path, "rb") as file:
                # A run that is continued comes by those that it wrote before.
                self.kept += file.read(len(data) + 1) != data
            return
        write_whole(path, data)
        self.written += 1


def sidecar_path(image: str) -> str:
    return os.path.splitext(image)[0] + ".txt"
