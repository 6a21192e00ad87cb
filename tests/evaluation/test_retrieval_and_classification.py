# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Retrieval and classification against what CLIP_benchmark and eccv-caption gave on the same embeddings."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from coca_hf.evaluation import (
    EvaluationError,
    class_embeds,
    classification_scores,
    clip_scores,
    linear_probe,
    retrieval,
    retrieval_recall,
)
from fixtures.evaluation.retrieval_cases import embeddings, labels


RECORDED = json.loads((Path(__file__).parent.parent / "fixtures" / "evaluation" / "retrieval.json").read_text())


@pytest.mark.parametrize("case", RECORDED["retrieval"], ids=lambda case: f"{case['images']} images")
@pytest.mark.parametrize("scores_at_a_time", [1 << 24, 999])
def test_retrieval_scores_are_those_of_clip_benchmark_and_eccv_caption(case, scores_at_a_time, monkeypatch):
    monkeypatch.setattr(retrieval, "_SCORES_AT_A_TIME", scores_at_a_time)
    image_embeds, text_embeds, owners = embeddings(case["images"], case["most_texts"], case["seed"])
    to_text, to_image = labels(case["images"], owners, case["seed"])
    found = retrieval_recall(image_embeds, text_embeds, owners, image_to_text=to_text, text_to_image=to_image)
    for k in (1, 5, 10):
        theirs = case["clip_benchmark"]
        assert found[f"text_to_image_recall@{k}"] == pytest.approx(theirs[f"image_retrieval_recall@{k}"], abs=1e-7)
        assert found[f"image_to_text_recall@{k}"] == pytest.approx(theirs[f"text_retrieval_recall@{k}"], abs=1e-7)
    for direction in ("image_to_text", "text_to_image"):
        theirs = case[f"eccv_{direction}"]
        assert found[f"{direction}_map_at_r"] == pytest.approx(theirs["eccv_map_at_r"], abs=1e-12)
        assert found[f"{direction}_r_precision"] == pytest.approx(theirs["eccv_rprecision"], abs=1e-12)


def test_labels_may_call_rows_by_ids_of_their_own():
    images, texts = np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[[1, 0, 2]]
    by_number = retrieval_recall(images, texts, [1, 0, 2], image_to_text={0: [1, 2]})
    by_name = retrieval_recall(
        torch.tensor(images), torch.tensor(texts), [1, 0, 2], image_to_text={"a": [10, 30]},
        image_ids=["a", "b", "c"], text_ids=[20, 10, 30],
    )  # fmt: skip
    assert by_number == by_name
    assert by_number["text_to_image_recall@1"] == by_number["image_to_text_recall@1"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.eye(2), np.eye(3), [0, 1, 1]), "embedded in 2 numbers, texts in 3"),
        ((np.eye(2), np.eye(2), [0]), "has to be 2 row numbers"),
        ((np.eye(2), np.eye(2), [0, 2]), "names an image that is none of the 2"),
        ((np.zeros((0, 2)), np.eye(2), [0, 1]), "image_embeds has to be of shape"),
        ((np.full((2, 2), np.nan), np.eye(2), [0, 1]), "not finite"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_a_sentence(arguments, words):
    with pytest.raises(EvaluationError, match=words):
        retrieval_recall(*arguments)


def test_labels_of_what_is_not_there_are_refused():
    with pytest.raises(EvaluationError, match="the labels of image_to_text name 7"):
        retrieval_recall(np.eye(2), np.eye(2), [0, 1], image_to_text={0: [7]})


def test_classification_scores_are_those_of_clip_benchmark():
    chance = np.random.default_rng(3)
    scores, classes = chance.normal(size=(300, 12)).astype(np.float32), chance.integers(0, 11, 300)
    scores[np.arange(300), classes] += 1
    found, theirs = classification_scores(scores, classes), RECORDED["classification"]
    assert list(found.values()) == pytest.approx([theirs["acc1"], theirs["acc5"], theirs["mean_per_class_recall"]])


def test_a_class_has_the_normalised_mean_of_its_templates():
    vectors = {"a cat": [1, 0], "the cat": [0, 1], "a dog": [1, 0], "the dog": [1, 0]}
    found = class_embeds(
        lambda texts: np.array([vectors[text] for text in texts]), ["cat", "dog"], ["a {}", "the {c}"]
    )
    np.testing.assert_allclose(found, [[0.5**0.5, 0.5**0.5], [1, 0]], atol=1e-6)


def test_a_template_without_a_place_for_a_name_is_refused():
    with pytest.raises(EvaluationError, match="'a photo' has no"):
        class_embeds(lambda texts: np.eye(1), ["cat"], ["a photo"])


def test_a_probe_learns_what_embeddings_show():
    chance = np.random.default_rng(0)
    classes = np.arange(90) % 3
    embeds = np.eye(3)[classes] + 0.1 * chance.normal(size=(90, 3))
    scores = linear_probe(embeds[:60], classes[:60], embeds[60:])
    assert classification_scores(scores, classes[60:])["top_1"] == 1
    with pytest.raises(EvaluationError, match="two classes"):
        linear_probe(embeds, np.zeros(90, int), embeds)


def test_clip_scores_are_those_of_the_paper():
    images, candidates = np.eye(2), np.array([[0.6, 0.8], [0.0, -1.0]])
    found = clip_scores(images, candidates, [np.array([[1.0, 0.0], [0.0, 1.0]]), np.eye(2)])
    np.testing.assert_allclose(found["clip_score"], [1.5, 0])
    np.testing.assert_allclose(found["ref_clip_score"], [2 * 1.5 * 0.8 / 2.3, 0])
