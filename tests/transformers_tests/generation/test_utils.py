# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Stands in for transformers' generation tests, which no source archive carries: there are none here.

The archive's test_modeling_common imports the name. Tests of our own are in tests/test_generation_coca.py and
tests/test_generation_contract.py.
"""


class NoGenerationTests:
    """No tests at all. Its namesake in the library is called `GenerationTesterMixin`."""


GenerationTesterMixin = NoGenerationTests
