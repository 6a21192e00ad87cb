# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Images are read and resized in processes of their own, ahead of the model.

An image that ends its process, or takes longer than allowed, costs that image alone.
"""

import concurrent.futures
import concurrent.futures.process
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from PIL import Image

from .errors import ImageError, InputError
from .images import LargeImageError, ResizedSize, read_image, why_unread
from .inputs import Input


TIME_LIMIT_SECONDS = 300.0
"""After which a process that is still at one image is ended. The slowest that are read take some ten seconds."""

# Of images whose bytes come with them, for example from a table, so many bytes are under way at a time.
_MOST_BYTES_AHEAD = 1 << 26

# An image is given out so often: whoever ends a process in need of memory says little about the image.
_TRIES = 2

# The pool is made anew so often without an image between before the run is given up.
_MOST_RESTARTS = 3

# Beyond the time limit, a pool that says nothing at all is made anew.
_PATIENCE_SECONDS = 60.0

Key = TypeVar("Key")


@dataclass
class Prepared:
    """What `prepare` and `picture` made of an image, or why there is none."""

    value: Any = None
    picture: bytes | None = None
    error: str | None = None


@dataclass(frozen=True)
class Reader:
    """What is done with each input; has to be picklable to reach the processes.

    `resized_size` as in `read_image`.
    """

    prepare: Callable[[Image.Image], Any]
    picture: Callable[[Image.Image], bytes] | None = None
    resized_size: ResizedSize | None = None

    def read(self, item: Input, *, large: bool = True) -> Prepared:
        """Raises `LargeImageError` without `large` for a large image; whatever `prepare` raises is passed on."""
        error = item.error or why_unread(item.path)
        if error is not None:
            return Prepared(error=error)
        try:
            source = item.path if item.content is None else item.content
            image = read_image(source, large=large, resized_size=self.resized_size)
        except ImageError as problem:
            return Prepared(error=str(problem))
        return Prepared(self.prepare(image), self.picture(image) if self.picture else None)


def default_processes(sharing: int = 1) -> int:
    """As many as there are processors for this process, which it has alone or with others; 16 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(max((cores or 1) // sharing, 1), 16)


def _context() -> Any:
    """Never plain forking: torch has threads, and a copy of a process with threads can stand still for ever."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Imported once, in a process that does nothing else, from which the others are then made in no time.
    context.set_forkserver_preload([__name__, "coca_hf.batch_inference.tasks"])
    _start_server()
    return context


def _start_server() -> None:
    """
    The process from which the others are made, deaf to Ctrl-C, and they with it: a terminal sends that to all of them,
    and who gets it while importing says so at length. They end with this process.
    """
    from multiprocessing import forkserver, resource_tracker

    # It is there first, for it lets Ctrl-C through when it has started.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_early() -> None:
    """What the processes need begins to be imported while this one does other things."""
    _context()


_reader: Reader | None = None


def _set_reader(reader: Reader) -> None:
    """Once in each process, so that it does not travel with every image."""
    global _reader
    _reader = reader


def _read_here(item: Input, large: bool) -> tuple[str, Any]:
    """In a process of the pool. What is raised would come back without the place where it was raised."""
    assert _reader is not None
    try:
        return "done", _reader.read(item, large=large)
    except LargeImageError:
        return "large", None
    except MemoryError:
        return "done", Prepared(error="not enough memory to read it")
    except Exception:
        return "bug", traceback.format_exc()


@dataclass
class _Job(Generic[Key]):
    key: Key
    item: Input | None
    future: Any = None
    deaths: int = 0
    large: bool = False

    @property
    def bytes_ahead(self) -> int:
        return len(self.item.content) if self.item is not None and isinstance(self.item.content, bytes) else 0


class ReadingProcesses:
    """Processes that read images for one run after another. To be closed.

    Pebble's pool ends the process that is over its time and reports the one that died, an image each. Where an idle
    process dies it gives up as a whole; then it is made anew here, and what was under way is given out again.
    """

    def __init__(self, reader: Reader, processes: int, time_limit_seconds: float = TIME_LIMIT_SECONDS):
        self.reader = reader
        self.processes = processes
        self.time_limit_seconds = time_limit_seconds
        self.restarts = 0
        self.lock = threading.RLock()
        self.pool = self._start()

    def _start(self) -> Any:
        from pebble import ProcessPool

        return ProcessPool(self.processes, initializer=_set_reader, initargs=(self.reader,), context=_context())

    def submit(self, job: _Job[Any]) -> None:
        """Where the pool is broken the job stays without a future, and `restart` gives it out."""
        with self.lock:
            try:
                job.future = self.pool.schedule(
                    _read_here, args=(job.item, job.large), timeout=self.time_limit_seconds
                )
            except RuntimeError:
                job.future = None

    def restart(self, jobs: Iterable[_Job[Any]]) -> None:
        """Raises `InputError` where that helped `_MOST_RESTARTS` times not at all."""
        self.restarts += 1
        if self.restarts > _MOST_RESTARTS:
            raise InputError("the processes that read images cannot be started, or die at once. Try --workers 0")
        with self.lock:
            self.close()
            self.pool = self._start()
            for job in jobs:
                if job.item is not None and not _has_result(job.future):
                    self.submit(job)

    def close(self) -> None:
        with self.lock:
            self.pool.stop()
            self.pool.join()


def _has_result(future: Any) -> bool:
    return future is not None and future.done() and not future.cancelled() and future.exception() is None


def read_ahead(
    inputs: Iterable[tuple[Key, Input | None]], processes: ReadingProcesses, ahead: int
) -> Iterator[tuple[Key, Input | None, Prepared | None]]:
    """
    What the processes make of each input, in their order, at most `ahead` inputs early. None goes through as it is.

    To be closed. The inputs are iterated in another thread; where their source stalls, closing does not wait for it.

    Raises:
        InputError: The processes cannot be started.
        Exception: What iterating `inputs` raises, behind what was read before.
    """
    stream = _Stream(inputs, processes, max(ahead, processes.processes))
    threading.Thread(target=stream.fill, daemon=True).start()
    try:
        yield from stream.results()
    finally:
        stream.stop()


class _Stream(Generic[Key]):
    """One thread (`fill`) gives inputs out, another (`results`) takes what was made of them.

    `waiting` holds the jobs that were given out and not yet taken, first come first. Both touch it under `changed`.
    """

    def __init__(self, inputs: Iterable[tuple[Key, Input | None]], processes: ReadingProcesses, ahead: int):
        self.inputs = inputs
        self.processes = processes
        self.ahead = ahead
        self.changed = threading.Condition()
        self.waiting: deque[_Job[Key]] = deque()
        self.bytes_ahead = 0
        self.stopped = self.exhausted = False
        self.failure: BaseException | None = None

    def fill(self) -> None:
        try:
            for key, item in self.inputs:
                if not self._add(_Job(key, item)):
                    return
        except BaseException as error:  # raised in the other thread, where somebody sees it
            self.failure = error
        finally:
            with self.changed:
                self.exhausted = True
                self.changed.notify_all()

    def _add(self, job: _Job[Key]) -> bool:
        """False where nobody wants more."""
        with self.changed:
            self.changed.wait_for(lambda: self.stopped or self._has_room())
            if self.stopped:
                return False
            if job.item is not None and job.item.error is None:
                self.processes.submit(job)
            self.waiting.append(job)
            self.bytes_ahead += job.bytes_ahead
            self.changed.notify_all()
            return True

    def _has_room(self) -> bool:
        return len(self.waiting) < self.ahead and self.bytes_ahead < _MOST_BYTES_AHEAD

    def results(self) -> Iterator[tuple[Key, Input | None, Prepared | None]]:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting or self.exhausted)
                if not self.waiting:
                    if self.failure:
                        raise self.failure
                    return
                job = self.waiting[0]
            prepared = self._result(job)
            with self.changed:
                self.waiting.popleft()
                self.bytes_ahead -= job.bytes_ahead
                self.changed.notify_all()
            yield job.key, job.item, prepared

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
            for job in self.waiting:
                if job.future is not None:
                    job.future.cancel()
            self.changed.notify_all()

    def _result(self, job: _Job[Key]) -> Prepared | None:
        if job.item is None:
            return None
        if job.item.error is not None:
            return Prepared(error=job.item.error)
        while True:
            outcome = self._outcome(job)
            if outcome is not None:
                return outcome

    def _outcome(self, job: _Job[Key]) -> Prepared | None:
        """None where it was given out once more."""
        from pebble import ProcessExpired

        try:
            if job.future is None:
                raise concurrent.futures.process.BrokenProcessPool
            kind, value = job.future.result(self.processes.time_limit_seconds + _PATIENCE_SECONDS)
        except ProcessExpired as error:
            return self._died(job, error.exitcode)
        except concurrent.futures.TimeoutError:
            if job.future.done():
                limit = self.processes.time_limit_seconds
                return Prepared(error=f"reading it took longer than {limit:.0f} seconds")
            self._restart()
            return None
        except (RuntimeError, concurrent.futures.CancelledError):  # the pool is broken
            self._restart()
            return None
        self.processes.restarts = 0
        if kind == "bug":
            raise RuntimeError(f"a process that reads images failed:\n{value}")
        if kind == "large":
            # Only here, one at a time: each may take a gigabyte.
            job.large = True
            self.processes.submit(job)
            return None
        return value

    def _died(self, job: _Job[Key], exit_code: int | None) -> Prepared | None:
        job.deaths += 1
        if job.deaths >= _TRIES:
            return Prepared(error=f"the process that read it died ({_cause(exit_code)})")
        self.processes.submit(job)
        return None

    def _restart(self) -> None:
        with self.changed:
            self.processes.restart(self.waiting)


def _cause(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"exit code {exit_code}"
    return f"signal {-exit_code}, {signal.strsignal(-exit_code) or 'unknown'}"
