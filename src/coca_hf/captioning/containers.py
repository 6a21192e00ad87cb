# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Images that are not files of their own: in tar shards (WebDataset), Parquet tables, Hugging Face datasets."""

import logging
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .errors import InputError
from .sources import IMAGE_SUFFIXES, Input, InputCount, Span, error_text


# Rows that are read at a time. A table can hold images of any size, and these are all in memory.
_ROWS_AT_ONCE = 16

_PARQUET_HINT = "reading .parquet needs pyarrow: pip install 'coca-hf[parquet]'"
_DATASETS_HINT = "--dataset needs the library of that name: pip install 'coca-hf[datasets]'"


def iter_images(path: str) -> Iterator[Input]:
    """The images in the container at `path`; one that is broken is an error behind what could be read of it."""
    return _iter_table(path) if _is_table(path) else _iter_shard(path)


def count_images(path: str) -> int:
    """How many inputs `iter_images(path)` gives: of a table its metadata says so, a shard's headers are read."""
    if not _is_table(path):
        return sum(1 for _ in _iter_shard(path))
    try:
        table = _open_table(path)
    except InputError:
        raise
    except Exception:
        return 1
    with table:
        return table.metadata.num_rows if _image_column(table) else 1


def _is_table(path: str) -> bool:
    return path.lower().endswith(".parquet")


def _iter_shard(path: str) -> Iterator[Input]:
    """`SHARD/MEMBER` for each member with an image's suffix, in the shard's order.

    Uncompressed, as WebDataset recommends: each member is then read where it lies, by whoever needs it.
    """
    found = False
    try:
        with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as shard:
            while (member := shard.next()) is not None:
                # The library remembers every member, which a shard of millions would feel.
                shard.members.clear()  # type: ignore[attr-defined]
                if member.isreg() and os.path.splitext(member.name)[1].lower() in IMAGE_SUFFIXES:
                    found = True
                    yield Input(f"{path}/{member.name}", content=Span(path, member.offset_data, member.size))
    except OSError as error:
        yield Input(path, f"cannot read this shard: {error_text(error)}")
    except tarfile.TarError as error:
        yield Input(path, f"a broken tar file, or a compressed one: {error}")
    else:
        if not found:
            yield Input(path, "no images in this shard")


def _open_table(path: str) -> Any:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise InputError(_PARQUET_HINT) from None
    # Otherwise a whole row group is read ahead, which can be gigabytes of images.
    return ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)


def _image_column(table: Any) -> str | None:
    """The column that holds images: of bytes, or as Hugging Face stores them, of bytes and a path."""
    import pyarrow

    fields = list(table.schema_arrow)
    candidates = [field.name for field in fields if _image_values(field.type, pyarrow)]
    return next(
        (name for name in ("image", "jpg", "png", "bytes") if name in candidates), next(iter(candidates), None)
    )


def _image_values(kind: Any, pyarrow: Any) -> bool:
    if pyarrow.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _image_values(kind.field("bytes").type, pyarrow)
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def _iter_table(path: str) -> Iterator[Input]:
    """`TABLE[ROW]` for each row, counted from 0."""
    number = 0
    try:
        with _open_table(path) as table:
            column = _image_column(table)
            if column is None:
                yield Input(path, "no column with bytes of images in this table")
                return
            for batch in table.iter_batches(_ROWS_AT_ONCE, columns=[column]):
                for value in batch.column(0).to_pylist():
                    yield _stored(f"{path}[{number}]", value)
                    number += 1
    except InputError:
        raise
    except Exception as error:  # pyarrow has many classes for files that are broken in one way or another
        yield Input(
            path, f"cannot read this table{f' behind row {number - 1}' if number else ''}: {_first_line(error)}"
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def _stored(name: str, value: Any) -> Input:
    """What Hugging Face's `Image(decode=False)` gives, or bytes."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return Input(name, content=value) if value else Input(name, "no bytes")
    if isinstance(value, str):
        try:
            return Input(name, content=Span(value, 0, os.path.getsize(value)))
        except OSError as error:
            return Input(name, f"{value!r}: {error_text(error)}")
    return Input(name, "no image in this row")


@dataclass(frozen=True)
class DatasetInputs:
    """The images of a Hugging Face dataset, named `NAME/SPLIT[ROW]`, rows counted from 0.

    `name` is a Hub id, a folder that `save_to_disk` wrote, or anything else that `load_dataset` takes; `column` None
    is the first that holds images. With `streaming` nothing is stored, and the number of rows is not known.
    Raises `InputError` as it is iterated or counted, where there is no such dataset, split or column.
    """

    name: str
    split: str = "train"
    column: str | None = None
    streaming: bool = False

    def __iter__(self) -> Iterator[Input]:
        rows, column = self._rows()
        return self._named(rows, column, 0)

    def rows(self, start: int, stop: int) -> Iterator[Input]:
        """A part of them; of a dataset that is not streamed."""
        rows, column = _loaded(self)
        return self._named(rows.select(range(start, stop)), column, start)

    def _named(self, rows: Any, column: str, start: int) -> Iterator[Input]:
        iterator = enumerate(rows, start)
        while True:
            try:
                number, row = next(iterator)
            except StopIteration:
                return
            except Exception as error:  # a network or a file behind the rows gave up: every record so far is written
                raise InputError(f"the dataset {self.name!r} cannot be read further: {_first_line(error)}") from error
            yield _stored(f"{self.name}/{self.split}[{number}]", row[column])

    def count(self) -> InputCount:
        rows, _ = self._rows()
        return InputCount(None if self.streaming else len(rows), True)

    def _rows(self) -> tuple[Any, str]:
        """The dataset, its images as they are stored, and the name of their column."""
        try:
            import datasets
        except ImportError:
            raise InputError(_DATASETS_HINT) from None
        for library in ("datasets", "fsspec", "huggingface_hub"):
            # What they say of each attempt is summed up in the error that they raise.
            logging.getLogger(library).setLevel(logging.CRITICAL)
        try:
            rows = self._load(datasets)
            features = rows.features or {}
        except InputError:
            raise
        except Exception as error:  # the library raises whatever the place it reads from raises
            raise InputError(f"cannot load the dataset {self.name!r}: {_first_line(error)}") from error
        column = self._column(datasets, features)
        if isinstance(features[column], datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
        return rows.select_columns([column]), column

    def _load(self, datasets: Any) -> Any:
        if os.path.isdir(self.name) and {"dataset_info.json", "dataset_dict.json"} & set(os.listdir(self.name)):
            rows = datasets.load_from_disk(self.name)
            if isinstance(rows, datasets.DatasetDict):
                rows = rows[self.split]
            elif self.split not in ("train", str(rows.split)):
                raise InputError(f"the dataset {self.name!r} has no splits: leave --split out")
            return rows.to_iterable_dataset() if self.streaming else rows
        return datasets.load_dataset(self.name, split=self.split, streaming=self.streaming)

    def _column(self, datasets: Any, features: Any) -> str:
        images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
        column = self.column or next(iter(images), None)
        if column is None or column not in features:
            wanted = "no column of images" if self.column is None else f"no column {self.column!r}"
            raise InputError(f"the dataset {self.name!r} has {wanted}; it has {', '.join(features) or 'none by name'}")
        return column


@lru_cache(maxsize=1)
def _loaded(inputs: DatasetInputs) -> tuple[Any, str]:
    """Once for all blocks that a process is given: what is loaded from the Hub is asked for there each time."""
    return inputs._rows()
