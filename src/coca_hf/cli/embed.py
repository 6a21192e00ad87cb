# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf embed`."""

from typing import Annotated

from ..captioning.runner import Task
from .console import as_usage_error
from .options import BatchSize, Device, DType, Model, Paths, Quiet, check_batch_size, model_choice, option
from .session import run_images


def embed(
    paths: Paths,
    output: Annotated[str, option("FILE.npy (+ FILE.npy.jsonl) or FILE.parquet.", "FILE", "--output", "-o")],
    model: Model = None,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    dtype: DType = "auto",
    quiet: Quiet = False,
) -> None:
    """Embed images: files, folders and quoted globs."""
    # Here, because it brings numpy along, which the help of no command should wait for.
    from ..captioning.embedding_sinks import check_embedding_output, open_embedding_sink

    check_batch_size(batch_size)
    with as_usage_error():
        check_embedding_output(output)
    choice = model_choice(model, device, dtype, captions=False)

    def load_task() -> Task:
        from ..captioning.tasks import EmbedTask

        return EmbedTask(choice)

    run_images(
        paths, load_task, [lambda: open_embedding_sink(output)], batch_size=batch_size, quiet=quiet, products=[output]
    )
