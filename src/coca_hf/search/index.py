# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Photos of an index by words, by a picture, and those that are nearly the same."""

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..batch_inference.errors import ImageError
from ..batch_inference.images import read_image
from ..batch_inference.models import ModelChoice, check_device, check_model, fingerprint
from .calibration import words_of
from .errors import SearchError
from .folder import Contents, IndexFolder
from .pictures import look_of


SIMILAR = 0.95
"""Cosine from which on two pictures may be nearly the same."""

SAME_LOOK = 8.0
"""Up to which difference they are: of both, reduced to 8 x 8 pixels, the root mean square in levels of 0 to 255."""

# Rows of a product: what it reads and what it writes stay in the processor's cache.
_ROWS = 1 << 14

# Rows and columns of a product of all photos with all.
_SQUARE = 1 << 11

# Of the photos that are similar enough to a text for their captions to decide, so many are looked at.
_MOST_CAPTIONS = 2000


@dataclass(frozen=True)
class Hit:
    """A photo that was found: `score` is its cosine with the query, -1 to 1."""

    path: str
    score: float
    caption: str


class Index:
    """
    An index that was made by `build_index` or `coca-hf index`, to be searched.

    `embeddings` is float32 (photos, dimensions), L2-normalised, in the order of `photo(row)`. What is on the disk may
    change meanwhile; an `Index` stays what it was when it was opened. Threads can share one.
    """

    def __init__(self, contents: Contents, folder: str, choice: ModelChoice):
        self.folder = folder
        self.choice = choice
        self._contents = contents
        self._lock = threading.Lock()
        self._task: Any = None

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        model: str | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
    ) -> "Index":
        """
        Args:
            model: where the model is that the index was made with, if not where it was then.
            device, dtype: as in `ModelChoice`. The model is loaded when it is first needed.

        Raises:
            SearchError: There is no index, one of another version, or its model is another one or not there.
            ModelError: No such device.
        """
        import coca_hf

        contents = IndexFolder(folder).read()
        check_device(device)
        name = model or contents.model or str(coca_hf.bundled_model())
        return cls(contents, os.fspath(folder), ModelChoice(name, device, dtype))

    def __len__(self) -> int:
        return len(self._contents.lines)

    @property
    def embeddings(self) -> np.ndarray:
        return self._contents.embeddings

    def photo(self, row: int, score: float = 1.0) -> Hit:
        photo = self._contents.photo(row)
        return Hit(photo.path, score, photo.caption)

    def search(self, query: str | os.PathLike[str] | Image.Image, top: int = 10, *, cutoff: bool = True) -> list[Hit]:
        """
        The photos that match, those that are most similar first.

        Args:
            query: a text, or a picture: a PIL image, or the path of a file as a `pathlib.Path`.
            top: how many at most.
            cutoff: without it the nearest photos, whether they match or not.

        Returns:
            Nothing where nothing matches, which the index decides by its own captions and photos (`calibration`).

        Raises:
            SearchError: No words in the text, no readable picture, or not the model that the index was made with.
            ModelError: The model cannot be loaded.
        """
        if top < 1:
            raise SearchError(f"top {top} is not allowed: give 1 or more")
        if isinstance(query, str):
            return self._by_text(query, top, cutoff)
        return self._by_picture(query, top, cutoff)

    def _by_text(self, query: str, top: int, cutoff: bool) -> list[Hit]:
        words = words_of(query)
        if not words:
            raise SearchError(f"the query {query!r} has no words in it")
        if not len(self):
            return []
        similarities = self.similarities(self.embed_texts([query])[0])
        if not cutoff:
            return self._hits(similarities, _highest(similarities, top))
        calibration = self._contents.calibration
        limits = calibration.limits(words)
        possible = _highest(similarities, max(top, _MOST_CAPTIONS), min(limits.said, limits.unsaid))
        may_say = calibration.may_say(words)
        found: list[Hit] = []
        for row, score in zip(possible.tolist(), similarities[possible].tolist(), strict=True):
            if score < limits.unsaid and not may_say(self._contents.lines[row]):
                continue
            hit = self.photo(row, score)
            if score >= limits.unsaid or score >= limits.at(calibration.said(hit.caption, words)):
                found.append(hit)
            if len(found) == top:
                break
        return found

    def _by_picture(self, query: os.PathLike[str] | Image.Image, top: int, cutoff: bool) -> list[Hit]:
        image = query if isinstance(query, Image.Image) else self._read(os.fspath(query))
        if not len(self):
            return []
        similarities = self.similarities(self.embed_images([image])[0])
        limit = self._contents.calibration.picture_limit if cutoff else -2.0
        return self._hits(similarities, _highest(similarities, top, limit))

    def _read(self, path: str) -> Image.Image:
        try:
            return read_image(path, resized_size=self._loaded().prepare.resized_size)
        except ImageError as error:
            raise SearchError(f"cannot read the picture {path!r}: {error}") from None

    def _hits(self, similarities: np.ndarray, rows: np.ndarray) -> list[Hit]:
        return [self.photo(row, score) for row, score in zip(rows.tolist(), similarities[rows].tolist(), strict=True)]

    def similarities(self, embedding: np.ndarray) -> np.ndarray:
        """float32 (dimensions,) -> cosines with all photos, float32 (photos,). Exact: every row is looked at."""
        embeddings = self.embeddings
        if embedding.shape != embeddings.shape[1:]:
            raise SearchError(f"the query has {len(embedding)} dimensions, the index has {embeddings.shape[1]}")
        found = np.empty(len(self), np.float32)
        for start in range(0, len(self), _ROWS):
            np.dot(embeddings[start : start + _ROWS], embedding, out=found[start : start + _ROWS])
        return found

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """-> float32 (texts, dimensions), L2-normalised, comparable with `embeddings`."""
        from ..batch_inference.tasks import text_embeds

        task = self._loaded()
        return text_embeds(task.model, task.processor, texts).cpu().numpy()

    def embed_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """-> float32 (images, dimensions), L2-normalised, comparable with `embeddings`."""
        task = self._loaded()
        results = task.process([task.prepare(image) for image in images], [(0, 0)] * len(images))
        return np.stack([result.embedding for result in results])

    def _loaded(self) -> Any:
        """The model's towers. Raises `SearchError` where the index was made with another model."""
        with self._lock:
            if self._task is None:
                from ..batch_inference.tasks import EmbedTask

                self.check_model()
                self._task = EmbedTask(self.choice)
            return self._task

    def check_model(self) -> None:
        """Raises `SearchError` or `ModelError` unless the model is there and the one that the index was made with."""
        name = self.choice.name
        if os.path.isabs(name) and not os.path.exists(name):
            raise SearchError(
                f"the model of the index {self.folder!r} is not at {name!r} any more. Say where it is with --model"
            )
        check_model(name, captions=False)
        if fingerprint(name) != self._contents.made_with["model"]:
            raise SearchError(
                f"the index {self.folder!r} was made with another model than {name!r}. Give that model, or remove the "
                "index and make it anew"
            )

    def duplicates(self) -> list[list[Hit]]:
        """
        Groups of photos that are nearly the same: copies in other sizes or formats, and pictures of one moment.

        Photos with a cosine of at least `SIMILAR` are read and compared by what they look like (`SAME_LOOK`), for two
        pictures of the same things can be as similar. Every pair of rows is looked at, which takes a time that grows
        with the square of the photos. A hit's score is the highest cosine with another one of its group.
        """
        group = list(range(len(self)))
        best: dict[int, float] = {}

        def root(row: int) -> int:
            while group[row] != row:
                group[row] = group[group[row]]
                row = group[row]
            return row

        for row, other, cosine in self._same_looking():
            first, second = sorted((root(row), root(other)))
            group[second] = first
            best[row], best[other] = (max(best.get(each, -1.0), cosine) for each in (row, other))
        groups: dict[int, list[int]] = {}
        for row in sorted(best):
            groups.setdefault(root(row), []).append(row)
        return [[self.photo(row, best[row]) for row in rows] for rows in groups.values()]

    def _same_looking(self) -> Iterator[tuple[int, int, float]]:
        looks: dict[int, np.ndarray | None] = {}
        for rows, others, cosines in self._similar_pairs():
            for row in {*rows.tolist(), *others.tolist()} - looks.keys():
                looks[row] = look_of(self.photo(row).path)
            for row, other, cosine in zip(rows.tolist(), others.tolist(), cosines.tolist(), strict=True):
                here, there = looks[row], looks[other]
                if here is not None and there is not None and np.sqrt(np.mean((here - there) ** 2)) <= SAME_LOOK:
                    yield row, other, min(cosine, 1.0)

    def _similar_pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Rows, rows behind them and their cosines, some at a time."""
        for start in range(0, len(self), _SQUARE):
            rows = self.embeddings[start : start + _SQUARE]
            for other in range(start, len(self), _SQUARE):
                cosines = rows @ self.embeddings[other : other + _SQUARE].T
                first, second = np.nonzero(cosines >= SIMILAR)
                found = cosines[first, second]
                behind = start + first < other + second
                yield start + first[behind], other + second[behind], found[behind]


def _highest(similarities: np.ndarray, top: int, limit: float = -2.0) -> np.ndarray:
    """Rows of the `top` highest that are at least `limit`, highest first; of equal ones the first first."""
    rows = np.flatnonzero(similarities >= limit)
    if len(rows) > top:
        rows = np.sort(rows[np.argpartition(-similarities[rows], top - 1)[:top]])
    return rows[np.argsort(-similarities[rows], kind="stable")]
