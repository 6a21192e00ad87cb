# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What became of a run, also of one that was interrupted."""

from dataclasses import dataclass, field

from .inputs import Record


@dataclass
class Summary:
    """
    What became of a run.

    `images` have a result, `failed` inputs have none; `failures` names the first 1,000 of these. `resumed` records
    were there already. `model_words` say how the model ran, and `busy_share` which part of the time it did; None
    where it did not run here.
    """

    images: int = 0
    failed: int = 0
    failures: list[Record] = field(default_factory=list)
    resumed: int = 0
    seconds: float = 0.0
    model_words: str | None = None
    busy_share: float | None = None
    total: int | None = None
    rank: int = 0
    folder: str | None = None

    @property
    def records(self) -> int:
        return self.images + self.failed


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C, with what was done till then as `summary`; its `total` is None before the inputs were listed."""

    def __init__(self, summary: Summary, *, was_listing: bool = False):
        super().__init__("the run was interrupted")
        self.summary = summary
        self.was_listing = was_listing
