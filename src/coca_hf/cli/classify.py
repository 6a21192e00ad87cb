# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf classify`."""

from typing import Annotated, Any

from ..captioning.jobs import ClassifyJob
from ..captioning.sources import PathInputs
from .console import UsageError
from .options import (
    BatchSize,
    Device,
    DType,
    ImagePaths,
    Model,
    Output,
    Quiet,
    check_batch_size,
    check_record_output,
    model_choice,
    option,
    processes,
)
from .session import Session, files, record_sink


# That of transformers' zero-shot image classification.
_TEMPLATE = "This is a photo of {}."

# What a line on the screen holds; a record has every label.
_SHOWN_LABELS = 5


def classify(
    paths: ImagePaths,
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
    if processes()[1] > 1:
        raise UsageError(f"this is one of {processes()[1]} processes (WORLD_SIZE says so), and classify runs in one")
    names = _split(labels)
    if template.count("{}") != 1:
        raise UsageError(f"the template {template!r} needs one {{}}, where the label goes")
    job = ClassifyJob(model_choice(model, device, dtype, captions=False), tuple(names), template)
    made_with = job.made_with(batch_size)
    check_record_output(output, made_with)
    sinks = [lambda: record_sink(output, _line, _fields, made_with)]
    Session(PathInputs(paths), job, sinks, batch_size, quiet, places=files(output)).run()


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
