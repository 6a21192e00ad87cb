# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""From a grid of patches back to the pixels of the image that was given: what preprocessing did, undone."""

import math
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..image_processing_coca import resized_size, target_size
from ..orientation import UPRIGHT, orientation_of


# The others are their own way back.
_BACK = {6: 8, 8: 6}


class Axis(NamedTuple):
    """One side of an image on its way into the model, in pixels of the model's input.

    The image is resized to `resized` pixels, of which the first lies at `shift` (negative where a crop cuts it off,
    positive behind padding). The model sees `patches` of `patch_size` pixels each, from 0 on.
    """

    resized: int
    shift: int
    seen: int
    patches: int
    patch_size: int

    def matrix(self, length: int) -> np.ndarray:
        """
        How much of each patch is in each of `length` pixels that the image has: float32 (length, patches).

        Between the centres of two patches values go over linearly. Where pixels are larger than half a patch, several
        points of each are averaged. Rows of pixels whose points were all cropped are zero.
        """
        points = max(1, math.ceil(2 * self.resized / (length * self.patch_size)))
        first = max(0, math.floor(-self.shift / self.resized * length))
        last = min(length, math.ceil((self.seen - self.shift) / self.resized * length))
        place = (first + (np.arange((last - first) * points) + 0.5) / points) / length * self.resized + self.shift
        visible = ((place >= 0) & (place < self.seen)).astype(np.float32)
        centre = place / self.patch_size - 0.5
        low = np.floor(centre).astype(int)
        share = (centre - low).astype(np.float32)
        weights = np.zeros((len(place), self.patches), np.float32)
        rows = np.arange(len(place))
        weights[rows, low.clip(0, self.patches - 1)] += (1 - share) * visible
        weights[rows, (low + 1).clip(0, self.patches - 1)] += share * visible
        matrix = np.zeros((length, self.patches), np.float32)
        matrix[first:last] = weights.reshape(-1, points, self.patches).mean(axis=1)
        return matrix


class Placement(NamedTuple):
    """Where the patches of one image lie in it: `size` is its (height, width) as given, `rows` and `columns` are of
    the image turned upright, and `orientation` is the tag that says how it was turned."""

    size: tuple[int, int]
    rows: Axis
    columns: Axis
    orientation: int

    @property
    def covered(self) -> np.ndarray:
        """Which patches show something of the image rather than padding: bool (rows, columns)."""
        height, width = self.upright_size
        down, across = self.rows.matrix(height), self.columns.matrix(width)
        return np.outer(down.sum(axis=0) > 0, across.sum(axis=0) > 0)

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.size if self.orientation < 5 else (self.size[1], self.size[0])

    def upright_heat(self, grid: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
        """Values of patches (rows, columns) -> of the upright image at `size`, by default its own: float32, sum 1."""
        height, width = size or self.upright_size
        heat = self.rows.matrix(height) @ grid.astype(np.float32) @ self.columns.matrix(width).T
        return (heat / heat.sum(dtype=np.float64)).astype(np.float32)

    def heat(self, grid: np.ndarray) -> np.ndarray:
        """Values of patches (rows, columns) -> of the pixels of the image as given: float32 (height, width), sum 1."""
        return turned_upright(self.upright_heat(grid), _BACK.get(self.orientation, self.orientation))


def turned_upright(heat: np.ndarray, orientation: int) -> np.ndarray:
    """(height, width) of an image as it is stored -> of the image turned as its orientation tag says."""
    if orientation not in UPRIGHT:
        return heat
    return np.array(Image.fromarray(heat).transpose(UPRIGHT[orientation]))


def obeyed_orientation(image: Image.Image) -> int:
    """The orientation tag that the image processor obeys; 1 where there is nothing to turn."""
    image.load()
    orientation = orientation_of(image)
    return orientation if orientation in UPRIGHT else 1


def place_patches(
    size: tuple[int, int],
    processor: Any,
    pixels: tuple[int, int],
    grid: tuple[int, int],
    patch_size: tuple[int, int],
    orientation: int = 1,
) -> Placement:
    """
    Where the patches lie that a model sees of an image.

    Args:
        size: (height, width) of the image, as it is given to the processor.
        processor: `CoCaImageProcessor`, whose settings say how it resizes, crops and fills up.
        pixels: (height, width) of `pixel_values`.
        grid: Patches in them, (rows, columns).
        patch_size: (height, width) of a patch.
        orientation: Of the image, see `obeyed_orientation`.
    """
    resized = size if orientation < 5 else size[::-1]
    if processor.do_resize:
        resized = resized_size(resized, target_size(processor.size), processor.resize_mode)
    axes = []
    for index, length in enumerate(resized):
        shift = 0  # padding comes behind the image
        if processor.do_center_crop:
            crop = (processor.crop_size.height, processor.crop_size.width)[index]
            # As `center_crop` rounds both.
            shift = (crop - length) // 2 if length < crop else -round((length - crop) / 2)
        seen = min(pixels[index], grid[index] * patch_size[index])
        axes.append(Axis(length, shift, seen, grid[index], patch_size[index]))
    return Placement(size, axes[0], axes[1], orientation)
