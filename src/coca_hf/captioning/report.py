# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One page with every picture and its caption, complete in itself."""

import base64
import io
import os
import shutil
import time
from collections.abc import Mapping
from datetime import datetime
from html import escape
from pathlib import Path

from PIL import Image

from .errors import OutputError
from .runner import Record
from .sinks import AsideFile, check_output
from .text import count, duration, printable


PICTURE_SIDE = 360
"""Pixels of the longer side of a picture on the page: sharp on dense screens, and some 20 kB each."""

_MARK = '<meta name="generator" content="coca-hf caption">'
_CROSSED_OUT = (
    '<svg viewBox="0 0 24 24" fill="none" stroke-width="1.5" stroke-linecap="round" stroke-linejoin="round" '
    'role="img" aria-label="no picture"><path d="M3 3l18 18M9 4h9a2 2 0 0 1 2 2v9M20 20H6a2 2 0 0 1-2-2V6'
    'M4 16l4-4 8 8"/></svg>'
)


def check_report(path: str) -> None:
    """Raises `OutputError` unless a report can be written at `path`; an older report there will be replaced."""
    if not _is_report(path):
        check_output(path, (".html", ".htm"))


def _is_report(path: str) -> bool:
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return _MARK.encode() in file.read(1024)
    except OSError:
        return False


def report_picture(image: Image.Image) -> bytes:
    """`image` as a small JPEG file, transparent parts white."""
    # Here, because it brings torch along, and a command may end before it needs that.
    from ..image_processing_coca import eight_bit

    image = eight_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(background, image)
    image = image.convert("RGB")
    scale = min(1, PICTURE_SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    file = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3).save(file, "JPEG", quality=82)
    return file.getvalue()


class ReportSink:
    """Writes the page for a caption run; records hold a caption as result and `report_picture`'s bytes as picture.

    `facts` are shown in the head of the page, below the counts and the time, which are known at the end only: cards
    go to a file of their own first, so that memory does not grow with them.
    """

    def __init__(self, path: str, facts: Mapping[str, str]):
        self.facts = facts
        self.captioned = self.failed = 0
        self.started = time.monotonic()
        self.page = AsideFile(path)
        try:
            self.cards = AsideFile(path)
        except OutputError:
            self.page.close()
            raise

    def write(self, records: list[Record]) -> None:
        for record in records:
            self.captioned += record.error is None
            self.failed += record.error is not None
            self.cards.write(_card(record).encode("utf-8"))

    def finish(self) -> None:
        self.page.write(self._head().encode("utf-8"))
        try:
            self.cards.file.seek(0)
            shutil.copyfileobj(self.cards.file, self.page.file)
        except OSError as error:
            raise self.page.failure(error) from None
        self.page.write(
            b"</main>\n<footer>Pictures are reduced copies; the page needs nothing else.</footer>\n</body>\n</html>\n"
        )
        self.page.commit()

    def close(self) -> None:
        self.page.close()
        self.cards.close()

    def _head(self) -> str:
        title = count(self.captioned, "caption")
        failed = f', <span class="failed">{self.failed:,} failed</span>' if self.failed else ""
        facts = {
            **self.facts,
            "Time": duration(time.monotonic() - self.started),
            "Made": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        }
        rows = "".join(
            f"<div><dt>{escape(name)}</dt><dd>{_shown(value)}</dd></div>\n" for name, value in facts.items()
        )
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f"{_MARK}\n"
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{title} – coca-hf</title>\n"
            f"<style>\n{Path(__file__).with_name('report.css').read_text('utf-8')}</style>\n"
            "</head>\n<body>\n<header>\n"
            '<p class="made-by">coca-hf caption</p>\n'
            f"<h1>{title}{failed}</h1>\n<dl>\n{rows}</dl>\n</header>\n<main>\n"
        )


def _shown(text: str) -> str:
    return escape(printable(text))


def _card(record: Record) -> str:
    name = f'<p class="name">{_shown(record.image).replace("/", "/<wbr>")}</p>'
    if record.error is not None:
        return (
            f'<article class="trouble"><div class="picture">{_CROSSED_OUT}</div><div class="words">'
            f'<p class="caption">{_shown(record.error)}</p>{name}</div></article>\n'
        )
    data = base64.b64encode(record.picture).decode("ascii")
    # An empty caption is a possible outcome, and should not look like a fault of the page.
    caption = _shown(record.result) or '<span class="nothing">an empty caption</span>'
    return (
        f'<article><div class="picture"><img alt="{_shown(record.result)}" src="data:image/jpeg;base64,{data}" '
        f'decoding="async"></div><div class="words"><p class="caption">{caption}</p>{name}</div></article>\n'
    )
