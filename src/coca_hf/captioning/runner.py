# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Inputs through a task in batches, with the order kept and unreadable inputs apart."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from PIL import Image

from .errors import ImageError
from .images import read_image
from .sources import Input


# Errors waiting for a batch to fill up take memory as well.
_MAX_WAITING = 1000


class Task(Protocol):
    """What is done with each image."""

    def prepare(self, image: Image.Image) -> Any:
        """What `process` takes of one image: all that is kept of it until its batch is full, so it should be small."""

    def process(self, prepared: list[Any]) -> list[Any]:
        """One result for each item, in order."""


@dataclass(frozen=True)
class Record:
    """What became of one input: a `result` or an `error`; `picture` is what the run's `picture` made of the image."""

    image: str
    result: Any = None
    error: str | None = None
    picture: Any = None


def run(
    inputs: Iterable[Input],
    task: Task,
    batch_size: int,
    picture: Callable[[Image.Image], Any] | None = None,
) -> Iterator[list[Record]]:
    """A record for each input, in their order, in lists of at least one as they are finished.

    An input that cannot be read is a record with its reason. Whatever `task` or `picture` raise is passed on: an image
    that was read is no reason for them to fail.
    """
    batch = _Batch(task)
    for item in inputs:
        batch.add(item, picture)
        if len(batch.prepared) == batch_size or not batch.prepared or len(batch.records) >= _MAX_WAITING + batch_size:
            yield batch.finish()
    if batch.records:
        yield batch.finish()


class _Batch:
    """Records in input order; `prepared` belongs to those of them at `positions`, the others are errors."""

    def __init__(self, task: Task):
        self.task = task
        self.records: list[Record] = []
        self.positions: list[int] = []
        self.prepared: list[Any] = []

    def add(self, item: Input, picture: Callable[[Image.Image], Any] | None) -> None:
        if item.error is not None:
            self.records.append(Record(item.path, error=item.error))
            return
        try:
            image = read_image(item.path)
        except ImageError as error:
            self.records.append(Record(item.path, error=str(error)))
            return
        self.positions.append(len(self.records))
        self.prepared.append(self.task.prepare(image))
        self.records.append(Record(item.path, picture=picture(image) if picture else None))

    def finish(self) -> list[Record]:
        """The records with their results; the batch is empty afterwards."""
        records, results = self.records, self.task.process(self.prepared) if self.prepared else []
        for position, result in zip(self.positions, results, strict=True):
            records[position] = replace(records[position], result=result)
        self.records, self.positions, self.prepared = [], [], []
        return records
