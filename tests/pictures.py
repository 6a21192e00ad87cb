# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Pictures that are not alike."""

from PIL import Image


def picture(number: int) -> Image.Image:
    """40 x 30 pixels: one of many."""
    image = Image.new("RGB", (40, 30), (37 * number % 256, 91 * number % 256, 53 * number % 256))
    image.paste((255 - 20 * number % 256, 10, 200), (number % 20, number % 10, number % 20 + 15, number % 10 + 15))
    return image
