# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a command says on stderr, and the state of the three streams."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from ..captioning.errors import CaptioningError
from ..captioning.models import silence_libraries as silence_libraries
from ..captioning.text import duration, printable


PROGRAM = "coca-hf"

_speaker = PROGRAM


class UsageError(Exception):
    """What was asked for cannot be done, whatever the inputs hold. Exit code 2."""


@contextmanager
def as_usage_error() -> Iterator[None]:
    """Problems that show before the work begins are the command line's."""
    try:
        yield
    except CaptioningError as error:
        raise UsageError(str(error)) from error


def name_command(command: str) -> None:
    """Messages are from `command` from now on."""
    global _speaker
    _speaker = f"{PROGRAM} {command}"


def complain(message: str) -> None:
    """One line on stderr."""
    print(f"{_speaker}: {printable(message)}", file=sys.stderr, flush=True)


def prepare_streams() -> None:
    """Gives every stream a place to go, and a way to write every character."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            # Closed by the caller. A file that is opened later would get its number, and our output.
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")


def let_go_of_stdout() -> None:
    """Where stdout takes nothing more, as with `| head` or a full disk, what is left for it goes nowhere."""
    try:
        sys.stdout.flush()
    except OSError:
        # The interpreter would try again when it ends, complain, and exit with a code of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Progress(AbstractContextManager["Progress"], Protocol):
    """How far a run has come, while it is entered."""

    def begin(self, total: int | None, done: int = 0) -> None:
        """The model is there: the clock starts. `total` None is not known; `done` are done already."""

    def advance(self, number: int) -> None: ...

    def aside(self) -> AbstractContextManager[None]:
        """While entered, other things may be printed."""


def progress(quiet: bool) -> Progress:
    if quiet:
        return _Silence()
    return _Bar() if sys.stderr.isatty() else _Lines()


class _Silence:
    def __enter__(self) -> "_Silence":
        return self

    def __exit__(self, *_: object) -> None: ...

    def begin(self, total: int | None, done: int = 0) -> None: ...

    def advance(self, number: int) -> None: ...

    @contextmanager
    def aside(self) -> Iterator[None]:
        yield


class _Pace:
    """How far a run is, in words. The rate is that of the run so far: batches come in gusts."""

    def __init__(self, total: int | None, clock: Callable[[], float], done: int = 0):
        self.total, self.done, self.before = total, done, done
        self.clock = clock
        self.started = clock()

    def words(self) -> str:
        seconds = self.clock() - self.started
        place = f"{self.done:,}" if self.total is None else f"{self.done:,} of {self.total:,}"
        if self.done == self.before or seconds <= 0:
            return place
        rate = (self.done - self.before) / seconds
        if self.total is None:
            return f"{place}, {rate:.1f}/s"
        left = duration(max(self.total - self.done, 0) / rate)
        return f"{place}, {rate:.1f}/s, {left} left"


class _Lines(_Silence):
    """A line now and then, for logs."""

    def __init__(self, interval_seconds: float = 15, clock: Callable[[], float] = time.monotonic):
        self.interval_seconds = interval_seconds
        self.clock = clock

    def begin(self, total: int | None, done: int = 0) -> None:
        self.pace = _Pace(total, self.clock, done)
        self.last = self.pace.started

    def advance(self, number: int) -> None:
        self.pace.done += number
        if self.clock() - self.last >= self.interval_seconds:
            self.last = self.clock()
            complain(self.pace.words())


class _Bar(_Silence):
    """A bar at the bottom of a terminal, gone when the run is over."""

    def __enter__(self) -> "_Bar":
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}"),
            console=Console(stderr=True),
            transient=True,
            # What is printed is printed aside, and stdout stays stdout.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self.task = self.bar.add_task("loading the model", total=None, state="")
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def begin(self, total: int | None, done: int = 0) -> None:
        self.pace = _Pace(total, time.monotonic, done)
        self.bar.reset(self.task, total=total, completed=done, description=_speaker, state=self.pace.words())

    def advance(self, number: int) -> None:
        self.pace.done += number
        self.bar.update(self.task, advance=number, state=self.pace.words())

    @contextmanager
    def aside(self) -> Iterator[None]:
        self.bar.stop()
        try:
            yield
        finally:
            self.bar.start()
