# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The page is complete in itself, shows everything, and lets nothing in a name or caption act."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coca_hf.batch_inference.inputs import Record
from coca_hf.batch_inference.record_log import LoggedRecords
from coca_hf.batch_inference.report import PICTURE_SIDE, is_report, report_picture, write_report


PICTURE = report_picture(Image.new("RGB", (8, 8), "teal"))


class Records(LoggedRecords):
    def __init__(self, records: tuple[Record, ...]):
        self.own = records
        self.failed = sum(record.error is not None for record in records)
        self.images = len(records) - self.failed

    def __iter__(self):
        return iter(self.own)


def page(*records: Record, facts: dict[str, str] | None = None) -> str:
    write_report(Records(records), "report.html", facts or {})
    return Path("report.html").read_text("utf-8")


def captioned(image: str, caption: str) -> Record:
    return Record(image, {"caption": caption}, picture=PICTURE)


class Tags(HTMLParser):
    """Collects tags with their attributes, and text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_each_record_is_a_picture_beside_its_caption():
    html = page(captioned("a.jpg", "a cat"), captioned("b.jpg", "a dog"))
    images = [attributes for tag, attributes in Tags(html).tags if tag == "img"]
    assert [image["alt"] for image in images] == ["a cat", "a dog"]
    data = images[0]["src"].removeprefix("data:image/jpeg;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (8, 8)
    assert re.findall(r'class="caption">(.*?)</p>', html) == ["a cat", "a dog"]


def test_nothing_is_loaded_from_elsewhere():
    html = page(captioned("a.jpg", "a cat"))
    assert not re.search(r"(?:src|href)=\"(?!data:)|url\(|@import|<script", html)


def test_an_error_is_shown_with_its_reason():
    html = page(Record("a.jpg", error="an empty file"))
    assert "an empty file" in Tags(html).text
    assert "a.jpg" in Tags(html).text


def test_the_head_gives_counts_facts_and_time():
    html = page(
        captioned("a.jpg", "a cat"),
        Record("b.jpg", error="an empty file"),
        facts={"Model": "my/model", "Num beams": "4", "Time": "4.2 s"},
    )
    text = Tags(html).text
    assert "1 caption, 1 failed" in text
    assert re.search(r"Model\s*my/model", text)
    assert re.search(r"Num beams\s*4", text)
    assert re.search(r"Time\s*\d+\.\d s", text)


def test_markup_in_names_and_captions_is_text():
    nasty = "<script>alert(1)</script>\"'&"
    html = page(captioned(nasty, nasty), Record(nasty, error=nasty), facts={nasty: nasty})
    assert "script" not in {tag for tag, _ in Tags(html).tags}
    assert Tags(html).text.count(nasty) == 6


def test_control_characters_and_bytes_that_are_not_utf8_are_escaped():
    html = page(captioned("a\x1b[31m\udcff.jpg", "b\x00\u202e"))
    assert r"a\x1b[31m\xff.jpg" in html
    assert r"b\x00\u202e" in html


def test_an_empty_caption_is_named_so():
    assert "an empty caption" in Tags(page(captioned("a.jpg", ""))).text


def test_a_report_is_told_from_another_page():
    page(captioned("a.jpg", "a cat"))
    Path("mine.html").write_text("<html>mine</html>")
    assert is_report("report.html")
    assert not is_report("mine.html")
    assert not is_report("nowhere.html")


@pytest.mark.parametrize("size", [(2000, 1000), (1000, 2000), (1, 50_000), (50_000, 1), (20, 10)])
def test_a_picture_keeps_its_proportions_within_the_limit(size):
    width, height = Image.open(io.BytesIO(report_picture(Image.new("L", size)))).size
    scale = min(1, PICTURE_SIDE / max(size))
    assert (width, height) == (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F"])
def test_a_picture_of_any_mode_becomes_a_jpeg(mode):
    assert Image.open(io.BytesIO(report_picture(Image.new(mode, (8, 8))))).format == "JPEG"


def test_transparent_parts_are_white():
    picture = Image.open(io.BytesIO(report_picture(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))))
    assert min(picture.getpixel((4, 4))) > 250


def test_sixteen_bit_grey_is_scaled():
    image = Image.fromarray(np.full((8, 8), 32_768, np.uint16))
    assert abs(Image.open(io.BytesIO(report_picture(image))).convert("L").getpixel((4, 4)) - 128) < 3
