# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The photos of an index, read again where somebody is to see them or they are to be compared."""

import os

import numpy as np
from PIL import Image

from ..batch_inference.containers import iter_images
from ..batch_inference.errors import ImageError, InputError
from ..batch_inference.images import read_image
from ..batch_inference.inputs import is_container
from ..batch_inference.report import PICTURE_SIDE
from ..seeing.pictures import opaque


# What a picture is reduced to before two are compared: copies of other sizes and qualities are the same then.
_LOOK_SIDE = 8


def read_photo(path: str) -> Image.Image | None:
    """The photo at a path of an index, at least as large as a report shows it; None where it cannot be read."""
    try:
        return read_image(path, resized_size=lambda size: (PICTURE_SIDE, PICTURE_SIDE))
    except ImageError:
        return _read_in_container(path)


def _read_in_container(path: str) -> Image.Image | None:
    """Of `shard.tar/name.jpg` or `table.parquet[3]`."""
    parts = [path.rpartition("[")[0], *(path[:place] for place, letter in enumerate(path) if letter == "/")]
    container = next((each for each in parts if is_container(each) and os.path.isfile(each)), None)
    if container is None:
        return None
    try:
        images = iter_images(container, 0, (os.path.splitext(path)[1].lower(),))
        item = next((each for each in images if each.path == path), None)
        return None if item is None or item.content is None else read_image(item.content)
    except (ImageError, InputError):
        return None


def look_of(path: str) -> np.ndarray | None:
    """float32 (192,), levels from 0 to 255: what is left of a photo when it is reduced to 8 x 8 pixels."""
    image = read_photo(path)
    if image is None:
        return None
    reduced = opaque(image).resize((_LOOK_SIDE, _LOOK_SIDE), Image.Resampling.BOX)
    return np.asarray(reduced, np.float32).reshape(-1)
