# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The same work on a Ray cluster: a model in each of a pool of actors, blocks of inputs handed to them by Ray Data.

Each actor writes the part of a block itself when it is done with it, so nothing but names and counts goes through
Ray. Ray gives the blocks of an actor that died to another; a run that ended goes on with the blocks that are missing.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .errors import CaptioningError, InputError
from .jobs import CaptionJob, EmbedJob
from .models import ModelChoice, silence_libraries
from .parts import Block, Part, Parts, make_blocks
from .sources import Inputs, PathInputs


# A block that has cost so many actors their life is taken to be the reason.
_TRIES_PER_BLOCK = 3

# Ray Data keeps book of each of its own blocks on the driver.
_MOST_RAY_BLOCKS = 10_000


class BlockWorker:
    """For `Dataset.map_batches`: rows {"block": `Block.to_json()`} -> {"number", "records", "failed"}.

    The model is loaded once an actor; images are read by `readers` processes beside it.
    """

    def __init__(self, job: CaptionJob | EmbedJob, folder: str, batch_size: int, readers: int):
        silence_libraries()
        self.task = job.load()
        self.parts = Parts(folder)
        self.batch_size = batch_size
        self.readers = readers

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[int]]:
        parts = [
            self.parts.do(Block.from_json(text), self.task, self.batch_size, self.readers) for text in rows["block"]
        ]
        return {name: [getattr(part, name) for part in parts] for name in ("number", "records", "failed")}


def do_blocks(
    job: CaptionJob | EmbedJob,
    blocks: Sequence[Block],
    folder: str,
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
    than `cpus_per_worker`, at least one. `folder` is seen by all machines. Raises `InputError` where Ray is missing or
    the work cannot be done, after each block has been tried again three times.
    """
    with _ray(address) as ray:
        if gpus_per_worker is None:
            gpus_per_worker = 1 if ray.cluster_resources().get("GPU") else 0
        _check_resources(ray, workers, gpus_per_worker, cpus_per_worker)
        dataset = ray.data.from_items(
            [{"block": block.to_json()} for block in blocks], override_num_blocks=min(len(blocks), _MOST_RAY_BLOCKS)
        ).map_batches(
            BlockWorker,
            fn_constructor_args=(job, os.path.abspath(folder), batch_size, readers or max(cpus_per_worker - 1, 1)),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
            num_cpus=cpus_per_worker,
            num_gpus=gpus_per_worker,
            max_restarts=-1,
            max_task_retries=_TRIES_PER_BLOCK,
        )
        try:
            for row in dataset.iter_rows():
                yield Part(row["number"], row["records"], row["failed"])
        except ray.exceptions.RayError as error:
            raise _in_words(error) from error


def run_on_ray(
    job: CaptionJob | EmbedJob, inputs: Inputs | Sequence[str], folder: str, **options: Any
) -> Iterator[Part]:
    """`do_blocks` for those blocks of `inputs`, or of what these paths stand for, that have no part in `folder` yet.

    Parts that were there come first. For programs with a cluster of their own:

        import ray
        from coca_hf.captioning.jobs import CaptionJob
        from coca_hf.captioning.models import ModelChoice
        from coca_hf.captioning.ray_data import run_on_ray

        ray.init("auto")
        for part in run_on_ray(CaptionJob(ModelChoice("model")), ["shards/"], "captions", workers=64):
            print(part.records, part.failed)
    """
    parts = Parts(folder)
    parts.make()
    todo = []
    for block in make_blocks(inputs if not isinstance(inputs, Sequence) else PathInputs(inputs)):
        part = parts.done(block)
        if part is None:
            todo.append(block)
        else:
            yield part
    if todo:
        yield from do_blocks(job, todo, folder, **options)


@contextmanager
def _ray(address: str | None) -> Iterator[Any]:
    """Ray, connected; what was started here is ended."""
    # Its own advice about things that a user of this command cannot change.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    try:
        import ray
        import ray.data
    except ImportError:
        raise InputError("--ray needs Ray Data: pip install 'coca-hf[ray]'") from None
    if ray.is_initialized():
        yield ray
        return
    try:
        quiet: dict[str, Any] = {"include_dashboard": False} if address is None else {}
        ray.init(address or "local", logging_level=logging.ERROR, log_to_driver=False, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise InputError(f"no Ray at {address or 'this machine'!r}: {_first_line(error)}") from error
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        yield ray
    finally:
        ray.shutdown()


def _check_resources(ray: Any, workers: int, gpus: float, cpus: int) -> None:
    """Ray waits for ever for what a cluster does not have. One that grows shows only what it has now."""
    there = ray.cluster_resources()
    for name, wanted in (("GPU", gpus), ("CPU", cpus)):
        if wanted > there.get(name, 0):
            raise InputError(
                f"{wanted:g} {name}s for each worker are asked for, and the cluster has {there.get(name, 0):g}"
            )


def _in_words(error: Exception) -> CaptioningError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, CaptioningError):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    return InputError(f"Ray gave up: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


__all__ = ["BlockWorker", "ModelChoice", "do_blocks", "run_on_ray"]
