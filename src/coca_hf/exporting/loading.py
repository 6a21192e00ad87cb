# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Any folder as a model that runs as fast as it can here."""

from pathlib import Path
from typing import Any

from ..batch_inference.models import ModelChoice, can_caption, check_device, check_model, load_model


def load(folder: str | Path, *, device: str = "auto", dtype: str = "auto") -> Any:
    """
    The model of a folder, whichever runtime it is for: an object with `generate` (if the model writes captions),
    `get_image_features`, `get_text_features` and `similarity`, called as those of [`CoCaForCaptioning`].

    Args:
        folder: A saved folder, or an exported one; or a Hub id.
        device: "auto", "cpu", "cuda" or as torch writes it. Exported models run on the CPU.
        dtype: "auto" for the fastest that keeps results but for rounding, "float32", "bfloat16" or "float16".

    Returns:
        Of an exported folder, its `ExportedCaptioner` or `ExportedTowers`. Otherwise `CoCaForCaptioning` or
        `CoCaModel`, made fast by `optimize_for_inference` unless `dtype` is "float32".

    Raises:
        ModelError: There is no such model, its runtime is not installed, or it cannot run as asked.
    """
    choice = ModelChoice(str(folder), device, dtype)
    check_device(device)
    check_model(choice.name, captions=False)
    return load_model(choice, "captioner" if can_caption(choice) else "towers")
