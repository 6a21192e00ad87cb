# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Retrieval: how often what belongs to a text or an image is among the first that its embedding finds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .errors import EvaluationError


RECALLS = (1, 5, 10)

# Scores that are in memory at a time: 64 MB.
_SCORES_AT_A_TIME = 1 << 24


def retrieval_recall(
    image_embeds: Any,
    text_embeds: Any,
    image_of_text: Sequence[int],
    *,
    image_to_text: Mapping[Any, Sequence[Any]] | None = None,
    text_to_image: Mapping[Any, Sequence[Any]] | None = None,
    image_ids: Sequence[Any] | None = None,
    text_ids: Sequence[Any] | None = None,
) -> dict[str, float]:
    """
    Recall at 1, 5 and 10 in both directions, and scores over more labels where these are given.

    Args:
        image_embeds: (images, dim), an array or a tensor, normalised.
        text_embeds: (texts, dim), the same. An image may have several texts.
        image_of_text: (texts,), the row of the image that a text belongs to.
        image_to_text, text_to_image: labels as those of ECCV Caption and CxC: {image id: [text id, ...]} and the other
            way round. Only what they have is asked for; there may be more than one image to a text.
        image_ids, text_ids: what the labels call the rows; by default their numbers.

    Returns:
        {"text_to_image_recall@1": ..., "image_to_text_recall@10": ...}, fractions: of texts whose image is among the
        first 1, 5 or 10, and of images with one of their texts among them, as CLIP_benchmark computes them. An image
        without texts counts as a miss. With labels "image_to_text_map_at_r" and "image_to_text_r_precision" as well,
        and the same of "text_to_image", as eccv-caption computes them.

    Raises:
        EvaluationError: The arrays do not fit each other, or a label names what is not there.

    Of equal scores the order is that of `torch.topk`. Time grows with images x texts, memory does not.
    """
    images, texts = _matrix(image_embeds, "image_embeds"), _matrix(text_embeds, "text_embeds")
    owners = np.asarray(image_of_text)
    _check(images, texts, owners)
    own_texts: list[list[int]] = [[] for _ in range(len(images))]
    for text, image in enumerate(owners.tolist()):
        own_texts[image].append(text)
    found = {
        **_recalls("text_to_image", texts, images, [[image] for image in owners.tolist()]),
        **_recalls("image_to_text", images, texts, own_texts),
    }
    rows = _numbered(image_ids, len(images), "image_ids"), _numbered(text_ids, len(texts), "text_ids")
    if image_to_text is not None:
        found |= _over_labels("image_to_text", images, texts, image_to_text, *rows)
    if text_to_image is not None:
        found |= _over_labels("text_to_image", texts, images, text_to_image, *rows[::-1])
    return found


def nearest(queries: Any, items: Any, number: int) -> np.ndarray:
    """(queries, number): rows of the items with the highest scores, the best first."""
    pieces = [best for _, best in _nearest(_matrix(queries, "queries"), _matrix(items, "items"), [number])]
    return np.concatenate([best[0] for best in pieces])


def _matrix(embeds: Any, name: str) -> Any:
    import torch

    matrix = torch.as_tensor(embeds).detach()
    if matrix.ndim != 2 or not len(matrix):
        raise EvaluationError(f"{name} has to be of shape (rows, dim) with a row at least, not {tuple(matrix.shape)}")
    matrix = matrix.float() if not matrix.is_floating_point() or matrix.element_size() < 4 else matrix
    if not torch.isfinite(matrix).all():
        raise EvaluationError(f"{name} holds numbers that are not finite")
    return matrix


def _check(images: Any, texts: Any, owners: np.ndarray) -> None:
    if images.shape[1] != texts.shape[1]:
        raise EvaluationError(f"images are embedded in {images.shape[1]} numbers, texts in {texts.shape[1]}")
    if owners.shape != (len(texts),) or not np.issubdtype(owners.dtype, np.integer):
        raise EvaluationError(f"image_of_text has to be {len(texts):,} row numbers, one for each text")
    if owners.min() < 0 or owners.max() >= len(images):
        raise EvaluationError(f"image_of_text names an image that is none of the {len(images):,}")


def _numbered(ids: Sequence[Any] | None, number: int, name: str) -> dict[Any, int]:
    numbered = {each: row for row, each in enumerate(range(number) if ids is None else ids)}
    if len(numbered) != number:
        raise EvaluationError(f"{name} has to be {number:,} different ids")
    return numbered


def _nearest(queries: Any, items: Any, sizes: Sequence[int]) -> Iterator[tuple[int, list[np.ndarray]]]:
    """The first row of a piece, and its nearest items for each of the sizes."""
    step = max(1, _SCORES_AT_A_TIME // len(items))
    for start in range(0, len(queries), step):
        scores = queries[start : start + step].to(items) @ items.T
        yield start, [scores.topk(min(size, len(items)), dim=1).indices.cpu().numpy() for size in sizes]


def _recalls(direction: str, queries: Any, items: Any, wanted: Sequence[Sequence[int]]) -> dict[str, float]:
    hits = np.zeros(len(RECALLS))
    for start, best in _nearest(queries, items, RECALLS):
        for number, rows in enumerate(best):
            hits[number] += sum(
                not set(wanted[start + offset]).isdisjoint(row) for offset, row in enumerate(rows.tolist())
            )
    return {f"{direction}_recall@{k}": float(hit) / len(queries) for k, hit in zip(RECALLS, hits, strict=True)}


def _over_labels(
    direction: str,
    queries: Any,
    items: Any,
    labels: Mapping[Any, Sequence[Any]],
    query_rows: Mapping[Any, int],
    item_rows: Mapping[Any, int],
) -> dict[str, float]:
    """Mean average precision at R and R-precision, R the number of items that a query is labelled with."""
    if not labels:
        raise EvaluationError(f"the labels of {direction} are empty")
    try:
        chosen = [query_rows[each] for each in labels]
        wanted = [{item_rows[item] for item in items_of} for items_of in labels.values()]
    except KeyError as error:
        raise EvaluationError(f"the labels of {direction} name {error}, which is not among the embeddings") from None
    if not all(wanted):
        raise EvaluationError(f"a label of {direction} has no items")
    most = max(map(len, wanted))
    precisions, averages = [], []
    for start, (best,) in _nearest(queries[chosen], items, [most]):
        for offset, row in enumerate(best):
            relevant = wanted[start + offset]
            hits = np.array([item in relevant for item in row[: len(relevant)].tolist()], float)
            at_each = np.cumsum(hits) / np.arange(1, len(hits) + 1)
            precisions.append(at_each[-1])
            averages.append((at_each * hits).mean())
    return {
        f"{direction}_map_at_r": float(np.mean(averages)),
        f"{direction}_r_precision": float(np.mean(precisions)),
    }
