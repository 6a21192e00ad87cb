# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One page with every picture and its caption, complete in itself."""

import base64
import io
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import Image

from .files import AsideFile
from .inputs import Record
from .maps import unpacked_maps
from .record_log import LoggedRecords
from .wording import count, printable


PICTURE_SIDE = 360
"""Pixels of the longer side of a picture on the page: sharp on dense screens, and some 20 kB each."""


def is_report(path: str) -> bool:
    """Whether the file there is a page that `write_report` made."""
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return _mark("coca-hf caption").encode() in file.read(1024)
    except OSError:
        return False


def report_picture(image: Image.Image) -> bytes:
    """`image` as a small JPEG file, transparent parts white."""
    # Here, because it brings torch along, and a command may end before it needs that.
    from ..seeing.pictures import opaque

    image = opaque(image)
    scale = min(1, PICTURE_SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    file = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3).save(file, "JPEG", quality=82)
    return file.getvalue()


def write_report(records: LoggedRecords, path: str, facts: Mapping[str, str]) -> None:
    """
    The page for a caption run, whose records hold `report_picture`'s bytes as picture.

    Args:
        facts: shown in the head of the page, for example the model.

    Raises:
        OutputError: The page cannot be written.
    """
    write_page(
        path,
        Path(__file__).with_name("report.html.jinja"),
        command="coca-hf caption",
        title=count(records.images, "caption"),
        facts=facts,
        records=records,
        number_failed=records.failed,
        maps=_maps,
    )


def _maps(record: Record) -> list[tuple[str, bytes]]:
    """The words of a caption, and for each the map that lies over the picture, as a PNG file."""
    from ..seeing.pictures import veil

    shown = [(word, veil(small)) for word, small in unpacked_maps(record.maps)]
    # Where the caption is longer than the model's context, the rest has no maps.
    rest = str(record.fields.get("caption", "")).split()[len(shown) :]
    return [*shown, *((word, b"") for word in rest)] if shown else []


def write_page(path: str, template: str | Path, **fields: Any) -> None:
    """`page_pieces` of the template and the fields, into a file. Raises `OutputError`."""
    with AsideFile(path) as file:
        for piece in page_pieces(template, **fields):
            file.write(piece.encode("utf-8"))
        file.commit()


def page_pieces(
    template: str | Path, *, command: str, title: str, facts: Mapping[str, str], **fields: Any
) -> Iterator[str]:
    """
    A page complete in itself, piece by piece.

    Args:
        template: a file that extends `page.html.jinja`, which lies here. Beside jinja's own it has the filters
            `printable`, `breakable` (a path that may be broken behind each slash) and `base64`.
        command: what made it, for example "coca-hf caption".
        facts: shown in the head of the page, for example the model.
        fields: all else that the template names.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    home = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader([Path(template).parent, home]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["printable"] = printable
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    environment.filters["breakable"] = lambda name: escape(printable(name)).replace("/", Markup("/<wbr>"))
    return environment.get_template(Path(template).name).generate(
        mark=Markup(_mark(command)),
        style=Markup((home / "report.css").read_text("utf-8")),
        command=command,
        title=title,
        facts={**facts, "Made": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")},
        **fields,
    )


def _mark(command: str) -> str:
    return f'<meta name="generator" content="{command}">'
