# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How good a model is on captioned images that it does not learn from, quickly enough for every few hundred steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from torch import Tensor
from torch.nn import functional as F

from ..image_text_data import ImageTextData
from .reading import Batches
from .samples import Sample


EXAMPLES = 8
"""Images whose captions an evaluation shows."""


@dataclass
class HeldOut:
    """
    Images with captions to measure a model on; of several captions an image has, the first.

    `measure` is called in all processes, each of which takes its share.
    """

    data: ImageTextData
    processor: Any
    context: int
    batch_size: int
    accelerator: Accelerator

    def __post_init__(self) -> None:
        self.batches = Batches(self.data, self.processor, context=self.context, crop=False, seed=0)

    def measure(self, model: Any) -> dict[str, float]:
        """The fractions in `METRICS`: of next tokens that are the likeliest, and of images and texts that find each
        other first among all."""
        numbers = range(self.accelerator.process_index, len(self.data), self.accelerator.num_processes)
        size = self.batch_size
        # Sharded models are called together, so that every process has as many batches.
        count = math.ceil(math.ceil(len(self.data) / self.accelerator.num_processes) / size)
        found: list[tuple[int, int, list[np.ndarray]]] = []
        for start in range(0, count * size, size):
            chosen = list(numbers[start : start + size])
            inputs, _ = self._batch(chosen or [0])
            measured = self._measured(model, inputs)
            found += [measured] if chosen else []
        found = gather_object(found)
        correct, tokens = (sum(each[place] for each in found) for place in range(2))  # type: ignore[misc]
        images, texts = (np.concatenate([each[2][place] for each in found]) for place in range(2))
        return {"next_token_accuracy": correct / max(tokens, 1), **_recall_at_one(images, texts)}

    def captions(self, model: Any) -> list[str]:
        """Of the first images, the model's own."""
        inputs, _ = self._batch(range(min(EXAMPLES, len(self.data))))
        with torch.no_grad(), self.accelerator.autocast():
            ids = model.generate(pixel_values=inputs["pixel_values"], max_length=self.context, num_beams=1)
        return [text.strip() for text in self.processor.batch_decode(ids, skip_special_tokens=True)]

    def examples(self) -> list[Any]:
        """The records of those images that can be read."""
        _, names = self._batch(range(min(EXAMPLES, len(self.data))))
        return [record for record in self.data[:EXAMPLES] if record.path in names]

    def _batch(self, numbers: Sequence[int]) -> tuple[dict[str, Tensor], list[str]]:
        batch = self.batches.__getitems__([Sample(0, number, 0) for number in numbers])
        about = batch.pop("about")
        return send_to_device(batch, self.accelerator.device), about["names"]

    def _measured(self, model: Any, inputs: dict[str, Tensor]) -> tuple[int, int, list[np.ndarray]]:
        """Right tokens, all tokens, and the vectors of images and texts."""
        with torch.no_grad(), self.accelerator.autocast():
            outputs = model(**inputs, return_loss=False)
        labels = inputs["labels"][:, 1:]
        right = (outputs.logits[:, :-1].argmax(dim=-1) == labels)[labels != -100]
        vectors = [
            F.normalize(each.float(), dim=-1).cpu().numpy() for each in (outputs.image_embeds, outputs.text_embeds)
        ]
        return int(right.sum()), int(right.numel()), vectors


def _recall_at_one(images: np.ndarray, texts: np.ndarray) -> dict[str, float]:
    """(pairs, dim) each -> shares. Of equal similarities the pair's own counts, so that equal captions do no harm."""
    similarity = images @ texts.T
    own = similarity.diagonal()
    return {
        "text_to_image_recall@1": float((own >= similarity.max(axis=0)).mean()),
        "image_to_text_recall@1": float((own >= similarity.max(axis=1)).mean()),
    }
