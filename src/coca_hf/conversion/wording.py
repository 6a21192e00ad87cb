# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A configuration of ours made of somebody else's file, and its faults in the words of that file."""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from huggingface_hub.errors import StrictDataclassError

from ..configuration_coca import CoCaConfig, CoCaMultimodalConfig, CoCaTextConfig, CoCaVisionConfig
from .errors import ConversionError


Made = TypeVar("Made")
PARTS: dict[str, type] = {
    "vision_config": CoCaVisionConfig,
    "text_config": CoCaTextConfig,
    "multimodal_config": CoCaMultimodalConfig,
}


def config_in_their_words(
    fields: Mapping[str, Any], words: Mapping[str, str], values: Mapping[str, Mapping[str, Any]] | None = None
) -> CoCaConfig:
    """
    A configuration, or an error that names what stands in the user's file.

    Args:
        fields: Arguments of [`CoCaConfig`], those of its parts as dictionaries.
        words: Our field ("vision_config.hidden_size", "projection_dim") -> what the file says ("vision_cfg.width").
        values: Our field -> our value -> the file's value, where they differ.

    Raises:
        ConversionError: There is no such model.
    """
    for part, kind in PARTS.items():
        _made(functools.partial(kind, **fields[part]), part, words, values or {})
    return _made(functools.partial(CoCaConfig, **fields), None, words, values or {})


def _made(
    make: Callable[[], Made],
    part: str | None,
    words: Mapping[str, str],
    values: Mapping[str, Mapping[str, Any]],
) -> Made:
    try:
        return make()
    except (StrictDataclassError, ValueError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[-1].strip()
        said = in_their_words(reason, part, words, values)
        raise ConversionError(f"model_cfg describes no model that can be built: {said}") from error


def in_their_words(
    message: str, part: str | None, words: Mapping[str, str], values: Mapping[str, Mapping[str, Any]]
) -> str:
    """`message` about the fields of `part`, or of the whole configuration where that is None, with theirs for ours."""
    prefix = f"{part}." if part else ""
    full_names = {full.removeprefix(prefix): full for full in words if full.startswith(prefix)}

    def replaced(match: re.Match[str]) -> str:
        full = full_names[match["name"]]
        theirs = {f"={ours!r}": f"={their!r}" for ours, their in values.get(full, {}).items()}
        value = match["value"] or ""
        return words[full] + theirs.get(value, value)

    names = "|".join(map(re.escape, sorted(full_names, key=len, reverse=True)))
    return re.sub(rf"(?<![\w.])(?P<name>{names})\b(?P<value>='[^']*')?", replaced, message)
