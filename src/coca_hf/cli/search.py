# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf search`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..batch_inference.errors import MemoryOnDeviceError, ModelError, OutputError
from ..batch_inference.files import AsideFile
from ..batch_inference.wording import shortened
from . import console
from .console import UsageError, complain
from .options import Quiet, option


if TYPE_CHECKING:
    from ..search import Index
    from ..search.results import Found


_FORMATS = ("text", "json", "html")


def search(
    index: Annotated[str, typer.Argument(metavar="INDEX", help="What 'coca-hf index' made.", show_default=False)],
    query: Annotated[
        str | None, typer.Argument(metavar="QUERY", help='Words, such as "two red circles".', show_default=False)
    ] = None,
    image: Annotated[str | None, option("Search by this picture instead.", "FILE")] = None,
    duplicates: Annotated[bool, option("Groups of photos that are nearly the same.", None, "--duplicates")] = False,
    top: Annotated[int, option("Show N at most (default: 10).", "N")] = 10,
    nearest: Annotated[bool, option("Show the nearest even if they do not match.", None, "--nearest")] = False,
    form: Annotated[str, option("text (default), json or html.", "FORMAT", "--format")] = "text",
    output: Annotated[str | None, option("Write to a file instead of stdout.", "FILE", "--output", "-o")] = None,
    model: Annotated[str | None, option("Where the index's model is now.", "MODEL")] = None,
    device: Annotated[str, option("auto (default), cpu, cuda, cuda:1, mps or xpu.", "DEVICE")] = "auto",
    quiet: Quiet = False,
) -> None:
    """Search an index by words or by a picture."""
    given = [query is not None, image is not None, duplicates]
    if sum(given) != 1:
        raise UsageError("give one of these: a QUERY in quotes, --image FILE or --duplicates")
    if form not in _FORMATS:
        raise UsageError(f"no such format: {form!r}. Give {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}")
    if top < 1:
        raise UsageError(f"top {top} is not allowed: give 1 or more")
    if output is not None:
        _check_output(output)
    from ..search import Index, SearchError
    from ..search.results import FORMATS

    console.silence_libraries()
    try:
        opened = Index.open(index, model, device=device)
        found = _duplicates(opened) if duplicates else _matches(opened, query, image, top, cutoff=not nearest)
    except MemoryOnDeviceError:
        raise
    except (SearchError, ModelError) as error:
        raise UsageError(str(error)) from error
    pieces = FORMATS[form](found)
    if output is None:
        for piece in pieces:
            sys.stdout.write(piece)
    else:
        with AsideFile(output) as file:
            for piece in pieces:
                file.write(piece.encode("utf-8", "backslashreplace"))
            file.commit()
    if not found.groups and not quiet:
        complain(found.nothing)


def _check_output(path: str) -> None:
    """Before anything is loaded."""
    if os.path.isdir(path):
        raise UsageError(f"cannot write to {path!r}: it is a folder")
    try:
        with AsideFile(path):
            pass
    except OutputError as error:
        raise UsageError(str(error)) from error


def _matches(index: "Index", query: str | None, image: str | None, top: int, *, cutoff: bool) -> "Found":
    from ..search.results import Found

    hits = index.search(query if query is not None else Path(image or ""), top, cutoff=cutoff)
    wanted = repr(shortened(query)) if query is not None else image or ""
    facts = {
        "Query" if query is not None else "Picture": query or wanted,
        "Index": f"{index.folder}, {len(index):,} photos",
    }
    hint = "; --nearest shows what comes nearest" if cutoff else ""
    return Found([hits] if hits else [], facts, f"nothing matches {wanted}{hint}")


def _duplicates(index: "Index") -> "Found":
    from ..search.results import Found

    facts = {"Index": f"{index.folder}, {len(index):,} photos"}
    return Found(index.duplicates(), facts, "no two photos are nearly the same", grouped=True)
