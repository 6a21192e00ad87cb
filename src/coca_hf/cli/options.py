# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Options that commands share, and the checks that need nothing but what was typed."""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, get_type_hints

import typer

from ..batch_inference.hf_datasets import DatasetInputs
from ..batch_inference.models import DTYPES, ModelChoice, check_device, check_model
from ..batch_inference.paths import PathList
from ..batch_inference.plan import Inputs, PathInputs
from ..batch_inference.sharing import RayOptions
from .console import UsageError, as_usage_error


def option(text: str, metavar: str | None, *names: str) -> Any:
    """An option whose help is one line on a screen of 80 columns."""
    return typer.Option(*names, metavar=metavar, help=text, show_default=False)


def more_option(text: str, metavar: str | None, *names: str) -> Any:
    """An option that `--help-more` shows: a screen does not hold them all."""
    return typer.Option(*names, metavar=metavar, help=text, show_default=False, hidden=True)


def show_more(context: typer.Context, wanted: bool) -> None:
    if not wanted:
        return
    typer.echo(f"{context.command_path} also has:")
    hidden = [each for each in context.command.params if getattr(each, "hidden", False) and len(each.opts[0]) > 1]
    options: list[Any] = [each for each in hidden if each.opts[0].startswith("--")]
    rows = [(f"{each.opts[0]} {each.metavar or ''}".rstrip(), each.help or "") for each in options]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        typer.echo(f"  {name:{width}}  {text}")
    raise typer.Exit


Quiet = Annotated[bool, option("No progress, no summary.", None, "--quiet", "-q")]


@dataclass(frozen=True)
class ImageOptions:
    """What every command that goes through images takes. `check` and the others raise `UsageError`."""

    # Hidden, because the usage line and the command's first sentence say as much in less space.
    paths: Annotated[list[str] | None, typer.Argument(metavar="PATH", hidden=True)] = None
    model: Annotated[str | None, option("Saved folder or Hub id (default: the bundled one).", "MODEL")] = None
    batch_size: Annotated[int, option("Images in a batch (default: 16).", "N")] = 16
    device: Annotated[str, option("auto (default), cpu, cuda, cuda:1, mps or xpu.", "DEVICE")] = "auto"
    dtype: Annotated[str, option("auto (fastest), float32 (exact), bfloat16 or float16.", "TYPE")] = "auto"
    quiet: Quiet = False
    help_more: Annotated[
        bool, typer.Option("--help-more", help="Options for many images.", callback=show_more, is_eager=True)
    ] = False
    from_file: Annotated[str | None, more_option("A list of paths, one a line.", "FILE")] = None
    member_suffix: Annotated[list[str] | None, more_option("Also read shard members that end in this.", "ENDING")] = (
        None
    )
    dataset: Annotated[str | None, more_option("A Hugging Face dataset: Hub id or folder.", "NAME")] = None
    split: Annotated[str, more_option("Split of the dataset (default: train).", "SPLIT")] = "train"
    column: Annotated[str | None, more_option("Its column of images (default: the first).", "NAME")] = None
    streaming: Annotated[bool, more_option("Read it over the network, without storing it.", None, "--streaming")] = (
        False
    )
    workers: Annotated[
        int | None, more_option("Processes that read images (default: one a core).", "N", "--workers")
    ] = None
    ray: Annotated[str | None, more_option("Share the work on Ray: local, auto or an address.", "ADDRESS")] = None
    ray_workers: Annotated[int, more_option("Workers on Ray, each with a model (default: 1).", "N")] = 1
    ray_gpus: Annotated[float | None, more_option("GPUs for each worker (default: 1 where any are).", "F")] = None
    ray_cpus: Annotated[int, more_option("CPU cores for each worker (default: 1).", "N")] = 1

    def check(self) -> None:
        """All that can be checked without looking at inputs, model and outputs."""
        if self.batch_size < 1:
            raise UsageError(f"batch-size {self.batch_size} is not allowed: give 1 or more")
        if self.workers is not None and not 0 <= self.workers <= 256:
            raise UsageError(f"workers {self.workers} is not allowed: give 0 to 256")
        if self.ray_workers < 1 or self.ray_cpus < 1 or (self.ray_gpus is not None and self.ray_gpus < 0):
            raise UsageError("--ray-workers and --ray-cpus are 1 or more, --ray-gpus is 0 or more")
        if self.ray is None and (self.ray_workers, self.ray_gpus, self.ray_cpus) != (1, None, 1):
            raise UsageError("--ray-workers, --ray-gpus and --ray-cpus need --ray")
        if self.dtype not in DTYPES:
            raise UsageError(f"no such type: {self.dtype!r}. Give {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")

    def inputs(self) -> Inputs:
        """Exactly one source, and nothing that belongs to another."""
        sources = (("PATH", self.paths), ("--from-file", self.from_file), ("--dataset", self.dataset))
        given = [name for name, value in sources if value]
        if not given:
            raise UsageError("no images were given: name files, folders or quoted globs, --from-file or --dataset")
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} cannot be combined: give one of them")
        if self.dataset is not None:
            return DatasetInputs(self.dataset, self.split, self.column, self.streaming)
        if self.column is not None or self.streaming or self.split != "train":
            raise UsageError("--split, --column and --streaming need --dataset")
        with as_usage_error():
            paths = self.paths or [] if self.from_file is None else PathList(self.from_file)
            return PathInputs(paths, self.member_suffix or ())

    def ray_options(self) -> RayOptions | None:
        if self.ray is None:
            return None
        address = None if self.ray == "local" else self.ray
        return RayOptions(address, self.ray_workers, self.ray_gpus, self.ray_cpus)

    def choice(self, *, captions: bool, maps: bool = False) -> ModelChoice:
        with as_usage_error():
            check_device(self.device)
            model = self.model
            if model is None:
                import coca_hf

                model = str(coca_hf.bundled_model())
            check_model(model, captions=captions, maps=maps)
        return ModelChoice(model, self.device, self.dtype)


def takes_images(command: Callable[..., None] | None = None, *, without: Sequence[str] = ()) -> Callable[..., Any]:
    """A command whose parameter `images` is `ImageOptions`, with each of these as an option of its own, but for those
    that it is `without`."""
    if command is None:
        return functools.partial(takes_images, without=without)
    own = inspect.signature(command)
    hints = get_type_hints(ImageOptions, include_extras=True)
    names = [field.name for field in fields(ImageOptions) if field.name not in without]

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        images = ImageOptions(**{name: values.pop(name) for name in names})
        command(images=images, **values)

    shared = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(ImageOptions)
        if field.default is not MISSING and field.name in names
    ]
    rest = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in own.parameters.items()
        if name != "images"
    ]
    # Paths and the model first, then what is the command's own.
    order = [*shared[:2], *rest, *shared[2:]]
    wrapped.__signature__ = own.replace(parameters=order)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in order}
    del wrapped.__wrapped__
    return wrapped
