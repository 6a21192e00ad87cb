# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Parquet files and Hugging Face data sets: rows by number out of Arrow files on disk, or streamed."""

import os
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..batch_inference.containers import first_line, stored_image
from ..batch_inference.errors import ImageError, InputError
from ..batch_inference.files import check_is_regular_file, error_text
from ..batch_inference.hf_datasets import import_datasets, open_dataset, with_stored_images
from .records import CaptionedImage, Columns, ImageTextData, captions_of, image_at, missing_columns


STREAMED_WINDOW = 1024
"""Neighbouring rows of a streamed data set that are in memory, as they are stored: shuffling stays among them."""


class Table(ImageTextData):
    """
    Rows of a `datasets.Dataset`; those without captions are left out.

    Args:
        name: what messages and the rows' names begin with.
        folder: what paths in the image column are relative to.

    Raises:
        InputError: A column is not there.
    """

    def __init__(self, rows: Any, name: str, columns: Columns, folder: str = ""):
        self.rows, self.name, self.folder = rows, name, folder
        self.columns = checked(rows, name, columns)
        self.skipped = []
        self.kept = np.arange(len(rows))
        if columns.need_captions:
            self.kept = np.fromiter(self._with_captions(), np.int64)

    def _with_captions(self) -> Iterator[int]:
        number = 0
        for batch in self.rows.select_columns([self.columns.caption]).iter(batch_size=4096):
            for value in batch[self.columns.caption]:
                if captions_of(value):
                    yield number
                else:
                    self.skipped.append((f"{self.name}[{number}]", f"no caption in {self.columns.caption!r}"))
                number += 1

    def __len__(self) -> int:
        return len(self.kept)

    def record(self, number: int) -> CaptionedImage:
        row = int(self.kept[number])
        return row_of_table(self.rows[row], f"{self.name}[{row}]", self.columns, self.folder)


class StreamedTable(ImageTextData):
    """
    Rows of a `datasets.IterableDataset`, read again from the start of the stream when a number before those in memory
    is asked for.

    A row without captions is a record without any, for nobody knows it before it comes. Raises `InputError` where a
    column is not there, or the data cannot be read further.
    """

    window = STREAMED_WINDOW

    def __init__(self, rows: Any, name: str, columns: Columns):
        self.rows, self.name = rows, name
        self.skipped = []
        self.columns = checked(rows, name, columns)
        self.number = _count(rows, name, columns)
        self._stream: Any = None
        self._window: dict[int, Any] = {}
        self._next = 0

    def __getstate__(self) -> dict[str, Any]:
        # Another process opens a stream of its own.
        return {**self.__dict__, "_stream": None, "_window": {}, "_next": 0}

    def __len__(self) -> int:
        return self.number

    def record(self, number: int) -> CaptionedImage:
        if number not in self._window:
            self._advance(number - number % self.window)
        return row_of_table(self._window[number], f"{self.name}[{number}]", self.columns, "")

    def _advance(self, start: int) -> None:
        """Makes the window be the one that begins at row `start`."""
        if self._stream is None or start != self._next:
            self._stream = iter(self.rows.skip(start) if start else self.rows)
        stop = min(start + self.window, self.number)
        try:
            self._window = {number: next(self._stream) for number in range(start, stop)}
        except Exception as error:  # a network or a file behind the rows gave up, or there are fewer than was said
            what = "it has fewer rows than it says" if isinstance(error, StopIteration) else first_line(error)
            raise InputError(f"the data set {self.name!r} cannot be read further: {what}") from error
        self._next = stop


def _count(rows: Any, name: str, columns: Columns) -> int:
    """How many rows there are: what the data set says of itself, or else counted, without the images."""
    splits = (rows.info.splits or {}) if rows.info is not None else {}
    known = getattr(splits.get(str(rows.split)), "num_examples", None) if rows.split is not None else None
    if known:
        return int(known)
    wanted = columns.caption if columns.need_captions else columns.image
    try:
        return sum(1 for _ in rows.select_columns([wanted]))
    except Exception as error:  # whatever the place raises that they come from
        raise InputError(f"cannot read the data set {name!r}: {first_line(error)}") from error


def checked(rows: Any, name: str, columns: Columns) -> Columns:
    """The columns, with the only one that holds images where "image" is not there. Raises `InputError`."""
    features = rows.features or {}
    images = [each for each, feature in features.items() if type(feature).__name__ == "Image"]
    if columns.image == "image" and "image" not in features and len(images) == 1:
        columns = columns._replace(image=images[0])
    problem = missing_columns(columns, features)
    if problem is not None:
        raise InputError(f"{name!r} {problem}")
    return columns


def row_of_table(row: dict[str, Any], name: str, columns: Columns, folder: str) -> CaptionedImage:
    value = row[columns.image]
    if isinstance(value, dict) and not value.get("bytes"):
        value = value.get("path")
    # A path is the image's name; bytes lie in the row, and have the row's.
    image = image_at(value, folder) if isinstance(value, str) and value else stored_image(name, value)
    fields = {key: each for key, each in row.items() if key not in (columns.image, columns.caption)}
    identity = value if isinstance(value, str) else name
    return CaptionedImage(identity, image, captions_of(row.get(columns.caption)), fields)


def open_parquet(path: str, columns: Columns, folder: str | None = None) -> Table:
    """
    A table whose images are bytes, bytes and path as Hugging Face stores them, or paths relative to the table.

    The `datasets` library unpacks it once, into its cache of Arrow files, where every row is as near as every other.

    Raises:
        InputError: It cannot be read, or a library is missing.
    """
    try:
        check_is_regular_file(path)
    except ImageError as error:
        raise InputError(f"cannot read {path!r}: {error}") from None
    datasets = import_datasets(f"reading {path!r}")
    try:
        rows = _unpacked(datasets, path)
    except OSError as error:
        raise InputError(f"cannot read {path!r}: {error_text(error)}") from None
    except Exception as error:  # pyarrow and datasets have many classes for broken files
        raise InputError(f"cannot read {path!r}: {first_line(error.__cause__ or error)}") from None  # type: ignore[arg-type]
    home = os.path.dirname(path) if folder is None else folder
    return Table(with_stored_images(datasets, rows), path, columns, home)


def _unpacked(datasets: Any, path: str) -> Any:
    try:
        return datasets.Dataset.from_parquet(path)
    except PermissionError:  # a home that cannot be written to
        return datasets.Dataset.from_parquet(path, cache_dir=tempfile.mkdtemp(prefix="coca-hf-"))


def open_hub(name: str, columns: Columns, split: str, streaming: bool) -> ImageTextData:
    """A folder that `save_to_disk` wrote, or a data set on the Hub. Raises `InputError`."""
    rows = open_dataset(name, split, streaming)
    if streaming:
        return StreamedTable(rows, f"{name}/{split}", columns)
    return Table(rows, f"{name}/{split}", columns)
