# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""JSON lines, CSV and TSV: files of any size, of which only the places of the rows are in memory."""

import csv
import json
import os
from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..batch_inference.errors import ImageError, InputError
from ..batch_inference.files import check_is_regular_file, error_text
from .records import CaptionedImage, Columns, ImageTextData, missing_columns, row_record


_MARK = b"\xef\xbb\xbf"
_SEPARATORS = {".tsv": "\t,;", ".csv": ",\t;"}


class RowsOfFile(ImageTextData):
    """
    Base of the files whose rows are read where they lie. Paths are relative to the file's folder.

    Raises `InputError` where the file cannot be read or lacks a column.
    """

    def __init__(self, path: str, columns: Columns, folder: str | None = None):
        self.path, self.columns = path, columns
        self.folder = os.path.dirname(path) if folder is None else folder
        self.skipped = []
        starts = array("q")
        self.names: list[str] = []
        try:
            check_is_regular_file(path)
            for start, line, row in self._rows():
                found = row if isinstance(row, str) else row_record(row, columns, self.folder)
                if isinstance(found, str):
                    self.skipped.append((f"{path}:{line}", found))
                else:
                    starts.append(start)
        except ImageError as error:
            raise InputError(f"cannot read {path!r}: {error}") from None
        except OSError as error:
            raise InputError(f"cannot read {path!r}: {error_text(error)}") from None
        except UnicodeDecodeError:
            raise InputError(f"{path!r} is not UTF-8 text: save it as UTF-8") from None
        self.starts = np.frombuffer(starts, np.int64) if starts else np.empty(0, np.int64)
        problem = None if starts or not self.names else missing_columns(columns, self.names)
        if problem is not None:
            raise InputError(f"{path!r} {problem}")

    def __len__(self) -> int:
        return len(self.starts)

    def record(self, number: int) -> CaptionedImage:
        try:
            row = self._row_at(int(self.starts[number]))
        except (OSError, ValueError, StopIteration, csv.Error):
            row = "gone"
        found = row if isinstance(row, str) else row_record(row, self.columns, self.folder)
        if isinstance(found, str):
            raise InputError(f"{self.path!r} has changed while it was read")
        return found

    def _rows(self) -> Iterator[tuple[int, int, dict[str, Any] | str]]:
        """Place and line of each row, and what it holds or why it cannot be understood."""
        raise NotImplementedError

    def _row_at(self, start: int) -> dict[str, Any] | str:
        raise NotImplementedError


class JsonLines(RowsOfFile):
    """`{"image": PATH, "caption": TEXT or [TEXT, ...]}`, one a line."""

    def _rows(self) -> Iterator[tuple[int, int, dict[str, Any] | str]]:
        names: dict[str, None] = {}
        with open(self.path, "rb") as file:
            start = 0
            for number, line in enumerate(file, 1):
                if line.strip(b" \t\r\n" + _MARK):
                    row = self._parsed(line)
                    if isinstance(row, dict) and len(names) < 100:
                        names.update(dict.fromkeys(row))
                        self.names = list(names)
                    yield start, number, row
                start += len(line)

    def _row_at(self, start: int) -> dict[str, Any] | str:
        with open(self.path, "rb") as file:
            file.seek(start)
            return self._parsed(file.readline())

    @staticmethod
    def _parsed(line: bytes) -> dict[str, Any] | str:
        try:
            row = json.loads(line.removeprefix(_MARK))
        except ValueError:
            return "not valid JSON"
        return row if isinstance(row, dict) else "not a JSON object"


class _Lines:
    """The lines of a file as text, and the place behind the last one that was taken."""

    def __init__(self, file: Any, start: int):
        file.seek(start)
        self.file, self.place = file, start

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self.file.readline()
        if not line:
            raise StopIteration
        self.place += len(line)
        return line.removeprefix(_MARK).decode("utf-8") if self.place == len(line) else line.decode("utf-8")


class SeparatedValues(RowsOfFile):
    """
    CSV or TSV with the names of its columns in the first row.

    The separator is the comma, the tab or the semicolon: whichever makes the columns appear, for files named .csv are
    often separated by tabs.
    """

    def _rows(self) -> Iterator[tuple[int, int, dict[str, Any] | str]]:
        with open(self.path, "rb") as file:
            self.separator, self.names = self._header(file)
            lines = _Lines(file, 0)
            reader = csv.reader(lines, delimiter=self.separator)
            next(reader, None)
            while True:
                start = lines.place
                try:
                    values = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield start, reader.line_num, f"not valid CSV: {error}"
                    continue
                if values:
                    yield start, reader.line_num, self._named(values)

    def _header(self, file: Any) -> tuple[str, list[str]]:
        best: tuple[str, list[str]] = (",", [])
        for separator in _SEPARATORS.get(os.path.splitext(self.path)[1].lower(), ",\t;"):
            names = [name.strip() for name in next(csv.reader(_Lines(file, 0), delimiter=separator), [])]
            if missing_columns(self.columns, names) is None:
                return separator, names
            if len(names) > len(best[1]):
                best = separator, names
        return best

    def _named(self, values: list[str]) -> dict[str, Any] | str:
        if len(values) < len(self.names):
            return f"{len(values)} values where the first row names {len(self.names)}"
        return dict(zip(self.names, values, strict=False))

    def _row_at(self, start: int) -> dict[str, Any] | str:
        with open(self.path, "rb") as file:
            return self._named(next(csv.reader(_Lines(file, start), delimiter=self.separator)))
