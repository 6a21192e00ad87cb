# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One cache for both text stacks, and for what the decoder's layers make of the image."""

import copy

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer


class CoCaImageLayer(DynamicLayer):
    """
    Keys and values of image tokens in one layer of a cache. They are made once, and shared by all rows of an image: so
    they are neither reordered with the beams, which stay with their image, nor repeated or cropped with the text.
    """

    is_compileable = True

    def reorder_cache(self, beam_idx: Tensor) -> None:
        pass

    def batch_repeat_interleave(self, repeats: int) -> None:
        pass

    def crop(self, tokens_to_remove: int) -> None:
        pass


def add_layers(cache: Cache, num_layers: int, num_image_layers: int) -> None:
    """
    Completes a cache for both text stacks: `num_layers` of the kind it has, then `num_image_layers` for images.

    The library sizes a cache by the text tower alone.
    """
    while len(cache.layers) < num_layers:
        first = cache.layers[0] if cache.layers else DynamicLayer()
        if isinstance(first, StaticLayer):
            cache.layers.append(StaticLayer(first.max_cache_len))
        else:
            # Another kind, such as a quantised one, is empty still, and holds nothing but its settings.
            cache.layers.append(DynamicLayer() if type(first) is DynamicLayer else copy.deepcopy(first))
    if len(cache.layers) == num_layers:
        cache.layers.extend(CoCaImageLayer() for _ in range(num_image_layers))


def holds_images(cache: Cache | None, num_layers: int) -> bool:
    """Whether the keys and values of image tokens are in a cache, behind its `num_layers` of the text."""
    return cache is not None and len(cache.layers) > num_layers and cache.layers[num_layers].is_initialized


__all__ = ["CoCaImageLayer", "add_layers", "holds_images"]
