# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Another image size or context length for weights that exist: their positions, as open_clip resizes them."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from ..configuration_coca import CoCaVisionConfig
from ..modeling_coca import CoCaForCaptioning, CoCaModel
from ..positions_coca import resize_positions
from ..processing_coca import CoCaProcessor
from .errors import ConversionError


ImageSize = int | tuple[int, int] | list[int]


def resized_text_positions(positions: torch.Tensor, length: int) -> torch.Tensor:
    """(old length, hidden) -> (length, hidden): linear, [CLS] included, as open_clip's `resize_text_pos_embed`."""
    if len(positions) == length:
        return positions
    resized = F.interpolate(positions.t()[None].float(), size=length, mode="linear", align_corners=False)
    return resized[0].t().to(positions.dtype)


def with_image_size(model_cfg: Mapping[str, Any], image_size: ImageSize | None) -> Mapping[str, Any]:
    """A model_cfg for images of another size; the same one where that is None."""
    if image_size is None:
        return model_cfg
    size = image_size if isinstance(image_size, int) else list(image_size)
    return {**model_cfg, "vision_cfg": {**model_cfg["vision_cfg"], "image_size": size}}


def refuse_fixed_positions(config: CoCaVisionConfig) -> None:
    """Raises `ConversionError` for positions that were never learned, and so cannot be resized."""
    if config.position_embedding_type == "sincos":
        raise ConversionError(
            "The image size of a model with fixed sine-cosine positions cannot be changed: its positions are computed "
            "for the size it was trained with."
        )


def change_image_size(
    model: CoCaForCaptioning | CoCaModel, image_size: ImageSize, processor: CoCaProcessor | None = None
) -> None:
    """
    Makes a model take images of another size, for good: `save_pretrained` then saves a model of that size.

    Its position embeddings are resized as open_clip's `force_image_size` does. Training on images of the new size
    improves the result; without it, moderate changes cost little accuracy.

    Args:
        model: Changed in place.
        image_size: Pixels, as one number or (height, width).
        processor: If given, it prepares images of that size from now on.

    Raises:
        ConversionError: The size is smaller than a patch, or the model's positions are fixed ones.
    """
    towers = model.model if isinstance(model, CoCaForCaptioning) else model
    config: Any = towers.config.vision_config
    refuse_fixed_positions(config)
    old_size, old_grid = config.image_size, config.grid_size
    new_size: Any = image_size if isinstance(image_size, int) else tuple(image_size)
    config.image_size = new_size
    try:
        config.validate_architecture()
    except ValueError as error:
        config.image_size = old_size
        raise ConversionError(f"image_size={image_size} is not possible: {error}") from error
    embedding = towers.vision_model.embeddings.position_embedding
    with torch.no_grad():
        table = resize_positions(embedding.weight, old_grid, config.grid_size)
    embedding.weight = torch.nn.Parameter(table, requires_grad=embedding.weight.requires_grad)
    embedding.num_embeddings = len(table)
    if processor is not None:
        set_processor_size(processor, new_size)


def set_processor_size(processor: CoCaProcessor, image_size: ImageSize) -> None:
    """Makes a processor prepare images of that many pixels, in the way it prepared others."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    images = processor.image_processor
    is_plain = height == width and "shortest_edge" in dict(images.size)
    images.size = type(images.size)(**({"shortest_edge": height} if is_plain else {"height": height, "width": width}))
    images.crop_size = type(images.crop_size)(height=height, width=width)
