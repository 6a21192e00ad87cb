# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Images that are not files of their own: in tar shards (WebDataset) and Parquet tables."""

import gzip
import os
import tarfile
import zlib
from collections.abc import Collection, Iterator
from typing import Any

from .errors import InputError
from .files import error_text
from .inputs import PICTURE_SUFFIXES, Input, Span, suffix_of


MAX_MEMBER_SIZE = 1 << 28
"""Bytes of an image inside another file, which are read at once."""

# Rows of a table are read a few at a time: these are all in memory, and an image can have any size.
_ROWS_AT_ONCE = 16
_BYTES_AT_ONCE = 1 << 25

_PARQUET_HINT = "reading .parquet needs pyarrow: pip install 'coca-hf[parquet]'"


def iter_images(path: str, start: int = 0, suffixes: Collection[str] = ()) -> Iterator[Input]:
    """
    The images in a container from number `start` on. A broken one is an error behind what could be read of it.

    Args:
        suffixes: what is an image in a shard beside the usual, for example ".img".

    Raises:
        InputError: The library that reads it is missing.
    """
    if suffix_of(path) == ".parquet":
        return _iter_table(path, start)
    images = _iter_compressed(path, suffixes, start) if _is_compressed(path) else _iter_shard(path, suffixes)
    return (image for number, image in enumerate(images) if number >= start)


def count_images(path: str, suffixes: Collection[str] = ()) -> int | None:
    """How many inputs `iter_images(path)` gives: a table's metadata says so, a shard's headers are read, None where
    only unpacking all of it would tell."""
    if _is_compressed(path):
        return None
    if suffix_of(path) != ".parquet":
        return sum(1 for _ in _iter_shard(path, suffixes))
    try:
        table = _open_table(path)
    except InputError:
        raise
    except Exception:  # `_iter_table` will say what is wrong with it
        return 1
    with table:
        return table.metadata.num_rows if _image_column(table) else 1


def _is_compressed(path: str) -> bool:
    return suffix_of(path) in (".tar.gz", ".tgz")


def _is_image(member: tarfile.TarInfo, suffixes: Collection[str]) -> bool:
    name = os.path.basename(member.name)
    # macOS puts a "._NAME" beside each file.
    if not member.isreg() or name.startswith("."):
        return False
    suffix = os.path.splitext(name)[1].lower()
    return suffix in PICTURE_SUFFIXES or suffix in suffixes


def _no_images(path: str, others: Collection[str]) -> Input:
    hint = f"; it has {', '.join(sorted(others))}, see --member-suffix" if others else ""
    return Input(path, f"no images in this shard{hint}")


def _iter_shard(path: str, suffixes: Collection[str]) -> Iterator[Input]:
    """`SHARD/MEMBER` for each image, in the shard's order; each is then read where it lies, by whoever needs it."""
    others: set[str] = set()
    found = False
    try:
        with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as shard:
            while (member := shard.next()) is not None:
                # The library remembers every member, which a shard of millions would feel.
                shard.members.clear()  # type: ignore[attr-defined]
                if _is_image(member, suffixes):
                    found = True
                    yield Input(f"{path}/{member.name}", content=Span(path, member.offset_data, member.size))
                elif len(others) < 8:
                    others.add(os.path.splitext(member.name)[1].lower() or "no suffix")
    except OSError as error:
        yield Input(path, f"cannot read this shard: {error_text(error)}")
    except tarfile.TarError as error:
        yield Input(path, f"a broken tar file, or a compressed one: {error}")
    else:
        if not found:
            yield _no_images(path, others)


def _iter_compressed(path: str, suffixes: Collection[str], start: int) -> Iterator[Input]:
    """As `_iter_shard`, with the bytes of each image from number `start` on: there is one way through such a file."""
    others: set[str] = set()
    number = 0
    try:
        with tarfile.open(path, "r|gz", encoding="utf-8", errors="surrogateescape") as shard:
            for member in shard:
                shard.members.clear()  # type: ignore[attr-defined]
                if _is_image(member, suffixes):
                    yield _unpacked(shard, member, path) if number >= start else Input(f"{path}/{member.name}")
                    number += 1
                elif len(others) < 8:
                    others.add(os.path.splitext(member.name)[1].lower() or "no suffix")
    except (OSError, EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
        yield Input(path, f"a broken .tar.gz file: {error_text(error) if isinstance(error, OSError) else error}")
    else:
        if not number:
            yield _no_images(path, others)


def _unpacked(shard: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> Input:
    name = f"{path}/{member.name}"
    if member.size > MAX_MEMBER_SIZE:
        return Input(name, f"{member.size >> 20:,} MB are too many for an image inside another file")
    file = shard.extractfile(member)
    data = file.read() if file else b""
    return Input(name, content=data) if data else Input(name, "an empty file")


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
    candidates = [field.name for field in fields if _holds_images(field.type, pyarrow)]
    return next(
        (name for name in ("image", "jpg", "png", "bytes") if name in candidates), next(iter(candidates), None)
    )


def _holds_images(kind: Any, pyarrow: Any) -> bool:
    if pyarrow.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_images(kind.field("bytes").type, pyarrow)
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def _iter_table(path: str, start: int) -> Iterator[Input]:
    """`TABLE[ROW]` for each row, counted from 0; row groups before row `start` are not read."""
    number = start
    try:
        with _open_table(path) as table:
            column = _image_column(table)
            if column is None:
                yield Input(path, "no column with bytes of images in this table")
                return
            for first, group in _row_groups(table, start):
                rows = table.iter_batches(_rows_at_once(table, group, column), row_groups=[group], columns=[column])
                for place, value in enumerate((value for batch in rows for value in batch.column(0)), first):
                    if place >= start:
                        yield stored_image(f"{path}[{place}]", value.as_py())
                        number = place + 1
    except InputError:
        raise
    except Exception as error:  # pyarrow has many classes for files that are broken in one way or another
        behind = f" behind row {number - 1}" if number else ""
        yield Input(path, f"cannot read this table{behind}: {first_line(error)}")


def _row_groups(table: Any, start: int) -> Iterator[tuple[int, int]]:
    """The first row and the number of each row group that has rows from `start` on."""
    first = 0
    for group in range(table.metadata.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        if first + rows > start:
            yield first, group
        first += rows


def _rows_at_once(table: Any, group: int, column: str) -> int:
    metadata = table.metadata.row_group(group)
    parts = (metadata.column(index) for index in range(metadata.num_columns))
    size = sum(part.total_uncompressed_size for part in parts if part.path_in_schema.split(".")[0] == column)
    return max(1, min(_ROWS_AT_ONCE, _BYTES_AT_ONCE * metadata.num_rows // max(size, 1)))


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def stored_image(name: str, value: Any, bookmark: Any = None) -> Input:
    """The input for what Hugging Face's `Image(decode=False)` gives, or for bytes."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return Input(name, content=value, bookmark=bookmark) if value else Input(name, "no bytes", bookmark=bookmark)
    if isinstance(value, str):
        try:
            return Input(name, content=Span(value, 0, os.path.getsize(value)), bookmark=bookmark)
        except OSError as error:
            return Input(name, f"{value!r}: {error_text(error)}", bookmark=bookmark)
    return Input(name, "no image in this row", bookmark=bookmark)
