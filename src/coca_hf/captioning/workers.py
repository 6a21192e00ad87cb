# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Images are read and resized in processes of their own, ahead of the model.

A process that dies or hangs over an image costs that image alone. The library's own pools do without: an executor is
broken as a whole by one death and knows no time limit, and torch's data loader ends the run.
"""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from PIL import Image

from .errors import ImageError, InputError
from .images import LargeImageError, read_image
from .sources import Input


TIME_LIMIT_SECONDS = 300.0
"""After which a process that is still at one image is ended. The slowest that are read take some ten seconds."""

# Given out to a process at a time, so that it never waits for the next.
_AT_HAND = 2

Prepare = Callable[[Image.Image], Any]


@dataclass
class Prepared:
    """One input, read: what `prepare` and `picture` made of its image, or why there is none."""

    item: Input
    value: Any = None
    picture: Any = None
    error: str | None = None


@dataclass(frozen=True)
class Reader:
    """What is done with each input; has to be picklable to reach the processes."""

    prepare: Prepare
    picture: Prepare | None = None

    def read(self, item: Input, *, large: bool = True) -> Prepared:
        """Raises `LargeImageError` without `large` for a large image; whatever `prepare` raises is passed on."""
        if item.error is not None:
            return Prepared(item, error=item.error)
        try:
            image = read_image(item.path if item.content is None else item.content, large=large)
        except ImageError as error:
            return Prepared(item, error=str(error))
        return Prepared(item, self.prepare(image), self.picture(image) if self.picture else None)


def default_workers(sharing: int = 1) -> int:
    """As many as there are processors for this process, which it has alone or with others; 16 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(max((cores or 1) // sharing, 1), 16)


class IdleProcesses:
    """Processes between one `read_ahead` and the next with the same reader and number: many short ones would spend
    their time on starting them. To be closed."""

    def __init__(self) -> None:
        self._workers: list[_Worker] = []

    def take(self) -> list["_Worker"]:
        taken, self._workers = self._workers, []
        return taken

    def put(self, workers: list["_Worker"]) -> None:
        self._workers = workers

    def close(self) -> None:
        for worker in self.take():
            worker.end()


def read_ahead(
    inputs: Iterable[Input],
    reader: Reader,
    workers: int,
    ahead: int,
    time_limit_seconds: float = TIME_LIMIT_SECONDS,
    idle: IdleProcesses | None = None,
) -> Iterator[Prepared]:
    """What `reader` makes of each input, in their order, read by `workers` processes and at most `ahead` inputs early.

    An image over which a process dies twice, or takes longer than allowed, is an error. To be closed: the processes
    end with the iterator, or go to `idle`. Raises `InputError` where they cannot be started, and what iterating
    `inputs` raises.
    """
    pool = _Pool(reader, workers, ahead, time_limit_seconds, idle)
    thread = threading.Thread(target=pool.run, args=(iter(inputs),), daemon=True)
    thread.start()
    try:
        yield from pool.results()
    finally:
        pool.stop()
        thread.join()


@dataclass
class _Job:
    item: Input
    large: bool = False
    deaths: int = 0
    result: Prepared | None = None


@dataclass
class _Worker:
    """A process; `jobs` are with it, the first of them since `since`."""

    process: Any
    connection: Connection
    ready: bool = False
    jobs: deque[_Job] = field(default_factory=deque)
    since: float = 0.0

    def give(self, job: _Job) -> None:
        if not self.jobs:
            self.since = time.monotonic()
        self.jobs.append(job)
        self.connection.send((job.item, job.large))

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class _Pool:
    """One thread (`run`) deals with the processes; another (`results`) takes what they made.

    `order` holds every job that was begun and not yet taken, first come first, and is all that both touch, under
    `changed`.
    """

    def __init__(
        self, reader: Reader, workers: int, ahead: int, time_limit_seconds: float, idle: IdleProcesses | None
    ):
        self.reader = reader
        self.idle = idle
        self.number = workers
        self.ahead = max(ahead, workers)
        self.time_limit_seconds = time_limit_seconds
        self.changed = threading.Condition()
        self.order: deque[_Job] = deque()
        self.complete = self.stopped = False
        self.failure: BaseException | None = None
        self.wake_receiver, self.wake_sender = multiprocessing.Pipe(duplex=False)
        self.workers: list[_Worker] = []
        self.again: deque[_Job] = deque()
        self.large: deque[_Job] = deque()

    def results(self) -> Iterator[Prepared]:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.failure or self.complete or (self.order and self.order[0].result))
                done = self._take()
                if not done and self.failure:
                    raise self.failure
                if not done and not self.order and self.complete:
                    return
            self._wake()
            yield from done

    def _take(self) -> list[Prepared]:
        done = []
        while self.order and (result := self.order[0].result) is not None:
            done.append(result)
            self.order.popleft()
        return done

    def _wake(self) -> None:
        # One message is enough; a pipe that nobody empties would fill up.
        if not self.wake_receiver.poll():
            self.wake_sender.send_bytes(b"!")

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
        self._wake()

    def run(self, inputs: Iterator[Input]) -> None:
        try:
            self._run(inputs)
        except BaseException as error:  # raised in the other thread, where somebody sees it
            with self.changed:
                self.failure = error
                self.changed.notify_all()
        finally:
            for worker in self.workers:
                worker.end()

    def _run(self, inputs: Iterator[Input]) -> None:
        self.workers = (self.idle.take() if self.idle else []) or [self._start() for _ in range(self.number)]
        exhausted = False
        while not self.stopped:
            exhausted = self._give_out(inputs) or exhausted
            if exhausted and not self._unfinished():
                if self.idle:
                    self.idle.put(self.workers)
                    self.workers = []
                with self.changed:
                    self.complete = True
                    self.changed.notify_all()
                return
            self._collect()

    def _unfinished(self) -> bool:
        return bool(self.again or self.large or any(worker.jobs for worker in self.workers))

    def _give_out(self, inputs: Iterator[Input]) -> bool:
        """To each process that has too little to do; whether there are no more inputs."""
        while not self.stopped:
            worker = min(self.workers, key=lambda worker: len(worker.jobs))
            if len(worker.jobs) >= _AT_HAND:
                return False
            if self.again:
                self._hand(worker, self.again.popleft())
            elif self.large and not any(job.large for each in self.workers for job in each.jobs):
                # One at a time: each may take a gigabyte.
                self._hand(worker, self.large.popleft())
            elif len(self.order) >= self.ahead:
                return False
            else:
                item = next(inputs, None)
                if item is None:
                    return True
                job = _Job(item, result=None if item.error is None else Prepared(item, error=item.error))
                with self.changed:
                    self.order.append(job)
                    if job.result:
                        self.changed.notify_all()
                if not job.result:
                    self._hand(worker, job)
        return True

    def _hand(self, worker: _Worker, job: _Job) -> None:
        try:
            worker.give(job)
        except OSError:  # it died while it had nothing to do, or just now
            self._replace(worker)

    def _collect(self) -> None:
        """Waits for something to happen, and deals with it."""
        by_connection = {worker.connection: worker for worker in self.workers}
        now = time.monotonic()
        limits = [worker.since + self.time_limit_seconds - now for worker in self.workers if worker.jobs]
        ready = wait([*by_connection, self.wake_receiver], timeout=max(0.0, min(limits, default=60.0)))
        for connection in ready:
            if connection is self.wake_receiver:
                self.wake_receiver.recv_bytes()
            else:
                self._receive(by_connection[connection])  # type: ignore[index]
        now = time.monotonic()
        for worker in list(self.workers):
            if worker.jobs and now - worker.since > self.time_limit_seconds:
                self._replace(worker, f"reading it took longer than {self.time_limit_seconds:.0f} seconds")

    def _receive(self, worker: _Worker) -> None:
        try:
            kind, value = worker.connection.recv()
        except (EOFError, OSError):
            self._replace(worker)
            return
        worker.since = time.monotonic()
        if kind == "ready":
            worker.ready = True
        elif kind == "bug":
            raise RuntimeError(f"a process that reads images failed:\n{value}")
        elif kind == "large":
            job = worker.jobs.popleft()
            job.large = True
            self.large.append(job)
        else:
            job = worker.jobs.popleft()
            self._finish(job, Prepared(job.item, *value))

    def _finish(self, job: _Job, result: Prepared) -> None:
        with self.changed:
            job.result = result
            self.changed.notify_all()

    def _replace(self, worker: _Worker, reason: str | None = None) -> None:
        """A process that died, or that is ended for `reason`: its first job is to blame, if it had begun one."""
        worker.end()
        if not worker.ready and reason is None:
            code = worker.process.exitcode
            raise InputError(f"the processes that read images cannot be started ({_cause(code)}). Try --workers 0")
        if worker.jobs:
            job = worker.jobs.popleft()
            job.deaths += 1
            if reason is None and job.deaths < 2:
                # It may have been shot by somebody who needed memory, which says little about the image.
                self.again.append(job)
            else:
                died = f"reading it ended the process that did ({_cause(worker.process.exitcode)})"
                self._finish(job, Prepared(job.item, error=reason or died))
        self.again.extend(worker.jobs)
        self.workers[self.workers.index(worker)] = self._start()

    def _start(self) -> _Worker:
        ours, theirs = _context().Pipe()
        process = _context().Process(target=_work, args=(theirs, self.reader), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours, since=time.monotonic())


def _cause(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"exit code {exit_code}"
    return f"signal {-exit_code}, {signal.strsignal(-exit_code) or 'unknown'}"


def _context() -> Any:
    """Never plain forking: torch has threads, and a copy of a process with threads can stand still for ever."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Imported once, in a process that does nothing else, from which the others are then made in no time.
    context.set_forkserver_preload([__name__, "coca_hf.captioning.tasks"])
    return context


def start_early() -> None:
    """What the processes need begins to be imported while this one does other things."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        _context()
        from multiprocessing.forkserver import ensure_running

        ensure_running()


def _work(connection: Connection, reader: Reader) -> None:
    """Reads what comes until nobody sends any more."""
    # Ctrl-C reaches every process of a terminal; this one ends when the first one does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        connection.send(("ready", None))
        while True:
            item, large = connection.recv()
            connection.send(_answer(reader, item, large))
    except (EOFError, OSError):
        os._exit(0)


def _answer(reader: Reader, item: Input, large: bool) -> tuple[str, Any]:
    try:
        result = reader.read(item, large=large)
    except LargeImageError:
        return "large", None
    except MemoryError:
        return "done", (None, None, "not enough memory to read it")
    except Exception:
        return "bug", traceback.format_exc()
    return "done", (result.value, result.picture, result.error)
