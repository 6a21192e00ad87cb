# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of others, in and out."""

from .errors import ConversionError
from .model_config import open_clip_config


__all__ = ["ConversionError", "open_clip_config"]
