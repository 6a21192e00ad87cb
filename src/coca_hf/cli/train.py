# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf train`."""

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..batch_inference.errors import InputError
from ..batch_inference.wording import count, duration
from . import console
from .options import Quiet, more_option, option, show_more


if TYPE_CHECKING:
    from ..training import TrainingResult


def train(
    data: Annotated[list[str] | None, typer.Argument(metavar="DATA", hidden=True)] = None,
    model: Annotated[str | None, option("What to fine-tune (default: the bundled model).", "MODEL")] = None,
    output: Annotated[str | None, option("Folder to make.", "FOLDER", "--output", "-o")] = None,
    init: Annotated[str | None, option("Train from nothing: coca_ViT-B-32, or a JSON file.", "CONFIG")] = None,
    config: Annotated[str | None, option("Any of these options, from YAML.", "FILE.yaml")] = None,
    epochs: Annotated[int | None, option("Passes through the data (default: 1).", "N")] = None,
    max_steps: Annotated[int | None, option("Steps in all, instead of epochs.", "N")] = None,
    batch_size: Annotated[int | None, option("Images in a micro-batch (default: 16).", "N")] = None,
    accumulate: Annotated[int | None, option("Micro-batches in a step, their negatives shared.", "K")] = None,
    learning_rate: Annotated[float | None, option("Default: 1e-5, with --init 5e-4.", "RATE")] = None,
    caption_weight: Annotated[float | None, more_option("Weight of the caption loss.", "W")] = None,
    contrastive_weight: Annotated[float | None, more_option("Weight of the contrastive loss.", "W")] = None,
    freeze: Annotated[str | None, option("Leave these as they are: vision,text,decoder.", "PARTS")] = None,
    lora: Annotated[int | None, option("Train adapters of this rank instead.", "RANK")] = None,
    evaluate: Annotated[str | None, option("Data to measure on, before and after.", "DATA")] = None,
    seed: Annotated[int | None, more_option("Seed of all random choices (default: 0).", "N")] = None,
    device: Annotated[str | None, more_option("auto (default), cpu, cuda, mps or xpu.", "DEVICE")] = None,
    dtype: Annotated[str | None, more_option("auto, float32, bfloat16 or float16.", "TYPE")] = None,
    quiet: Quiet = False,
    help_more: Annotated[
        bool, typer.Option("--help-more", help="All other options.", callback=show_more, is_eager=True)
    ] = False,
    image_column: Annotated[str | None, more_option("Column of images (default: image).", "NAME")] = None,
    caption_column: Annotated[str | None, more_option("Column of captions (default: caption).", "NAME")] = None,
    split: Annotated[str | None, more_option("Split of a Hub data set (default: train).", "SPLIT")] = None,
    image_folder: Annotated[str | None, more_option("What paths are relative to.", "FOLDER")] = None,
    streaming: Annotated[bool | None, more_option("Read a Hub data set as it comes.", None, "--streaming")] = None,
    strict: Annotated[bool | None, more_option("An unreadable image ends the run.", None, "--strict")] = None,
    captions: Annotated[str | None, more_option("One of each image an epoch (default), or all.", "one|all")] = None,
    augment: Annotated[str | None, more_option("crop 90 to 100 % (default), or none.", "crop|none")] = None,
    shuffle: Annotated[
        bool | None, more_option("Shuffle (default), or keep the data's order.", None, "--shuffle/--no-shuffle")
    ] = None,
    workers: Annotated[int | None, more_option("Processes that read images ahead.", "N")] = None,
    warmup_steps: Annotated[int | None, more_option("Default: a tenth, up to 1,000.", "N")] = None,
    scheduler: Annotated[str | None, more_option("cosine (default), linear, constant.", "NAME")] = None,
    weight_decay: Annotated[float | None, more_option("For matrices (default: 0.1).", "X")] = None,
    beta1: Annotated[float | None, more_option("AdamW's (default: 0.9).", "X")] = None,
    beta2: Annotated[float | None, more_option("AdamW's (default: 0.98).", "X")] = None,
    adam_epsilon: Annotated[float | None, more_option("AdamW's (default: 1e-6).", "X")] = None,
    clip_norm: Annotated[float | None, more_option("Largest norm of a gradient (default: 1).", "X")] = None,
    ema: Annotated[float | None, more_option("Save the weights' moving average.", "DECAY")] = None,
    average_with_start: Annotated[float | None, more_option("Mix in the start's weights.", "SHARE")] = None,
    gradient_checkpointing: Annotated[
        bool | None, more_option("Less memory, a third more time.", None, "--gradient-checkpointing")
    ] = None,
    vision_from: Annotated[str | None, more_option("With --init: take a CLIP's image tower.", "MODEL")] = None,
    text_from: Annotated[str | None, more_option("With --init: take a CLIP's text tower.", "MODEL")] = None,
    tokenizer: Annotated[str | None, more_option("With --init (default: CLIP's).", "TOKENIZER")] = None,
    evaluate_every: Annotated[int | None, more_option("Steps between evaluations (default: an epoch).", "N")] = None,
    best: Annotated[str | None, more_option("Save the model whose METRIC was highest.", "METRIC")] = None,
    save_every: Annotated[int | None, more_option("Steps between checkpoints (default: 500).", "N")] = None,
    log_every: Annotated[int | None, more_option("Steps between lines of the log (default: 10).", "N")] = None,
    keep: Annotated[int | None, more_option("Checkpoints to keep (default: 1).", "N")] = None,
    report_to: Annotated[str | None, more_option("tensorboard, trackio or the like.", "NAMES")] = None,
) -> None:
    """Train or fine-tune on images with captions. The same command again continues."""
    given = {name: value for name, value in locals().items() if value is not None}
    for name in ("config", "quiet", "help_more"):
        given.pop(name, None)
    if not given.get("data"):
        given.pop("data", None)

    from ..training.errors import TrainingError, TrainingFolderError, TrainingInterrupted, TrainingOptionError
    from ..training.folder import RunFolder
    from ..training.options import TrainingOptions, read_yaml

    rank = os.environ.get("RANK", "0")
    quiet = quiet or rank != "0"
    try:
        options = TrainingOptions.of({} if config is None else read_yaml(config), given)
        options.check_ready()
        RunFolder(options)
        from ..training.run import train as run

        console.silence_libraries()
        say = (lambda message: None) if quiet else console.complain
        result = run(progress=console.progress(quiet), say=say, **vars(options))
    except (TrainingOptionError, TrainingFolderError, InputError) as error:
        raise console.UsageError(str(error).rstrip(".")) from error
    except TrainingInterrupted as stop:
        if rank == "0":
            console.complain(str(stop))
        raise typer.Exit(130) from None
    except TrainingError as error:
        console.complain(str(error))
        raise typer.Exit(1) from error
    if not quiet:
        for line in _summary(result):
            console.complain(line)
    raise typer.Exit(1 if result.skipped and "TORCHELASTIC_RUN_ID" not in os.environ else 0)


def _summary(result: "TrainingResult") -> Any:
    if result.was_finished:
        yield f"{result.output} holds the finished run already"
        return
    for name, after in result.after.items():
        yield f"{name.replace('_', ' ')}: {result.before[name]:.1%} before, {after:.1%} now"
    if result.skipped:
        yield f"{count(result.skipped, 'image')} could not be read: see skipped.jsonl"
    if result.truncated:
        yield f"{count(result.truncated, 'caption')} cut at the model's context"
    yield (
        f"{count(result.steps, 'step')}, {count(result.samples, 'sample')} in {duration(result.seconds)}, written to "
        f"{result.output}; the model waited {result.waiting_share:.1%} of its time for images"
    )
