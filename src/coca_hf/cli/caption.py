# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf caption`."""

from collections.abc import Callable
from typing import Annotated

from ..captioning.decoding import CaptionOptions
from ..captioning.report import ReportSink, check_report, report_picture
from ..captioning.runner import Task
from ..captioning.sinks import Sink
from .console import as_usage_error
from .options import (
    BatchSize,
    Device,
    DType,
    Model,
    Output,
    Paths,
    Quiet,
    check_batch_size,
    check_record_output,
    model_choice,
    option,
)
from .session import record_sink, run_images


def caption(
    paths: Paths,
    model: Model = None,
    output: Output = None,
    report: Annotated[str | None, option("Also make a page of pictures and captions.", "FILE.html")] = None,
    prompt: Annotated[str | None, option("Begin every caption with these words.", "TEXT")] = None,
    max_new_tokens: Annotated[int | None, option("Stop after N tokens.", "N")] = None,
    num_beams: Annotated[int | None, option("Beam search with N beams.", "N")] = None,
    num_beam_groups: Annotated[int | None, option("Diverse beam search, beams in N groups.", "N")] = None,
    top_p: Annotated[float | None, option("Sample from the likeliest, P in all (0 to 1).", "P")] = None,
    top_k: Annotated[int | None, option("Sample from the K likeliest tokens.", "K")] = None,
    temperature: Annotated[float | None, option("Sample, more boldly above 1.", "T")] = None,
    seed: Annotated[int | None, option("Make sampling repeatable.", "N")] = None,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    dtype: DType = "auto",
    quiet: Quiet = False,
) -> None:
    """Caption images: files, folders and quoted globs."""
    check_batch_size(batch_size)
    check_record_output(output)
    with as_usage_error():
        options = CaptionOptions(
            prompt=prompt,
            num_beams=num_beams,
            num_beam_groups=num_beam_groups,
            max_new_tokens=max_new_tokens,
            top_p=top_p,
            top_k=top_k,
            temperature=temperature,
            seed=seed,
        )
        if report is not None:
            check_report(report)
    choice = model_choice(model, device, dtype, captions=True)

    def load_task() -> Task:
        from ..captioning.tasks import CaptionTask

        return CaptionTask(choice, options)

    sinks: list[Callable[[], Sink]] = [lambda: record_sink(output, str, lambda caption: {"caption": caption})]
    if report is not None:
        sinks.append(lambda: ReportSink(report, _facts(model, options)))
    run_images(
        paths,
        load_task,
        sinks,
        batch_size=batch_size,
        quiet=quiet,
        records=output,
        products=[] if report is None else [report],
        picture=None if report is None else report_picture,
    )


def _facts(model: str | None, options: CaptionOptions) -> dict[str, str]:
    """What the report says of the run."""
    given = {name.replace("_", " ").capitalize(): str(value) for name, value in options.given().items()}
    return {"Model": model or "bundled", **given}
