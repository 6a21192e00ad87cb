# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Stands in for transformers' export tests, which no source archive carries."""


class ExportTesterMixin:
    """A base class of `ModelTesterMixin`, without tests."""
