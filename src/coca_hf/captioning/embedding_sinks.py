# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Embeddings as an array or as a table, each row with the input that it belongs to."""

import io
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import OutputError
from .runner import Record
from .sinks import AsideFile, Sink, check_output, json_line


SUFFIXES = (".npy", ".parquet")


def check_embedding_output(path: str) -> None:
    """Raises `OutputError` unless `open_embedding_sink(path)` will have its place and its library."""
    check_output(path, SUFFIXES)
    if _is_parquet(path):
        _import_pyarrow()
    else:
        check_output(_rows_path(path), (".jsonl",))


def open_embedding_sink(path: str) -> Sink:
    """The sink for the suffix of `path`; records hold a float32 vector each as their result. Raises `OutputError`."""
    return ParquetSink(path) if _is_parquet(path) else ArraySink(path)


def _is_parquet(path: str) -> bool:
    return path.lower().endswith(".parquet")


def _rows_path(path: str) -> str:
    return path + ".jsonl"


class ArraySink:
    """A `.npy` array (images, dimensions) of float32, and beside it which image is in which row.

    `NAME.npy.jsonl` has a line for each input: `{"image": PATH, "row": N}` or `{"image": PATH, "error": TEXT}`.
    """

    def __init__(self, path: str):
        self.shape = (0, 0)
        self.array = AsideFile(path)
        try:
            self.rows = AsideFile(_rows_path(path))
        except OutputError:
            self.array.close()
            raise
        self.array.write(_npy_header(self.shape))

    def write(self, records: list[Record]) -> None:
        for record in records:
            number = self.shape[0]
            self.rows.write(json_line(record, {"row": number}).encode("ascii"))
            if record.error is None:
                self.shape = (number + 1, len(record.result))
                self.array.write(np.asarray(record.result, dtype="<f4").tobytes())

    def finish(self) -> None:
        try:
            self.array.file.seek(0)
            self.array.file.write(_npy_header(self.shape))
        except OSError as error:
            raise self.array.failure(error) from None
        self.rows.commit()
        self.array.commit()

    def close(self) -> None:
        self.array.close()
        self.rows.close()


def _npy_header(shape: tuple[int, int]) -> bytes:
    """Of one length for every `shape`, since numpy leaves room for the first dimension to grow, so that it can be
    written before the rows are counted and once more afterwards."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return header.getvalue()


class ParquetSink:
    """A table with the columns `image`, `embedding` (a list of float32, null where there is none) and `error`.

    Parquet's text is UTF-8: other bytes of file names are written as escapes such as `\\xff`.
    """

    # Rows that are gathered before a piece of the file is written: many small row groups are slow to read.
    group_size = 4096

    def __init__(self, path: str):
        pyarrow, parquet = _import_pyarrow()
        self.pyarrow = pyarrow
        self.schema = pyarrow.schema(
            [
                ("image", pyarrow.string()),
                ("embedding", pyarrow.list_(pyarrow.float32())),
                ("error", pyarrow.string()),
            ]
        )
        self.waiting: list[dict[str, Any]] = []
        self.aside = AsideFile(path)
        self.writer = parquet.ParquetWriter(self.aside.file, self.schema)

    def write(self, records: list[Record]) -> None:
        self.waiting += [
            {"image": _utf8(record.image), "embedding": record.result, "error": record.error} for record in records
        ]
        if len(self.waiting) >= self.group_size:
            self._write_group()

    def _write_group(self) -> None:
        table = self.pyarrow.Table.from_pylist(self.waiting, schema=self.schema)
        self.waiting = []
        self._guarded(self.writer.write_table, table)

    def finish(self) -> None:
        if self.waiting:
            self._write_group()
        self._guarded(self.writer.close)
        self.aside.commit()

    def _guarded(self, action: Callable[..., None], *arguments: Any) -> None:
        try:
            action(*arguments)
        except OSError as error:
            raise self.aside.failure(error) from None

    def close(self) -> None:
        # Its destructor would write to the file that is about to be closed.
        self.writer.is_open = False
        self.aside.close()


def _utf8(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise OutputError("writing .parquet needs pyarrow: pip install 'coca-hf[parquet]'") from None
    return pyarrow, pyarrow.parquet
