# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One run of a command that goes through images."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import typer
from PIL import Image

from ..captioning.jobs import ClassifyJob, Job
from ..captioning.notes import MadeWith, Note
from ..captioning.parts import Block, Part, Parts, make_blocks
from ..captioning.runner import Clock, Record, Task, run
from ..captioning.sinks import STDOUT, JsonLinesSink, Kept, LineSink, Sink
from ..captioning.sources import InputCount, Inputs
from ..captioning.text import count, duration, printable
from ..captioning.workers import default_workers, start_early
from . import console
from .console import UsageError, as_usage_error, complain, progress
from .options import RayChoice, processes


# Up to so many images, processes that read them cost more time than they save.
_FEW = 64

# Between two looks whether other processes have finished their parts.
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Session:
    """What a run is made of.

    Messages name the files that records go to as the run goes, `places`, and those that appear at its end, `products`.
    """

    inputs: Inputs
    job: Job
    open_sinks: Sequence[Callable[[], Sink]]
    batch_size: int
    quiet: bool
    workers: int | None = None
    places: Sequence[str] = ()
    products: Sequence[str] = ()
    picture: Callable[[Image.Image], Any] | None = None
    ray: RayChoice | None = None

    def run(self) -> None:
        """Takes every input through the job and into every sink, and ends the command with its exit code.

        Raises `UsageError` where the model cannot be loaded, other `CaptioningError`s where sources or outputs fail.
        """
        _Run(self).to_the_end()


class _Run:
    def __init__(self, session: Session):
        self.session = session
        self.started = time.monotonic()
        self.expected = InputCount(0, False)
        self.tally = _Tally()
        self.clock = Clock()

    def to_the_end(self) -> None:
        session = self.session
        rank, number = processes()
        try:
            if session.ray or number > 1:
                self._share(rank, number)
            else:
                self._alone()
        except KeyboardInterrupt:
            complain("; ".join(self._what_is_left()))
            raise typer.Exit(130) from None
        if rank:
            raise typer.Exit(0)
        if (session.places or session.products) and not session.quiet:
            complain(self._summary())
        raise typer.Exit(1 if self.tally.failed else 0)

    def _alone(self) -> None:
        session = self.session
        self.expected = session.inputs.count()
        workers = self._number_of_workers()
        if workers:
            start_early()
        with progress(session.quiet) as shown, ExitStack() as opened:
            sinks = [opened.enter_context(closing(open_sink())) for open_sink in session.open_sinks]
            kept = [sink.resume(session.inputs, session.batch_size) for sink in sinks]
            first = self._begin_with(kept)
            task = _LateTask(session.job)
            if self.expected.readable and first.records != self.expected.total:
                with as_usage_error():
                    task.load()
            shown.begin(self.expected.total, first.records)
            if first.records != self.expected.total:
                self._work(task, sinks, kept, first, workers, shown)
            for sink in sinks:
                sink.finish()

    def _number_of_workers(self) -> int:
        if self.session.workers is not None:
            return self.session.workers
        total = self.expected.total
        return 0 if not self.expected.readable or (total is not None and total <= _FEW) else default_workers()

    def _begin_with(self, kept: Sequence[Kept]) -> Kept:
        """What every sink has already."""
        first = min(kept, key=lambda each: each.records)
        self.tally.keep(first)
        for each in kept:
            if each.dropped:
                complain(
                    f"{count(each.dropped, 'record')} belonged to other inputs; the file as it was is {each.backup}"
                )
        if first.records and not self.session.quiet:
            complain(f"continues behind {count(first.records, 'record')} that are there already")
        return first

    def _work(
        self, task: "_LateTask", sinks: Sequence[Sink], kept: Sequence[Kept], first: Kept, workers: int, shown: Any
    ) -> None:
        session = self.session
        # The batch that was not finished is made again as a whole: sampling, and rounding, depend on what is in it.
        position = first.boundary
        task.seek(first.images // session.batch_size * session.batch_size)
        inputs = islice(session.inputs, position, None)
        stream = run(inputs, task, session.batch_size, session.picture, workers=workers, clock=self.clock)
        with closing(stream):
            for finished in stream:
                with shown.aside():
                    for sink, there in zip(sinks, kept, strict=True):
                        new = finished[max(there.records - position, 0) :]
                        if new:
                            sink.write(new)
                    new = finished[max(first.records - position, 0) :]
                    self.tally.add(new)
                position += len(finished)
                shown.advance(len(new))

    def _share(self, rank: int, number: int) -> None:
        """With other processes or machines: the parts are made first, and then put together by one process."""
        session = self.session
        output = [*session.places, *session.products][0]
        parts = Parts(f"{output}.parts")
        made_with = session.job.made_with(session.batch_size)
        made_with["embeddings"] = getattr(session.job, "embeddings", False)
        note = Note(parts.folder)
        if rank == 0:
            if os.path.isdir(parts.folder) and note.made_with is not None:
                with as_usage_error():
                    note.check(parts.folder, made_with)
            parts.make()
            note.write(made_with, "running")
            self.expected = session.inputs.count()
        blocks = list(make_blocks(session.inputs))
        with progress(session.quiet or rank > 0) as shown:
            shown.begin(self.expected.total, 0)
            made = self._on_ray(blocks, parts) if session.ray else self._by_rank(blocks, parts, rank, number)
            for part in made:
                self.tally.add_part(part)
                shown.advance(part.records)
            if rank:
                return
            self._put_together(blocks, parts)
        parts.remove()
        note.remove()

    def _on_ray(self, blocks: Sequence[Block], parts: Parts) -> Iterator[Part]:
        from ..captioning.ray_data import do_blocks

        job, choice = self.session.job, self.session.ray
        todo = []
        for block in blocks:
            part = parts.done(block)
            if part is None:
                todo.append(block)
            else:
                yield part
        if todo and choice is not None and not isinstance(job, ClassifyJob):
            yield from do_blocks(
                job,
                todo,
                parts.folder,
                address=choice.address,
                workers=choice.workers,
                gpus_per_worker=choice.gpus,
                cpus_per_worker=choice.cpus,
                readers=self.session.workers,
                batch_size=self.session.batch_size,
            )

    def _by_rank(self, blocks: Sequence[Block], parts: Parts, rank: int, number: int) -> Iterator[Part]:
        task = _LateTask(self.session.job)
        workers = self.session.workers
        if workers is None:
            workers = max(default_workers() // number, 1)
        parts.make()
        for block in blocks[rank::number]:
            part = parts.done(block)
            if part is None:
                with as_usage_error():
                    loaded = task.load()
                part = parts.do(block, loaded, self.session.batch_size, workers, self.clock)
            yield part
        if rank == 0:
            yield from _wait_for([block for block in blocks if block.number % number], parts)

    def _put_together(self, blocks: Sequence[Block], parts: Parts) -> None:
        session = self.session
        self.tally = _Tally()
        with ExitStack() as opened:
            sinks = [opened.enter_context(closing(open_sink())) for open_sink in session.open_sinks]
            kept = [sink.resume(session.inputs, session.batch_size) for sink in sinks]
            position = 0
            for block in blocks:
                records = list(parts.read(block))
                for sink, there in zip(sinks, kept, strict=True):
                    new = records[max(there.records - position, 0) :]
                    if new:
                        sink.write(new)
                self.tally.add(records)
                position += len(records)
            for sink in sinks:
                sink.finish()

    def _what_is_left(self) -> Iterator[str]:
        total, done = self.expected.total, self.tally.total
        if total == 0 and not done:
            yield "stopped while looking for inputs"
            return
        yield f"stopped after {done:,} of {count(total, 'input')}" if total is not None else f"stopped after {done:,}"
        written, awaited = self.session.places, self.session.products
        if written and done:
            yield f"their records are in {' and '.join(written)}"
        for path in awaited:
            yield f"{path} is not complete"
        if (written or awaited) and done:
            yield "the same command continues"

    def _summary(self) -> str:
        places = " and ".join([*self.session.places, *self.session.products])
        words = f"{self.tally.summary()} in {duration(time.monotonic() - self.started)}, written to {places}"
        share = self.clock.busy_share
        return words if share is None else f"{words}; the model ran {min(share, 1):.0%} of its time"


def _wait_for(blocks: Sequence[Block], parts: Parts) -> Iterator[Part]:
    """The parts of other processes, as they come. Launchers end all processes when one fails."""
    left = list(blocks)
    while left:
        part = parts.done(left[0])
        if part is None:
            time.sleep(_LOOK_SECONDS)
        else:
            left.pop(0)
            yield part


def record_sink(
    output: str | None,
    text: Callable[[Any], str],
    fields: Callable[[Any], dict[str, Any]],
    made_with: MadeWith | None = None,
) -> Sink:
    """Lines of JSON in `output`, or without it "PATH: TEXT" on stdout, one line whatever name and text hold."""
    if output is not None:
        return JsonLinesSink(output, fields, made_with)
    return LineSink(sys.stdout, lambda record: f"{printable(record.image)}: {printable(text(record.result))}")


def files(output: str | None) -> list[str]:
    return [] if output in (None, STDOUT) else [str(output)]


def check_shared(ray: RayChoice | None, output: str | None, report: str | None = None) -> None:
    """Raises `UsageError` where the work is to be shared by processes, and what is asked for cannot be shared."""
    if ray is None and processes()[1] == 1:
        return
    if not files(output) or (output is not None and os.path.exists(output) and not os.path.isfile(output)):
        raise UsageError("work that is shared needs a file for its --output")
    if report is not None:
        raise UsageError("--report is for a run of one process: leave it out")


class _LateTask:
    """Is loaded no later than its first image comes: where none can be read, nobody waits for a model."""

    def __init__(self, job: Job):
        self.job = job
        self.task: Any = None
        self.position = 0

    def load(self) -> Any:
        if self.task is None:
            console.silence_libraries()
            self.task = self.job.load()
            self.seek(self.position)
        return self.task

    def seek(self, position: int) -> None:
        self.position = position
        if hasattr(self.task, "seek"):
            self.task.seek(position)

    @property
    def prepare(self) -> Callable[[Image.Image], Any]:
        return self.task.prepare if self.task else lambda image: self.load().prepare(image)

    def process(self, prepared: list[Any]) -> list[Any]:
        return self.load().process(prepared)


class _Tally:
    def __init__(self) -> None:
        self.done = self.failed = 0

    @property
    def total(self) -> int:
        return self.done + self.failed

    def keep(self, kept: Kept) -> None:
        self.done += kept.images
        self.failed += kept.failed

    def add_part(self, part: Part) -> None:
        self.done += part.records - part.failed
        self.failed += part.failed

    def add(self, records: list[Record]) -> None:
        """Counts, and names what failed."""
        for record in records:
            if record.error is None:
                self.done += 1
            else:
                self.failed += 1
                complain(f"{record.image}: {record.error}")

    def summary(self) -> str:
        return count(self.done, "image") + (f", {self.failed:,} failed," if self.failed else "")


__all__ = ["Session", "Task", "check_shared", "files", "record_sink"]
