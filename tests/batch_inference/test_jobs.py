# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Choices for captions are refused when they are made, where they cannot work."""

import pytest

from coca_hf.batch_inference.errors import OptionError
from coca_hf.batch_inference.jobs import CaptionOptions


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        ({"num_beams": 0}, "num-beams 0 is not allowed: give 1 or more"),
        ({"num_beam_groups": -1}, "num-beam-groups -1 is not allowed"),
        ({"max_new_tokens": 0}, "max-new-tokens 0 is not allowed"),
        ({"top_k": 0}, "top-k 0 is not allowed"),
        ({"top_p": 0.0}, "top-p 0.0 is not allowed: give more than 0 and at most 1"),
        ({"top_p": 1.5}, "top-p 1.5 is not allowed"),
        ({"top_p": float("nan")}, "top-p nan is not allowed"),
        ({"temperature": 0.0}, "temperature 0.0 is not allowed: give more than 0"),
        ({"temperature": float("inf")}, "temperature inf is not allowed"),
        ({"temperature": float("nan")}, "temperature nan is not allowed"),
        ({"seed": -1}, "seed -1 is not allowed"),
        ({"seed": 2**32}, "seed 4294967296 is not allowed"),
        ({"num_beam_groups": 3}, "num-beam-groups 3 needs num-beams as well"),
        ({"num_beams": 4, "num_beam_groups": 3}, "num-beams 4 is not a multiple of num-beam-groups 3"),
        ({"num_beams": 6, "num_beam_groups": 3, "top_k": 5}, "num-beam-groups cannot sample"),
    ],
)
def test_refused(choices, reason):
    with pytest.raises(OptionError, match=f"^{reason}"):
        CaptionOptions(**choices)


@pytest.mark.parametrize(
    ("choices", "arguments"),
    [
        ({}, {}),
        ({"prompt": "a photo of", "seed": 3}, {}),
        ({"max_new_tokens": 9}, {"max_new_tokens": 9}),
        ({"num_beams": 4}, {"num_beams": 4, "num_beam_groups": 1}),
        ({"num_beams": 6, "num_beam_groups": 3}, {"num_beams": 6, "num_beam_groups": 3}),
        ({"top_p": 0.9}, {"top_p": 0.9, "do_sample": True}),
        ({"top_k": 5}, {"top_k": 5, "do_sample": True}),
        ({"temperature": 0.7}, {"temperature": 0.7, "do_sample": True}),
    ],
)
def test_choices_become_arguments_of_generate(choices, arguments):
    assert CaptionOptions(**choices).generation_arguments() == arguments
