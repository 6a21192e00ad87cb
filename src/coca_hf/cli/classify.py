# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf classify`."""

from collections.abc import Mapping
from typing import Annotated, Any

from ..batch_inference.jobs import ClassifyJob
from .console import UsageError
from .options import ImageOptions, option, takes_images
from .session import Destination, go_through


# That of transformers' zero-shot image classification.
_TEMPLATE = "This is a photo of {}."

# What a line on the screen holds; a record has every label.
_SHOWN_LABELS = 5


@takes_images
def classify(
    images: ImageOptions,
    labels: Annotated[str, option("What to choose from.", "A,B,C")],
    template: Annotated[str, option(f'Words around a label ("{_TEMPLATE}").', "TEXT")] = _TEMPLATE,
    output: Annotated[
        str | None, option("JSON lines instead of text; - for stdout.", "FILE.jsonl", "--output", "-o")
    ] = None,
) -> None:
    """Choose labels for images: files, folders and quoted globs."""
    images.check()
    names = _split(labels)
    if template.count("{}") != 1:
        raise UsageError(f"the template {template!r} needs one {{}}, where the label goes")
    go_through(
        images,
        lambda: ClassifyJob(images.choice(captions=False), tuple(names), template),
        Destination(output),
        text=_line,
    )


def _split(labels: str) -> list[str]:
    names = [" ".join(name.split()) for name in labels.split(",")]
    if "" in names:
        raise UsageError(f"a label in {labels!r} is empty")
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UsageError(f"the label {repeated!r} is given more than once")
    if len(names) < 2:
        raise UsageError(f"the only label is {labels!r}: give two or more, separated by commas")
    return names


def _line(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{label} {score:.1%}" for label, score in list(fields["scores"].items())[:_SHOWN_LABELS])
