# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Captions as HTML whose words light up their maps: by pointer, by tapping and by keyboard, without a script."""

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from ..batch_inference.report import report_picture
from ..batch_inference.wording import printable
from ..seeing.pictures import veil
from .models import Captioned


def shown_captions(image: Image.Image, captions: Sequence[Captioned], note: str = "") -> str:
    """The picture, and below it each caption; pointing at a word lays its map over the picture."""
    small = Image.open(io.BytesIO(picture := report_picture(image)))
    shown = f'<img class="coca-picture" alt="the picture" src="{_source(picture, "jpeg")}">'
    ratio = f"--coca-ratio: {small.width} / {small.height}"
    texts = "".join(f'<p class="coca-caption">{_words(each)}</p>' for each in captions)
    hint = "Point at a word, or tap it, to see where the model looked. " if any(each.maps for each in captions) else ""
    return f'<div class="coca-seen" style="{ratio}">{shown}{texts}<p class="coca-note">{hint}{escape(note)}</p></div>'


def shown_trouble(message: str) -> str:
    """What went wrong, as a sentence."""
    sentence = message[:1].upper() + message[1:].rstrip(".") + "."
    return f'<p class="coca-trouble" role="alert">{escape(printable(sentence))}</p>'


def _words(captioned: Captioned) -> str:
    if not captioned.maps:
        return escape(printable(captioned.caption)) or '<span class="coca-note">an empty caption</span>'
    return " ".join(
        f'<span class="coca-word" tabindex="0" style="--coca-map: url({_source(veil(small), "png")})">'
        f"{escape(printable(word))}</span>"
        for word, small in captioned.maps
    )


def _source(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
