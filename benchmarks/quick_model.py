# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A model so small that a benchmark's own code can be tried with it in seconds."""

from coca_hf.configuration_coca import CoCaConfig


def quick_config() -> CoCaConfig:
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CoCaConfig(
        vision_config={**small, "pooler_hidden_size": 64, "num_pooler_attention_heads": 2},
        text_config=small,
        multimodal_config=small,
        projection_dim=64,
    )
