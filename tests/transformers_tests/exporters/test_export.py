# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Stands in for transformers' export tests, which no source archive carries: there are none here.

The archive's test_modeling_common imports the name. Tests of our own are in tests/test_export.py.
"""


class NoExportTests:
    """No tests at all. Its namesake in the library is called `ExportTesterMixin`."""


ExportTesterMixin = NoExportTests
