# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Attention weights of chosen layers, as they are used: with gradients, which `output_attentions` loses, and without
those of all the other layers, which in a large vision tower take gigabytes."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from ..layers_coca import eager_attention_forward


_NAME = "coca_hf_kept_weights"
_PARTS = ("vision_config", "text_config", "multimodal_config")

Weights = dict[nn.Module, Tensor]
_kept: ContextVar[Weights | None] = ContextVar("kept attention weights", default=None)
_switch = threading.RLock()


def _attention(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    """As `eager_attention_forward`, its weights kept where they are wanted, and not returned to anybody else."""
    attended, weights = eager_attention_forward(module, *args, **kwargs)
    kept = _kept.get()
    if kept is not None and module in kept:
        kept[module] = weights
    return attended, None


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, eager_mask)


@contextmanager
def kept_weights(model: Any, attentions: Iterable[nn.Module]) -> Iterator[Weights]:
    """
    Runs the model's attention so that the weights of `attentions` are seen.

    Args:
        model: The one that all `attentions` are in. Its attention implementation is another one meanwhile, and its own
            again at the end, whatever happened; calls from other threads wait for that or must not be made.
        attentions: `CoCaAttention` and `CoCaCrossAttention` modules.

    Yields:
        Module -> weights (images, heads, queries, keys), once the model was called. They are in the graph where
        gradients are recorded.
    """
    config = model.config
    own = {"": config._attn_implementation} | {
        name: getattr(config, name)._attn_implementation for name in _PARTS if hasattr(config, name)
    }
    was_training = model.training
    with _switch:
        wanted: Weights = dict.fromkeys(attentions)
        token = _kept.set(wanted)
        try:
            if was_training:
                model.eval()
            model.set_attn_implementation(_NAME)
            yield wanted
        finally:
            model.set_attn_implementation(own)
            if was_training:
                model.train()
            _kept.reset(token)
