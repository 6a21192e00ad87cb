# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Why a model is not exported, in one sentence."""


class ExportError(Exception):
    """The model cannot be exported as asked; nothing is left where the folder was to be."""
