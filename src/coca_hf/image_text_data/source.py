# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whatever a data set is, by its name."""

import os
import re
from collections.abc import Sequence

from ..batch_inference.errors import InputError
from ..batch_inference.inputs import suffix_of
from ..batch_inference.paths import expand_braces
from .folders import open_folder
from .json_files import open_json
from .records import Columns, ImageTextData, Joined
from .shards import open_shard
from .text_files import JsonLines, SeparatedValues


# Of the Hub: NAME or OWNER/NAME.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_KINDS = ".jsonl, .csv, .tsv, .json, .tar or .parquet file, a folder of images with .txt files beside them"


def open_image_text_data(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    image_column: str = "image",
    caption_column: str = "caption",
    split: str = "train",
    image_folder: str | None = None,
    streaming: bool = False,
    need_captions: bool = True,
) -> ImageTextData:
    """
    The records of one or more data sets, one behind the other, as `ImageTextData`.

    A path is a `.jsonl` file (`{"image": PATH, "caption": TEXT or [TEXT, ...]}`), a `.csv` or `.tsv` with names in its
    first row, COCO's or Karpathy's `.json` or one that is a list of records, a folder or glob of images with a `.txt`
    beside each (a caption a line), an uncompressed WebDataset `.tar`, a `.parquet` table, a folder that the `datasets`
    library saved, or the name of a data set on the Hub. Braces are expanded: `shard-{000..012}.tar`. Rows that name
    the same image stay records of their own.

    Args:
        image_column, caption_column: names of the columns or keys. Captions are a text or a list of texts.
        split: of a data set on the Hub, a saved one, or Karpathy's.
        image_folder: what paths of images in files and tables are relative to; by default the file's own folder.
        streaming: read Hub data sets as they come, without storing them; only neighbours are then close, see `window`.
        need_captions: whether records without a caption are left out, and data without a caption column refused.

    Raises:
        InputError: A data set is not there, cannot be read, lacks a column, or has no record at all.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    columns = Columns(image_column, caption_column, need_captions)
    names = [name for path in paths for name in _expanded(os.fspath(path))]
    if not names:
        raise InputError(f"no data was given: name a {_KINDS}, or a data set of the Hub")
    parts = [_open(name, columns, split, image_folder, streaming) for name in names]
    for name, part in zip(names, parts, strict=True):
        if not len(part):
            raise InputError(_why_empty(name, part))
    return parts[0] if len(parts) == 1 else Joined(parts)


def _expanded(path: str) -> list[str]:
    return [path] if os.path.lexists(path) else list(expand_braces(path))


def _open(name: str, columns: Columns, split: str, folder: str | None, streaming: bool) -> ImageTextData:
    suffix = suffix_of(name)
    if os.path.isdir(name):
        if {"dataset_info.json", "dataset_dict.json"} & set(os.listdir(name)):
            return _hub(name, columns, split, streaming)
        return open_folder(name, columns)
    if suffix in (".jsonl", ".ndjson"):
        return JsonLines(name, columns, folder)
    if suffix in (".csv", ".tsv"):
        return SeparatedValues(name, columns, folder)
    if suffix == ".json":
        return open_json(name, columns, split, folder)
    if suffix == ".tar":
        return open_shard(name, columns)
    if suffix in (".tar.gz", ".tgz"):
        raise InputError(f"{name!r} is compressed, so its images cannot be reached one by one: unpack it with gunzip")
    if suffix == ".parquet":
        # Here, because these import a library that few need.
        from .tables import open_parquet

        return open_parquet(name, columns, folder)
    if not os.path.lexists(name) and _HUB_ID.fullmatch(name):
        return _hub(name, columns, split, streaming)
    if any(letter in name for letter in "*?["):
        return open_folder(name, columns)
    what = "is no data set" if os.path.lexists(name) else "is not there"
    raise InputError(f"{name!r} {what}: give a {_KINDS}, or a data set of the Hub")


def _hub(name: str, columns: Columns, split: str, streaming: bool) -> ImageTextData:
    from .tables import open_hub

    return open_hub(name, columns, split, streaming)


def _why_empty(name: str, part: ImageTextData) -> str:
    if not part.skipped:
        return f"{name!r} is empty: it has no record"
    where, why = part.skipped[0]
    if len(part.skipped) == 1:
        return f"{name!r} has no record that can be used: {where}: {why}"
    return f"{name!r} has none that can be used among {len(part.skipped):,} records; the first, {where}: {why}"
