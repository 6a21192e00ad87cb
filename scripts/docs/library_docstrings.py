# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""An extension of Griffe: docstrings in transformers' manner, as the `*_coca.py` files have them, read as Google's."""

import re
from typing import Any

import griffe


# "size (`int`, *optional*, defaults to `3`):", or without the name as in "Returns:".
_TYPE = re.compile(r"^(\s+\w+ )\((`.*)\):", re.MULTILINE)
_REFERENCE = re.compile(r"\[(`[^`]+`)\](?!\()")


class LibraryDocstrings(griffe.Extension):
    """Types without backticks, and names without the brackets by which the library's own documentation links them."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            is_signed = obj.is_function  # its signature has the defaults
            text = _TYPE.sub(lambda match: f"{match[1]}({_plain(match[2], is_signed)}):", obj.docstring.value)
            obj.docstring.value = _REFERENCE.sub(r"\1", text)


def _plain(text: str, is_signed: bool) -> str:
    plain = re.sub(r"[`*]", "", text).replace("optional, defaults", "defaults").replace("defaults to", "default")
    return re.sub(", default .*", "", plain) if is_signed else plain
