# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Options that commands share, and the checks that need nothing but what was typed."""

from typing import Annotated, Any

import typer

from ..captioning.models import DTYPES, ModelChoice, check_device, check_model
from ..captioning.sinks import check_output
from .console import UsageError, as_usage_error


def option(text: str, metavar: str | None, *names: str) -> Any:
    """An option whose help is one line on a screen of 80 columns."""
    return typer.Option(*names, metavar=metavar, help=text, show_default=False)


# Hidden, because the usage line and the command's first sentence say as much in less space.
Paths = Annotated[list[str], typer.Argument(metavar="PATH", hidden=True)]
Model = Annotated[str | None, option("Saved folder or Hub id (default: the bundled one).", "MODEL")]
BatchSize = Annotated[int, option("Images a batch (default: 16).", "N")]
Output = Annotated[str | None, option("JSON lines instead of text; - for stdout.", "FILE.jsonl", "--output", "-o")]
Device = Annotated[str, option("auto (default), cpu, cuda, cuda:1, mps or xpu.", "DEVICE")]
DType = Annotated[str, option("auto (default), float32, bfloat16 or float16.", "TYPE")]
Quiet = Annotated[bool, option("No progress, no summary.", None, "--quiet", "-q")]


def check_batch_size(batch_size: int) -> None:
    """Raises `UsageError`."""
    if batch_size < 1:
        raise UsageError(f"batch-size {batch_size} is not allowed: give 1 or more")


def check_record_output(output: str | None) -> None:
    """Raises `UsageError` unless `output` can take JSON lines."""
    if output is not None:
        with as_usage_error():
            check_output(output, (".jsonl",), streams=True)


def model_choice(model: str | None, device: str, dtype: str, *, captions: bool) -> ModelChoice:
    """Raises `UsageError`."""
    if dtype not in DTYPES:
        raise UsageError(f"no such type: {dtype!r}. Give {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
    with as_usage_error():
        check_device(device)
        if model is None:
            import coca_hf

            model = str(coca_hf.bundled_model())
        check_model(model, captions=captions)
    return ModelChoice(model, device, dtype)
