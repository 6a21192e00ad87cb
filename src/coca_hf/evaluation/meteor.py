# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""METEOR by the Java program in the package pycocoevalcap, where both are installed."""

import importlib.util
import shutil
from collections.abc import Sequence


def why_missing() -> str | None:
    """Why there is no METEOR here; None where there is."""
    if importlib.util.find_spec("pycocoevalcap") is None:
        return "it needs the package pycocoevalcap (pip install pycocoevalcap) and Java"
    if shutil.which("java") is None:
        return "it needs Java, and there is no 'java' on the PATH"
    return None


def meteor_scores(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """METEOR of the whole and of each candidate. Texts are tokens joined by spaces."""
    from pycocoevalcap.meteor.meteor import Meteor

    scorer = Meteor()
    ids = range(len(candidates))
    score, scores = scorer.compute_score(
        {number: list(references[number]) for number in ids}, {number: [candidates[number]] for number in ids}
    )
    return float(score), [float(each) for each in scores]
