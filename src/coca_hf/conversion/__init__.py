# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of others, in and out. Importing this loads neither torch nor transformers."""

from typing import TYPE_CHECKING

from ..lazy import lazy_attributes
from .errors import ConversionError


if TYPE_CHECKING:
    from .convert import convert_open_clip, export_open_clip
    from .model_config import open_clip_config
    from .resolution import change_image_size

_MODULES = {
    "change_image_size": "resolution",
    "convert_open_clip": "convert",
    "export_open_clip": "convert",
    "open_clip_config": "model_config",
}

__all__ = ["ConversionError", "change_image_size", "convert_open_clip", "export_open_clip", "open_clip_config"]

__getattr__ = lazy_attributes(__name__, _MODULES)
