# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf convert`."""

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
    quiet: Quiet = False,
) -> None:
    """Convert an open_clip checkpoint to a saved folder."""
    from ..conversion.errors import ConversionError
    from ..conversion.sources import check_arguments

    try:
        check_arguments(source, output, config, tokenizer)
    except ConversionError as error:
        raise console.UsageError(str(error).rstrip(".")) from error

    from ..conversion.convert import convert_open_clip

    console.silence_libraries()
    try:
        model = convert_open_clip(source, output, config, tokenizer)
    except ConversionError as error:
        console.complain(str(error))
        raise typer.Exit(1) from error
    if not quiet:
        console.complain(f"{model.num_parameters():,} parameters are in {output}")
