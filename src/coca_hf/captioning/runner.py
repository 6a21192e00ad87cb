# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Inputs through a task in batches, with the order kept and unreadable inputs apart."""

import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Protocol

from PIL import Image

from .sources import Input, Span
from .workers import IdleProcesses, Prepared, Reader, read_ahead


# Errors waiting for a batch to fill up take memory as well.
_MAX_WAITING = 1000

# Batches that are read ahead of the model: one can be slow, and the model should not wait for it.
_BATCHES_AHEAD = 3


class Task(Protocol):
    """What is done with each image."""

    def prepare(self, image: Image.Image) -> Any:
        """What `process` takes of one image: all that is kept of it until its batch is full, so it should be small."""

    def process(self, prepared: list[Any]) -> list[Any]:
        """One result for each item, in order."""


@dataclass(frozen=True)
class Record:
    """What became of one input: a `result` or an `error`.

    `picture` is what the run's `picture` made of the image, `content` where the image is, if not in the file `image`.
    """

    image: str
    result: Any = None
    error: str | None = None
    picture: Any = None
    content: bytes | Span | None = None


@dataclass
class Clock:
    """How long the task worked, and how long everything took since the first input was there to work on."""

    working_seconds: float = 0.0
    started: float | None = None

    @property
    def busy_share(self) -> float | None:
        """None before anything was worked on."""
        if self.started is None:
            return None
        return self.working_seconds / max(time.monotonic() - self.started, 1e-9)

    def timed(self, process: Callable[[list[Any]], list[Any]], prepared: list[Any]) -> list[Any]:
        start = time.monotonic()
        if self.started is None:
            self.started = start
        results = process(prepared)
        self.working_seconds += time.monotonic() - start
        return results


def run(
    inputs: Iterable[Input],
    task: Task,
    batch_size: int,
    picture: Callable[[Image.Image], Any] | None = None,
    *,
    workers: int = 0,
    idle: IdleProcesses | None = None,
    clock: Clock | None = None,
) -> Generator[list[Record], None, None]:
    """A record for each input, in their order, in lists of at least one as they are finished.

    Images are read by `workers` processes, to which `task.prepare` and `picture` have to travel, or with 0 by this
    one. They come from `idle`, and go back there, where one run of the same comes after another.

    An input that cannot be read is a record with its reason. Whatever `task` or `picture` raise is passed on: an image
    that was read is no reason for them to fail.
    """
    reader = Reader(task.prepare, picture)
    batch = _Batch(task, clock or Clock())
    with closing(_read(inputs, reader, workers, batch_size * _BATCHES_AHEAD, idle)) as stream:
        for read in stream:
            batch.add(read)
            full = len(batch.prepared) == batch_size or len(batch.records) >= _MAX_WAITING + batch_size
            if full or not batch.prepared:
                yield batch.finish()
    if batch.records:
        yield batch.finish()


def _read(
    inputs: Iterable[Input], reader: Reader, workers: int, ahead: int, idle: IdleProcesses | None
) -> Generator[Prepared, None, None]:
    if workers:
        yield from read_ahead(inputs, reader, workers, ahead, idle=idle)
    else:
        yield from map(reader.read, inputs)


class _Batch:
    """Records in input order; `prepared` belongs to those of them at `positions`, the others are errors."""

    def __init__(self, task: Task, clock: Clock):
        self.task = task
        self.clock = clock
        self.records: list[Record] = []
        self.positions: list[int] = []
        self.prepared: list[Any] = []

    def add(self, read: Prepared) -> None:
        if read.error is None:
            self.positions.append(len(self.records))
            self.prepared.append(read.value)
        self.records.append(Record(read.item.path, error=read.error, picture=read.picture, content=read.item.content))

    def finish(self) -> list[Record]:
        """The records with their results; the batch is empty afterwards."""
        records = self.records
        results = self.clock.timed(self.task.process, self.prepared) if self.prepared else []
        for position, result in zip(self.positions, results, strict=True):
            records[position] = replace(records[position], result=result)
        self.records, self.positions, self.prepared = [], [], []
        return records
