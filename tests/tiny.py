# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A CoCa small enough to build in every test: two layers a stack, 16 pixels, 99 tokens."""

from typing import Any

import torch

from coca_hf.configuration_coca import CoCaConfig
from coca_hf.modeling_coca import CoCaForCaptioning


PAD, START, END = 0, 97, 98

TINY = {
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 16,
        "patch_size": 4,
        "pooler_hidden_size": 24,
        "num_pooler_queries": 5,
        "num_pooler_attention_heads": 4,
    },
    "text_config": {
        "vocab_size": 99,
        "hidden_size": 16,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 20,
        "pad_token_id": PAD,
        "bos_token_id": START,
        "eos_token_id": END,
    },
    "multimodal_config": {
        "hidden_size": 16,
        "intermediate_size": 36,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    "projection_dim": 12,
}


def tiny_config(**changes: Any) -> CoCaConfig:
    """The tiny configuration with `changes`; a dict for a sub-config changes that one's fields only."""
    merged = {
        name: {**value, **changes.pop(name, {})} if isinstance(value, dict) else value for name, value in TINY.items()
    }
    return CoCaConfig(**{**merged, **changes})


def tiny_captioner(seed: int = 0, **changes: Any) -> CoCaForCaptioning:
    """A captioner of the tiny configuration whose random weights are large enough for every image to matter."""
    torch.manual_seed(seed)
    model = CoCaForCaptioning(tiny_config(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model
