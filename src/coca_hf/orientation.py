# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The orientation tag of photographs."""

from PIL import ExifTags, Image


UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its orientation tag (EXIF 2.32, table 6)."""


def orientation_of(image: Image.Image) -> int:
    """The orientation tag of an image that is loaded; 1 where there is nothing to read."""
    try:
        # After loading: PNG may hold the tag behind the pixels, and TIFF is turned, its tag dropped, as it loads.
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # metadata that cannot be parsed leaves the image as it is
        return 1
