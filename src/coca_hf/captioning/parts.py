# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A run that several processes or machines share: blocks of inputs, a part file for each, one output of them all.

A part appears when its block is done, under a name that says which inputs it is of. Whoever does a block looks first
whether it is there, so that a run that ended anywhere goes on with the blocks that are missing, with any number of
processes. All of them see the same folder.
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .containers import DatasetInputs
from .errors import InputError, OutputError
from .notes import MadeWith, Note
from .runner import Clock, Record, Task, run
from .sinks import digest, json_line
from .sources import Input, Inputs, PathInputs, error_text, is_container, iter_paths, opened
from .workers import IdleProcesses


BLOCK_SIZE = 512
"""Inputs of a block. It is what a lost machine costs, and what a waiting one is given; a tar shard or a Parquet file
is a block of its own, whatever is in it, for only those who do the work should have to open it."""

# So that no two batches of a run are sampled alike, however many images are in a block.
_BLOCKS_APART = 1 << 20

_ASIDE, _TRIES = ".aside", ".tries"


@dataclass(frozen=True)
class Block:
    """Some neighbouring inputs: pairs of a path and an error, unopened, or `stop - start` rows of a dataset."""

    number: int
    name: str
    paths: list[tuple[str, str | None]] = field(default_factory=list)
    dataset: dict[str, Any] | None = None
    start: int = 0
    stop: int = 0

    def inputs(self) -> Iterator[Input]:
        if self.dataset is not None:
            return DatasetInputs(**self.dataset).rows(self.start, self.stop)
        return (item for path, error in self.paths for item in opened(Input(path, error)))

    @property
    def size(self) -> int | None:
        """How many inputs it has, None for a container: opening it is for who works on it."""
        if self.dataset is not None:
            return self.stop - self.start
        return None if any(error is None and is_container(path) for path, error in self.paths) else len(self.paths)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Block":
        return cls(**json.loads(text))


def make_blocks(inputs: Inputs, size: int = BLOCK_SIZE) -> Iterator[Block]:
    """Raises `InputError` where the inputs cannot be counted beforehand."""
    if isinstance(inputs, DatasetInputs):
        yield from _dataset_blocks(inputs, size)
    elif isinstance(inputs, PathInputs):
        for number, paths in enumerate(_path_groups(iter_paths(inputs.paths), size)):
            yield Block(number, f"{number:08d}-{_digest(paths)}", paths)
    else:
        raise InputError(f"inputs of the type {type(inputs).__name__} cannot be shared")


def _dataset_blocks(inputs: DatasetInputs, size: int) -> Iterator[Block]:
    total = inputs.count().total
    if total is None:
        raise InputError("the rows of a dataset that is streamed are not known, so they cannot be shared")
    for number, start in enumerate(range(0, total, size)):
        stop = min(start + size, total)
        name = digest([json.dumps(asdict(inputs)), f"{start}-{stop}"])
        yield Block(number, f"{number:08d}-{name}", [], asdict(inputs), start, stop)


def _path_groups(items: Iterable[Input], size: int) -> Iterator[list[tuple[str, str | None]]]:
    group: list[tuple[str, str | None]] = []
    for item in items:
        alone = item.error is None and is_container(item.path)
        if group and (alone or len(group) == size):
            yield group
            group = []
        group.append((item.path, item.error))
        if alone:
            yield group
            group = []
    if group:
        yield group


def _digest(paths: Sequence[tuple[str, str | None]]) -> str:
    names = []
    for path, error in paths:
        names.append(path)
        if error is None and is_container(path):
            status = os.stat(path)
            names.append(f"{status.st_size} {status.st_mtime_ns}")
    return digest(names)


@dataclass(frozen=True)
class Part:
    """What is known of a block that is done; the seconds, and how many of them the model ran, if it was just now."""

    number: int
    records: int
    failed: int
    seconds: float = 0.0
    model_seconds: float = 0.0


class Parts:
    """The folder of the parts. Raises `OutputError`."""

    def __init__(self, folder: str):
        self.folder = folder
        self.note = Note(folder)

    def begin(self, made_with: MadeWith) -> None:
        """Makes the folder. Parts in it that were made with other choices are refused."""
        self.check(made_with)
        # First, for parts without it would be nobody's.
        self.note.write(made_with, "running")
        try:
            os.makedirs(self.folder, exist_ok=True)
        except OSError as error:
            raise self._failure(error) from None

    def clean(self) -> None:
        """Removes what processes left that were killed. Nobody may be at work here."""
        with os.scandir(self.folder) as entries:
            _remove([entry.path for entry in entries if entry.name.endswith((_ASIDE, _TRIES))])

    def check(self, made_with: MadeWith) -> None:
        if os.path.isdir(self.folder) and (self.note.made_with is not None or os.listdir(self.folder)):
            self.note.check(self.folder, made_with)

    def done(self, block: Block) -> Part | None:
        """None where it is still to be done."""
        try:
            with open(self._lines_path(block), "rb") as file:
                # Inside a text, quotes are escaped. Parsing a billion lines would take an hour.
                errors = [b'"error": ' in line for line in file]
        except FileNotFoundError:
            return None
        return Part(block.number, len(errors), sum(errors))

    def sort(self, blocks: Iterable[Block]) -> tuple[list[Part], list[Block]]:
        """What is done already, and what is to be done."""
        there: list[Part] = []
        todo: list[Block] = []
        for block in blocks:
            part = self.done(block)
            if part is None:
                todo.append(block)
            else:
                there.append(part)
        return there, todo

    def do(
        self, block: Block, task: Task, batch_size: int, workers: int = 0, idle: IdleProcesses | None = None
    ) -> Part:
        """What `task` makes of the images of `block`, unless that is there already."""
        part = self.done(block)
        if part is not None:
            return part
        seek = getattr(task, "seek", None)
        if seek:
            seek(block.number * _BLOCKS_APART)
        clock, started = Clock(), time.monotonic()
        part = self._write(block, run(block.inputs(), task, batch_size, workers=workers, idle=idle, clock=clock))
        return replace(part, seconds=time.monotonic() - started, model_seconds=clock.working_seconds)

    def tries(self, block: Block) -> int:
        """How often this was asked of a block that is not done: a process that died over it cannot say so itself."""
        path = os.path.join(self.folder, f".{block.name}{_TRIES}")
        try:
            with open(path, "ab") as file:
                file.write(b".")
            return os.path.getsize(path)
        except OSError as error:
            raise self._failure(error) from None

    def give_up(self, block: Block, reason: str) -> Part:
        """An error for each of its inputs."""
        return self._write(block, ([Record(item.path, error=item.error or reason)] for item in block.inputs()))

    def _write(self, block: Block, groups: Iterable[list[Record]]) -> Part:
        # Another process may be at the same block, where this one was taken for lost.
        mark = uuid.uuid4().hex[:12]
        records = failed = 0
        with ExitStack() as stack:
            aside = [os.path.join(self.folder, f".{mark}.{kind}{_ASIDE}") for kind in ("jsonl", "f32")]
            stack.callback(_remove, aside)
            try:
                lines, vectors = (stack.enter_context(open(path, "wb")) for path in aside)
                for group in groups:
                    for record in group:
                        fields, vector = split_result(record.result)
                        lines.write(json_line(record, fields).encode("ascii"))
                        vectors.write(vector)
                        records += 1
                        failed += record.error is not None
                for file in (lines, vectors):
                    # A name that outlives a power cut should not stand for nothing.
                    file.flush()
                    os.fsync(file.fileno())
                    file.close()
                os.replace(aside[1], self._vectors_path(block))
                os.replace(aside[0], self._lines_path(block))
            except OSError as error:
                raise self._failure(error) from None
        return Part(block.number, records, failed)

    def read(self, block: Block, *, with_content: bool = False) -> Iterator[Record]:
        """The records of a block that is done; `with_content` opens its inputs to say where the images are."""
        items = block.inputs() if with_content else iter(())
        with open(self._lines_path(block), "rb") as lines, open(self._vectors_path(block), "rb") as vectors:
            for line in lines:
                fields = json.loads(line)
                image, error = fields.pop("image"), fields.pop("error", None)
                result = None if error is not None else join_result(fields, vectors.read)
                item = next(items, None)
                yield Record(image, result, error, content=item.content if item and item.path == image else None)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _failure(self, error: OSError) -> OutputError:
        return OutputError(f"cannot write to {self.folder!r}: {error_text(error)}")

    def _lines_path(self, block: Block) -> str:
        return os.path.join(self.folder, f"{block.name}.jsonl")

    def _vectors_path(self, block: Block) -> str:
        return os.path.join(self.folder, f"{block.name}.f32")


def _remove(paths: Iterable[str]) -> None:
    for path in paths:
        with suppress(FileNotFoundError):
            os.unlink(path)


def split_result(result: Any) -> tuple[dict[str, Any], bytes]:
    """A caption, an embedding or both -> what goes into a line, and what stands beside it as float32."""
    if result is None:
        return {}, b""
    if isinstance(result, str):
        return {"caption": result}, b""
    if isinstance(result, tuple):
        caption, vector = result
        return {"caption": caption, "size": len(vector)}, vector.astype("<f4").tobytes()
    return {"size": len(result)}, result.astype("<f4").tobytes()


def join_result(fields: dict[str, Any], read: Any) -> Any:
    """The result that `split_result` took apart."""
    import numpy as np

    if "size" not in fields:
        return fields["caption"]
    vector = np.frombuffer(read(4 * fields["size"]), dtype="<f4")
    if "caption" not in fields:
        return vector
    from .tasks import Captioned

    return Captioned(fields["caption"], vector)
