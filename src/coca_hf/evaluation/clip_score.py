# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""CLIPScore and RefCLIPScore (Hessel et al., arXiv 2104.08718): captions judged by the embeddings of a model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .errors import EvaluationError


PROMPT = "A photo depicts "
"""What stands in front of a caption and of a reference when their embeddings are made for these scores."""

_WEIGHT = 2.5


def clip_scores(
    image_embeds: Any, candidate_embeds: Any, reference_embeds: Sequence[Any] | None = None
) -> dict[str, np.ndarray]:
    """
    CLIPScore of each caption, and RefCLIPScore where there are references.

    Args:
        image_embeds, candidate_embeds: (images, dim), normalised; texts with `PROMPT` in front.
        reference_embeds: for each image (references, dim), the same.

    Returns:
        {"clip_score": (images,)}, 2.5 times the cosine, not below 0 (section 3); and "ref_clip_score", the harmonic
        mean of that and of the highest cosine to a reference, not below 0.

    Raises:
        EvaluationError: The numbers of images, captions and references differ.
    """
    images, candidates = np.asarray(image_embeds, np.float64), np.asarray(candidate_embeds, np.float64)
    if images.shape != candidates.shape or images.ndim != 2:
        raise EvaluationError(f"embeddings of shapes {images.shape} and {candidates.shape} do not fit each other")
    scores = {"clip_score": _WEIGHT * np.maximum((images * candidates).sum(axis=1), 0)}
    if reference_embeds is not None:
        if len(reference_embeds) != len(images):
            raise EvaluationError(f"there are {len(images):,} images, but references of {len(reference_embeds):,}")
        pairs = zip(candidates, reference_embeds, strict=True)
        nearest = np.array([max(float((np.asarray(each) @ row).max()), 0.0) for row, each in pairs])
        total = scores["clip_score"] + nearest
        both = 2 * scores["clip_score"] * nearest
        scores["ref_clip_score"] = np.divide(both, total, out=np.zeros_like(total), where=total > 0)
    return scores
