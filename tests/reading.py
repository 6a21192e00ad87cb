# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What tests have done with images in processes of their own, which find it by its name."""

import os
import time

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
