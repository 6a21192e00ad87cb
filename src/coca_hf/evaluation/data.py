# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Data sets as evaluation sees them: an image with all of its captions and its label, and how to read the images."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..batch_inference.files import digest, error_text
from ..batch_inference.hf_datasets import DatasetInputs
from ..batch_inference.inputs import is_container
from ..batch_inference.plan import Inputs, PathInputs
from ..image_text_data import CaptionedImage, ImageTextData
from .errors import EvaluationError


@dataclass(frozen=True)
class EvaluationData:
    """
    Images by the names that the engine's records have, in the order of the data.

    `references` and `labels` are of the images that have some; `ids` are what the data set calls them.
    """

    ids: dict[str, str]
    references: dict[str, list[str]]
    labels: dict[str, str]
    images: dict[str, CaptionedImage] = field(repr=False)

    @classmethod
    def of(cls, data: ImageTextData, label_column: str = "label") -> "EvaluationData":
        """Rows of the same image become one, with the captions of all of them."""
        found = cls({}, {}, {}, {})
        for record in data:
            found.ids.setdefault(record.path, record.id)
            found.images.setdefault(record.path, record)
            if record.captions:
                found.references.setdefault(record.path, []).extend(record.captions)
            label = record.fields.get(label_column)
            if label is not None:
                found.labels[record.path] = str(label)
        return found

    def require_references(self, column: str = "caption") -> None:
        """Raises `EvaluationError` where an image has none. `column` is where records have them."""
        without = [path for path in self.ids if path not in self.references]
        if len(without) == len(self.ids):
            raise EvaluationError(
                f"the data has no captions, so there is nothing to compare with. Rows have theirs in {column!r}; "
                "--caption-column names another column"
            )
        if without:
            raise EvaluationError(
                f"{without[0]!r} has no caption: {len(without):,} of {len(self.ids):,} images have none"
            )

    def label_by_folder(self) -> None:
        """Where no record has a label, the folders that the images lie in are their classes."""
        if not self.labels:
            self.labels.update({path: os.path.basename(os.path.dirname(path)) for path in self.ids})

    def classes(self) -> list[str]:
        """The labels that occur, numbers in their order."""
        labels = set(self.labels.values())
        return sorted(labels, key=(lambda label: (int(label), label)) if all(map(str.isdecimal, labels)) else None)

    @property
    def fingerprint(self) -> str:
        """Differs where images, captions or labels do."""
        return digest(
            json.dumps([name, self.references.get(path), self.labels.get(path)]) for path, name in self.ids.items()
        )

    def inputs(self, paths: Sequence[str], split: str, image_column: str) -> Inputs:
        """What the engine reads: containers as a whole, files one by one. Raises `EvaluationError` for a mixture."""
        own = [record.image for record in self.images.values()]
        if all(image.content is None and not image.path.endswith("]") for image in own):
            return PathInputs([image.path for image in own])
        containers = [path for path in paths if is_container(path)]
        if len(containers) == len(paths):
            return PathInputs(containers)
        if len(paths) == 1:
            return DatasetInputs(paths[0], split, image_column)
        raise EvaluationError("data sets of several kinds cannot be evaluated in one run: give them one by one")


def read_candidates(path: str, data: EvaluationData) -> dict[str, str]:
    """
    The captions in a file of JSON lines, `{"image": ..., "caption": ...}`, by the names of `data`'s images.

    An image is called as the data set calls it, by its path, or by its file's name where that is one image's only.

    Raises:
        EvaluationError: The file cannot be read, a line is no such record, an image has two captions or is not in the
            data, or an image of the data has none.
    """
    names = _names(data)
    found: dict[str, str] = {}
    for number, record in _json_lines(path):
        image, caption = record.get("image"), record.get("caption")
        where = f"line {number} of {path!r}"
        if not isinstance(image, str) or not isinstance(caption, str):
            reason = record.get("error")
            what = f"has no caption: {reason}" if isinstance(reason, str) else "needs a text as image and as caption"
            raise EvaluationError(f"{where} {what}")
        known = names.get(image) or names.get(os.path.basename(image))
        if known is None:
            raise EvaluationError(f"{where} is about {image!r}, which has no references in the data")
        if known in found:
            raise EvaluationError(f"{where} is a second caption of {image!r}. Give one an image")
        found[known] = caption
    missing = [path for path in data.references if path not in found]
    if missing:
        more = f", nor do {len(missing) - 1:,} more images" if len(missing) > 1 else ""
        raise EvaluationError(f"{data.ids[missing[0]]!r} has references, but no caption in {path!r}{more}")
    return found


def _names(data: EvaluationData) -> dict[str, str | None]:
    names: dict[str, str | None] = {}
    for path in data.ids:
        short = os.path.basename(path)
        names[short] = None if short in names else path
    names.update({name: path for path, name in data.ids.items()})
    names.update({path: path for path in data.ids})
    return names


def _json_lines(path: str) -> Iterable[tuple[int, Mapping[str, Any]]]:
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise EvaluationError(f"line {number} of {path!r} is no record: give JSON objects, one a line")
                yield number, record
    except OSError as error:
        raise EvaluationError(f"cannot read {path!r}: {error_text(error)}") from None
    except ValueError as error:
        if isinstance(error, EvaluationError):
            raise
        raise EvaluationError(f"{path!r} is no file of JSON lines: {error}") from None
