# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The same work on a Ray cluster: a model in each of a pool of actors, blocks of inputs handed to them by Ray Data.

Each actor appends what it does to the log itself, so nothing but names and counts goes through Ray. Ray gives the
blocks of an actor that died to another, which goes on where that one was.
"""

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from .batches import Chunk, Clock, Part, run_batches
from .errors import BatchInferenceError, InputError, ModelError, OutputError
from .images import silent_stderr
from .inputs import Record
from .jobs import Job, Task
from .models import silence_libraries
from .plan import Block, Inputs, Plan, as_inputs
from .reading import Reader, ReadingProcesses
from .record_log import LoggedRecords, RecordLog
from .report import report_picture
from .sharing import RayOptions


logger = logging.getLogger(__name__)

_QUIET = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # It tells of each lost worker, on stdout.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Not setting this makes it warn.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


# Ray gives a block to another process for as long as they die. Over one that so many died, it is the reason.
_MOST_DEATHS = 3

# Ray Data keeps book of each of its own blocks on the driver.
_MOST_RAY_BLOCKS = 10_000


@dataclass(frozen=True)
class BlockDone:
    """A block that is done, or `done_before` this run: how many records it has and how many of them failed.

    `seconds` it took now, and for so many of them the model ran.
    """

    number: int
    records: int = 0
    failed: int = 0
    seconds: float = 0.0
    model_seconds: float = 0.0


class BlockWorker:
    """For `Dataset.map_batches`: rows {"block": `Block.to_json()`} -> the fields of their `BlockDone`s.

    The model is loaded once an actor; images are read by `readers` processes beside it. What is wrong with the model
    or with the place of the log is a field as well, since Ray wraps what is raised in pages of its own.
    """

    def __init__(self, job: Job, folder: str, batch_size: int, readers: int, pictures: bool = False):
        silence_libraries()
        self.job = job
        self.folder = folder
        self.batch_size = batch_size
        self.readers = readers
        self.pictures = pictures
        self.task: Task | None = None
        self.reader: Reader | None = None
        self.processes: ReadingProcesses | None = None
        self.log = RecordLog(folder)

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[Any]]:
        done = [self._do(Block.from_json(text)) for text in rows["block"]]
        return {name: [block[name] for block in done] for name in done[0]}

    def _do(self, block: Block) -> dict[str, Any]:
        done, error = BlockDone(block.number), ""
        try:
            done = self._done(block)
        except BatchInferenceError as problem:
            error = f"{type(problem).__name__}: {problem}"
        return {**asdict(done), "error": error}

    def _done(self, block: Block) -> BlockDone:
        # Another actor may have done some of it, or all, before it was lost.
        self.log.refresh()
        part = self.log.part(block)
        if part is None:
            return BlockDone(block.number)
        if self.log.tries(block) > _MOST_DEATHS:
            return self._give_up(part)
        return self._work(part)

    def _work(self, part: Part) -> BlockDone:
        self._load()
        assert self.task is not None
        clock, started = Clock(), time.monotonic()
        chunks = run_batches([part], self.task, self.batch_size, self.processes, self.reader, clock)
        records = failed = 0
        with closing(chunks):
            for chunk in chunks:
                self.log.append([chunk])
                records += len(chunk.records)
                failed += sum(record.error is not None for record in chunk.records)
        seconds = time.monotonic() - started
        return BlockDone(part.block.number, records, failed, seconds, clock.working_seconds)

    def _load(self) -> None:
        if self.task is not None:
            return
        task = self.job.load()
        picture = report_picture if self.pictures else None
        self.reader = Reader(task.prepare, picture, getattr(task.prepare, "resized_size", None))
        self.processes = ReadingProcesses(self.reader, self.readers) if self.readers else None
        self.task = task

    def _give_up(self, part: Part) -> BlockDone:
        """An error for each of its inputs that has no record."""
        reason = f"{_MOST_DEATHS} processes died over the block of inputs that this one is in"
        items = part.block.inputs(part.start, part.bookmark)
        records = [Record(item.path, error=item.error or reason) for item in items]
        self.log.append([Chunk(part.block, part.start, records, is_last=True)])
        return BlockDone(part.block.number, len(records), len(records))


def do_blocks(
    job: Job,
    blocks: Sequence[Block],
    folder: str,
    options: RayOptions,
    *,
    readers: int | None = None,
    batch_size: int = 16,
    pictures: bool = False,
) -> Iterator[BlockDone]:
    """Does the blocks on Ray, and says of each when it is done, in no order.

    The records go to the log in `folder`, which all machines see under the same name. `options.address` None starts a
    Ray of its own, unless this program has started one already. `readers` None is one less than `options.cpus`, at
    least one. Raises `BatchInferenceError` where Ray is missing, the model cannot be loaded or the log not be written.
    """
    with _ray(options.address) as ray:
        gpus = options.gpus
        if gpus is None:
            gpus = 1 if ray.cluster_resources().get("GPU") else 0
        if readers is None:
            readers = max(options.cpus - 1, 1)
        _check_resources(ray, gpus, options.cpus, may_grow=options.address is not None)
        # Ray's defaults are what is wanted here: actors that died are started again, what they were at is given out
        # again, and both without end.
        dataset = ray.data.from_items(
            [{"block": block.to_json()} for block in blocks], override_num_blocks=min(len(blocks), _MOST_RAY_BLOCKS)
        ).map_batches(
            BlockWorker,
            fn_constructor_args=(job, os.path.abspath(folder), batch_size, readers, pictures),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=options.workers, max_tasks_in_flight_per_actor=2),
            num_cpus=options.cpus,
            num_gpus=gpus,
        )
        try:
            for row in _from_a_thread(dataset.iter_rows()):
                error = row.pop("error")
                if error:
                    raise _problem(error)
                yield BlockDone(**row)
        except ray.exceptions.RayError as error:
            raise InputError(f"the run on Ray failed: {_first_line(error)}") from error


def run_on_ray(
    job: Job,
    inputs: Inputs | Iterable[str | os.PathLike[str]],
    folder: str,
    *,
    workers: int = 1,
    gpus_per_worker: float | None = None,
    cpus_per_worker: int = 1,
    address: str | None = None,
    batch_size: int = 16,
    readers: int | None = None,
) -> Iterator[BlockDone]:
    """`do_blocks` for those blocks of `inputs`, or of what these paths stand for, that are not done in `folder` yet.

    Blocks that were done before come first. The log stays as it is, which for a billion records is better than one
    file. For programs with a cluster of their own:

        import ray
        from coca_hf.batch_inference import CaptionJob, ModelChoice
        from coca_hf.batch_inference.ray_data import read_records, run_on_ray

        ray.init("auto")
        for block in run_on_ray(CaptionJob(ModelChoice("model")), ["shards/"], "captions", workers=64):
            print(block.records, block.failed)
        for record in read_records(["shards/"], "captions"):
            print(record.image, record.fields, record.error)

    Raises `TypeError` for one path instead of a list of them, at once.
    """
    options = RayOptions(address, workers, gpus_per_worker, cpus_per_worker)
    return _run_on_ray(job, as_inputs(inputs), folder, options, batch_size, readers)


def _run_on_ray(
    job: Job, inputs: Inputs, folder: str, options: RayOptions, batch_size: int, readers: int | None
) -> Iterator[BlockDone]:
    log = RecordLog(folder)
    log.begin(job.made_with())
    with closing(log):
        log.lock()
        log.clean()
        todo = []
        for block in Plan(inputs, count_containers=False):
            done = log.progress(block)
            if done.is_complete:
                yield BlockDone(block.number, done.records, done.failed)
            else:
                todo.append(block)
        if todo:
            yield from do_blocks(job, todo, folder, options, readers=readers, batch_size=batch_size)


def read_records(inputs: Inputs | Iterable[str | os.PathLike[str]], folder: str) -> Iterator[Record]:
    """A record for each of the inputs, in their order, once all blocks are done."""
    blocks = Plan(as_inputs(inputs), count_containers=False)
    log = RecordLog(folder)
    log.refresh()
    return iter(LoggedRecords(blocks, log))


def _from_a_thread(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same, waited for here: Ctrl-C reaches this thread, and in the midst of Ray's code it can get lost."""
    found: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()

    def look() -> None:
        try:
            for row in rows:
                found.put(row)
            found.put(None)
        except BaseException as error:  # raised in the other thread, where somebody sees it
            found.put(error)

    threading.Thread(target=look, daemon=True).start()
    while (row := found.get()) is not None:
        if isinstance(row, BaseException):
            raise row
        yield row


@contextmanager
def _ray(address: str | None) -> Iterator[Any]:
    """Ray, connected; what was started here is ended, and keeps silent."""
    if "ray" not in sys.modules:
        # Its logs are in files as well, and none of its advice is for who cannot change the code.
        os.environ.update(_QUIET)
    try:
        import ray
        import ray.data
    except ImportError:
        raise InputError("--ray needs Ray Data: pip install 'coca-hf[ray]'") from None
    if ray.is_initialized():
        yield ray
        return
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        own: dict[str, Any] = {"include_dashboard": False} if address is None else {}
        with silent_stderr():
            ray.init(address or "local", logging_level=logging.CRITICAL, log_to_driver=False, **own)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise InputError(f"no Ray at {address or 'this machine'!r}: {_first_line(error)}") from error
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield ray
    finally:
        ray.shutdown()


def _check_resources(ray: Any, gpus: float, cpus: int, *, may_grow: bool) -> None:
    """Ray waits for ever for what a cluster does not have, in the hope that it grows. One of this run's own cannot."""
    there = ray.cluster_resources()
    for name, wanted in (("GPU", gpus), ("CPU", cpus)):
        if wanted > there.get(name, 0):
            words = f"each worker asks for {wanted:g} {name}s, but the cluster has {there.get(name, 0):g}"
            if not may_grow:
                raise InputError(words)
            logger.warning("%s now; waiting for it to grow", words)


def _problem(text: str) -> BatchInferenceError:
    kind, _, message = text.partition(": ")
    return {"ModelError": ModelError, "OutputError": OutputError}.get(kind, InputError)(message)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
