# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf classify`."""

from typing import Annotated, Any

from ..captioning.runner import Record, Task
from ..captioning.sinks import JsonLinesSink, check_output
from .console import UsageError, as_usage_error
from .options import BatchSize, Device, DType, Model, Paths, Quiet, check_batch_size, model_choice, option
from .session import line_sink, run_images


# What a line on the screen holds; a record has every label.
_SHOWN_LABELS = 5


def classify(
    paths: Paths,
    labels: Annotated[str, option("What to choose from.", "A,B,C")],
    template: Annotated[str, option('Sentence for a label (default: "a photo of {}").', "TEXT")] = "a photo of {}",
    model: Model = None,
    output: Annotated[
        str | None, option("Write JSON lines here instead of text to stdout.", "FILE.jsonl", "--output", "-o")
    ] = None,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    dtype: DType = "auto",
    quiet: Quiet = False,
) -> None:
    """Choose labels for images: files, folders and quoted globs."""
    check_batch_size(batch_size)
    names = _split(labels)
    if template.count("{}") != 1:
        raise UsageError(f"the template {template!r} needs one {{}}, where the label goes")
    if output is not None:
        with as_usage_error():
            check_output(output, (".jsonl",), streams=True)
    choice = model_choice(model, device, dtype, captions=False)

    def load_task() -> Task:
        from ..captioning.tasks import ClassifyTask

        return ClassifyTask(choice, names, template)

    sink = line_sink(_line) if output is None else lambda: JsonLinesSink(output, _fields)
    places = [] if output is None else [output]
    run_images(paths, load_task, [sink], batch_size=batch_size, quiet=quiet, places=places)


def _split(labels: str) -> list[str]:
    names = [" ".join(name.split()) for name in labels.split(",")]
    if "" in names:
        raise UsageError(f"a label in {labels!r} is empty")
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UsageError(f"the label {repeated!r} is given more than once")
    if len(names) < 2:
        raise UsageError(f"one label, {labels!r}, leaves nothing to choose; separate two or more by commas")
    return names


def _line(scores: dict[str, float]) -> str:
    return ", ".join(f"{label} {score:.1%}" for label, score in list(scores.items())[:_SHOWN_LABELS])


def _fields(record: Record) -> dict[str, Any]:
    return {"label": next(iter(record.result)), "scores": record.result}
