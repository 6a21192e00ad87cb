# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How far a run is, as a bar or as a line now and then."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .wording import duration


class Progress:
    """Says nothing. A run enters it, and tells it what was done."""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None: ...

    def begin(self, total: int | None, done: int = 0) -> None:
        """The model is there: the clock starts. `total` None is not known; `done` are done already."""

    def advance(self, number: int) -> None: ...

    def note(self, text: str) -> None:
        """Something to be shown beside the numbers, until there is something else: a loss, for example."""

    @contextmanager
    def aside(self) -> Iterator[None]:
        """While entered, other things may be printed."""
        yield


class ProgressLines(Progress):
    """A line now and then, for logs. The rate is that of the run so far: batches come in gusts."""

    def __init__(
        self,
        say: Callable[[str], None],
        interval_seconds: float = 15,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.say = say
        self.interval_seconds = interval_seconds
        self.clock = clock
        self.noted = ""

    def begin(self, total: int | None, done: int = 0) -> None:
        self.total, self.done, self.before = total, done, done
        self.started = self.last = self.clock()

    def advance(self, number: int) -> None:
        self.done += number
        if self.clock() - self.last >= self.interval_seconds:
            self.last = self.clock()
            self.say(self._words())

    def note(self, text: str) -> None:
        self.noted = f", {text}" if text else ""

    def _words(self) -> str:
        rate = (self.done - self.before) / max(self.clock() - self.started, 1e-9)
        if self.total is None:
            return f"{self.done:,}, {rate:.1f}/s{self.noted}"
        left = duration(max(self.total - self.done, 0) / max(rate, 1e-9))
        return f"{self.done:,} of {self.total:,}, {rate:.1f}/s, {left} left{self.noted}"


class ProgressBar(Progress):
    """A bar, in a terminal at its bottom until the run is over, in a notebook as the notebook shows it.

    `file` is where it is drawn, by default stderr.
    """

    def __init__(self, name: str = "images", file: Any = None):
        self.name = name
        self.file = file
        self.bar: Any = None
        self.noted = ""

    def __enter__(self) -> "ProgressBar":
        self._draw("loading the model", None, 0)
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def begin(self, total: int | None, done: int = 0) -> None:
        self.bar.close()
        self._draw(self.name, total, done)

    def _draw(self, name: str, total: int | None, done: int) -> None:
        from tqdm.auto import tqdm

        progress = self

        class Bar(tqdm):
            @property
            def format_dict(self) -> dict[str, Any]:
                facts: dict[str, Any] = super().format_dict
                new = facts["n"] - facts["initial"]
                rate = new / facts["elapsed"] if facts["elapsed"] and new else 0.0
                left = f", {duration((facts['total'] - facts['n']) / rate)} left" if facts["total"] and rate else ""
                of = "" if facts["total"] is None else f" of {facts['total']:,}"
                facts["state"] = f"{facts['n']:,}{of}" + (f", {rate:.1f}/s{left}" if rate else "") + progress.noted
                return facts

        shape = "{desc} {bar:24} {state}" if total is not None else "{desc} {state}"
        self.bar = Bar(
            desc=name,
            total=total,
            initial=done,
            file=self.file or sys.stderr,
            leave=False,
            ncols=_columns_of(self.file or sys.stderr),
            bar_format=shape if name == self.name else "{desc}",
        )

    def advance(self, number: int) -> None:
        self.bar.update(number)

    def note(self, text: str) -> None:
        self.noted = f", {text}" if text else ""

    @contextmanager
    def aside(self) -> Iterator[None]:
        self.bar.clear()
        try:
            yield
        finally:
            self.bar.refresh()


def _columns_of(file: Any) -> int | None:
    """None where it is no terminal. A terminal that does not know its size, as in some containers, has 80."""
    try:
        return os.get_terminal_size(file.fileno()).columns or 80
    except (OSError, ValueError, AttributeError):
        return None
