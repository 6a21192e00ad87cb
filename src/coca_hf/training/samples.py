# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""
Which samples are in which step, and what is drawn for each.

All of it follows from seed, epoch and number, never from what was drawn before, so that a run can begin at any step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..image_text_data import ImageTextData
from .errors import TrainingOptionError


_ORDER, _DRAWN, _CHANGED = 0, 1, 2


@dataclass(frozen=True)
class Sample:
    """Number of a record in its data, the epoch it is seen in, and which of its captions (None: one is drawn)."""

    epoch: int
    record: int
    caption: int | None = None


class Samples:
    """
    The samples of every epoch, in order.

    `captions` "all" makes a sample of each caption. Of streamed data only neighbours are shuffled, within its window.
    """

    def __init__(self, data: ImageTextData, captions: str, shuffle: bool, seed: int):
        self.shuffle, self.seed = shuffle, seed
        self.window = data.window or len(data)
        self.starts: np.ndarray | None = None
        self.number = len(data)
        if captions == "all":
            self.starts = np.cumsum([0, *(len(record.captions) for record in data)])
            self.number = int(self.starts[-1])

    def __len__(self) -> int:
        """In an epoch."""
        return self.number

    def order(self, epoch: int) -> np.ndarray:
        """Numbers 0 to `len(self)` - 1 as they come in an epoch."""
        if not self.shuffle:
            return np.arange(self.number)
        starts = range(0, self.number, self.window)
        parts = [np.arange(start, min(start + self.window, self.number)) for start in starts]
        return np.concatenate(
            [_generator(self.seed, _ORDER, epoch, place).permutation(part) for place, part in enumerate(parts)]
        )

    def sample(self, epoch: int, number: int) -> Sample:
        if self.starts is None:
            return Sample(epoch, number)
        record = int(np.searchsorted(self.starts, number, side="right")) - 1
        return Sample(epoch, record, number - int(self.starts[record]))


def drawn_for(seed: int, sample: Sample) -> np.random.Generator:
    """Random numbers of a sample's own: its caption and its part of the image."""
    place = sample.record if sample.caption is None else (sample.record, sample.caption)
    numbers = (place,) if isinstance(place, int) else place
    return _generator(seed, _DRAWN, sample.epoch, *numbers)


def drawn_for_batch(seed: int, samples: Sequence[Sample]) -> np.random.Generator:
    """Random numbers of a batch's own, for what a program does to it."""
    numbers = [number for sample in samples for number in (sample.record, sample.caption or 0)]
    return _generator(seed, _CHANGED, samples[0].epoch, *numbers)


def _generator(*numbers: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(numbers))


@dataclass(frozen=True)
class Plan:
    """
    Cuts the samples into steps, and each step into the micro-batches of this process.

    A step takes `batch_size` samples for each of `accumulate` micro-batches of each of `processes`. What is left at
    the end of an epoch is a step of its own, shared out evenly; where it is less than one for each micro-batch, it is
    left out.

    Raises:
        TrainingOptionError: There are too few samples for a single step.
    """

    samples: Samples
    batch_size: int
    accumulate: int = 1
    processes: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        if len(self.samples) < self.parts:
            raise TrainingOptionError(
                f"{len(self.samples)} samples are too few for {self.accumulate} micro-batches in {self.processes} "
                "processes: each needs one at least"
            )

    @property
    def parts(self) -> int:
        return self.accumulate * self.processes

    @property
    def step_size(self) -> int:
        return self.batch_size * self.parts

    @property
    def steps_per_epoch(self) -> int:
        whole, rest = divmod(len(self.samples), self.step_size)
        return whole + (rest >= self.parts)

    def samples_before(self, step: int) -> int:
        """How many samples have been seen by all processes before step number `step`, counted from 0."""
        epochs, within = divmod(step, self.steps_per_epoch)
        in_epoch = len(self.samples)
        if in_epoch % self.step_size < self.parts:
            in_epoch -= in_epoch % self.step_size
        return epochs * in_epoch + min(within * self.step_size, in_epoch)

    def micro_batches(self, start: int, stop: int) -> Iterator[list[Sample]]:
        """Those of this process, from step `start` to before step `stop`: `accumulate` for each step."""
        order, known = np.empty(0, np.int64), -1
        for step in range(start, stop):
            epoch, within = divmod(step, self.steps_per_epoch)
            if epoch != known:
                order, known = self.samples.order(epoch), epoch
            chosen = order[within * self.step_size : (within + 1) * self.step_size]
            parts = np.array_split(chosen, self.parts)
            for part in parts[self.rank * self.accumulate : (self.rank + 1) * self.accumulate]:
                yield [self.samples.sample(epoch, int(number)) for number in part]
