# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf export`."""

from pathlib import Path
from typing import Annotated

import typer

from . import console
from .options import Quiet, option


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Saved folder or Hub id.")],
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Folder to make.")],
    format: Annotated[
        str, option("onnx (default), openvino, executorch, or web: a page.", "FORMAT", "--format")
    ] = "onnx",
    int8: Annotated[
        bool, option("Weights of 8 bits: smaller, faster, a few captions differ.", None, "--int8")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Export a model for another runtime, or for a browser.

    Every command takes the FOLDER as its --model. A large model takes minutes: each program is
    checked against PyTorch, and the folder is there when all of it is.
    """
    from ..exporting.arguments import check_arguments
    from ..exporting.errors import ExportError

    try:
        check_arguments(model, Path(folder), format, int8=int8)
    except ExportError as error:
        raise console.UsageError(str(error)) from error

    from ..exporting.folder import export as export_model

    console.silence_libraries()
    try:
        made = export_model(
            model, folder, format, int8=int8, say=(lambda message: None) if quiet else console.complain
        )
    except ExportError as error:
        console.complain(f"{error}.")
        raise typer.Exit(1) from error
    if not quiet:
        size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
        console.complain(f"{size / 1e6:,.0f} MB are in {folder}")
