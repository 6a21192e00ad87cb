# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Stands in for transformers' generation tests, which no source archive carries."""


class GenerationTesterMixin:
    """A marker only: what its namesake checks is in `tests/test_generation_coca.py`."""
