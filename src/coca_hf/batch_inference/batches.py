# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Inputs through a task in batches, with their order kept and unreadable inputs apart."""

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from .inputs import Input, Record
from .jobs import Result, Task
from .plan import Block
from .reading import Prepared, Reader, ReadingProcesses, read_ahead


# Errors waiting for a batch to fill up take memory as well.
_MAX_WAITING = 1000

# Batches that are read ahead of the model: one can be slow, and the model should not wait for it.
_BATCHES_AHEAD = 3


@dataclass
class Clock:
    """How long the task worked, and how long everything took since the first input was there to work on."""

    working_seconds: float = 0.0
    started: float | None = None
    ended: float = 0.0

    @property
    def seconds(self) -> float:
        return 0.0 if self.started is None else self.ended - self.started

    def timed(self, task: Task, prepared: list[Any], places: list[tuple[int, int]]) -> list[Result]:
        start = time.monotonic()
        if self.started is None:
            self.started = start
        results = task.process(prepared, places)
        self.ended = time.monotonic()
        self.working_seconds += self.ended - start
        return results


@dataclass
class Chunk:
    """Neighbouring records of a block, from number `start` on. `is_last` says that the block has no more.

    `bookmark` is the latest that one of its inputs had.
    """

    block: Block
    start: int
    records: list[Record] = field(default_factory=list)
    is_last: bool = False
    bookmark: Any = None


@dataclass(frozen=True)
class Part:
    """What is left to do of a block: its inputs from number `start` on."""

    block: Block
    start: int = 0
    bookmark: Any = None


def run_batches(
    parts: Iterable[Part],
    task: Task,
    batch_size: int,
    processes: ReadingProcesses | None = None,
    reader: Reader | None = None,
    clock: Clock | None = None,
) -> Generator[Chunk, None, None]:
    """
    A record for each input, in their order, in chunks as they are finished. To be closed.

    A batch never holds images of two blocks, and a chunk ends with a batch: so the batches of a block are the same
    whoever does it and wherever it was interrupted, and with them the last bits of its results.

    Args:
        processes: what reads the images, or None for this process.
        reader: what is done with each image, where this process reads.

    An input that cannot be read is a record with its reason. Whatever `task` raises is passed on: an image that was
    read is no reason for it to fail.
    """
    reader = reader or Reader(task.prepare)
    clock = clock or Clock()
    stream = _read(_inputs(parts), processes, reader, batch_size * _BATCHES_AHEAD)
    batch: _Batch | None = None
    with closing(stream):
        for (block, position), item, prepared in stream:
            batch = batch or _Batch(block, position)
            if item is not None and prepared is not None:
                batch.add(position, item, prepared)
            if item is None or len(batch.prepared) == batch_size or len(batch.records) >= _MAX_WAITING + batch_size:
                yield batch.finish(task, clock, is_last=item is None)
                batch = None


def _inputs(parts: Iterable[Part]) -> Iterator[tuple[tuple[Block, int], Input | None]]:
    """Each input with its block and its number there; None stands behind the last one of a block."""
    for part in parts:
        position = part.start
        for item in part.block.inputs(part.start, part.bookmark):
            yield (part.block, position), item
            position += 1
        yield (part.block, position), None


def _read(
    inputs: Iterator[tuple[tuple[Block, int], Input | None]],
    processes: ReadingProcesses | None,
    reader: Reader,
    ahead: int,
) -> Generator[tuple[tuple[Block, int], Input | None, Prepared | None], None, None]:
    if processes is not None:
        yield from read_ahead(inputs, processes, ahead)
        return
    for key, item in inputs:
        yield key, item, None if item is None else reader.read(item)


class _Batch:
    """Records in input order; `prepared` belongs to those of them at `positions`, the others are errors."""

    def __init__(self, block: Block, start: int):
        self.block = block
        self.start = start
        self.records: list[Record] = []
        self.pictures: dict[int, bytes | None] = {}
        self.prepared: list[Any] = []
        self.places: list[tuple[int, int]] = []
        self.bookmark: Any = None

    def add(self, position: int, item: Input, prepared: Prepared) -> None:
        if prepared.error is None:
            self.pictures[len(self.records)] = prepared.picture
            self.prepared.append(prepared.value)
            self.places.append(self.block.place(position))
        self.records.append(Record(item.path, error=prepared.error))
        self.bookmark = item.bookmark or self.bookmark

    def finish(self, task: Task, clock: Clock, *, is_last: bool) -> Chunk:
        results = clock.timed(task, self.prepared, self.places) if self.prepared else []
        for (index, picture), result in zip(self.pictures.items(), results, strict=True):
            image = self.records[index].image
            self.records[index] = Record(image, result.fields, None, result.embedding, picture, result.maps)
        return Chunk(self.block, self.start, self.records, is_last, self.bookmark)
