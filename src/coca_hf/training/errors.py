# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What ends a training run, each in a sentence for its user."""

from ..batch_inference.errors import BatchInferenceError


class TrainingError(BatchInferenceError):
    """Base: the run cannot begin as asked, or cannot go on."""


class TrainingOptionError(TrainingError):
    """An option is unknown, out of range, or contradicts another."""


class TrainingFolderError(TrainingError):
    """The output folder is not this run's, or cannot be written to."""


class DivergedError(TrainingError):
    """A loss is no number any more."""


class TrainingInterrupted(TrainingError):  # noqa: N818 - a request, not a fault
    """Stopped on request; what was done is in the checkpoint of `step`, one of `steps`."""

    def __init__(self, step: int, steps: int):
        super().__init__(f"stopped after step {step:,} of {steps:,}; the same command continues")
        self.step, self.steps = step, steps
