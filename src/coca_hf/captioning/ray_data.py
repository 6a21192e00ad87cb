# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The same work on a Ray cluster: a model in each of a pool of actors, blocks of inputs handed to them by Ray Data.

Each actor writes the part of a block itself when it is done with it, so nothing but names and counts goes through
Ray. Ray gives the blocks of an actor that died to another; a run that ended goes on with the blocks that are missing.
"""

import logging
import os
import queue
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from .errors import CaptioningError, InputError, ModelError, OutputError
from .images import silent_stderr
from .jobs import CaptionJob, EmbedJob
from .models import silence_libraries
from .parts import Block, Part, Parts, make_blocks
from .runner import Record, Task
from .sources import Inputs, PathInputs
from .workers import IdleProcesses


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


class BlockWorker:
    """For `Dataset.map_batches`: rows {"block": `Block.to_json()`} -> the fields of their `Part`s.

    The model is loaded once an actor; images are read by `readers` processes beside it. What is wrong with the model
    or with the place of the parts is a field as well, since Ray wraps what is raised in pages of its own.
    """

    def __init__(self, job: CaptionJob | EmbedJob, folder: str, batch_size: int, readers: int):
        silence_libraries()
        self.job = job
        self.task: Task | None = None
        self.parts = Parts(folder)
        self.batch_size = batch_size
        self.readers = readers
        self.idle = IdleProcesses()

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[Any]]:
        done = [self._do(Block.from_json(text)) for text in rows["block"]]
        return {name: [part[name] for part in done] for name in done[0]}

    def _do(self, block: Block) -> dict[str, Any]:
        part, error = Part(block.number, 0, 0), ""
        try:
            if self.task is None:
                self.task = self.job.load()
            part = self._part(block, self.task)
        except CaptioningError as problem:
            error = f"{type(problem).__name__}: {problem}"
        return {**asdict(part), "error": error}

    def _part(self, block: Block, task: Task) -> Part:
        part = self.parts.done(block)
        if part is not None:
            return part
        if self.parts.tries(block) > _MOST_DEATHS:
            return self.parts.give_up(
                block, f"{_MOST_DEATHS} processes died over the block of inputs that this one is in"
            )
        return self.parts.do(block, task, self.batch_size, self.readers, self.idle)


def do_blocks(
    job: CaptionJob | EmbedJob,
    blocks: Sequence[Block],
    parts: Parts,
    *,
    address: str | None = None,
    workers: int = 1,
    gpus_per_worker: float | None = None,
    cpus_per_worker: int = 1,
    readers: int | None = None,
    batch_size: int = 16,
) -> Iterator[Part]:
    """Does the blocks on Ray, and says of each when it is done, in no order.

    `address` is a running cluster's as `ray.init` takes it, None starts a Ray of its own, unless this program has
    started one already. `gpus_per_worker` None is 1 where the cluster has GPUs, else 0; `readers` None is one less
    than `cpus_per_worker`, at least one. All machines see the folder of the parts under the same name. Raises
    `CaptioningError` where Ray is missing, the model cannot be loaded or a part cannot be written.
    """
    folder = os.path.abspath(parts.folder)
    parts.clean()
    with _ray(address) as ray:
        if gpus_per_worker is None:
            gpus_per_worker = 1 if ray.cluster_resources().get("GPU") else 0
        if readers is None:
            readers = max(cpus_per_worker - 1, 1)
        _check_resources(ray, gpus_per_worker, cpus_per_worker, may_grow=address is not None)
        # Ray's defaults are what is wanted here: actors that died are started again, what they were at is given out
        # again, and both without end.
        dataset = ray.data.from_items(
            [{"block": block.to_json()} for block in blocks], override_num_blocks=min(len(blocks), _MOST_RAY_BLOCKS)
        ).map_batches(
            BlockWorker,
            fn_constructor_args=(job, folder, batch_size, readers),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
            num_cpus=cpus_per_worker,
            num_gpus=gpus_per_worker,
        )
        try:
            for row in _from_a_thread(dataset.iter_rows()):
                error = row.pop("error")
                if error:
                    raise _problem(error)
                yield Part(**row)
        except ray.exceptions.RayError as error:
            raise InputError(f"Ray gave up: {_first_line(error)}") from error


def run_on_ray(
    job: CaptionJob | EmbedJob, inputs: Inputs | Sequence[str], folder: str, *, batch_size: int = 16, **options: Any
) -> Iterator[Part]:
    """`do_blocks` for those blocks of `inputs`, or of what these paths stand for, that have no part in `folder` yet.

    Parts that were there come first. For programs with a cluster of their own:

        import ray
        from coca_hf.captioning.jobs import CaptionJob
        from coca_hf.captioning.models import ModelChoice
        from coca_hf.captioning.ray_data import read_records, run_on_ray

        ray.init("auto")
        for part in run_on_ray(CaptionJob(ModelChoice("model")), ["shards/"], "captions", workers=64):
            print(part.records, part.failed)
        for record in read_records(["shards/"], "captions"):
            print(record.image, record.result, record.error)
    """
    parts = Parts(folder)
    parts.begin(job.made_with(batch_size))
    there, todo = parts.sort(make_blocks(_as_inputs(inputs)))
    yield from there
    if todo:
        yield from do_blocks(job, todo, parts, batch_size=batch_size, **options)


def read_records(inputs: Inputs | Sequence[str], folder: str) -> Iterator[Record]:
    """A record for each of the inputs, in their order, once all parts are there."""
    parts = Parts(folder)
    for block in make_blocks(_as_inputs(inputs)):
        yield from parts.read(block)


def _as_inputs(inputs: Inputs | Sequence[str]) -> Inputs:
    return PathInputs(inputs) if isinstance(inputs, Sequence) else inputs


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
            words = f"{wanted:g} {name}s for each worker are asked for, and the cluster has {there.get(name, 0):g}"
            if not may_grow:
                raise InputError(words)
            logger.warning("%s now; waiting for it to grow", words)


def _problem(text: str) -> CaptioningError:
    kind, _, message = text.partition(": ")
    return {"ModelError": ModelError, "OutputError": OutputError}.get(kind, InputError)(message)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
