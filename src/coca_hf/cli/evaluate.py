# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf evaluate`."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..batch_inference.engine import RunInterrupted
from ..batch_inference.errors import InputError, MemoryOnDeviceError, ModelError, OptionError
from ..batch_inference.jobs import CaptionOptions
from ..batch_inference.models import DTYPES, ModelChoice, check_device, check_model
from ..batch_inference.wording import count, printable
from .console import UsageError, as_usage_error, complain, progress, silence_libraries
from .options import Quiet, more_option, option, show_more
from .session import QuietJob


if TYPE_CHECKING:
    from ..evaluation.run import Evaluation, EvaluationOptions


def evaluate(
    data: Annotated[list[str] | None, typer.Argument(metavar="DATA", hidden=True)] = None,
    model: Annotated[
        str | None,
        option("Saved folder or Hub id (default: the bundled one).", "MODEL"),
    ] = None,
    tasks: Annotated[str | None, option("Of captions,retrieval,zero-shot,probe.", "TASKS")] = None,
    output: Annotated[
        str | None,
        option("Results, intervals and versions.", "FILE.json", "--output", "-o"),
    ] = None,
    candidates: Annotated[str | None, option("Score these captions instead.", "FILE.jsonl")] = None,
    report: Annotated[str | None, option("A page of the best and the worst.", "FILE.html")] = None,
    card: Annotated[str | None, option("A block for a model card.", "FILE.md")] = None,
    compare: Annotated[bool, option("DATA are results: show them side by side.", None, "--compare")] = False,
    classes: Annotated[str | None, option("Class names, a line each, or imagenet.", "FILE")] = None,
    templates: Annotated[str, option("Texts with {}, a line each, or imagenet.", "FILE")] = "imagenet",
    probe_data: Annotated[str | None, option("What a probe learns from.", "DATA")] = None,
    num_beams: Annotated[int | None, option("Beam search with N beams.", "N")] = None,
    batch_size: Annotated[int, option("Images a batch (default: 16).", "N")] = 16,
    device: Annotated[str, option("auto (default), cpu, cuda, cuda:1, mps or xpu.", "DEVICE")] = "auto",
    dtype: Annotated[str, option("auto (fastest), float32 (exact), bfloat16 or float16.", "TYPE")] = "auto",
    quiet: Quiet = False,
    help_more: Annotated[
        bool,
        typer.Option("--help-more", help="All other options.", callback=show_more, is_eager=True),
    ] = False,
    split: Annotated[str, more_option("Of a Hub data set or Karpathy's file (train).", "SPLIT")] = "train",
    image_column: Annotated[str, more_option("Name of the images' column (image).", "NAME")] = "image",
    caption_column: Annotated[str, more_option("Name of the captions' (caption).", "NAME")] = "caption",
    label_column: Annotated[str, more_option("Name of the classes' (label).", "NAME")] = "label",
    image_folder: Annotated[str | None, more_option("What paths are relative to.", "FOLDER")] = None,
    bootstrap: Annotated[int, more_option("Resamples of an interval (1000).", "N")] = 1000,
    prompt: Annotated[str | None, more_option("Begin every caption with these words.", "TEXT")] = None,
    max_new_tokens: Annotated[int | None, more_option("Stop after N tokens.", "N")] = None,
    num_beam_groups: Annotated[int | None, more_option("Diverse beam search, beams in N groups.", "N")] = None,
    workers: Annotated[int | None, more_option("Processes that read images.", "N")] = None,
) -> None:
    """Score a model's captions, retrieval and classes, as papers do."""
    if not data:
        raise UsageError("no data was given: name a data set with captions or labels, or with --compare result files")
    if compare:
        _compare(data, report)
        return
    if dtype not in DTYPES or batch_size < 1:
        raise UsageError(f"batch-size has to be 1 or more, and dtype one of {', '.join(DTYPES)}")
    _check_places(output, report, card)
    # Here, for these bring numpy along.
    from ..evaluation.run import EvaluationOptions

    default = "captions" if candidates and model is None else "captions,retrieval"
    with _as_usage_error():
        options = EvaluationOptions(
            data,
            tuple(_split(tasks if tasks is not None else default)),
            split=split,
            image_column=image_column,
            caption_column=caption_column,
            label_column=label_column,
            image_folder=image_folder,
            candidates=candidates,
            class_names=classes,
            templates=templates,
            probe_data=probe_data,
            bootstrap=bootstrap,
            captions=CaptionOptions(
                prompt=prompt,
                num_beams=num_beams,
                num_beam_groups=num_beam_groups,
                max_new_tokens=max_new_tokens,
            ),
        )
        choice = None if candidates and model is None else _choice(model, device, dtype, options)
    done = _evaluated(options, choice, output, batch_size, workers, quiet)
    _write(done, output, report, card)
    for image, reason in done.failed:
        complain(f"{image}: {reason}")
    if not quiet:
        complain(f"{count(len(done.data.ids), 'image')}, {len(done.failed):,} failed")
    raise typer.Exit(1 if done.failed else 0)


def _split(tasks: str) -> list[str]:
    return list(dict.fromkeys(task.strip() for task in tasks.split(",") if task.strip()))


def _check_places(*paths: str | None) -> None:
    for path in paths:
        folder = os.path.dirname(os.path.realpath(path)) if path else "."
        if not os.path.isdir(folder) or (path and os.path.isdir(path)):
            raise UsageError(f"cannot write to {path!r}: there is no folder for it, or it is one")


def _choice(model: str | None, device: str, dtype: str, options: "EvaluationOptions") -> ModelChoice:
    check_device(device)
    if model is None:
        import coca_hf

        model = str(coca_hf.bundled_model())
    check_model(model, captions="captions" in options.tasks and options.candidates is None)
    return ModelChoice(model, device, dtype)


def _evaluated(
    options: "EvaluationOptions",
    choice: ModelChoice | None,
    output: str | None,
    batch_size: int,
    workers: int | None,
    quiet: bool,
) -> "Evaluation":
    from ..evaluation.run import evaluate as run_evaluation

    engine: dict[str, Any] = {
        "progress": progress(quiet),
        "say": (lambda message: None) if quiet else complain,
    }
    try:
        with _as_usage_error():
            if choice is not None:
                silence_libraries()
            return run_evaluation(
                options,
                choice,
                output,
                batch_size=batch_size,
                engine={**engine, "workers": workers},
                wrap=QuietJob,
            )
    except RunInterrupted as interruption:
        kept = "; the same command continues" if output else ""
        complain(f"stopped after {count(interruption.summary.records, 'image')}{kept}")
        raise typer.Exit(130) from None


@contextmanager
def _as_usage_error() -> Iterator[None]:
    from ..evaluation.errors import EvaluationError

    try:
        yield
    except MemoryOnDeviceError:
        raise
    except (EvaluationError, InputError, ModelError, OptionError) as error:
        raise UsageError(str(error)) from error
    except ImportError as error:
        raise UsageError(str(error)) from error


def _write(done: "Evaluation", output: str | None, report: str | None, card: str | None) -> None:
    from ..batch_inference.files import write_whole
    from ..evaluation.report import write_evaluation_report
    from ..evaluation.results import card_block, table, write_results

    if output is not None:
        write_results(done.results, output)
    if card is not None:
        name = os.path.basename(str(done.results["model"]).rstrip("/"))
        write_whole(card, card_block(done.results, name).encode())
    if report is not None:
        write_evaluation_report(done, report)
    _show(table([done.results], ["value"]))


def _compare(paths: Sequence[str], report: str | None) -> None:
    from ..evaluation.report import write_comparison
    from ..evaluation.results import comparison_names, read_results, table

    _check_places(report)
    with _as_usage_error(), as_usage_error():
        results = [read_results(path) for path in paths]
        if report is not None:
            write_comparison(paths, report)
    _show(table(results, comparison_names(paths)))


def _show(lines: Sequence[Sequence[str]]) -> None:
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    for line in lines:
        cells = [f"{printable(cell):>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True)]
        print("  ".join([f"{printable(line[0]):{widths[0]}}", *cells]).rstrip())
