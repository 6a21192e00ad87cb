# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Saved folder -> Hub: its card, its code, and the one commit that brings all of it there."""

import importlib
from typing import TYPE_CHECKING, Any

from .errors import PublishingError


if TYPE_CHECKING:
    from .check import check_loads
    from .plan import Publication, plan_publication
    from .push import Published, publish, push_folder
    from .space import check_starts, plan_space


_MODULES = {
    "Publication": "plan",
    "Published": "push",
    "check_loads": "check",
    "check_starts": "space",
    "plan_publication": "plan",
    "plan_space": "space",
    "publish": "push",
    "push_folder": "push",
}

__all__ = [
    "Publication",
    "Published",
    "PublishingError",
    "check_loads",
    "check_starts",
    "plan_publication",
    "plan_space",
    "publish",
    "push_folder",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
