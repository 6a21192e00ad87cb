# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Captions and embeddings as arrays, tables and tar shards, each row with the input that it belongs to."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .errors import ImageError, OutputError
from .images import known_formats, read_span
from .notes import MadeWith, Note
from .runner import Record
from .sinks import AsideFile, Journal, JournaledSink, Kept, check_journaled, check_output
from .sources import Input, Span


EMBEDDING_SUFFIXES = (".npy", ".parquet")
CAPTION_SUFFIXES = (".jsonl", ".parquet", ".tar")

# Rows of a piece of a table: many small pieces are slow to read.
_GROUP_SIZE = 4096


def check_embedding_output(path: str, made_with: MadeWith | None = None) -> None:
    """Raises `OutputError` unless `embedding_sink(path)` will have its place and its library."""
    check_journaled(path, EMBEDDING_SUFFIXES, made_with)
    if _is_parquet(path):
        _import_pyarrow()
    elif Note(path).state not in ("finishing", "finished") or not os.path.exists(path):
        check_output(_rows_path(path), (".jsonl",))


def check_caption_output(path: str, made_with: MadeWith | None = None) -> None:
    """Raises `OutputError` unless captions can be written to `path`, "-" and devices included."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in (".parquet", ".tar"):
        check_output(path, CAPTION_SUFFIXES, streams=True, made_with=made_with)
        return
    check_journaled(path, CAPTION_SUFFIXES, made_with)
    if suffix == ".parquet":
        _import_pyarrow()


def embedding_sink(
    path: str, embedding: Callable[[Any], Any] = lambda result: result, made_with: MadeWith | None = None
) -> JournaledSink:
    """The sink for the suffix of `path`; `embedding` finds the float32 vector in a record's result.

    Raises `OutputError`.
    """
    sink = EmbeddingTableSink if _is_parquet(path) else ArraySink
    return sink(path, embedding, made_with)


def _is_parquet(path: str) -> bool:
    return path.lower().endswith(".parquet")


def _rows_path(path: str) -> str:
    return path + ".jsonl"


class _EmbeddingSink(JournaledSink):
    def __init__(self, path: str, embedding: Callable[[Any], Any], made_with: MadeWith | None = None):
        super().__init__(path, made_with)
        self.embedding = embedding

    def encode(self, record: Record) -> tuple[dict[str, Any], bytes]:
        import numpy as np

        if record.error is not None:
            return {}, b""
        vector = np.asarray(self.embedding(record.result), dtype="<f4")
        return {"size": len(vector)}, vector.tobytes()


class ArraySink(_EmbeddingSink):
    """A `.npy` array (images, dimensions) of float32, and beside it which image is in which row.

    `NAME.npy.jsonl` has a line for each input: `{"image": PATH, "row": N}` or `{"image": PATH, "error": TEXT}`.
    """

    def convert(self, journal: Journal) -> None:
        array, rows = AsideFile(self.path), AsideFile(_rows_path(self.path))
        try:
            shape = self._write_rows(journal, rows)
            array.write(_npy_header(shape))
            with journal.reading() as data:
                shutil.copyfileobj(data, array.file)
            # The array first: rows that lie there without one were never ours to replace.
            array.commit()
            rows.commit()
        finally:
            array.close()
            rows.close()

    def _write_rows(self, journal: Journal, rows: AsideFile) -> tuple[int, int]:
        """-> the shape of the array."""
        number = width = 0
        for line in journal.read():
            del line["end"]
            if "error" not in line:
                width = line.pop("size")
                line["row"] = number
                number += 1
            rows.write((json.dumps(line) + "\n").encode("ascii"))
        return number, width


def _npy_header(shape: tuple[int, int]) -> bytes:
    import numpy as np

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return header.getvalue()


class EmbeddingTableSink(_EmbeddingSink):
    """A table with the columns `image`, `embedding` (a list of float32, null where there is none) and `error`.

    Parquet's text is UTF-8: other bytes of file names are written as escapes such as `\\xff`.
    """

    def convert(self, journal: Journal) -> None:
        pyarrow, _ = _import_pyarrow()
        columns = [("image", pyarrow.string()), ("embedding", pyarrow.list_(pyarrow.float32()))]
        _write_table(self.path, [*columns, ("error", pyarrow.string())], self._rows(journal))

    @staticmethod
    def _rows(journal: Journal) -> Iterator[dict[str, Any]]:
        import numpy as np

        with journal.reading() as data:
            for line in journal.read():
                embedding = None
                if "error" not in line:
                    embedding = np.frombuffer(data.read(4 * line["size"]), dtype="<f4")
                yield {"image": _utf8(line["image"]), "embedding": embedding, "error": line.get("error")}


class CaptionTableSink(JournaledSink):
    """A table with the columns `image`, `caption` and `error`, the one or the other null."""

    def __init__(self, path: str, caption: Callable[[Any], str] = str, made_with: MadeWith | None = None):
        super().__init__(path, made_with)
        self.caption = caption

    def encode(self, record: Record) -> tuple[dict[str, Any], bytes]:
        return ({} if record.error is not None else {"caption": self.caption(record.result)}), b""

    def convert(self, journal: Journal) -> None:
        pyarrow, _ = _import_pyarrow()
        columns = [(name, pyarrow.string()) for name in ("image", "caption", "error")]
        rows = (
            {"image": _utf8(line["image"]), "caption": line.get("caption"), "error": line.get("error")}
            for line in journal.read()
        )
        _write_table(self.path, columns, rows)


def _write_table(path: str, columns: list[tuple[str, Any]], rows: Iterator[dict[str, Any]]) -> None:
    pyarrow, parquet = _import_pyarrow()
    schema = pyarrow.schema(columns)
    aside = AsideFile(path)
    try:
        writer = parquet.ParquetWriter(aside.file, schema)
        try:
            for group in _groups(rows):
                writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))
            writer.close()
        finally:
            # Its destructor would write to a file that is closed by then.
            writer.is_open = False
        aside.commit()
    finally:
        aside.close()


def _groups(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for row in rows:
        group.append(row)
        if len(group) == _GROUP_SIZE:
            yield group
            group = []
    if group:
        yield group


class ShardSink(JournaledSink):
    """A WebDataset shard: for each input the image's file as it was, its caption as `.txt` and its record as `.json`.

    Samples are called by their number among the inputs, for names can be those of other files, or no names at all.
    A file that went away behind its caption leaves its caption alone.
    """

    def __init__(self, path: str, caption: Callable[[Any], str] = str, made_with: MadeWith | None = None):
        super().__init__(path, made_with)
        self.caption = caption
        self.position = 0

    def encode(self, record: Record) -> tuple[dict[str, Any], bytes]:
        fields: dict[str, Any] = {} if record.error is not None else {"caption": self.caption(record.result)}
        key = f"{self.position:09d}"
        self.position += 1
        content = {"image": record.image, **(fields or {"error": record.error})}
        members = [(f"{key}.json", json.dumps(content).encode("ascii"))]
        if record.error is None:
            members.insert(0, (f"{key}.txt", str(fields["caption"]).encode("utf-8")))
            image = _file_of(record)
            if image is not None:
                members.insert(0, (f"{key}.{_suffix_of(image)}", image))
        return fields, b"".join(_member(name, data) for name, data in members)

    def resume(self, inputs: Iterable[Input], batch_size: int) -> Kept:
        kept = super().resume(inputs, batch_size)
        self.position = kept.records
        return kept

    def convert(self, journal: Journal) -> None:
        shard = AsideFile(self.path)
        try:
            with journal.reading() as data:
                shutil.copyfileobj(data, shard.file)
            shard.write(bytes(2 * tarfile.BLOCKSIZE))
            shard.commit()
        finally:
            shard.close()


def _member(name: str, data: bytes) -> bytes:
    """A file in a tar archive, header and padding included."""
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    return entry.tobuf() + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _file_of(record: Record) -> bytes | None:
    if isinstance(record.content, bytes):
        return record.content
    try:
        content = record.content or Span(record.image, 0, os.path.getsize(record.image))
        return read_span(content)
    except (OSError, ImageError):
        return None


def _suffix_of(image: bytes) -> str:
    from PIL import Image

    with Image.open(io.BytesIO(image), formats=known_formats()) as opened:
        return {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}.get(opened.format or "", (opened.format or "img").lower())


def _utf8(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise OutputError("writing .parquet needs pyarrow: pip install 'coca-hf[parquet]'") from None
    return pyarrow, pyarrow.parquet
