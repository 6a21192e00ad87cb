# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf classify`."""

from typing import Annotated, Any

from ..captioning.runner import Task
from .console import UsageError
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


# That of transformers' zero-shot image classification.
_TEMPLATE = "This is a photo of {}."

# What a line on the screen holds; a record has every label.
_SHOWN_LABELS = 5


def classify(
    paths: Paths,
    labels: Annotated[str, option("What to choose from.", "A,B,C")],
    template: Annotated[str, option(f'Words around a label ("{_TEMPLATE}").', "TEXT")] = _TEMPLATE,
    model: Model = None,
    output: Output = None,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    dtype: DType = "auto",
    quiet: Quiet = False,
) -> None:
    """Choose labels for images: files, folders and quoted globs."""
    check_batch_size(batch_size)
    check_record_output(output)
    names = _split(labels)
    if template.count("{}") != 1:
        raise UsageError(f"the template {template!r} needs one {{}}, where the label goes")
    choice = model_choice(model, device, dtype, captions=False)

    def load_task() -> Task:
        from ..captioning.tasks import ClassifyTask

        return ClassifyTask(choice, names, template)

    sinks = [lambda: record_sink(output, _line, _fields)]
    run_images(paths, load_task, sinks, batch_size=batch_size, quiet=quiet, records=output)


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


def _fields(scores: dict[str, float]) -> dict[str, Any]:
    return {"label": next(iter(scores)), "scores": scores}
