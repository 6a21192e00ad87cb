# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One image with its captions, and sequences of them that take little memory."""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..batch_inference.errors import ImageError
from ..batch_inference.images import read_image
from ..batch_inference.inputs import Input, Span


if TYPE_CHECKING:
    from PIL.Image import Image

    from ..batch_inference.images import ResizedSize

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class Columns(NamedTuple):
    """How a data set names what is read of it. With `need_captions` false, records may be without."""

    image: str = "image"
    caption: str = "caption"
    need_captions: bool = True


@dataclass(frozen=True)
class CaptionedImage:
    """
    One record.

    `id` is what the data set calls the image: the text in its image column, COCO's `file_name`, otherwise the same as
    `path`. `image` says where it lies, as the engine's inputs do. `fields` are the record's other columns, where the
    data set has some: labels, numbers, whatever it was given.
    """

    id: str
    image: Input
    captions: tuple[str, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """A file, `SHARD/MEMBER` or `TABLE[ROW]`: the name of the image in messages and records."""
        return self.image.path

    def open_image(self, resized_size: "ResizedSize | None" = None) -> "Image":
        """The image, upright, read as `read_image` does. Raises `ImageError` where there is none that can be read."""
        if self.image.error is not None:
            raise ImageError(self.image.error)
        return read_image(
            self.image.path if self.image.content is None else self.image.content, resized_size=resized_size
        )


class ImageTextData(Sequence[CaptionedImage]):
    """
    Records by number, and `skipped`: pairs of a name and the reason why it is none.

    `window` None: every record can be reached as fast as every other. Otherwise the data is streamed: it is fast only
    for those who stay among so many neighbours before they go on.
    """

    skipped: list[tuple[str, str]]
    window: int | None = None

    def __getitem__(self, index: Any) -> Any:
        """The record of that number; of a slice, a list. Raises `IndexError`; `InputError` where a file is gone."""
        if isinstance(index, slice):
            return [self.record(number) for number in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        return self.record(number)

    def record(self, number: int) -> CaptionedImage:
        """The record of a number from 0 to `len(self)` - 1."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[CaptionedImage]:
        return (self.record(number) for number in range(len(self)))


class Joined(ImageTextData):
    """Several data sets, one behind the other."""

    def __init__(self, parts: Sequence[ImageTextData]):
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])
        self.skipped = [each for part in parts for each in part.skipped]

    def __len__(self) -> int:
        return int(self.ends[-1])

    def record(self, number: int) -> CaptionedImage:
        part = int(np.searchsorted(self.ends, number, side="right"))
        return self.parts[part].record(number - (int(self.ends[part - 1]) if part else 0))


class PackedRecords(ImageTextData):
    """
    Records in memory as one run of bytes.

    A Python object for each would take several times the room, in each of the processes that read: they share memory
    only as long as nobody counts references in it.
    """

    def __init__(self, records: Iterable[CaptionedImage], skipped: list[tuple[str, str]]):
        lines = [json.dumps(_packed(record)).encode("ascii") for record in records]
        self.starts = np.fromiter(accumulate(map(len, lines), initial=0), np.int64, len(lines) + 1)
        self.data = b"".join(lines)
        self.skipped = skipped

    def __len__(self) -> int:
        return len(self.starts) - 1

    def record(self, number: int) -> CaptionedImage:
        name, path, error, span, captions, fields = json.loads(
            self.data[self.starts[number] : self.starts[number + 1]]
        )
        image = Input(path, error, None if span is None else Span(*span))
        return CaptionedImage(name, image, tuple(captions), fields)


def _packed(record: CaptionedImage) -> list[Any]:
    content = record.image.content
    span = [content.path, content.offset, content.size] if isinstance(content, Span) else None
    return [record.id, record.image.path, record.image.error, span, record.captions, record.fields]


def image_at(reference: str, folder: str) -> Input:
    """The image that a file in `folder` refers to."""
    if _URL.match(reference):
        return Input(reference, "URLs are not read: download the file first, or mount the bucket that it is in")
    return Input(os.path.join(folder, reference))


def captions_of(value: Any) -> tuple[str, ...]:
    """Text, or several, or Karpathy's sentences -> the captions that say something, without space around them."""
    values = value if isinstance(value, (list, tuple)) else [value]
    texts = (each.get("raw") if isinstance(each, dict) else each for each in values)
    return tuple(text.strip() for text in texts if isinstance(text, str) and text.strip())


def lines_of(text: str) -> tuple[str, ...]:
    """The captions in a text file: one a line."""
    return captions_of(text.splitlines())


def row_record(row: Mapping[str, Any], columns: Columns, folder: str) -> CaptionedImage | str:
    """The record that a row with the path of an image is, or the reason why it is none."""
    reference = row.get(columns.image)
    captions = captions_of(row.get(columns.caption))
    if not isinstance(reference, str) or not reference:
        return f"no path of an image in {columns.image!r}"
    if not captions and columns.need_captions:
        return f"no caption in {columns.caption!r}"
    fields = {name: value for name, value in row.items() if name not in (columns.image, columns.caption)}
    return CaptionedImage(reference, image_at(reference, folder), captions, fields)


def sorted_out(
    rows: Iterable[tuple[str, CaptionedImage | str]], take: Callable[[CaptionedImage], None]
) -> list[tuple[str, str]]:
    """Gives the records among named rows to `take`, and returns the others with their reasons."""
    skipped = []
    for name, found in rows:
        if isinstance(found, str):
            skipped.append((name, found))
        else:
            take(found)
    return skipped


def missing_columns(columns: Columns, present: Iterable[str]) -> str | None:
    """What is to be said where a data set lacks the columns, None where it has them."""
    names = list(present)
    wanted = [("--image-column", columns.image)]
    if columns.need_captions:
        wanted.append(("--caption-column", columns.caption))
    for option, name in wanted:
        if name not in names:
            return f"has no column {name!r}; it has {', '.join(map(repr, names)) or 'none'}. Name one with {option}"
    return None
