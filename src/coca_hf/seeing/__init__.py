# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Where a model looks: for each word of a caption, and for a text that an image is compared with."""

from typing import TYPE_CHECKING

from ..lazy import lazy_attributes


if TYPE_CHECKING:
    from .maps import WordMap, similarity_map, word_maps
    from .pictures import overlay


_MODULES = {"WordMap": "maps", "overlay": "pictures", "similarity_map": "maps", "word_maps": "maps"}

__all__ = ["WordMap", "overlay", "similarity_map", "word_maps"]

__getattr__ = lazy_attributes(__name__, _MODULES)
