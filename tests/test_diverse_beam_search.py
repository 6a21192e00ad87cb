# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Diverse beam search against recordings of the one that transformers had until 4.55."""

import json
import sys
from pathlib import Path

import pytest
import torch

from coca_hf.diverse_beam_search_coca import diverse_beam_search
from tiny import tiny_captioner


ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from record_group_beam_search_fixtures import FIXTURE, build_model, prompts  # noqa: E402


RECORDINGS = json.loads(FIXTURE.read_text())["recordings"]


@pytest.fixture(scope="module")
def gpt2():
    return build_model()


def search(model, **arguments):
    return model.generate(
        prompts(),
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
        custom_generate=diverse_beam_search,
        **arguments,
    )


@pytest.mark.parametrize(
    "recording", RECORDINGS, ids=lambda recording: "-".join(map(str, recording["arguments"].values()))
)
def test_sequences_and_scores_are_those_of_the_librarys_group_beam_search(gpt2, recording):
    outputs = search(gpt2, **recording["arguments"])
    assert outputs.sequences.tolist() == recording["sequences"]
    torch.testing.assert_close(
        outputs.sequences_scores, torch.tensor(recording["sequences_scores"]), rtol=1e-5, atol=1e-5
    )


def test_beam_indices_lead_back_to_the_scores(gpt2):
    outputs = search(
        gpt2, num_beams=6, num_beam_groups=3, diversity_penalty=0.5, num_return_sequences=2, max_length=16
    )
    transitions = gpt2.compute_transition_scores(outputs.sequences, outputs.scores, outputs.beam_indices)
    means = transitions.sum(dim=1) / (outputs.beam_indices >= 0).sum(dim=1)
    torch.testing.assert_close(means, outputs.sequences_scores, rtol=1e-5, atol=1e-5)


def test_groups_of_the_captioner_differ_with_a_penalty():
    model = tiny_captioner()
    pixel_values = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    arguments = {"num_beams": 4, "num_beam_groups": 4, "num_return_sequences": 4, "max_new_tokens": 6}
    alike = model.generate(pixel_values, diversity_penalty=0.0, **arguments).view(2, 4, -1)
    diverse = model.generate(pixel_values, diversity_penalty=1e3, **arguments).view(2, 4, -1)
    assert all(len(set(map(tuple, rows.tolist()))) == 1 for rows in alike)
    assert all(len(set(map(tuple, rows.tolist()))) == 4 for rows in diverse)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_beams": 4, "num_beam_groups": 3}, "num_beams=4"),
        ({"num_beams": 4, "num_beam_groups": 2, "do_sample": True}, "do_sample"),
    ],
)
def test_impossible_searches_are_refused_in_words(arguments, words):
    with pytest.raises(ValueError, match=words):
        tiny_captioner().generate(torch.zeros(1, 3, 16, 16), max_new_tokens=4, **arguments)
