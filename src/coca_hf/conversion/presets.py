# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Models that can be named, for checkpoints that come without a configuration."""

from typing import Any


def _released(embed_dim: int, vision: dict[str, Any], width: int, heads: int, pooler_heads: int) -> dict[str, Any]:
    """What open_clip's own CoCa configurations share."""
    text = {"context_length": 76, "vocab_size": 49408, "width": width, "heads": heads, "layers": 12}
    return {
        "embed_dim": embed_dim,
        "vision_cfg": {**vision, "output_tokens": True},
        "text_cfg": {**text, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**text, "attn_pooler_heads": pooler_heads},
        "custom_text": True,
    }


def _base_preset() -> dict[str, Any]:
    preset = _released(512, {"image_size": 288, "layers": 12, "width": 768, "patch_size": 18}, 768, 12, 8)
    for part in ("text_cfg", "multimodal_cfg"):
        preset[part]["vocab_size"] = 64000
    preset["multimodal_cfg"] |= {"mlp_ratio": 4, "dim_head": 64, "n_queries": 256}
    return preset


# As in open_clip's model_configs/coca_*.json.
PRESETS: dict[str, dict[str, Any]] = {
    "coca_ViT-B-32": _released(
        512,
        {
            "image_size": 224,
            "layers": 12,
            "width": 768,
            "patch_size": 32,
            "attentional_pool": True,
            "attn_pooler_heads": 8,
        },
        width=512,
        heads=8,
        pooler_heads=8,
    ),
    "coca_ViT-L-14": _released(
        768,
        {
            "image_size": 224,
            "layers": 24,
            "width": 1024,
            "patch_size": 14,
            "attentional_pool": True,
            "attn_pooler_heads": 8,
        },
        width=768,
        heads=12,
        pooler_heads=12,
    ),
    "coca_base": _base_preset(),
}

# As in CONCH's model_configs/conch_ViT-B-16.json.
CONCH_PRESETS: dict[str, dict[str, Any]] = {
    "conch_ViT-B-16": {
        "embed_dim": 512,
        "embed_dim_caption": 768,
        "vision_cfg": {
            "image_size": 448,
            "patch_size": 16,
            "attentional_pool_caption": True,
            "attentional_pool_contrast": True,
            "n_queries_contrast": 1,
            "n_queries_caption": 256,
            "output_tokens": True,
        },
        "text_cfg": {
            "context_length": 128,
            "vocab_size": 32007,
            "width": 768,
            "heads": 12,
            "layers": 12,
            "embed_cls": True,
            "output_tokens": True,
        },
        "multimodal_cfg": {"context_length": 128, "vocab_size": 32007, "width": 768, "heads": 12, "layers": 12},
        "custom_text": True,
    }
}

ALL_PRESETS = PRESETS | CONCH_PRESETS
