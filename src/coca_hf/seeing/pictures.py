# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A heat map on the picture that it is about."""

import numpy as np
from PIL import Image

from ..image_processing_coca import eight_bit, upright
from .placement import orientation_of, turned_upright


# From cold to hot, in red, green and blue: dark violet, purple, red, orange, light yellow; its lightness rises evenly.
_COLOURS = np.array([(34, 12, 74), (112, 25, 110), (196, 50, 80), (243, 132, 36), (252, 246, 170)], np.float32)

# Of the picture that stays under the coldest and the hottest place: both are seen.
_STRENGTH = (0.55, 0.7)


def overlay(image: Image.Image, heat: np.ndarray) -> Image.Image:
    """
    The picture with a heat map over it, from dark violet for nothing to yellow for the most.

    Args:
        image: As it was given to `word_maps` or `similarity_map`.
        heat: (height, width) of the image, not negative, as these return it.

    Returns:
        An RGB image of the same size, turned upright where the image has an orientation tag.

    Raises:
        ValueError: The map has another size than the image.
    """
    if heat.shape != (image.height, image.width):
        raise ValueError(
            f"The map is for an image of {heat.shape[1]} x {heat.shape[0]} pixels, but this one has "
            f"{image.width} x {image.height}."
        )
    heat = turned_upright(np.asarray(heat, np.float32), orientation_of(image))
    return upright_overlay(upright(image), heat)


def upright_overlay(image: Image.Image, heat: np.ndarray) -> Image.Image:
    """`overlay` where nothing is to be turned."""
    warmth = (heat / max(float(heat.max()), np.finfo(np.float32).tiny))[..., None]
    place = warmth[..., 0] * (len(_COLOURS) - 1)
    colours = np.stack([np.interp(place, range(len(_COLOURS)), channel) for channel in _COLOURS.T], axis=-1)
    strength = _STRENGTH[0] + (_STRENGTH[1] - _STRENGTH[0]) * warmth
    pixels = np.asarray(opaque(image), np.float32)
    return Image.fromarray(np.rint(pixels * (1 - strength) + colours * strength).astype(np.uint8))


def opaque(image: Image.Image) -> Image.Image:
    """In RGB, transparent parts white."""
    image = eight_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
