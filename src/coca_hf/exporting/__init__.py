# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A saved model to a folder that another runtime runs, or a browser.

arguments   what can be checked before anything is loaded
components  the programs that a model is cut into
folder      a whole folder, checked against PyTorch and written at once or not at all
forms       formats of programs, and weights of 8 bits
web         a page that runs the model in a browser
load        whatever folder, as a model
"""

from typing import TYPE_CHECKING

from ..lazy import lazy_attributes


if TYPE_CHECKING:
    from .folder import export
    from .loading import load


# The command checks its arguments before it loads torch.
_MODULES = {"export": "folder", "load": "loading"}

__all__ = ["export", "load"]

__getattr__ = lazy_attributes(__name__, _MODULES)
