# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Tokens and scores of captions against those that pycocoevalcap's Java and Python gave."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from coca_hf.evaluation import EvaluationError, caption_scores, ptb_tokenize


FIXTURES = Path(__file__).parent.parent / "fixtures" / "evaluation"
CASES = json.loads((FIXTURES / "caption_scores.json").read_text())["cases"]
METRICS = ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"]


def test_every_recorded_line_has_the_tokens_of_the_java_program():
    with gzip.open(FIXTURES / "ptb_tokens.jsonl.gz", "rt") as file:
        lines = [json.loads(line) for line in file]
    found = [[text, ptb_tokenize(text)] for text, _ in lines]
    assert len(lines) > 5000
    assert [pair for pair in zip(found, lines, strict=True) if pair[0] != pair[1]] == []


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_pycocoevalcap(name):
    case = CASES[name]
    scores = caption_scores(case["candidates"], case["references"], per_image=True)
    assert {each: scores[each] for each in METRICS} == pytest.approx(case["scores"], rel=0, abs=1e-9)
    for image, expected in case["per_image"].items():
        assert list(scores["per_image"][image].values()) == pytest.approx(expected, rel=0, abs=1e-9)


def test_intervals_hold_the_score_and_repeat_with_their_seed():
    case = CASES["captions of many kinds"]
    first, second, other = (
        caption_scores(case["candidates"], case["references"], bootstrap=200, seed=seed)["intervals"]
        for seed in (1, 1, 2)
    )
    assert first == second != other
    for name in METRICS:
        low, high = first[name]
        assert low < case["scores"][name] < high


def test_texts_that_are_tokenized_are_split_at_spaces():
    references = {"a": ["A dog ."], "b": ["a cat ."]}
    scores = caption_scores({"a": "A dog .", "b": "a cat !"}, references, tokenize=str.split)
    assert scores["bleu_1"] == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("candidates", "references", "words"),
    [
        ({"a": "x", "b": "y"}, {"a": ["x"]}, "'b' has a candidate but no reference"),
        ({"a": "x"}, {"a": ["x"], "c": ["y"], "d": ["z"]}, "'c' has references but no candidate and so have 1 more"),
        ({"a": 5}, {"a": ["x"]}, "the candidate of 'a' is no text but int"),
        ({"a": "x"}, {"a": "x"}, "the references of 'a' have to be a list"),
        ({"a": "x"}, {"a": []}, "the references of 'a' have to be a list of one or more"),
        ({"a": "x"}, {"a": [None]}, "a reference of 'a' is no text"),
        ({}, {}, "there are no references"),
    ],
)
def test_captions_that_do_not_fit_each_other_are_refused_in_a_sentence(candidates, references, words):
    with pytest.raises(EvaluationError, match=words):
        caption_scores(candidates, references)


def test_something_else_than_text_has_no_tokens():
    with pytest.raises(TypeError, match="takes a text, not NoneType"):
        ptb_tokenize(None)


def test_meteor_that_cannot_be_had_is_left_out_with_a_reason(caplog, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    scores = caption_scores({"a": "x"}, {"a": ["x"]}, meteor=True)
    assert "meteor" not in scores
    assert "METEOR is left out: it needs the package pycocoevalcap" in caplog.text


def test_scores_of_texts_need_no_torch():
    script = "import sys; sys.modules['torch'] = None; import coca_hf_command\n"
    script += "from coca_hf.evaluation import caption_scores; print(caption_scores({1: 'a'}, {1: ['a']})['bleu_1'])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(result.stdout) == pytest.approx(1)
