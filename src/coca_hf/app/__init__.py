# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A page to try a model on in a browser: captions, search, labels, two models side by side. Needs `[demo]`."""

from .page import launch, make_page


__all__ = ["launch", "make_page"]
