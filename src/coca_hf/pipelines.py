# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`transformers.pipeline` with the task "image-to-text", which transformers 5 no longer has."""

from pathlib import Path
from typing import Any

import transformers

from . import bundled_model
from .pipeline_coca import ImageToTextPipeline


def pipeline(task: str | None = None, model: Any = None, *args: Any, **kwargs: Any) -> transformers.Pipeline:
    """`transformers.pipeline`, plus the task "image-to-text" for CoCa and whatever else describes images.

    The class comes from this package, so "image-to-text" needs no `trust_remote_code`.

    Args:
        task: "image-to-text", or a task of transformers.
        model: Folder, Hub id or model. None: for "image-to-text" the bundled model, else transformers' default.
        args, kwargs: All other arguments of `transformers.pipeline`.

    Returns:
        An `ImageToTextPipeline`, or transformers' own pipeline for the task.
    """
    if isinstance(model, Path):
        model = str(model)
    if task != "image-to-text":
        return transformers.pipeline(task, model, *args, **kwargs)
    kwargs.setdefault("pipeline_class", ImageToTextPipeline)
    # Under its own name, transformers refuses the task up to 5.18, and from 5.19 on warns that it is another.
    made = transformers.pipeline(
        "image-text-to-text", str(bundled_model()) if model is None else model, *args, **kwargs
    )
    made.task = task
    return made
