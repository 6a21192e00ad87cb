# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What evaluation cannot go on with."""


class EvaluationError(ValueError):
    """Candidates, references, labels or embeddings do not fit each other, or are not what they should be."""
