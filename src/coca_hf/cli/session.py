# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One run of a command that goes through images: what was asked for becomes a call of `run`, and what became of it,
lines on the screen."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import typer

from ..batch_inference.engine import check_run, run
from ..batch_inference.errors import MemoryOnDeviceError, ModelError, OutputError
from ..batch_inference.inputs import Input, Record
from ..batch_inference.jobs import Job, MadeWith
from ..batch_inference.maps import MapSheets
from ..batch_inference.outputs import (
    Output,
    RecordSink,
    Sidecars,
    Stream,
    is_stream,
    sidecar_path,
)
from ..batch_inference.plan import Inputs, PathInputs
from ..batch_inference.sharing import processes
from ..batch_inference.summary import RunInterrupted, Summary
from ..batch_inference.wording import count, duration, printable
from . import console
from .console import UsageError, as_usage_error, complain, progress
from .options import ImageOptions


@dataclass(frozen=True)
class Destination:
    """Where results go: records to `output`, None for lines of text on stdout, and `others` beside; pictures of where
    words look to the folder `maps`.

    Without `lines`, nothing goes to stdout.
    """

    output: str | None
    others: Sequence[Output] = ()
    sidecar: bool = False
    overwrite: bool = False
    lines: bool = True
    maps: str | None = None

    @property
    def streams_output(self) -> bool:
        return self.output is not None and is_stream(self.output)

    @property
    def outputs(self) -> list[Output]:
        first = [] if self.output is None or self.streams_output else [Output(self.output)]
        return [*first, *self.others]

    def open_streams(self, text: Callable[[Any], str], opened: ExitStack) -> list[RecordSink]:
        """Raises `OutputError`."""
        streams: list[RecordSink] = []
        if self.output is not None and self.streams_output:
            streams.append(opened.enter_context(closing(Stream(self.output))))
        elif self.output is None and self.lines and not self.sidecar:
            streams.append(_Lines(text))
        if self.sidecar:
            streams.append(Sidecars(replace=self.overwrite))
        if self.maps is not None:
            sheets = MapSheets(self.maps)
            with as_usage_error():
                sheets.check()
            streams.append(sheets)
        return streams


@dataclass(frozen=True)
class QuietJob:
    """The same job, loaded without what libraries say to programmers."""

    job: Job

    @property
    def makes(self) -> frozenset[str]:
        return self.job.makes

    def made_with(self) -> MadeWith:
        return self.job.made_with()

    def load(self) -> Any:
        console.silence_libraries()
        return self.job.load()


class _Lines:
    """ "PATH: TEXT" on stdout for each record with a result, one line whatever name and text hold."""

    def __init__(self, text: Callable[[Mapping[str, Any]], str]):
        self.text = text

    def write(self, records: Iterable[Record]) -> None:
        """Raises `OutputError`, and `BrokenPipeError` where nobody reads any more."""
        try:
            for record in records:
                if record.error is None:
                    print(f"{printable(record.image)}: {printable(self.text(record.fields))}")
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"cannot write to stdout: {(error.strerror or str(error)).lower()}") from None


class _WithoutSidecars(PathInputs):
    """Images that have a caption beside them are passed over: where nothing else is written, they are done."""

    def __init__(self, inputs: PathInputs):
        super().__init__(inputs.paths, inputs.member_suffixes)
        self.passed_over = 0

    def listed(self) -> Iterator[Input]:
        for item in super().listed():
            if item.error is None and os.path.lexists(sidecar_path(item.path)):
                self.passed_over += 1
            else:
                yield item


def go_through(
    images: ImageOptions,
    make_job: Callable[[], Job],
    destination: Destination,
    text: Callable[[Any], str],
) -> None:
    """
    Takes every input through the job, and ends the command with its exit code.

    Args:
        make_job: makes the job, once everything cheaper was checked.
        text: what a line on the screen says of a record's fields.

    Raises:
        UsageError: What was asked for cannot be done.
        BatchInferenceError: Sources or outputs fail.
    """
    _check_shared(images, destination)
    inputs = images.inputs()
    job = make_job()
    with as_usage_error():
        check_run(job, destination.outputs)
    if (
        destination.sidecar
        and not destination.overwrite
        and not destination.outputs
        and isinstance(inputs, PathInputs)
    ):
        inputs = _WithoutSidecars(inputs)
    with ExitStack() as opened:
        streams = destination.open_streams(text, opened)
        summary = _run(images, inputs, job, destination, streams)
    if summary.rank:
        raise typer.Exit(0)
    if not images.quiet:
        for line in _summary(summary, destination, streams, inputs):
            complain(line)
    # A launcher takes any other code for a crash of the process, and says so in pages.
    launched = "TORCHELASTIC_RUN_ID" in os.environ
    raise typer.Exit(1 if summary.failed and not launched else 0)


def _run(
    images: ImageOptions, inputs: Inputs, job: Job, destination: Destination, streams: Sequence[RecordSink]
) -> Summary:
    on_ray = images.ray_options()
    quiet = images.quiet or processes()[0] > 0
    try:
        return run(
            inputs,
            job if on_ray else QuietJob(job),  # type: ignore[arg-type]
            destination.outputs,
            batch_size=images.batch_size,
            workers=images.workers,
            streams=streams,
            ray=on_ray,
            progress=progress(quiet),
            say=(lambda message: None) if quiet else complain,
            on_failure=lambda record: complain(f"{record.image}: {record.error}"),
        )
    except MemoryOnDeviceError:
        raise
    except ModelError as error:
        raise UsageError(str(error)) from error
    except RunInterrupted as interruption:
        if not interruption.summary.rank:
            complain("; ".join(_what_is_left(interruption, destination)))
        raise typer.Exit(130) from None


def _check_shared(images: ImageOptions, destination: Destination) -> None:
    """Raises `UsageError` where the work is to be shared by processes, and what is asked for cannot be shared."""
    number = processes()[1]
    if images.ray is None and number == 1:
        return
    if not destination.outputs:
        why = "" if images.ray else f"this is one of {number} processes (WORLD_SIZE says so): "
        raise UsageError(f"{why}a shared run needs a file as its --output")
    if images.streaming:
        raise UsageError(
            "--streaming works in one process only: the number of rows is unknown, so they cannot be shared out"
        )


def _what_is_left(interruption: RunInterrupted, destination: Destination) -> Iterator[str]:
    summary = interruption.summary
    if interruption.was_listing:
        yield "stopped while looking for inputs"
        return
    done = f"stopped after {summary.records:,}"
    yield done if summary.total is None else f"{done} of {count(summary.total, 'input')}"
    outputs = destination.outputs
    if not outputs or summary.folder is None or not os.path.isdir(summary.folder):
        return
    shown = outputs[0].path if os.path.exists(outputs[0].path) else None
    if shown is not None and shown.lower().endswith(".jsonl"):
        yield f"their records are in {shown}"
    else:
        shown = None
        yield f"finished work is in {os.path.relpath(summary.folder)}"
    for output in outputs:
        if output.path != shown:
            yield f"{output.path} is not complete"
    yield "the same command continues"


def _summary(
    summary: Summary, destination: Destination, streams: Sequence[RecordSink], inputs: Inputs
) -> Iterator[str]:
    sidecars = next((stream for stream in streams if isinstance(stream, Sidecars)), None)
    if sidecars is not None:
        passed_over = inputs.passed_over if isinstance(inputs, _WithoutSidecars) else 0
        kept = sidecars.kept + passed_over
        also = f", {count(kept, 'existing one')} kept; --overwrite replaces them" if kept else ""
        yield f"{count(sidecars.written, 'caption')} written beside the images{also}"
    sheets = next((stream for stream in streams if isinstance(stream, MapSheets)), None)
    if sheets is not None:
        yield f"{count(sheets.written, 'picture')} of where the words look, in {sheets.folder}"
    if not destination.outputs:
        return
    failed = f", {summary.failed:,} failed," if summary.failed else ""
    places = " and ".join(output.path for output in destination.outputs)
    words = f"{count(summary.images, 'image')}{failed} in {duration(summary.seconds)}, written to {places}"
    if summary.model_words is not None:
        words += f"; {summary.model_words}"
    if summary.busy_share is not None:
        words += f"; the model ran {summary.busy_share:.0%} of its time"
    yield words
