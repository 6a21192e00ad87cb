# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What tests have done with images in processes of their own, which find it by its name."""

import os
import time

import numpy as np
from PIL import Image


def width(image: Image.Image) -> int:
    return image.width


def die_over_wide_ones(image: Image.Image) -> int:
    if image.width >= 50:
        os._exit(3)
    return image.width


def sleep_over_wide_ones(image: Image.Image) -> int:
    if image.width >= 50:
        time.sleep(60)
    return image.width


def fail(image: Image.Image) -> int:
    raise KeyError("a defect")


def large_array(image: Image.Image) -> np.ndarray:
    return np.zeros((316, 316, 3), np.uint8)


class Unpicklable:
    """Travels to another process, and cannot be made there."""

    def __reduce__(self):
        return fail, (None,)
