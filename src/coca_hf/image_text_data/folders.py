# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Folders of images with a text file beside each, as `caption --sidecar` writes them: one caption a line."""

from collections.abc import Iterator

from ..batch_inference.errors import ImageError
from ..batch_inference.files import check_is_regular_file, error_text
from ..batch_inference.outputs import sidecar_path
from ..batch_inference.paths import iter_paths
from .records import CaptionedImage, Columns, PackedRecords, lines_of, sorted_out


def open_folder(path: str, columns: Columns) -> PackedRecords:
    """The images that `path`, a folder, a glob or an image, stands for."""
    records: list[CaptionedImage] = []
    skipped = sorted_out(_records(path, columns), records.append)
    return PackedRecords(records, skipped)


def _records(path: str, columns: Columns) -> Iterator[tuple[str, CaptionedImage | str]]:
    for image in iter_paths([path]):
        if image.error is not None:
            yield image.path, image.error
            continue
        captions = _captions_beside(image.path)
        if isinstance(captions, str) and columns.need_captions:
            yield image.path, captions
        else:
            yield image.path, CaptionedImage(image.path, image, () if isinstance(captions, str) else captions)


def _captions_beside(image: str) -> tuple[str, ...] | str:
    path = sidecar_path(image)
    try:
        check_is_regular_file(path)
        with open(path, encoding="utf-8-sig") as file:
            return lines_of(file.read()) or "an empty .txt beside it"
    except (ImageError, FileNotFoundError):
        return "no .txt beside it"
    except OSError as error:
        return f"its .txt cannot be read: {error_text(error)}"
    except UnicodeDecodeError:
        return "its .txt is not UTF-8 text"
