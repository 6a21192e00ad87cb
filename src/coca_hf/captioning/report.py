# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One page with every picture and its caption, complete in itself."""

import base64
import io
import os
import shutil
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from .notes import MadeWith
from .runner import Record
from .sinks import AsideFile, Journal, JournaledSink, check_output
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


class ReportSink(JournaledSink):
    """Writes the page for a caption run; records hold `report_picture`'s bytes as picture, and what `caption` makes of
    their result is the caption.

    `facts` are shown in the head of the page, below the counts and the time, which are known at the end only: cards
    are in the journal till then, so that memory does not grow with them.
    """

    def __init__(
        self,
        path: str,
        facts: Mapping[str, str],
        caption: Callable[[Any], str] = str,
        made_with: MadeWith | None = None,
    ):
        super().__init__(path, made_with)
        self.facts = facts
        self.caption = caption
        self.started = time.monotonic()

    def encode(self, record: Record) -> tuple[dict[str, Any], bytes]:
        caption = self.caption(record.result) if record.error is None else ""
        return {"caption": caption}, _card(record, caption).encode("utf-8")

    def convert(self, journal: Journal) -> None:
        facts = journal.facts()
        page = AsideFile(self.path)
        try:
            page.write(self._head(facts["images"], facts["records"] - facts["images"]).encode("utf-8"))
            journal.data.seek(0)
            shutil.copyfileobj(journal.data, page.file)
            page.write(
                b"</main>\n<footer>Pictures are reduced copies; the page needs nothing else.</footer>\n"
                b"</body>\n</html>\n"
            )
            page.commit()
        finally:
            page.close()

    def _head(self, captioned: int, number_failed: int) -> str:
        title = count(captioned, "caption")
        failed = f', <span class="failed">{number_failed:,} failed</span>' if number_failed else ""
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


def _card(record: Record, caption: str) -> str:
    name = f'<p class="name">{_shown(record.image).replace("/", "/<wbr>")}</p>'
    if record.error is not None:
        return (
            f'<article class="trouble"><div class="picture">{_CROSSED_OUT}</div><div class="words">'
            f'<p class="caption">{_shown(record.error)}</p>{name}</div></article>\n'
        )
    data = base64.b64encode(record.picture).decode("ascii")
    # An empty caption is a possible outcome, and should not look like a fault of the page.
    shown = _shown(caption) or '<span class="nothing">an empty caption</span>'
    return (
        f'<article><div class="picture"><img alt="{_shown(caption)}" src="data:image/jpeg;base64,{data}" '
        f'decoding="async"></div><div class="words"><p class="caption">{shown}</p>{name}</div></article>\n'
    )
