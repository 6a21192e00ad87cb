# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The images of a Hugging Face dataset."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .containers import first_line, stored_image
from .errors import InputError
from .inputs import Input


# A streamed dataset says where it is so often. Behind an interruption at most so many rows are read again.
_ROWS_BETWEEN_BOOKMARKS = 64


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
        return self.rows(0, None)

    def rows(self, start: int, stop: int | None, bookmark: Any = None) -> Iterator[Input]:
        """The rows from `start` on, before `stop` (None: to the end).

        With the `bookmark` of an earlier row of a streamed dataset, what lies before that row is not read again.
        """
        if self.streaming:
            return self._streamed(start, bookmark)
        rows, column = _loaded(self)
        chosen = rows.select(range(start, len(rows) if stop is None else stop))
        return (stored_image(name, row[column]) for name, row in self._named(chosen, start))

    def _streamed(self, start: int, bookmark: Any) -> Iterator[Input]:
        # Anew, for a dataset that was iterated remembers where it was.
        rows, column = self.load()
        first = 0
        if bookmark is not None:
            first, state = bookmark
            rows.load_state_dict(state)
        for number, (name, row) in enumerate(self._named(rows, first), first):
            if number >= start:
                marked = (number + 1) % _ROWS_BETWEEN_BOOKMARKS == 0
                yield stored_image(name, row[column], [number + 1, rows.state_dict()] if marked else None)

    def row_name(self, number: int) -> str:
        return f"{self.name}/{self.split}[{number}]"

    def _named(self, rows: Any, first: int) -> Iterator[tuple[str, Any]]:
        iterator = enumerate(rows, first)
        while True:
            try:
                number, row = next(iterator)
            except StopIteration:
                return
            except Exception as error:  # a network or a file behind the rows gave up: every record so far is written
                raise InputError(f"the dataset {self.name!r} cannot be read further: {first_line(error)}") from error
            yield self.row_name(number), row

    def count(self) -> int | None:
        """None of a streamed one."""
        rows, _ = _loaded(self)
        return None if self.streaming else len(rows)

    def load(self) -> tuple[Any, str]:
        """The dataset, its images as they are stored, and the name of their column."""
        datasets = import_datasets("--dataset")
        rows = open_dataset(self.name, self.split, self.streaming)
        column = self._image_column(datasets, rows.features or {})
        return rows.select_columns([column]), column

    def _image_column(self, datasets: Any, features: Any) -> str:
        images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
        column = self.column or next(iter(images), None)
        if column is None or column not in features:
            wanted = "no column of images" if self.column is None else f"no column {self.column!r}"
            raise InputError(f"the dataset {self.name!r} has {wanted}; it has {', '.join(features) or 'none by name'}")
        return column


@lru_cache(maxsize=1)
def _loaded(inputs: DatasetInputs) -> tuple[Any, str]:
    """Once for all blocks of a process: what is loaded from the Hub is asked for there each time."""
    return inputs.load()


def import_datasets(who: str) -> Any:
    """The library. Raises `InputError`, which says that `who` needs it, where it is not installed."""
    try:
        import datasets
    except ImportError:
        raise InputError(f"{who} needs the library datasets: pip install 'coca-hf[datasets]'") from None
    for library in ("datasets", "fsspec", "huggingface_hub"):
        # What they say of each attempt is summed up in the error that they raise.
        logging.getLogger(library).setLevel(logging.CRITICAL)
    return datasets


def open_dataset(name: str, split: str, streaming: bool) -> Any:
    """
    The rows of a split, their images as they are stored.

    Args:
        name: a Hub id, a folder that `save_to_disk` wrote, or anything else that `load_dataset` takes.

    Raises:
        InputError: There is no such dataset or split, or the library is missing.
    """
    datasets = import_datasets(f"the dataset {name!r}")
    try:
        return with_stored_images(datasets, _rows(datasets, name, split, streaming))
    except InputError:
        raise
    except Exception as error:  # the library raises whatever the place it reads from raises
        raise InputError(f"cannot load the dataset {name!r}: {first_line(error)}") from error


def _rows(datasets: Any, name: str, split: str, streaming: bool) -> Any:
    if os.path.isdir(name) and {"dataset_info.json", "dataset_dict.json"} & set(os.listdir(name)):
        rows = datasets.load_from_disk(name)
        if isinstance(rows, datasets.DatasetDict):
            rows = rows[split]
        elif split not in ("train", str(rows.split)):
            raise InputError(f"the dataset {name!r} has no splits: leave --split out")
        return rows.to_iterable_dataset() if streaming else rows
    return datasets.load_dataset(name, split=split, streaming=streaming)


def with_stored_images(datasets: Any, rows: Any) -> Any:
    """The same rows, with the bytes or paths of images instead of the images."""
    for column, feature in (rows.features or {}).items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows
