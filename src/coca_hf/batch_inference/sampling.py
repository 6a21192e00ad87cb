# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Captions that are sampled, each image with random numbers of its own.

The library draws for a whole batch at a time, so that an image's caption depends on what else is in its batch. Here a
token is what a greedy search takes after one random number of the image's own has chosen it, with the probabilities of
the library's sampling. Importing this imports torch.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from .jobs import CaptionOptions


# Where neither the model nor the user says, as the library's `generate()`.
_LIBRARY_TOP_K = 50


def seed_of(seed: int, place: tuple[int, int]) -> int:
    """A seed for the image at `place`, which no other place shares."""
    return int(np.random.SeedSequence([seed, *place]).generate_state(1, np.uint64)[0] >> np.uint64(1))


class RandomChoice(LogitsProcessor):
    """
    Leaves of each row's scores one token, chosen with the probability that the row's scores give it.

    `scores` are (rows, vocabulary), one row for each of `places`; they come out as 0 for that token, else -inf. Each
    step takes one number from the generator of a row's own. To be made anew for each call of `generate()`, which has
    to search greedily, for then this is all that decides.
    """

    def __init__(
        self, own: GenerationConfig, options: CaptionOptions, seed: int, places: Sequence[tuple[int, int]]
    ) -> None:
        self.generators = [np.random.default_rng(np.random.SeedSequence([seed, *place])) for place in places]
        self.warpers = LogitsProcessorList()
        # In the library's order.
        temperature = _first(options.temperature, own.temperature, 1.0)
        top_k = _first(options.top_k, own.top_k, _LIBRARY_TOP_K)
        top_p = _first(options.top_p, own.top_p, 1.0)
        if temperature != 1.0:
            self.warpers.append(TemperatureLogitsWarper(temperature))
        if top_k:
            self.warpers.append(TopKLogitsWarper(top_k))
        if top_p < 1.0:
            self.warpers.append(TopPLogitsWarper(top_p))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        probabilities = self.warpers(input_ids, scores.float()).softmax(dim=-1)
        if probabilities.device.type == "mps":  # which has no double precision
            probabilities = probabilities.cpu()
        # Each token has its share of the way from 0 to 1; the random number is in that of one of them.
        ends = probabilities.double().cumsum(dim=-1)
        numbers = ends.new_tensor([generator.random() for generator in self.generators])
        places = torch.searchsorted(ends, numbers[:, None] * ends[:, -1:], right=True)
        # The product may be rounded up to the end of the last token's share.
        tokens = places.clamp(max=scores.shape[-1] - 1).to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens, 0.0)


def _first(*choices: float | None) -> float:
    return next(choice for choice in choices if choice is not None)
