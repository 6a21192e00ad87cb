# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of others, in and out. Importing this loads neither torch nor transformers."""

import importlib
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
