# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What goes into a run and what comes out of it: an input, and the record of what became of it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import numpy as np


IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"}
    | {".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
"""What counts as an image inside a folder, in any case. A file that is named itself is opened whatever its suffix."""

HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
"""Read where pillow-heif is installed."""

UNREAD_SUFFIXES: Mapping[str, str] = {
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".pef", ".srw"), "RAW"),
    **dict.fromkeys((".psd", ".psb"), "Photoshop"),
    ".jxl": "JPEG XL",
}
"""Pictures that nothing here reads, by the name of their format. Each is an error of its own: were they passed over,
nobody would know that they are missing. Some are TIFF files, whose reader would show a thumbnail instead."""

PICTURE_SUFFIXES = IMAGE_SUFFIXES | HEIF_SUFFIXES | UNREAD_SUFFIXES.keys()
"""What counts as a picture inside a folder, readable or not."""

CONTAINER_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".parquet")
"""What stands for the images in it where it is named itself: WebDataset shards and tables."""


@dataclass(frozen=True)
class Span:
    """`size` bytes from `offset` on of the file at `path`."""

    path: str
    offset: int
    size: int


@dataclass(frozen=True)
class Input:
    """One image to read, or with `error` set, why there is none.

    `path` is the name in records, as given, bytes that are not UTF-8 as surrogates (`os.fsdecode`); `content` is where
    the image is if not in a file of that name. `bookmark`, where a source has one, is what the source needs to go on
    behind this input.
    """

    path: str
    error: str | None = None
    content: bytes | Span | None = None
    bookmark: Any = None


@dataclass(frozen=True)
class Record:
    """What became of one input: a result or an `error`.

    A result is `fields`, for example `{"caption": TEXT}`, and `embedding`, float32 (dimensions,), where they were
    asked for. `picture` is a small JPEG file for the report, `maps` what `packed_maps` made of where each word looks,
    `content` as that of an `Input`.
    """

    image: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    embedding: "np.ndarray | None" = None
    picture: bytes | None = None
    maps: bytes | None = None
    content: bytes | Span | None = None

    def line(self) -> dict[str, Any]:
        """As it stands in a file of JSON lines."""
        return {"image": self.image, **(self.fields if self.error is None else {"error": self.error})}


def suffix_of(name: str) -> str:
    """The suffix in lower case, that of a container as a whole: ".tar.gz"."""
    lower = os.path.basename(name).lower()
    return next((suffix for suffix in CONTAINER_SUFFIXES if lower.endswith(suffix)), os.path.splitext(lower)[1])


def is_container(path: str) -> bool:
    return suffix_of(path) in CONTAINER_SUFFIXES
