# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Stands in for transformers' download of the images that its processor tests show: one made here, without network."""

import base64
import io

import numpy as np
from PIL import Image


def url_to_local_path(url: str) -> str:
    """An image as a data URL, which the library's loaders read like any other, whatever `url` names."""
    pixels = np.random.default_rng(0).integers(0, 256, size=(48, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
