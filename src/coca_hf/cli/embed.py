# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf embed`."""

from typing import Annotated

from ..batch_inference.jobs import EmbedJob
from ..batch_inference.outputs import Output
from .options import ImageOptions, option, takes_images
from .session import Destination, go_through


@takes_images
def embed(
    images: ImageOptions,
    output: Annotated[str, option("FILE.npy (+ FILE.npy.jsonl) or FILE.parquet.", "FILE", "--output", "-o")],
) -> None:
    """Embed images: files, folders and quoted globs."""
    images.check()
    go_through(
        images,
        lambda: EmbedJob(images.choice(captions=False)),
        Destination(None, [Output(output, "embeddings")], lines=False),
        text=str,
    )
