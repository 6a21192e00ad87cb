# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Stands in for the module in which transformers lists the keywords that every configuration takes."""

# One value other than the default for each; `ConfigTester` checks that a configuration keeps them.
config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 4,
    "is_encoder_decoder": True,
    "architectures": ["SomeArchitecture"],
    "id2label": {0: "first", 1: "second", 2: "third"},
    "label2id": {"first": 0, "second": 1, "third": 2},
    "problem_type": "regression",
}
