# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is wrong with an exported folder, in one sentence."""


class ExportedModelError(Exception):
    """An exported folder cannot be used as asked: another version, no runtime, a part that is missing."""
