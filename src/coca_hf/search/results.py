# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What was found, as lines of text, as JSON and as a page of pictures."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..batch_inference.report import page_pieces, report_picture
from ..batch_inference.wording import count, printable
from .index import Hit
from .pictures import read_photo


@dataclass(frozen=True)
class Found:
    """Hits in `groups`, one of them but for duplicates, and the `facts` about the search that a page shows."""

    groups: Sequence[Sequence[Hit]]
    facts: Mapping[str, str]
    nothing: str = "Nothing matches"
    grouped: bool = False


def as_text(found: Found) -> Iterator[str]:
    """A line for each hit, score and path and caption, an empty line between groups."""
    for number, hits in enumerate(found.groups):
        if number:
            yield "\n"
        for hit in hits:
            yield f"{hit.score:.3f} {printable(_short(hit.path))}: {printable(hit.caption)}\n"


def as_json(found: Found) -> Iterator[str]:
    """A list of `{"path": ..., "score": ..., "caption": ...}`, of duplicates a list of such lists."""
    groups = [[{**asdict(hit), "score": round(hit.score, 4)} for hit in hits] for hits in found.groups]
    content = groups if found.grouped else [hit for hits in groups for hit in hits]
    yield json.dumps(content) + "\n"


def as_page(found: Found) -> Iterator[str]:
    """A page with the photos, reduced, that needs nothing else."""
    number = sum(map(len, found.groups))
    return page_pieces(
        Path(__file__).with_name("results.html.jinja"),
        command="coca-hf search",
        title=count(number, "photo") if number else found.nothing,
        facts=found.facts,
        groups=found.groups,
        grouped=found.grouped,
        picture=_picture,
    )


FORMATS: Mapping[str, Callable[[Found], Iterator[str]]] = {"text": as_text, "json": as_json, "html": as_page}


def _short(path: str) -> str:
    """Below the current folder as one would type it."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def _picture(hit: Hit) -> bytes | None:
    """None where the photo is not there any more, or not readable."""
    image = read_photo(hit.path)
    return None if image is None else report_picture(image)
