# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Which weights decay, and how the learning rate moves: open_clip's recipe."""

import math
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def decays(parameter: nn.Parameter) -> bool:
    """
    Whether weight decay is for this parameter: matrices and embeddings, not gains, biases, scale and bias of the
    similarities, and single vectors such as [CLS] (what open_clip_train's `main` excludes, of whatever name).
    """
    return parameter.ndim >= 2


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """
    The parameters that are trained, for an optimizer of `torch.optim`: those that decay, then those that do not.

    Example:

    ```python
    >>> import coca_hf
    >>> import torch
    >>> from coca_hf.training.optimizer import parameter_groups
    >>> from transformers import AutoModelForImageTextToText

    >>> model = AutoModelForImageTextToText.from_pretrained(coca_hf.bundled_model())
    >>> optimizer = torch.optim.AdamW(parameter_groups(model, 0.2), lr=1e-5, betas=(0.9, 0.98), eps=1e-6)
    ```"""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if decays(parameter)], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if not decays(parameter)], "weight_decay": 0.0},
    ]


DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
    "constant": lambda progress: 1.0,
}


def learning_rate_schedule(optimizer: Optimizer, decay: str, warmup_steps: int, total_steps: int) -> LambdaLR:
    """
    Rises linearly to the optimizer's rate over `warmup_steps`, then falls to 0 over the rest of `total_steps`.

    The first step has the rate 1 / `warmup_steps`, as in open_clip_train's `cosine_lr`; transformers' schedules begin
    with a step of rate 0.

    Args:
        decay: "cosine", "linear" or "constant", which stays.
    """
    fall = DECAYS[decay]

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return fall(min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps)))

    return LambdaLR(optimizer, factor)


__all__ = ["decays", "learning_rate_schedule", "parameter_groups"]
