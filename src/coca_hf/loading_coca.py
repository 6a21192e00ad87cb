# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How checkpoints of another shape, or of a whole model, load into a model or a part of it."""

import math
from typing import Any

from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, PrefixChange, WeightConverter

from .positions_coca import resize_positions


class _AsVector(ConversionOps):
    """Gives a scalar of a checkpoint the shape (1,)."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        ((_, tensors),) = input_dict.items()
        tensor = tensors[0] if isinstance(tensors, list) else tensors
        return {target_patterns[0]: tensor.reshape(1) if tensor.ndim == 0 else tensor}

    @property
    def reverse_op(self) -> ConversionOps:
        return self


class _AsGrid(ConversionOps):
    """Gives position embeddings of a checkpoint the grid of a model that is loaded for another image size."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        ((_, tensors),) = input_dict.items()
        positions = tensors[0] if isinstance(tensors, list) else tensors
        embeddings = kwargs["model"].get_submodule(
            kwargs["full_layer_name"].removesuffix(".position_embedding.weight")
        )
        height, width = embeddings.config.grid_size
        num_patches = positions.shape[0] - 1
        # Of the old grid its number of patches is known. It is taken to have the proportions of the new one.
        old_height = round(math.sqrt(num_patches * height / width))
        is_grid = old_height > 0 and num_patches % old_height == 0
        # A sharded model's are the shards that it wants already.
        if num_patches != height * width and is_grid and embeddings.position_embedding.weight.is_meta:
            positions = resize_positions(positions, (old_height, num_patches // old_height), (height, width))
        return {target_patterns[0]: positions}

    @property
    def reverse_op(self) -> ConversionOps:
        return self


def register_conversions() -> None:
    """How checkpoints load: towers from a whole model's, positions for another image size, scalars that were."""
    as_grid = WeightConverter(*2 * ("embeddings.position_embedding.weight",), operations=[_AsGrid()])
    as_vectors = [WeightConverter(name, name, operations=[_AsVector()]) for name in ("logit_scale", "logit_bias")]
    for name, conversions in {
        "CoCaVisionModel": [
            PrefixChange(prefix_to_remove="model"),
            PrefixChange(prefix_to_remove="vision_model"),
            as_grid,
        ],
        "CoCaVisionModelWithProjection": [PrefixChange(prefix_to_remove="model")],
        "CoCaTextModel": [PrefixChange(prefix_to_remove="model"), PrefixChange(prefix_to_remove="text_model")],
        "CoCaTextModelWithProjection": [PrefixChange(prefix_to_remove="model")],
        "CoCaModel": as_vectors,
    }.items():
        register_checkpoint_conversion_mapping(name, conversions, overwrite=True)


__all__ = ["register_conversions"]
