# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""COCO's annotations (`images` and `annotations`), Karpathy's splits (`images` with `sentences`), lists of records."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from ..batch_inference.errors import ImageError, InputError
from ..batch_inference.files import check_is_regular_file, error_text
from .records import (
    CaptionedImage,
    Columns,
    PackedRecords,
    captions_of,
    image_at,
    missing_columns,
    row_record,
    sorted_out,
)


# Karpathy's split of COCO trains on the rest of the validation images, too.
_SPLITS = {"train": ("train", "restval"), "val": ("val",), "validation": ("val",), "test": ("test",)}

Rows = Iterator[tuple[str, CaptionedImage | str]]


def open_json(path: str, columns: Columns, split: str, folder: str | None = None) -> PackedRecords:
    """
    Args:
        split: which part of Karpathy's file: train (with restval), val or test.
        folder: where the images are; by default looked for beside the file, in the folders that COCO's archives make.

    Raises:
        InputError: The file cannot be read, or is none of these.
    """
    content = _read(path)
    home = os.path.dirname(path)
    images: Any = content.get("images") if isinstance(content, dict) else None
    if isinstance(content, list):
        rows = _listed(path, content, columns, home if folder is None else folder)
    elif _is_list_of_objects(images) and any("sentences" in image for image in images):
        rows = _karpathy(images, _wanted_splits(path, images, split), home if folder is None else folder, columns)
    elif _is_list_of_objects(images) and _is_list_of_objects(content.get("annotations")):
        found = folder if folder is not None else _coco_folder(path, images)
        rows = _coco(images, content["annotations"], found, columns)
    else:
        raise InputError(
            f"{path!r} is no data set of captions: it is neither COCO's nor Karpathy's JSON, nor a list of records. "
            "One record a line goes into a file named .jsonl"
        )
    records: list[CaptionedImage] = []
    skipped = sorted_out(rows, records.append)
    return PackedRecords(records, skipped)


def _read(path: str) -> Any:
    try:
        check_is_regular_file(path)
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except ImageError as error:
        raise InputError(f"cannot read {path!r}: {error}") from None
    except OSError as error:
        raise InputError(f"cannot read {path!r}: {error_text(error)}") from None
    except ValueError:
        raise InputError(f"{path!r} is not valid JSON; one record a line goes into a file named .jsonl") from None


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def _listed(path: str, content: list[Any], columns: Columns, folder: str) -> Rows:
    names = dict.fromkeys(name for row in content if isinstance(row, dict) for name in row)
    problem = missing_columns(columns, names) if content else None
    if problem is not None:
        raise InputError(f"{path!r} {problem}")
    for number, row in enumerate(content):
        is_row = isinstance(row, dict)
        yield f"{path}[{number}]", row_record(row, columns, folder) if is_row else "not a JSON object"


def _wanted_splits(path: str, images: list[dict[str, Any]], split: str) -> tuple[str, ...]:
    present = sorted({str(image.get("split")) for image in images})
    wanted = _SPLITS.get(split, (split,))
    if not set(wanted) & set(present):
        raise InputError(f"{path!r} has no split {split!r}; it has {', '.join(present)}")
    return wanted


def _karpathy(images: list[dict[str, Any]], splits: tuple[str, ...], folder: str, columns: Columns) -> Rows:
    for image in images:
        name = os.path.join(str(image.get("filepath") or ""), str(image.get("filename")))
        if str(image.get("split")) in splits:
            captions = captions_of(image.get("sentences"))
            yield name, _record(name, image_at(name, folder), captions, image, columns, ("sentences", "sentids"))


def _coco(images: list[dict[str, Any]], annotations: list[dict[str, Any]], folder: str, columns: Columns) -> Rows:
    captions: dict[Any, list[str]] = defaultdict(list)
    for annotation in annotations:
        captions[annotation.get("image_id")] += captions_of(annotation.get("caption"))
    for image in images:
        name = str(image.get("file_name"))
        yield name, _record(name, image_at(name, folder), tuple(captions[image.get("id")]), image, columns)


def _record(
    name: str, image: Any, captions: tuple[str, ...], row: dict[str, Any], columns: Columns, known: tuple = ()
) -> CaptionedImage | str:
    if not captions and columns.need_captions:
        return "no captions"
    fields = {key: value for key, value in row.items() if key not in known}
    return CaptionedImage(name, image, captions, fields)


def _coco_folder(path: str, images: list[dict[str, Any]]) -> str:
    """Where COCO's images are: its archives put `annotations/captions_train2017.json` beside `train2017/`."""
    home = os.path.dirname(path)
    first = str(images[0].get("file_name")) if images else ""
    name = re.sub(r"^captions_|\.json$", "", os.path.basename(path))
    above = os.path.join(home, os.pardir)
    places = [home, *(os.path.join(base, part) for base in (home, above) for part in (name, "images", ""))]
    return next((place for place in places if os.path.exists(os.path.join(place, first))), home)
