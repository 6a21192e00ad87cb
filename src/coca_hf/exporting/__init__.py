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

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .folder import export
    from .load import load


__all__ = ["export", "load"]


def __getattr__(name: str) -> Any:
    # The command checks its arguments before it loads torch.
    if name == "export":
        from .folder import export as value
    elif name == "load":
        from .load import load as value  # type: ignore[assignment]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return value
