# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How good a model is on captioned images that it does not learn from, quickly enough for every few hundred steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from torch import Tensor
from torch.nn import functional as F

from ..evaluation import caption_scores, retrieval_recall
from ..image_text_data import CaptionedImage, ImageTextData
from .errors import TrainingError
from .options import METRICS
from .reading import IGNORED, Batches
from .samples import Sample


EXAMPLES = 8
"""Images whose captions an evaluation shows."""


@dataclass
class _Seen:
    """
    What was measured on a batch: the numbers of its records, right tokens and all tokens, vectors, the model's
    captions and those that the images have.
    """

    numbers: Sequence[int]
    right: int
    tokens: int
    images: np.ndarray
    texts: np.ndarray
    captions: list[str]
    references: list[list[str]]


@dataclass
class HeldOut:
    """
    Images with captions to measure a model on. Of several captions an image has, the first is asked for and read.

    `measure` is called in all processes, each of which takes its share.
    """

    data: ImageTextData
    processor: Any
    context: int
    batch_size: int
    accelerator: Accelerator

    def __post_init__(self) -> None:
        self.batches = Batches(self.data, self.processor, context=self.context, crop=False, seed=0)

    def measure(self, model: Any) -> tuple[dict[str, float], list[str]]:
        """
        The scores in `METRICS`, and the captions of the `examples`.

        The scores are the share of next tokens that are the likeliest, and what `coca_hf.evaluation` says of the
        captions that greedy decoding gives, against all of an image's, and of the vectors of images and texts.
        """
        numbers = range(self.accelerator.process_index, len(self.data), self.accelerator.num_processes)
        size = self.batch_size
        # Sharded models are called together, so that every process has as many batches.
        count = math.ceil(math.ceil(len(self.data) / self.accelerator.num_processes) / size)
        found: list[_Seen] = []
        for start in range(0, count * size, size):
            chosen = list(numbers[start : start + size])
            seen = self._seen(model, chosen or [0])
            found += [seen] if chosen else []
        found = gather_object(found)
        captions = [caption for seen in found for caption in seen.captions]
        references = [texts for seen in found for texts in seen.references]
        images, texts = (np.concatenate([getattr(seen, name) for seen in found]) for name in ("images", "texts"))
        scores = {
            "next_token_accuracy": sum(seen.right for seen in found) / max(sum(seen.tokens for seen in found), 1),
            **caption_scores(dict(enumerate(captions)), dict(enumerate(references))),
            **retrieval_recall(images, texts, range(len(texts))),
        }
        caption_of = dict(zip((number for seen in found for number in seen.numbers), captions, strict=True))
        return {name: scores[name] for name in METRICS}, [caption_of[number] for number in self._examples]

    @property
    def examples(self) -> list[CaptionedImage]:
        """The records of the first images, without those that cannot be read."""
        return [self.data[number] for number in self._examples]

    @cached_property
    def _examples(self) -> Sequence[int]:
        return self._batch(range(min(EXAMPLES, len(self.data))))[1]

    def _batch(self, numbers: Sequence[int]) -> tuple[dict[str, Tensor], Sequence[int]]:
        """Inputs, and the numbers of the records that they are of: those that can be read."""
        batch = self.batches.__getitems__([Sample(0, number, 0) for number in numbers])
        if "failure" in batch:
            raise TrainingError(f"--evaluate: {batch['failure']}")
        about = batch.pop("about")
        return send_to_device(batch, self.accelerator.device), about["records"]

    def _seen(self, model: Any, numbers: Sequence[int]) -> _Seen:
        inputs, taken = self._batch(numbers)
        with torch.no_grad(), self.accelerator.autocast():
            outputs = model(**inputs, return_loss=False)
            ids = model.generate(pixel_values=inputs["pixel_values"], max_length=self.context, num_beams=1)
        labels = inputs["labels"][:, 1:]
        right = (outputs.logits[:, :-1].argmax(dim=-1) == labels)[labels != IGNORED]
        images, texts = (
            F.normalize(each.float(), dim=-1).cpu().numpy() for each in (outputs.image_embeds, outputs.text_embeds)
        )
        captions = [" ".join(text.split()) for text in self.processor.batch_decode(ids, skip_special_tokens=True)]
        references = [list(self.data[number].captions) for number in taken]
        return _Seen(taken, int(right.sum()), int(right.numel()), images, texts, captions, references)
