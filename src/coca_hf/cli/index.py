# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf index`."""

from typing import Annotated, Any

import typer

from ..batch_inference.errors import MemoryOnDeviceError, ModelError
from ..batch_inference.plan import PathInputs
from ..batch_inference.sharing import processes
from ..batch_inference.summary import RunInterrupted
from ..batch_inference.wording import count, duration
from . import console
from .console import UsageError, complain, progress
from .options import ImageOptions, option, takes_images


@takes_images(without=("dataset", "split", "column", "streaming"))
def index(
    images: ImageOptions,
    output: Annotated[str, option("Folder of the index; an existing one is updated.", "INDEX", "--output", "-o")],
    num_beams: Annotated[int | None, option("Beams of a caption; 1 is fastest.", "N")] = None,
) -> None:
    """Index images for 'coca-hf search': files, folders and globs."""
    images.check()
    inputs = images.inputs()
    assert isinstance(inputs, PathInputs)
    if processes()[1] > 1:
        raise UsageError(
            "an index is made by one process, and WORLD_SIZE says that there are more: share it with --ray"
        )
    choice = images.choice(captions=True)
    from ..search import SearchError, build_index

    console.silence_libraries()
    try:
        summary = build_index(
            inputs.paths,
            output,
            choice,
            num_beams=num_beams,
            member_suffixes=inputs.member_suffixes,
            batch_size=images.batch_size,
            workers=images.workers,
            ray=images.ray_options(),
            progress=progress(images.quiet),
            say=(lambda message: None) if images.quiet else complain,
            on_failure=lambda record: complain(f"{record.image}: {record.error}"),
        )
    except MemoryOnDeviceError:
        raise
    except (SearchError, ModelError) as error:
        raise UsageError(str(error)) from error
    except RunInterrupted as interruption:
        complain(f"stopped after {_how_far(interruption)}; the same command continues")
        raise typer.Exit(130) from None
    if not images.quiet:
        complain(_summary(summary, output))
    raise typer.Exit(1 if summary.failed else 0)


def _how_far(interruption: RunInterrupted) -> str:
    done, total = interruption.summary.records, interruption.summary.total
    return f"{done:,}" if total is None else f"{done:,} of {count(total, 'new photo')}"


def _summary(summary: Any, output: str) -> str:
    parts = (
        (summary.added, "added"),
        (summary.moved, "moved"),
        (summary.removed, "removed"),
        (summary.failed, "failed"),
    )
    told = ", ".join(f"{number:,} {what}" for number, what in parts if number) or "nothing has changed"
    words = f"{count(summary.photos, 'photo')} in {output}: {told}, in {duration(summary.seconds)}"
    run = summary.run
    if run is not None and run.model_words is not None:
        words += f"; {run.model_words}"
    if run is not None and run.busy_share is not None:
        words += f"; the model ran {run.busy_share:.0%} of its time"
    return words
