# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A whole run: inputs through a job into outputs, alone or as one of several processes that share the work.

A run alone is a shared run of one. Whoever takes part does its blocks and appends their records to the log; the first
process waits for the others, makes the outputs of the log, and removes it.
"""

import logging
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from typing import Any

from .batches import Chunk, Clock, Part, run_batches
from .earlier_lines import adopt_lines, check_is_not_finished_otherwise, keep_other_lines
from .errors import OutputError
from .files import remove_asides
from .inputs import Record
from .jobs import Job
from .log_writing import Entry, Follower
from .outputs import Output, RecordSink, Stream, as_outputs, format_of
from .place import Place
from .plan import BLOCK_SIZE, Block, Inputs, Plan, as_inputs
from .progress import Progress, ProgressBar
from .reading import Reader, ReadingProcesses, default_processes, start_early
from .record_log import LoggedRecords, RecordLog
from .report import report_picture
from .sharing import RayOptions, processes, processes_here
from .summary import RunInterrupted, Summary
from .wording import count, duration


logger = logging.getLogger(__name__)

# Up to so many images, processes that read them cost more time than they save.
_FEW = 64

# Between two looks at what other processes have done.
_LOOK_SECONDS = 0.5

# More failures than that are counted, but not kept in memory.
_MOST_FAILURES = 1000


def run(
    inputs: Inputs | Iterable[str | os.PathLike[str]],
    job: Job,
    outputs: Iterable[Output | str | os.PathLike[str]] = (),
    *,
    batch_size: int = 16,
    workers: int | None = None,
    streams: Sequence[RecordSink] = (),
    ray: RayOptions | None = None,
    progress: Progress | bool = True,
    say: Callable[[str], None] = logger.info,
    on_failure: Callable[[Record], None] | None = None,
    patience_seconds: float = 600.0,
) -> Summary:
    """
    Takes every input through the job and into every output. The same call again continues what ended early.

    Args:
        inputs: paths of images, folders, shards and tables, globs among them, or `DatasetInputs`.
        job: what to do, a `CaptionJob`, `EmbedJob` or `ClassifyJob`.
        outputs: the files to make. A path stands for what its suffix says: .jsonl, .parquet and .tar take records,
            .npy (and .parquet of an `EmbedJob`) embeddings, .html a report; an `Output` says it itself.
        batch_size: images that the model is given at a time.
        workers: processes that read images; 0 reads them in this one. By default one a core, none for few images.
        streams: each is given all records in the order of the inputs, with one process as they come.
        ray: do the work on a Ray cluster.
        progress: what shows how far the run is; True for a bar, False for nothing.
        say: is told what a user should know, a sentence at a time.
        on_failure: is given each record of an input that newly failed.
        patience_seconds: how long the first of several processes waits for others that do nothing, before it does
            their work itself.

    Returns:
        Counts, and what failed. Inputs that cannot be read do not raise anything.

    Raises:
        TypeError: One path where a list of them belongs.
        ModelError: The model cannot be loaded, or an image needs more memory than its device has.
        InputError: A list, a dataset or the processes that read images cannot be used.
        OutputError: An output cannot be written, holds something else, or was made with other choices.
        RunInterrupted: Ctrl-C, a `KeyboardInterrupt` with a summary.

    Processes that `accelerate launch` or torchrun started share the work; the first one makes the outputs.
    """
    shown = progress if isinstance(progress, Progress) else ProgressBar() if progress else Progress()
    wanted = as_outputs(outputs, job.makes)
    return _Run(
        as_inputs(inputs), job, wanted, batch_size, workers, streams, ray, shown, say, on_failure, patience_seconds
    ).to_the_end()


def check_run(job: Job, outputs: Sequence[Output]) -> None:
    """Raises what `run` would raise over the outputs before it changes anything, without listing inputs."""
    if outputs:
        Place(job, outputs).check()


@dataclass
class _Run:
    inputs: Inputs
    job: Job
    outputs: list[Output]
    batch_size: int
    workers: int | None
    streams: Sequence[RecordSink]
    ray: RayOptions | None
    shown: Progress
    say: Callable[[str], None]
    on_failure: Callable[[Record], None] | None
    patience_seconds: float

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self.rank, self.number = (0, 1) if self.ray else processes()
        self.is_shared = self.ray is not None or self.number > 1
        self.place: Place | None = Place(self.job, self.outputs) if self.outputs else None
        self.clock = Clock()
        self.task: _LateTask = _LateTask(self.job)
        self.summary = Summary(rank=self.rank, folder=self.place.log.folder if self.place else None)
        # Of a run on Ray, by its workers.
        self.worker_seconds = self.worker_model_seconds = 0.0

    def to_the_end(self) -> Summary:
        plan: Plan | None = None
        try:
            if self.place:
                self.place.check()
            size = max(BLOCK_SIZE, self.batch_size)
            plan = Plan(self.inputs, size, count_containers=not self.is_shared)
            self.summary.total = plan.total
            self._go_through(plan)
        except KeyboardInterrupt:
            raise RunInterrupted(self.summary, was_listing=plan is None) from None
        finally:
            if plan:
                plan.close()
        self.summary.seconds = time.monotonic() - self.started
        self.summary.model_words = self.task.words
        if self.clock.seconds:
            self.summary.busy_share = min(1.0, self.clock.working_seconds / self.clock.seconds)
        elif self.worker_seconds:
            self.summary.busy_share = min(1.0, self.worker_model_seconds / self.worker_seconds)
        return self.summary

    def _go_through(self, plan: Plan) -> None:
        if self.place is None:
            self._without_log(plan)
            return
        note = self.place.finished(plan.digest)
        if note is not None:
            self._was_finished(note, plan)
        elif self.rank:
            self._take_part(self.place, plan)
        else:
            self._lead(self.place, plan)

    def _was_finished(self, note: dict[str, Any], plan: Plan) -> None:
        """By the same call, some time ago."""
        assert self.place is not None
        if not self.rank:
            self.place.log.remove()  # what ended that run between its last two steps
        if self.streams and not self.rank:
            self._without_log(plan)
            return
        self.summary.images, self.summary.failed = note["images"], note["failed"]
        self.summary.failures = [Record(image, error=error) for image, error in note["failures"]]

    def _without_log(self, plan: Plan) -> None:
        """Records go to streams alone, and to nobody twice."""
        with self.shown:
            parts = (Part(block) for block in plan)
            with closing(self._chunks(parts, plan)) as chunks:
                for chunk in chunks:
                    self._count(chunk.records)
                    self._give(chunk.records, self.streams)

    def _take_part(self, place: Place, plan: Plan) -> None:
        """As one of several processes, not the first."""
        own = [block.number for block in plan if block.number % self.number == self.rank]
        if not own:
            return
        place.begin()
        if place.finished(plan.digest) is not None:
            # The first process came to the end meanwhile, and this folder is nobody's.
            place.log.remove()
            return
        try:
            with closing(place.log), self.shown:
                self._work(place.log, plan, _Chosen(plan, set(own)), ())
        except OutputError:
            # The first process does the work of those that are silent for long.
            if place.finished(plan.digest) is None:
                raise

    def _lead(self, place: Place, plan: Plan) -> None:
        """Alone, or as the first of several processes."""
        check_is_not_finished_otherwise(place, shared=self.is_shared)
        place.begin()
        log = place.log
        with closing(log), self.shown, ExitStack() as opened:
            log.lock()
            log.clean()
            for path in place.files:
                remove_asides(path)
            adopt_lines(place, plan, shared=self.is_shared)
            streams = [*self.streams, *self._preview(place, plan, opened)]
            self._do_blocks(log, plan, streams)
            with self.shown.aside():
                self._make_outputs(place, plan, () if not self.is_shared else self.streams)
        place.finish(plan.digest, self.summary)

    def _preview(self, place: Place, plan: Plan, opened: ExitStack) -> list[Stream]:
        """Lines of JSON are shown as they come; what counts is the log."""
        if self.is_shared or format_of(place.home, self.job.makes).suffix != ".jsonl":
            return []
        keep_other_lines(place, plan, self.say)
        stream = opened.enter_context(closing(Stream(place.home.path)))
        stream.empty()
        opened.callback(_remove_if_empty, place.home.path)
        return [stream]

    def _do_blocks(self, log: RecordLog, plan: Plan, streams: Sequence[RecordSink]) -> None:
        for block in plan:
            done = log.progress(block)
            self.summary.images += done.records - done.failed
            self.summary.failed += done.failed
        self.summary.resumed = self.summary.records
        if self.summary.resumed:
            self.say(f"Resuming after {count(self.summary.resumed, 'existing record')}")
        if self.ray:
            self._work_on_ray(log, plan)
            return
        own = (block for block in plan if block.number % self.number == self.rank)
        self._work(log, plan, own, streams if not self.is_shared else ())
        if self.number > 1:
            self._wait_for_others(log, plan)

    def _work(self, log: RecordLog, plan: Plan, blocks: Iterable[Block], streams: Sequence[RecordSink]) -> None:
        """What is left of `blocks` goes into the log, and what is in the log, into `streams` in order."""
        follower = Follower(plan, log, streams, self.shown)
        parts = (part for part in map(log.part, blocks) if part is not None)
        entry = Entry(log)
        with closing(self._chunks(parts, plan)) as chunks:
            try:
                for chunk in chunks:
                    self._count(chunk.records)
                    for written in entry.add(chunk):
                        follower.give(written)
            except KeyboardInterrupt:
                # What is done is kept.
                for written in entry.flush():
                    follower.give(written)
                raise
            except Exception:
                with suppress(OutputError):
                    entry.flush()
                raise
        follower.finish()

    def _chunks(self, parts: Iterable[Part], plan: Plan) -> Generator[Chunk, None, None]:
        first = next(iter_parts := iter(parts), None)
        if first is None:
            self.shown.begin(plan.total, self.summary.records)
            return
        workers = self._number_of_workers(plan)
        if workers:
            start_early()
        if plan.readable:
            self.task.load()
        self.shown.begin(plan.total, self.summary.records)
        reader = Reader(
            self.task.prepare,
            report_picture if self._wants_pictures else None,
            getattr(self.task.prepare, "resized_size", None),
        )
        with ExitStack() as opened:
            reading = opened.enter_context(closing(ReadingProcesses(reader, workers))) if workers else None
            rest = _chained(first, iter_parts)
            chunks = run_batches(rest, self.task, self.batch_size, reading, reader, self.clock)
            yield from opened.enter_context(closing(chunks))

    @property
    def _wants_pictures(self) -> bool:
        return "maps" in self.job.makes or any(each.content == "report" for each in self.outputs)

    def _number_of_workers(self, plan: Plan) -> int:
        if not plan.readable:
            return 0
        if self.workers is not None:
            return self.workers
        if not self.is_shared and plan.total is not None and plan.total <= _FEW:
            return 0
        return default_processes(processes_here())

    def _work_on_ray(self, log: RecordLog, plan: Plan) -> None:
        from .ray_data import do_blocks

        assert self.ray is not None
        todo = [block for block in plan if log.part(block) is not None]
        self.shown.begin(plan.total, self.summary.records)
        if todo:
            done = do_blocks(
                self.job,
                todo,
                log.folder,
                self.ray,
                readers=self.workers,
                batch_size=self.batch_size,
                pictures=self._wants_pictures,
            )
            for block in done:
                self.summary.images += block.records - block.failed
                self.summary.failed += block.failed
                self.worker_seconds += block.seconds
                self.worker_model_seconds += block.model_seconds
                self.shown.advance(block.records)
        log.refresh()

    def _wait_for_others(self, log: RecordLog, plan: Plan) -> None:
        """Until the blocks of the other processes are done. Of those that are silent for long, it is done here."""
        left = {block.name: block for block in plan if block.number % self.number != self.rank}
        known = {name: log.progress(block) for name, block in left.items()}
        left = {name: block for name, block in left.items() if not known[name].is_complete}
        last_change = time.monotonic()
        while left:
            changed = log.refresh() & left.keys()
            for name in changed:
                done = log.progress(left[name])
                self.summary.images += done.records - done.failed - known[name].records + known[name].failed
                self.summary.failed += done.failed - known[name].failed
                self.shown.advance(done.records - known[name].records)
                known[name] = done
                if done.is_complete:
                    del left[name]
            if changed:
                last_change = time.monotonic()
            elif time.monotonic() - last_change > self.patience_seconds:
                with self.shown.aside():
                    silent = f"The other processes did nothing for {duration(self.patience_seconds)}"
                    self.say(f"{silent}. Doing their {count(len(left), 'block')} here")
                self._work(log, plan, _Chosen(plan, {block.number for block in left.values()}), ())
                return
            else:
                time.sleep(_LOOK_SECONDS)

    def _make_outputs(self, place: Place, plan: Plan, streams: Sequence[RecordSink]) -> None:
        place.log.refresh()
        records = LoggedRecords(plan, place.log).count()
        self.summary.images, self.summary.failed = records.images, records.failed
        self.summary.failures = []
        for block in plan:
            if place.log.progress(block).failed:
                for record in place.log.records(block):
                    if record.error is not None:
                        self._note_failure(record, newly=self.is_shared)
        for stream in streams:
            stream.write(records)
        took = duration(time.monotonic() - self.started)
        for output in self.outputs:
            wanted = replace(output, facts={**output.facts, "Time": took}) if output.content == "report" else output
            format_of(output, self.job.makes).write(records, wanted)

    def _count(self, records: Sequence[Record]) -> None:
        with self.shown.aside():
            for record in records:
                if record.error is None:
                    self.summary.images += 1
                else:
                    self.summary.failed += 1
                    self._note_failure(record, newly=not self.is_shared)
        self.shown.advance(len(records))

    def _note_failure(self, record: Record, *, newly: bool) -> None:
        if len(self.summary.failures) < _MOST_FAILURES:
            self.summary.failures.append(record)
        if newly and self.on_failure:
            self.on_failure(record)

    def _give(self, records: Sequence[Record], streams: Sequence[RecordSink]) -> None:
        with self.shown.aside():
            for stream in streams:
                stream.write(records)


class _Chosen:
    """Some blocks of a plan, by their numbers."""

    def __init__(self, plan: Plan, numbers: set[int]):
        self.plan = plan
        self.numbers = numbers

    def __iter__(self) -> Iterator[Block]:
        return (block for block in self.plan if block.number in self.numbers)


class _LateTask:
    """Is loaded no later than its first image comes: where none can be read, nobody waits for a model."""

    def __init__(self, job: Job):
        self.job = job
        self.task: Any = None

    def load(self) -> Any:
        if self.task is None:
            self.task = self.job.load()
        return self.task

    @property
    def words(self) -> str | None:
        return None if self.task is None else getattr(self.task, "words", None)

    @property
    def prepare(self) -> Any:
        return self.task.prepare if self.task else self._prepare

    def _prepare(self, image: Any) -> Any:
        return self.load().prepare(image)

    def process(self, prepared: list[Any], places: Sequence[tuple[int, int]]) -> Any:
        return self.load().process(prepared, places)


def _chained(first: Part, rest: Iterator[Part]) -> Iterator[Part]:
    yield first
    yield from rest


def _remove_if_empty(path: str) -> None:
    with suppress(OSError):
        if not os.path.getsize(path):
            os.unlink(path)
