# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with an index outside this package's power."""

from ..batch_inference.errors import BatchInferenceError


class SearchError(BatchInferenceError):
    """An index or a query cannot be used; the message is one sentence that names it and says what to do."""
