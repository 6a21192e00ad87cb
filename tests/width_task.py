# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Work for which no model is needed: an image's caption is its width."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from coca_hf.batch_inference.jobs import MadeWith, Result


class WidthTask:
    """A caption "N wide" for each image, with `embeddings` the vector (N, N / 3), too; remembers its batches."""

    def __init__(self, embeddings: bool = False) -> None:
        self.embeddings = embeddings
        self.batches: list[list[int]] = []
        self.places: list[tuple[int, int]] = []

    def prepare(self, image: Image.Image) -> int:
        return image.width

    def process(self, prepared: list[int], places: Sequence[tuple[int, int]]) -> list[Result]:
        self.batches.append(prepared)
        self.places += places
        vectors = [np.float32([width, width / 3]) if self.embeddings else None for width in prepared]
        return [Result({"caption": f"{width} wide"}, vector) for width, vector in zip(prepared, vectors, strict=True)]


@dataclass
class WidthJob:
    """`task` is what it loads; `made_with` tells it from other jobs."""

    embeddings: bool = False
    options: dict = field(default_factory=dict)
    task: WidthTask | None = None

    @property
    def makes(self) -> frozenset[str]:
        return frozenset({"captions", "embeddings"} if self.embeddings else {"captions"})

    def load(self) -> WidthTask:
        self.task = self.task or WidthTask(self.embeddings)
        return self.task

    def made_with(self) -> MadeWith:
        return {"command": "width", **self.options}
