# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Options that commands share, and the checks that need nothing but what was typed."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ..captioning.containers import DatasetInputs
from ..captioning.models import DTYPES, ModelChoice, check_device, check_model
from ..captioning.notes import MadeWith
from ..captioning.sinks import check_output
from ..captioning.sources import Inputs, PathInputs, PathList
from .console import UsageError, as_usage_error


def option(text: str, metavar: str | None, *names: str) -> Any:
    """An option whose help is one line on a screen of 80 columns."""
    return typer.Option(*names, metavar=metavar, help=text, show_default=False)


def more_option(text: str, metavar: str | None, *names: str) -> Any:
    """An option that `--help-more` shows: a screen does not hold them all."""
    return typer.Option(*names, metavar=metavar, help=text, show_default=False, hidden=True)


def _show_more(context: typer.Context, wanted: bool) -> None:
    if not wanted:
        return
    typer.echo(f"For many images, {context.command_path} also has:")
    hidden = [each for each in context.command.params if getattr(each, "hidden", False) and len(each.opts[0]) > 1]
    options: list[Any] = [each for each in hidden if each.opts[0].startswith("--")]
    rows = [(f"{each.opts[0]} {each.metavar or ''}".rstrip(), each.help or "") for each in options]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        typer.echo(f"  {name:{width}}  {text}")
    raise typer.Exit


# Hidden, because the usage line and the command's first sentence say as much in less space.
Paths = Annotated[list[str] | None, typer.Argument(metavar="PATH", hidden=True)]
ImagePaths = Annotated[list[str], typer.Argument(metavar="PATH", hidden=True)]
Model = Annotated[str | None, option("Saved folder or Hub id (default: the bundled one).", "MODEL")]
BatchSize = Annotated[int, option("Images a batch (default: 16).", "N")]
Output = Annotated[str | None, option("JSON lines instead of text; - for stdout.", "FILE.jsonl", "--output", "-o")]
Device = Annotated[str, option("auto (default), cpu, cuda, cuda:1, mps or xpu.", "DEVICE")]
DType = Annotated[str, option("auto (default), float32, bfloat16 or float16.", "TYPE")]
Quiet = Annotated[bool, option("No progress, no summary.", None, "--quiet", "-q")]
HelpMore = Annotated[
    bool,
    typer.Option("--help-more", help="Options for many images.", callback=_show_more, is_eager=True),
]

FromFile = Annotated[str | None, more_option("A list of paths, one a line.", "FILE")]
Dataset = Annotated[str | None, more_option("A Hugging Face dataset: Hub id or folder.", "NAME")]
Split = Annotated[str, more_option("Which part of it (default: train).", "SPLIT")]
Column = Annotated[str | None, more_option("Its images (default: the first such column).", "NAME")]
Streaming = Annotated[bool, more_option("Read it as it comes, without storing it.", None, "--streaming")]
Workers = Annotated[
    int | None, more_option("Processes that read images (default: one a core; 0: none).", "N", "--workers")
]
Ray = Annotated[
    str | None, more_option("Share the work on Ray: its ADDRESS, or one of its own.", "[ADDRESS]", "--ray")
]
RayWorkers = Annotated[int, more_option("Models at work there (default: 1).", "N")]
RayGpus = Annotated[float | None, more_option("Of a GPU for each (default: 1 where there are GPUs).", "F")]
RayCpus = Annotated[int, more_option("Processors for each (default: 1).", "N")]


@dataclass(frozen=True)
class RayChoice:
    """A cluster's address, None for one of this run's own, and what each of `workers` models gets there."""

    address: str | None
    workers: int
    gpus: float | None
    cpus: int


def check_batch_size(batch_size: int) -> None:
    """Raises `UsageError`."""
    if batch_size < 1:
        raise UsageError(f"batch-size {batch_size} is not allowed: give 1 or more")


def check_workers(workers: int | None) -> None:
    """Raises `UsageError`."""
    if workers is not None and not 0 <= workers <= 256:
        raise UsageError(f"workers {workers} is not allowed: give 0 to 256")


def check_record_output(output: str | None, made_with: MadeWith) -> None:
    """Raises `UsageError` unless `output` can take JSON lines, or continue those of a run of the same."""
    if output is not None:
        with as_usage_error():
            check_output(output, (".jsonl",), streams=True, made_with=made_with)


def chosen_inputs(
    paths: Sequence[str] | None,
    from_file: str | None = None,
    dataset: str | None = None,
    split: str = "train",
    column: str | None = None,
    streaming: bool = False,
) -> Inputs:
    """Raises `UsageError` unless there is exactly one source, or what is left out is a Hugging Face dataset's."""
    given = [name for name, value in (("PATH", paths), ("--from-file", from_file), ("--dataset", dataset)) if value]
    if not given:
        raise UsageError("no images were given: name files, folders or quoted globs, --from-file or --dataset")
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other")
    if dataset is None and (column is not None or streaming or split != "train"):
        raise UsageError("--split, --column and --streaming belong to --dataset")
    if dataset is not None:
        return DatasetInputs(dataset, split, column, streaming)
    if from_file is None:
        return PathInputs(paths or [])
    with as_usage_error():
        return PathInputs(PathList(from_file))


def ray_choice(ray: str | None, workers: int, gpus: float | None, cpus: int) -> RayChoice | None:
    """Raises `UsageError`."""
    if workers < 1 or cpus < 1 or (gpus is not None and gpus < 0):
        raise UsageError("--ray-workers and --ray-cpus are 1 or more, --ray-gpus is 0 or more")
    if ray is None:
        if (workers, gpus, cpus) != (1, None, 1):
            raise UsageError("--ray-workers, --ray-gpus and --ray-cpus belong to --ray")
        return None
    return RayChoice(None if ray == "local" else ray, workers, gpus, cpus)


def processes() -> tuple[int, int]:
    """This process's number and how many there are, as `accelerate launch` and torchrun tell them."""
    try:
        return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    except ValueError:
        return 0, 1


def processes_here() -> int:
    """How many of them are on this machine."""
    here = os.environ.get("LOCAL_WORLD_SIZE", "")
    return int(here) if here.isdigit() and int(here) else processes()[1]


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
