# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf caption`."""

from typing import Annotated

from ..batch_inference.jobs import CaptionJob, CaptionOptions
from ..batch_inference.outputs import Output
from .console import UsageError, as_usage_error
from .options import ImageOptions, more_option, option, takes_images
from .session import Destination, go_through


@takes_images
def caption(
    images: ImageOptions,
    output: Annotated[
        str | None, option("Write a .jsonl, .parquet or .tar; - is stdout.", "FILE", "--output", "-o")
    ] = None,
    embeddings: Annotated[str | None, option("Also write embeddings, to a .npy or .parquet.", "FILE")] = None,
    report: Annotated[str | None, option("Also write a page of pictures, captions and maps.", "FILE.html")] = None,
    maps: Annotated[str | None, option("Also draw where each word looks, a picture an image.", "FOLDER")] = None,
    sidecar: Annotated[
        bool, more_option("Also write a .txt beside each image, if there is none.", None, "--sidecar")
    ] = False,
    prompt: Annotated[str | None, option("Begin every caption with these words.", "TEXT")] = None,
    max_new_tokens: Annotated[int | None, option("Stop after N tokens.", "N")] = None,
    num_beams: Annotated[int | None, option("Beam search with N beams.", "N")] = None,
    num_beam_groups: Annotated[int | None, option("Diverse beam search, beams in N groups.", "N")] = None,
    top_p: Annotated[float | None, option("Sample from the likeliest tokens that sum to P.", "P")] = None,
    top_k: Annotated[int | None, option("Sample from the K likeliest tokens.", "K")] = None,
    temperature: Annotated[float | None, option("Sample; above 1 with more variety.", "T")] = None,
    seed: Annotated[int | None, option("Make sampling repeatable.", "N")] = None,
    overwrite: Annotated[
        bool, more_option("Replace .txt files that exist; else they are kept.", None, "--overwrite")
    ] = False,
) -> None:
    """Caption images: files, folders and quoted globs."""
    images.check()
    if overwrite and not sidecar:
        raise UsageError("--overwrite needs --sidecar")
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
    others = [] if embeddings is None else [Output(embeddings, "embeddings")]
    if report is not None:
        others.append(Output(report, "report", _facts(images.model, options)))
    go_through(
        images,
        lambda: CaptionJob(
            images.choice(captions=True, maps=maps is not None),
            options,
            embeddings=embeddings is not None,
            maps=maps is not None or report is not None,
        ),
        Destination(output, others, sidecar=sidecar, overwrite=overwrite, maps=maps),
        text=lambda fields: str(fields["caption"]),
    )


def _facts(model: str | None, options: CaptionOptions) -> dict[str, str]:
    """What the report says of the run."""
    chosen = {name.replace("_", " ").capitalize(): str(value) for name, value in options.given().items()}
    return {"Model": model or "bundled", **chosen}
