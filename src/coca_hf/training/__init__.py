# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""
Training and fine-tuning on captioned images, on top of transformers' Trainer.

    options          what can be asked for, the same names in the command, in YAML files and here
    samples          which samples are in which step, from seed and numbers alone; `reading`: samples into batches
    starting_model   what a run begins with
    run              a run from its options to a saved folder, `train`; `folder`: where it stands on the disk
    held_out         measuring while it is trained; `report`: the page; `saving`: the model and its card
    trainer          the library's Trainer with CoCa's losses and open_clip's recipe; `optimizer`: the recipe
    accumulation     the contrastive loss of a whole batch in micro-batches

Importing this loads neither torch nor transformers.
"""

from typing import TYPE_CHECKING

from ..lazy import lazy_attributes


if TYPE_CHECKING:
    from .errors import TrainingError
    from .options import TrainingOptions
    from .run import TrainingResult, train
    from .trainer import CoCaTrainer

_MODULES = {
    "CoCaTrainer": "trainer",
    "TrainingError": "errors",
    "TrainingOptions": "options",
    "TrainingResult": "run",
    "train": "run",
}

__all__ = ["CoCaTrainer", "TrainingError", "TrainingOptions", "TrainingResult", "train"]

__getattr__ = lazy_attributes(__name__, _MODULES)
