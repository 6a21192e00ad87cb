# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""WebDataset shards: uncompressed tar files, in which the files of one record are neighbours and share a name."""

import json
import os
import tarfile
from collections.abc import Iterator
from typing import Any

from ..batch_inference.containers import MAX_MEMBER_SIZE
from ..batch_inference.errors import ImageError, InputError
from ..batch_inference.files import check_is_regular_file, error_text
from ..batch_inference.inputs import PICTURE_SUFFIXES, Input, Span
from .records import CaptionedImage, Columns, PackedRecords, captions_of, lines_of, sorted_out


_TEXTS = (".txt", ".caption", ".text")


def open_shard(path: str, columns: Columns) -> PackedRecords:
    """
    The captions of a record are the lines of its `.txt`, or what its `.json` has under the caption column's name.

    Headers and texts are read once; each image is read where it lies, by whoever needs it.

    Raises:
        InputError: The file is no uncompressed tar file.
    """
    records: list[CaptionedImage] = []
    try:
        check_is_regular_file(path)
        skipped = sorted_out(_records(path, columns), records.append)
    except ImageError as error:
        raise InputError(f"cannot read {path!r}: {error}") from None
    except OSError as error:
        raise InputError(f"cannot read {path!r}: {error_text(error)}") from None
    except tarfile.TarError as error:
        raise InputError(f"{path!r} is a broken tar file, or a compressed one: {error}") from None
    return PackedRecords(records, skipped)


def _records(path: str, columns: Columns) -> Iterator[tuple[str, CaptionedImage | str]]:
    for members in _groups(path):
        image = next((name for name in members if os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES), None)
        name = f"{path}/{image or next(iter(members))}"
        if image is None:
            yield name, "no image beside it in the shard"
            continue
        found = members[image]
        captions, fields = _texts(members, columns)
        if not captions and columns.need_captions:
            yield name, f"no caption beside it in the shard, neither as .txt nor in a .json as {columns.caption!r}"
        else:
            yield name, CaptionedImage(name, Input(name, content=found), captions, fields)


def _groups(path: str) -> Iterator[dict[str, Any]]:
    """The members of each record by name: places of images, contents of texts."""
    key: tuple[str, str] | None = None
    members: dict[str, Any] = {}
    with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as shard:
        while (member := shard.next()) is not None:
            # The library remembers every member, which a shard of millions would feel.
            shard.members.clear()  # type: ignore[attr-defined]
            folder, name = os.path.split(member.name)
            if not member.isreg() or name.startswith("."):
                continue
            # WebDataset's rule: the name up to its first dot is the record's.
            own = (folder, name.partition(".")[0])
            if own != key and members:
                yield members
            if own != key:
                key, members = own, {}
            members[member.name] = _content(shard, member, path)
    if members:
        yield members


def _content(shard: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> Any:
    suffix = os.path.splitext(member.name)[1].lower()
    if suffix in (*_TEXTS, ".json") and member.size <= MAX_MEMBER_SIZE:
        file = shard.extractfile(member)
        return file.read() if file else b""
    return Span(path, member.offset_data, member.size)


def _texts(members: dict[str, Any], columns: Columns) -> tuple[tuple[str, ...], dict[str, Any]]:
    captions: tuple[str, ...] = ()
    fields: dict[str, Any] = {}
    for name, content in members.items():
        suffix = os.path.splitext(name)[1].lower()
        if suffix in (*_TEXTS, f".{columns.caption}") and isinstance(content, bytes):
            captions = lines_of(content.decode("utf-8", "replace")) or captions
        elif suffix == ".json" and isinstance(content, bytes):
            fields = _parsed(content)
    captions = captions or captions_of(fields.pop(columns.caption, None))
    return captions, fields


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
