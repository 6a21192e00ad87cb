# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One run of a command that goes through images."""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import Any

import typer
from PIL import Image

from ..captioning.runner import Record, Task, run
from ..captioning.sinks import LineSink, Sink
from ..captioning.sources import count_inputs, iter_inputs
from ..captioning.text import count, duration, printable
from .console import as_usage_error, complain, progress, silence_libraries


def run_images(
    paths: Sequence[str],
    load_task: Callable[[], Task],
    open_sinks: Sequence[Callable[[], Sink]],
    *,
    batch_size: int,
    quiet: bool,
    places: Sequence[str] = (),
    picture: Callable[[Image.Image], Any] | None = None,
) -> None:
    """Takes every input through the task and into every sink, and ends the command with its exit code.

    `places` are the files that the summary names. Raises `UsageError` where the model cannot be loaded, `OutputError`
    where a sink cannot be opened or written.
    """
    expected = count_inputs(paths)
    started = time.monotonic()
    tally = _Tally()
    with progress(quiet) as shown:
        try:
            with as_usage_error():
                # A run of errors only needs no model, and its user no wait for one.
                task = _loaded(load_task) if expected.readable else None
            with ExitStack() as opened:
                sinks = [opened.enter_context(closing(open_sink())) for open_sink in open_sinks]
                shown.begin(expected.total)
                for records in run(iter_inputs(paths), task, batch_size, picture):
                    with shown.aside():
                        tally.add(records)
                        for sink in sinks:
                            sink.write(records)
                    shown.advance(len(records))
                for sink in sinks:
                    sink.finish()
        except KeyboardInterrupt:
            tally.interrupted = True
    if tally.interrupted:
        complain(f"stopped after {tally.total:,} of {count(expected.total, 'input')}")
        raise typer.Exit(130)
    if places and not quiet:
        complain(f"{tally.summary()} in {duration(time.monotonic() - started)}, written to {' and '.join(places)}")
    raise typer.Exit(1 if tally.failed else 0)


def _loaded(load_task: Callable[[], Task]) -> Task:
    silence_libraries()
    return load_task()


class _Tally:
    def __init__(self) -> None:
        self.done = self.failed = 0
        self.interrupted = False

    @property
    def total(self) -> int:
        return self.done + self.failed

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


def line_sink(text: Callable[[Any], str]) -> Callable[[], Sink]:
    """ "PATH: TEXT" on stdout, one line for each image whatever its name and text hold."""
    return lambda: LineSink(sys.stdout, lambda record: f"{printable(record.image)}: {printable(text(record.result))}")
