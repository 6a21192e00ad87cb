# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One run of a command that goes through images."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import typer
from PIL import Image

from ..captioning.binary_sinks import ShardSink
from ..captioning.errors import ModelError
from ..captioning.jobs import ClassifyJob, Job
from ..captioning.notes import MadeWith
from ..captioning.parts import Block, Part, Parts, make_blocks
from ..captioning.runner import Clock, Record, Task, run
from ..captioning.sinks import STDOUT, JsonLinesSink, Kept, LineSink, Sink, digest
from ..captioning.sources import InputCount, Inputs
from ..captioning.text import count, duration, printable
from ..captioning.workers import IdleProcesses, default_workers, start_early
from . import console
from .console import UsageError, as_usage_error, complain, progress
from .options import RayChoice, processes, processes_here


# Up to so many images, processes that read them cost more time than they save.
_FEW = 64

# Records that are put together at a time: a block can be a shard of any size.
_GROUP_SIZE = 512

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
        self.places = session.places
        self.is_shared = False
        self.expected = InputCount(0, False)
        self.tally = _Tally()
        self.clock = Clock()
        # Of a run that is shared.
        self.seconds = self.model_seconds = 0.0

    def to_the_end(self) -> None:
        session = self.session
        rank, number = processes()
        try:
            if session.ray or number > 1:
                self._share(rank, number)
            else:
                self._alone()
        except KeyboardInterrupt:
            if not rank:
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
        self._tell_dropped(kept)
        if first.records and not self.session.quiet:
            complain(f"continues behind {count(first.records, 'record')} that are there already")
        return first

    @staticmethod
    def _tell_dropped(kept: Sequence[Kept]) -> None:
        for each in kept:
            if each.dropped:
                complain(
                    f"{count(each.dropped, 'record')} belonged to other inputs; the file as it was is {each.backup}"
                )

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
        outputs = [*session.places, *session.products]
        parts = Parts(f"{outputs[0]}.parts")
        self.places, self.is_shared = [parts.folder], True
        made_with = session.job.made_with(session.batch_size)
        made_with["embeddings"] = getattr(session.job, "embeddings", False)
        blocks = list(make_blocks(session.inputs))
        inputs = digest(block.name for block in blocks)
        if self._was_finished(parts, made_with, inputs, outputs):
            # What ended the run between its last two steps.
            parts.remove()
            return
        with as_usage_error():
            parts.check(made_with)
        with progress(session.quiet or rank > 0) as shown:
            self._make_parts(blocks, parts, made_with, rank, number, shown)
            if rank:
                return
            with shown.aside():
                self._put_together(blocks, parts)
        facts = {"inputs": inputs, "images": self.tally.done, "failed": self.tally.failed}
        facts["sizes"] = {path: os.path.getsize(path) for path in outputs}
        parts.note.write(made_with, "finished", facts)
        parts.remove()

    def _make_parts(
        self, blocks: Sequence[Block], parts: Parts, made_with: MadeWith, rank: int, number: int, shown: Any
    ) -> None:
        """Those that are this process's, and of the first process, until those of the others are there as well."""
        on_ray = self.session.ray is not None
        there, todo = parts.sort(blocks if on_ray else blocks[rank::number])
        # Whoever comes first; but who is late and has nothing to do would leave an empty folder behind.
        if todo or not rank:
            parts.begin(made_with)
        for part in there:
            self.tally.add_part(part)
        if there and not self.session.quiet and not rank:
            with shown.aside():
                complain(f"continues behind {count(self.tally.total, 'record')} that are there already")
        sizes = [block.size for block in blocks]
        self.expected = InputCount(None if None in sizes else sum(size or 0 for size in sizes), True)
        shown.begin(self.expected.total, self.tally.total)
        made = self._on_ray(todo, parts) if on_ray else self._by_rank(todo, parts)
        others = [] if on_ray or rank else [block for block in blocks if block.number % number]
        for part in chain(made, _wait_for(others, parts)):
            self.tally.add_part(part)
            self.seconds += part.seconds
            self.model_seconds += part.model_seconds
            shown.advance(part.records)

    def _was_finished(self, parts: Parts, made_with: MadeWith, inputs: str, outputs: Sequence[str]) -> bool:
        """By the same command, some time ago."""
        note = parts.note
        if note.state != "finished" or note.made_with != made_with or note.facts["inputs"] != inputs:
            return False
        if note.facts["sizes"] != {path: os.path.getsize(path) for path in outputs if os.path.exists(path)}:
            return False
        self.tally = _Tally(note.facts["images"], note.facts["failed"])
        return True

    def _on_ray(self, blocks: Sequence[Block], parts: Parts) -> Iterator[Part]:
        from ..captioning.ray_data import do_blocks

        job, choice = self.session.job, self.session.ray
        if not blocks or choice is None or isinstance(job, ClassifyJob):
            return
        try:
            yield from do_blocks(
                job,
                blocks,
                parts,
                address=choice.address,
                workers=choice.workers,
                gpus_per_worker=choice.gpus,
                cpus_per_worker=choice.cpus,
                readers=self.session.workers,
                batch_size=self.session.batch_size,
            )
        except ModelError as error:
            raise UsageError(str(error)) from error

    def _by_rank(self, blocks: Sequence[Block], parts: Parts) -> Iterator[Part]:
        workers = self.session.workers
        if workers is None:
            workers = default_workers(processes_here())
        if not blocks:
            return
        if workers:
            start_early()
        task = _LateTask(self.session.job)
        with as_usage_error():
            task.load()
        with closing(IdleProcesses()) as idle:
            for block in blocks:
                yield parts.do(block, task, self.session.batch_size, workers, idle)

    def _put_together(self, blocks: Sequence[Block], parts: Parts) -> None:
        session = self.session
        self.tally = _Tally()
        with ExitStack() as opened:
            sinks = [opened.enter_context(closing(open_sink())) for open_sink in session.open_sinks]
            kept = [sink.resume(session.inputs, session.batch_size) for sink in sinks]
            self._tell_dropped(kept)
            # Only these want more than the records.
            with_content = any(isinstance(sink, ShardSink) for sink in sinks)
            position = 0
            for records in _groups(
                chain.from_iterable(parts.read(block, with_content=with_content) for block in blocks)
            ):
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
        written, awaited = self.places, self.session.products
        # Parts may be there that nobody has counted yet.
        kept = bool(done or self.is_shared)
        if written and kept:
            which = "finished blocks are" if self.is_shared else "their records are"
            yield f"{which} in {' and '.join(written)}"
        for path in awaited:
            yield f"{path} is not complete"
        if (written or awaited) and kept:
            yield "the same command continues"

    def _summary(self) -> str:
        places = " and ".join([*self.session.places, *self.session.products])
        words = f"{self.tally.summary()} in {duration(time.monotonic() - self.started)}, written to {places}"
        share = self.model_seconds / self.seconds if self.seconds else self.clock.busy_share
        return words if share is None else f"{words}; the model ran {min(share, 1):.0%} of its time"


def _groups(records: Iterator[Record]) -> Iterator[list[Record]]:
    while group := list(islice(records, _GROUP_SIZE)):
        yield group


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


def check_shared(
    ray: RayChoice | None, output: str | None, report: str | None = None, *, streaming: bool = False
) -> None:
    """Raises `UsageError` where the work is to be shared by processes, and what is asked for cannot be shared."""
    number = processes()[1]
    if ray is None and number == 1:
        return
    if not files(output) or (output is not None and os.path.exists(output) and not os.path.isfile(output)):
        why = "" if ray else f"this is one of {number} processes (WORLD_SIZE says so): "
        raise UsageError(f"{why}work that is shared needs a file for its --output")
    if report is not None:
        raise UsageError("--report is for a run of one process: leave it out")
    if streaming:
        raise UsageError("--streaming is for a run of one process: the rows are not known, so they cannot be shared")


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
    def __init__(self, done: int = 0, failed: int = 0) -> None:
        self.done, self.failed = done, failed

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
