# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf classify`: how likely each label is, best first."""

import json
import re
from pathlib import Path

import pytest


def test_labels_with_their_shares_best_first(coca, model, images):
    result = coca("classify", *images, "--model", model, "--labels", "red cube, blue ball,ring")
    assert result.code == 0
    for name, line in zip(images, result.out.splitlines(), strict=True):
        path, _, scores = line.partition(": ")
        shares = [float(share) for share in re.findall(r"([\d.]+)%", scores)]
        assert path == name
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(100, abs=0.2)
        assert set(re.findall(r"[a-z ]+(?= [\d.]+%)", scores.replace(", ", ","))) == {"red cube", "blue ball", "ring"}


def test_records_hold_the_best_label_and_all_scores(coca, model, images):
    coca("classify", *images, "gone.jpg", "--model", model, "--labels", "cube,ball", "-o", "out.jsonl")
    *labelled, failed = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert failed == {"image": "gone.jpg", "error": "no such file or folder"}
    for record in labelled:
        assert record["label"] == max(record["scores"], key=record["scores"].get)
        assert set(record["scores"]) == {"cube", "ball"}
        assert sum(record["scores"].values()) == pytest.approx(1)


def test_of_many_labels_a_line_shows_the_five_best_and_a_record_all(coca, model, images):
    labels = ",".join(f"label {number}" for number in range(9))
    assert coca("classify", images[0], "--model", model, "--labels", labels).out.count("%") == 5
    coca("classify", images[0], "--model", model, "--labels", labels, "-o", "out.jsonl")
    assert len(json.loads(Path("out.jsonl").read_text())["scores"]) == 9


def test_the_template_matters(coca, model, images):
    arguments = ["classify", images[0], "--model", model, "--labels", "cube,ball", "-o"]
    coca(*arguments, "one.jsonl")
    coca(*arguments, "two.jsonl", "--template", "{} on a table")
    assert Path("one.jsonl").read_text() != Path("two.jsonl").read_text()


def test_the_template_is_that_of_the_zero_shot_pipeline(coca, model, images):
    from transformers import pipeline

    import coca_hf  # noqa: F401 - makes the Auto classes know CoCa

    coca("classify", images[0], "--model", model, "--labels", "cube,ball", "-o", "out.jsonl")
    classifier = pipeline("zero-shot-image-classification", model=model)
    expected = {entry["label"]: entry["score"] for entry in classifier(images[0], candidate_labels=["cube", "ball"])}
    assert json.loads(Path("out.jsonl").read_text())["scores"] == pytest.approx(expected, abs=1e-5)
