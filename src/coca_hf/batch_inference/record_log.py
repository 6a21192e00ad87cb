# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The records of a run that are done, on disk: each entry is there as a whole or not at all.

A log is a folder. Every process that works on the run appends to a file of its own there, an entry for neighbouring
records of a block, and makes it outlive a power cut before it goes on. So whoever starts later, in whatever number,
finds out from the folder what is left to do. An entry is

    a line of JSON    which block, the number of its first record, how many there are, and the lengths and the checksum
                      of what follows
    lines of JSON     a record each: `{"image": ..., "fields": ..., "error": ..., "sizes": [embedding, picture, maps]}`
    bytes             embeddings (float32, little-endian), pictures (JPEG) and maps, in the records' order

`run.json` in the folder says what the records are made with. All processes see the folder under the same name.
"""

import json
import os
import shutil
import uuid
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from .batches import Chunk, Part
from .errors import OutputError
from .files import error_text, lock_file, remove_asides, sync_folder, write_all, write_whole
from .inputs import Record
from .jobs import MadeWith
from .plan import Block


_FORMAT = 2
_SUFFIX = ".log"
_TRIES = ".tries"


def refuse_other_choices(path: str, found: Mapping[str, Any], made_with: MadeWith, remedy: str) -> None:
    """Raises `OutputError` where `path` was made with other choices, naming them."""
    names = [name for name in {**found, **made_with} if found.get(name) != made_with.get(name)]
    if names:
        spoken = " and ".join(name.replace("_", "-") for name in names)
        raise OutputError(f"{path!r} was made with another {spoken}. Name another file, or {remedy}")


def read_note(path: str) -> dict[str, Any]:
    """A small file of JSON that `write_note` wrote, {} where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError):
        return {}
    is_ours = isinstance(content, dict) and content.get("format") == _FORMAT
    return content if is_ours and isinstance(content.get("made_with"), dict) else {}


def write_note(path: str, made_with: MadeWith, **facts: Any) -> None:
    """Raises `OutputError`."""
    write_whole(path, json.dumps({"format": _FORMAT, "made_with": made_with, **facts}).encode("ascii"))


@dataclass(frozen=True)
class _Entry:
    """Where an entry is: its lines begin at `offset` of `path`."""

    path: str
    offset: int
    start: int
    count: int
    failed: int
    is_last: bool
    bookmark: Any
    lines: int
    blobs: int
    checksum: int


@dataclass
class Progress:
    """How far a block is: `records` from its first one on, of which `failed` are errors."""

    records: int = 0
    failed: int = 0
    is_complete: bool = False
    bookmark: Any = None


class RecordLog:
    """
    The records in `folder`, for a run whose output is `output`, which messages name.

    Methods raise `OutputError` where the disk does not do what is asked of it.
    """

    def __init__(self, folder: str, output: str | None = None):
        self.folder = folder
        self.output = output or folder
        self.note_path = os.path.join(folder, "run.json")
        self.entries: dict[str, list[_Entry]] = defaultdict(list)
        self._read_up_to: dict[str, int] = {}
        self._descriptor: int | None = None
        self._lock: int | None = None

    def failure(self, error: OSError) -> OutputError:
        return OutputError(f"cannot write to {self.output!r}: {error_text(error)}")

    @property
    def exists(self) -> bool:
        return os.path.isdir(self.folder)

    def check(self, made_with: MadeWith) -> None:
        """Raises `OutputError` where there are records of other choices, or something that is none of ours."""
        if not self.exists:
            return
        found = read_note(self.note_path).get("made_with")
        if found is None:
            if any(name != "lock" and not name.endswith(".aside") for name in os.listdir(self.folder)):
                raise OutputError(f"{self.folder!r} exists already. Name another file, or remove it first")
        elif self._has_records():
            refuse_other_choices(self.output, found, made_with, f"remove {self.folder!r} to begin anew")

    def _has_records(self) -> bool:
        return any(entry.name.endswith(_SUFFIX) and entry.stat().st_size for entry in os.scandir(self.folder))

    def begin(self, made_with: MadeWith, outputs: Sequence[str] = ()) -> None:
        """Makes the folder, where there is none, for `outputs`, and finds out what is done."""
        self.check(made_with)
        try:
            os.makedirs(self.folder, exist_ok=True)
        except OSError as error:
            raise self.failure(error) from None
        if read_note(self.note_path).get("made_with") != made_with:
            try:
                write_note(self.note_path, made_with, outputs=list(outputs))
            except OutputError as error:
                raise OutputError(str(error).replace(repr(self.note_path), repr(self.output))) from None
        self.refresh()

    @property
    def outputs(self) -> list[str]:
        """The files that the run is to make, as it began."""
        return list(read_note(self.note_path).get("outputs") or [])

    def lock(self) -> None:
        """Raises `OutputError` where another run writes here. The lock goes with the process, however that ends."""
        try:
            self._lock = lock_file(os.path.join(self.folder, "lock"))
        except BlockingIOError:
            raise OutputError(
                f"another run is writing to {self.output!r}. Wait for it, or name another file"
            ) from None
        except OSError as error:
            raise self.failure(error) from None

    def clean(self) -> None:
        """Removes what processes left that were killed. Nobody may be at work here."""
        remove_asides(self.note_path)
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(_TRIES):
                    Path(entry.path).unlink(missing_ok=True)

    def refresh(self) -> set[str]:
        """Reads what was appended since, by whomever -> the names of the blocks that it belongs to."""
        changed: set[str] = set()
        try:
            names = sorted(name for name in os.listdir(self.folder) if name.endswith(_SUFFIX))
        except FileNotFoundError:
            return changed
        for name in names:
            path = os.path.join(self.folder, name)
            with suppress(FileNotFoundError), open(path, "rb") as file:
                for block, entry in self._new_entries(path, file):
                    self.entries[block].append(entry)
                    changed.add(block)
        return changed

    def _new_entries(self, path: str, file: BinaryIO) -> Iterator[tuple[str, _Entry]]:
        size = os.fstat(file.fileno()).st_size
        place = self._read_up_to.get(path, 0)
        while place < size:
            file.seek(place)
            header = file.readline()
            found = _parse_header(path, place + len(header), header)
            if found is None or found[1].offset + found[1].lines + found[1].blobs > size:
                return  # being written, or torn by what ended its process
            end = found[1].offset + found[1].lines + found[1].blobs
            # Every entry was on the disk before the next one was begun, so only the last can be damaged.
            if end == size and _checksum(file, found[1]) != found[1].checksum:
                return
            yield found
            place = end
            self._read_up_to[path] = place

    def progress(self, block: Block) -> Progress:
        """As of the last `refresh`."""
        done = Progress()
        for entry, first in self._chain(block):
            new = entry.count - first
            done.records += new
            # Of an entry that another process made half of before, the errors are counted when it is read.
            done.failed += entry.failed if not first else self._failed_from(entry, first)
            done.bookmark = entry.bookmark or done.bookmark
            done.is_complete |= entry.is_last
        return done

    def _failed_from(self, entry: _Entry, first: int) -> int:
        return sum(record.error is not None for record in list(self._read(entry))[first:])

    def _chain(self, block: Block) -> Iterator[tuple[_Entry, int]]:
        """The entries that follow each other from the block's first record on, and the first record to take of each:
        two processes may have done the same, where one was taken for lost."""
        position = 0
        for entry in sorted(self.entries.get(block.name, ()), key=lambda entry: (entry.start, -entry.count)):
            end = entry.start + entry.count
            if entry.start > position:
                return
            if end > position or (end == position and entry.is_last):
                yield entry, position - entry.start
                position = end
                if entry.is_last:
                    return

    def part(self, block: Block) -> Part | None:
        """What is left to do, None where nothing is."""
        done = self.progress(block)
        return None if done.is_complete else Part(block, done.records, done.bookmark)

    def append(self, chunks: Sequence[Chunk]) -> None:
        """Chunks of one block that follow each other. They are on the disk when this returns."""
        data = _encode(chunks)
        try:
            if self._descriptor is None:
                name = f"{uuid.uuid4().hex[:12]}{_SUFFIX}"
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
                self._descriptor = os.open(os.path.join(self.folder, name), flags, 0o666)
                sync_folder(self.folder)
            size = os.fstat(self._descriptor).st_size
            try:
                write_all(self._descriptor, data)
                os.fsync(self._descriptor)
            except BaseException:
                # What follows a torn entry would never be found.
                with suppress(OSError):
                    os.ftruncate(self._descriptor, size)
                raise
        except OSError as error:
            raise self.failure(error) from None

    def records(self, block: Block) -> Iterator[Record]:
        """Of the block's first inputs, as many as are done."""
        for entry, first in self._chain(block):
            records = self._read(entry)
            for _ in range(first):
                next(records)
            yield from records

    def every_record(self) -> Iterator[Record]:
        """Of all blocks, whatever plan they belong to. What two processes did comes twice."""
        self.refresh()
        return (record for entries in self.entries.values() for entry in entries for record in self._read(entry))

    def _read(self, entry: _Entry) -> Iterator[Record]:
        try:
            with open(entry.path, "rb") as lines, open(entry.path, "rb") as blobs:
                lines.seek(entry.offset)
                blobs.seek(entry.offset + entry.lines)
                for _ in range(entry.count):
                    yield _decode(json.loads(lines.readline()), blobs)
        except (OSError, ValueError, KeyError) as error:
            reason = error_text(error) if isinstance(error, OSError) else "it is damaged"
            raise OutputError(f"cannot read {entry.path!r}: {reason}. Remove it to make its records again") from None

    def tries(self, block: Block) -> int:
        """How often this was asked of a block that is not done: a process that died over it cannot say so itself."""
        path = os.path.join(self.folder, f"{block.name}{_TRIES}")
        try:
            with open(path, "ab") as file:
                file.write(b".")
            return os.path.getsize(path)
        except OSError as error:
            raise self.failure(error) from None

    def close(self) -> None:
        """Where nothing was done, nothing is left behind."""
        for descriptor in (self._descriptor, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        is_ours = self._lock is not None
        self._descriptor = self._lock = None
        if is_ours and self.exists and not self._has_records():
            self.remove()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _parse_header(path: str, offset: int, line: bytes) -> tuple[str, _Entry] | None:
    """None where it is none, or not a whole one."""
    try:
        header = json.loads(line) if line.endswith(b"\n") else None
        return None if header is None else (header.pop("block"), _Entry(path, offset, **header))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _checksum(file: BinaryIO, entry: _Entry) -> int:
    file.seek(entry.offset)
    left, found = entry.lines + entry.blobs, 0
    while left > 0 and (piece := file.read(min(left, 1 << 20))):
        left -= len(piece)
        found = zlib.crc32(piece, found)
    return found


def _encode(chunks: Sequence[Chunk]) -> bytes:
    records = [record for chunk in chunks for record in chunk.records]
    lines, blobs = [], []
    for record in records:
        embedding = b"" if record.embedding is None else record.embedding.astype("<f4").tobytes()
        picture = record.picture or b""
        maps = record.maps or b""
        sizes = [len(embedding), len(picture), len(maps)]
        content = {"image": record.image, "fields": dict(record.fields), "error": record.error, "sizes": sizes}
        lines.append(json.dumps(content) + "\n")
        blobs += [embedding, picture, maps]
    text, data = "".join(lines).encode("ascii"), b"".join(blobs)
    header = {
        "block": chunks[0].block.name,
        "start": chunks[0].start,
        "count": len(records),
        "failed": sum(record.error is not None for record in records),
        "is_last": chunks[-1].is_last,
        "bookmark": next((chunk.bookmark for chunk in reversed(chunks) if chunk.bookmark), None),
        "lines": len(text),
        "blobs": len(data),
        "checksum": zlib.crc32(data, zlib.crc32(text)),
    }
    return json.dumps(header).encode("ascii") + b"\n" + text + data


def _decode(line: Mapping[str, Any], blobs: BinaryIO) -> Record:
    # Two sizes are those of a log from before there were maps.
    vector, picture, maps = (blobs.read(size) if size else None for size in (*line["sizes"], 0)[:3])
    embedding = None
    if vector is not None:
        import numpy as np

        embedding = np.frombuffer(vector, dtype="<f4")
    return Record(line["image"], line["fields"], line["error"], embedding, picture, maps)


@dataclass
class LoggedRecords:
    """The records of all blocks of a run, in the order of the inputs; can be iterated again and again."""

    blocks: Iterable[Block]
    log: RecordLog
    images: int = 0
    failed: int = 0

    def count(self) -> "LoggedRecords":
        """Sets `images` and `failed`."""
        self.images = self.failed = 0
        for block in self.blocks:
            done = self.log.progress(block)
            self.images += done.records - done.failed
            self.failed += done.failed
        return self

    def __iter__(self) -> Iterator[Record]:
        return (record for block in self.blocks for record in self.log.records(block))

    def with_content(self) -> Iterator[Record]:
        """Each record says where its image is, too, which takes listing the inputs once more."""
        for block in self.blocks:
            items = block.inputs()
            for record in self.log.records(block):
                item = next(items, None)
                content = item.content if item is not None and item.path == record.image else None
                yield replace(record, content=content)
