# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One run of a command that goes through images."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any

import typer
from PIL import Image

from ..captioning.runner import Record, Task, run
from ..captioning.sinks import STDOUT, JsonLinesSink, LineSink, Sink
from ..captioning.sources import InputCount, count_inputs, iter_inputs
from ..captioning.text import count, duration, printable
from . import console
from .console import as_usage_error, complain, progress


def run_images(
    paths: Sequence[str],
    load_task: Callable[[], Task],
    open_sinks: Sequence[Callable[[], Sink]],
    *,
    batch_size: int,
    quiet: bool,
    records: str | None = None,
    products: Sequence[str] = (),
    picture: Callable[[Image.Image], Any] | None = None,
) -> None:
    """Takes every input through the task and into every sink, and ends the command with its exit code.

    Messages name the file that `records` go to as the run goes, and `products`, the files that appear at its end.
    Raises `UsageError` where the model cannot be loaded, `OutputError` where a sink cannot be opened or written.
    """
    started = time.monotonic()
    expected = InputCount(0, 0)
    tally = _Tally()
    try:
        expected = count_inputs(paths)
        with progress(quiet) as shown, ExitStack() as opened:
            task = _LateTask(load_task)
            if expected.readable:
                with as_usage_error():
                    task.load()
            sinks = [opened.enter_context(closing(open_sink())) for open_sink in open_sinks]
            shown.begin(expected.total)
            for finished in run(iter_inputs(paths), task, batch_size, picture):
                with shown.aside():
                    for sink in sinks:
                        sink.write(finished)
                    tally.add(finished)
                shown.advance(len(finished))
            for sink in sinks:
                sink.finish()
    except KeyboardInterrupt:
        complain("; ".join(_what_is_left(tally, expected.total, records, products)))
        raise typer.Exit(130) from None
    places = [*_files(records), *products]
    if places and not quiet:
        complain(f"{tally.summary()} in {duration(time.monotonic() - started)}, written to {' and '.join(places)}")
    raise typer.Exit(1 if tally.failed else 0)


def record_sink(output: str | None, text: Callable[[Any], str], fields: Callable[[Any], dict[str, Any]]) -> Sink:
    """Lines of JSON in `output`, or without it "PATH: TEXT" on stdout, one line whatever name and text hold."""
    if output is not None:
        return JsonLinesSink(output, fields)
    return LineSink(sys.stdout, lambda record: f"{printable(record.image)}: {printable(text(record.result))}")


def _files(records: str | None) -> list[str]:
    return [] if records in (None, STDOUT) else [str(records)]


def _what_is_left(tally: "_Tally", total: int, records: str | None, products: Sequence[str]) -> Iterator[str]:
    yield f"stopped after {tally.total:,} of {count(total, 'input')}" if total else "stopped while looking for inputs"
    for path in _files(records):
        if tally.total:
            yield f"their records are in {path}"
    for path in products:
        yield f"{path} was not written"


class _LateTask:
    """Is loaded no later than its first image comes: where none can be read, nobody waits for a model."""

    def __init__(self, load_task: Callable[[], Task]):
        self.load_task = load_task
        self.task: Task | None = None

    def load(self) -> Task:
        if self.task is None:
            console.silence_libraries()
            self.task = self.load_task()
        return self.task

    def prepare(self, image: Image.Image) -> Any:
        return self.load().prepare(image)

    def process(self, prepared: list[Any]) -> list[Any]:
        return self.load().process(prepared)


class _Tally:
    def __init__(self) -> None:
        self.done = self.failed = 0

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
