# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf convert`."""

import logging
from typing import Annotated

import typer

from . import console
from .options import Quiet, option


def convert(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Weights file, folder or Hub repository.")],
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Folder to make.")],
    config: Annotated[
        str | None,
        option(
            "Its configuration: a JSON file, or coca_ViT-B-32, coca_ViT-L-14, coca_base, conch_ViT-B-16.", "CONFIG"
        ),
    ] = None,
    tokenizer: Annotated[str | None, option("Its tokenizer: vocabulary file, folder or Hub id.", "TOKENIZER")] = None,
    image_size: Annotated[
        str | None, option("Resize its images to N pixels (default: as trained).", "N|HxW", "--image-size")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Convert an open_clip checkpoint to a saved folder."""
    from ..conversion.errors import ConversionError
    from ..conversion.sources import check_arguments

    size = None if image_size is None else _size(image_size)
    try:
        check_arguments(source, output, config, tokenizer)
    except ConversionError as error:
        raise console.UsageError(str(error).rstrip(".")) from error

    from ..conversion.convert import convert_open_clip

    console.silence_libraries()
    if not quiet:
        _show_notes()
    try:
        model = convert_open_clip(source, output, config, tokenizer, image_size=size)
    except ConversionError as error:
        console.complain(str(error))
        raise typer.Exit(1) from error
    if not quiet:
        console.complain(f"{model.num_parameters():,} parameters are in {output}")


def _show_notes() -> None:
    """What the conversion found by itself is said on stderr, a line each."""
    notes = logging.Handler()
    notes.emit = lambda record: console.complain(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("coca_hf.conversion")
    logger.handlers, logger.propagate = [notes], False
    logger.setLevel(logging.INFO)


def _size(text: str) -> int | tuple[int, int]:
    """ "336" or "336x448", height first. Raises `UsageError`."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise console.UsageError(f"image-size {text} is not allowed: give 336, or 336x448 for height and width")
    height, *rest = map(int, parts)
    return (height, rest[0]) if rest else height
