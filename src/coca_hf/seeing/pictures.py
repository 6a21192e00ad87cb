# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A heat map on the picture that it is about."""

import io
import math
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..image_processing_coca import eight_bit, open_image, upright
from .placement import obeyed_orientation, turned_upright


# From cold to hot, in red, green and blue: dark violet, purple, red, orange, light yellow; its lightness rises evenly.
_COLOURS = np.array([(34, 12, 74), (112, 25, 110), (196, 50, 80), (243, 132, 36), (252, 246, 170)], np.float32)

# Of the picture that stays under the coldest and the hottest place: both are seen.
_STRENGTH = (0.55, 0.7)

_FONT_SIZE, _MARGIN, _NARROWEST = 18, 8, 120


def opened(image: Image.Image | str | os.PathLike[str]) -> Image.Image:
    """The image, or what is in the file. Raises `TypeError` for something else."""
    if isinstance(image, Image.Image):
        return image
    if not isinstance(image, (str, os.PathLike)):
        raise TypeError(f"An image of type {type(image).__name__} is not supported: give a path or a PIL.Image.")
    return open_image(image)


def overlay(image: Image.Image | str | os.PathLike[str], heat: np.ndarray) -> Image.Image:
    """
    The picture with a heat map over it, from dark violet for nothing to yellow for the most.

    Args:
        image: As it was given to `word_maps` or `similarity_map`, which may be a path.
        heat: (height, width) of the image, not negative, as these return it.

    Returns:
        An RGB image of the same size, turned upright where the image has an orientation tag.

    Raises:
        ValueError: The map has another size than the image.
    """
    image = opened(image)
    if heat.shape != (image.height, image.width):
        raise ValueError(
            f"The map is for an image of {heat.shape[1]} x {heat.shape[0]} pixels, but this one has "
            f"{image.width} x {image.height}."
        )
    heat = turned_upright(np.asarray(heat, np.float32), obeyed_orientation(image))
    return upright_overlay(upright(image), heat)


def _veil(warmth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(height, width, 1) of 0..1 -> colours (height, width, 3) of 0..255, and how much of them is seen."""
    place = warmth[..., 0] * (len(_COLOURS) - 1)
    colours = np.stack([np.interp(place, range(len(_COLOURS)), channel) for channel in _COLOURS.T], axis=-1)
    return colours, _STRENGTH[0] + (_STRENGTH[1] - _STRENGTH[0]) * warmth


def upright_overlay(image: Image.Image, heat: np.ndarray) -> Image.Image:
    """`overlay` where nothing is to be turned."""
    warmth = (heat / max(float(heat.max()), np.finfo(np.float32).tiny))[..., None]
    colours, strength = _veil(warmth)
    pixels = np.asarray(opaque(image), np.float32)
    return Image.fromarray(np.rint(pixels * (1 - strength) + colours * strength).astype(np.uint8))


def small_map(seen_heat: np.ndarray) -> bytes:
    """A heat map as a small grey PNG file, 255 for the most."""
    levels = np.rint(255 * seen_heat / max(float(seen_heat.max()), np.finfo(np.float32).tiny)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG", optimize=True)
    return file.getvalue()


def veil(small: bytes) -> bytes:
    """What `overlay` lays over a picture, for a map of `small_map`: a PNG file, which a page stretches over it."""
    warmth = np.asarray(Image.open(io.BytesIO(small)), np.float32)[..., None] / 255
    colours, strength = _veil(warmth)
    pixels = np.concatenate([colours, 255 * strength], axis=-1)
    file = io.BytesIO()
    Image.fromarray(np.rint(pixels).astype(np.uint8)).save(file, "PNG", optimize=True)
    return file.getvalue()


def contact_sheet(picture: Image.Image, maps: Sequence[tuple[str, bytes]]) -> Image.Image:
    """The picture, and beside it the picture with the map of each word over it, the word below."""
    width, height = picture.size
    font = ImageFont.load_default(size=_FONT_SIZE)
    tiles = [("", picture)]
    for word, small in maps:
        stretched = Image.open(io.BytesIO(small)).resize(picture.size, Image.Resampling.BICUBIC)
        tiles.append((word, upright_overlay(picture, np.asarray(stretched, np.float32))))
    columns = min(len(tiles), max(1, round(math.sqrt(len(tiles) * height / width * 1.5))))
    cell = (max(width, _NARROWEST) + _MARGIN, height + _FONT_SIZE + 2 * _MARGIN)
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (columns * cell[0] + _MARGIN, rows * cell[1] + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (word, tile) in enumerate(tiles):
        left, top = _MARGIN + index % columns * cell[0], _MARGIN + index // columns * cell[1]
        sheet.paste(tile, (left, top))
        draw.text((left, top + height + _MARGIN // 2), word, fill="black", font=font)
    return sheet


def opaque(image: Image.Image) -> Image.Image:
    """In RGB, transparent parts white."""
    image = eight_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
