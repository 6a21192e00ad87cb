# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Saved folder -> Hub: its card, its code, and the one commit that brings all of it there."""

from typing import TYPE_CHECKING

from ..lazy import lazy_attributes
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

__getattr__ = lazy_attributes(__name__, _MODULES)
