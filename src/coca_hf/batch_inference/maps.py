# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Where the words of a caption look, in a record, and as a picture for each image."""

import base64
import io
import json
import os
import re
from collections.abc import Iterable, Sequence

from .errors import OutputError
from .files import error_text, write_whole
from .inputs import Record


def packed_maps(maps: Sequence[tuple[str, bytes]]) -> bytes:
    """Words, and their maps as small grey PNG files, as one piece of a record."""
    return json.dumps([[word, base64.b64encode(data).decode("ascii")] for word, data in maps]).encode("ascii")


def unpacked_maps(packed: bytes | None) -> list[tuple[str, bytes]]:
    """What `packed_maps` packed; nothing where there are no maps."""
    return [] if packed is None else [(word, base64.b64decode(data)) for word, data in json.loads(packed)]


class MapSheets:
    """A PNG file for each image in `folder`, which is made: the picture, and with the map of each word over it.

    Files are called by the image's number among the inputs and its name, for names alone can be those of other images.
    What is there under such a name is replaced.
    """

    def __init__(self, folder: str):
        self.folder = folder
        self.number = 0
        self.written = 0

    def check(self) -> None:
        """Raises `OutputError` where the folder cannot be made or written to."""
        try:
            os.makedirs(self.folder, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write to {self.folder!r}: {error_text(error)}") from None
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise OutputError(f"cannot write to {self.folder!r}: permission denied")

    def write(self, records: Iterable[Record]) -> None:
        """Raises `OutputError`."""
        for record in records:
            maps = unpacked_maps(record.maps)
            if maps and record.picture is not None:
                write_whole(os.path.join(self.folder, f"{self.number:06d}-{_plain(record.image)}.png"), _sheet(record))
                self.written += 1
            self.number += 1


def _sheet(record: Record) -> bytes:
    from PIL import Image

    from ..seeing.pictures import contact_sheet

    picture = Image.open(io.BytesIO(record.picture or b""))
    file = io.BytesIO()
    contact_sheet(picture, unpacked_maps(record.maps)).save(file, "PNG")
    return file.getvalue()


def _plain(path: str) -> str:
    """A file's name without its suffix, and with what no file system or shell minds."""
    stem = os.path.splitext(os.path.basename(path))[0]
    return re.sub(r"[^\w.-]+", "_", stem.encode("utf-8", "replace").decode("utf-8"))[:80] or "image"
