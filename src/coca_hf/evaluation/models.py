# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What evaluation asks of a model that is loaded. Importing this imports torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..batch_inference.tasks import Preparer, text_embeds
from ..image_text_data import ImageTextData
from .data import EvaluationData
from .errors import EvaluationError
from .scoring import EmbedTexts, Made, score_captions, score_retrieval


def text_embedder(model: Any, processor: Any) -> EmbedTexts:
    """Texts -> (texts, dim), normalised, float32, by a `CoCaModel` or a `CoCaForCaptioning`."""
    return lambda texts: text_embeds(model, processor, texts).cpu().numpy()


def evaluate_model(
    model: Any,
    processor: Any,
    data: ImageTextData,
    *,
    tasks: Sequence[str] = ("captions", "retrieval"),
    batch_size: int = 16,
    limit: int | None = None,
    **generation: Any,
) -> dict[str, float]:
    """
    Scores of a loaded model, for a training run that stops to look: as the command's, in this process.

    Args:
        model: `CoCaForCaptioning`, on its device. It is in eval mode meanwhile, and in the mode it had afterwards.
        processor: its `CoCaProcessor`.
        data: images with captions, as `open_image_text_data` gives them.
        tasks: of "captions" and "retrieval".
        limit: look at no more images than that, the first ones.
        generation: arguments of `generate()`.

    Returns:
        {"bleu_4": ..., "cider": ..., "clip_score": ..., "text_to_image_recall@1": ..., ...}.

    Raises:
        EvaluationError: A task is unknown, or the data has no captions.
        ImageError: An image cannot be read.
    """
    unknown = [task for task in tasks if task not in ("captions", "retrieval")]
    if unknown or not tasks:
        raise EvaluationError(f"tasks {list(tasks)} are not captions, retrieval or both")
    seen = EvaluationData.of(data)
    paths = list(seen.references)[:limit]
    if not paths:
        raise EvaluationError("the data has no captions, so there is nothing to compare with")
    kept = EvaluationData(seen.ids, {path: seen.references[path] for path in paths}, {}, seen.images)
    was_training = model.training
    model.eval()
    try:
        made = _make(model, processor, kept, "captions" in tasks, batch_size, generation)
        found: dict[str, float] = {}
        if "captions" in tasks:
            found |= score_captions(kept, made, bootstrap=0, meteor=False)[0]
        if "retrieval" in tasks:
            found |= score_retrieval(kept, made)[0]
    finally:
        model.train(was_training)
    return found


@torch.inference_mode()
def _make(
    model: Any, processor: Any, data: EvaluationData, captions: bool, batch_size: int, generation: dict[str, Any]
) -> Made:
    prepare = Preparer(processor)
    paths = list(data.references)
    embeds: dict[str, np.ndarray] = {}
    texts: dict[str, str] = {}
    for start in range(0, len(paths), batch_size):
        piece = paths[start : start + batch_size]
        prepared = [prepare(data.images[path].open_image(prepare.resized_size)) for path in piece]
        pixel_values = prepare.pixel_values(prepared, model.device).to(model.dtype)
        features = model.get_image_features(pixel_values=pixel_values).pooler_output
        embeds |= zip(piece, F.normalize(features.float(), dim=-1).cpu().numpy(), strict=True)
        if captions:
            ids = model.generate(pixel_values=pixel_values, **generation)
            decoded = processor.batch_decode(ids, skip_special_tokens=True)
            texts |= {path: " ".join(text.split()) for path, text in zip(piece, decoded, strict=True)}
    return Made(texts, embeds, text_embedder(model, processor))
