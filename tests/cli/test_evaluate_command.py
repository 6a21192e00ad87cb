# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf evaluate`: a data set to scores, files and pages, and one sentence for what cannot be scored."""

import json

import pytest
import yaml
from PIL import Image

from coca_hf.evaluation import caption_scores


COLOURS = {"red": (220, 20, 20), "green": (20, 160, 40), "blue": (30, 60, 220)}


@pytest.fixture
def data(folder):
    """Fifteen pictures of three classes; two rows are of the same picture."""
    rows = []
    for number in range(15):
        colour = list(COLOURS)[number % 3]
        Image.new("RGB", (20 + number, 24), COLOURS[colour]).save(folder / f"{number}.png")
        captions = [f"a photo of one {colour} cube on a table", f"a photo of two {colour} ring on a table"]
        rows.append({"image": f"{number}.png", "caption": captions[: 1 + number % 2], "label": colour})
    rows.append({"image": "0.png", "caption": "a photo of three red ball", "label": "red"})
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def captions_file(folder, rows, name="captions.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def test_a_model_is_scored_in_every_task_and_the_results_go_where_they_are_wanted(coca, folder, data, model):
    tasks = [
        "--tasks",
        "captions,retrieval,zero-shot,probe",
        "--output",
        "r.json",
        "--report",
        "r.html",
        "--card",
        "r.md",
    ]
    result = coca("evaluate", "data.jsonl", "--model", model, *tasks)
    assert (result.code, "Image captioning: CIDEr" in result.out) == (0, True), result.err
    results = json.loads((folder / "r.json").read_text())
    assert list(results["tasks"]) == ["captions", "retrieval", "zero-shot", "probe"]
    assert results["data"]["images"] == 15
    assert results["data"]["captions"] == 15 + 7 + 1
    assert set(results["tasks"]["captions"]) >= {"bleu_4", "cider", "clip_score", "ref_clip_score", "intervals"}
    assert set(results["versions"]) == {"python", "coca-hf", "torch", "transformers", "numpy"}
    captions = [json.loads(line) for line in (folder / "r.captions.jsonl").read_text().splitlines()]
    references = {row["image"]: [] for row in data}
    for row in data:
        references[row["image"]] += [row["caption"]] if isinstance(row["caption"], str) else row["caption"]
    expected = caption_scores({row["image"]: row["caption"] for row in captions}, references)
    assert {name: results["tasks"]["captions"][name] for name in expected} == pytest.approx(expected)
    page = (folder / "r.html").read_text()
    assert "Best captions" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "data:image/jpeg;base64" in page
    index = yaml.safe_load((folder / "r.md").read_text().split("---")[1])["model-index"][0]["results"]
    assert {each["task"]["type"] for each in index} >= {"image-to-text", "zero-shot-image-classification"}


def test_the_same_command_again_makes_nothing_anew(coca, folder, data, model):
    command = ["evaluate", "data.jsonl", "--model", model, "--tasks", "captions", "--output", "r.json", "--quiet"]
    assert coca(*command).code == 0
    first = json.loads((folder / "r.json").read_text())["tasks"]
    before = (folder / "r.captions.jsonl").stat().st_mtime_ns
    assert coca(*command).code == 0
    assert json.loads((folder / "r.json").read_text())["tasks"] == first
    assert (folder / "r.captions.jsonl").stat().st_mtime_ns == before


def test_a_broken_image_is_named_and_the_rest_is_scored(coca, folder, data, model):
    (folder / "3.png").write_bytes(b"no image")
    result = coca("evaluate", "data.jsonl", "--model", model, "--tasks", "captions,retrieval", "--output", "r.json")
    assert result.code == 1
    assert "3.png: not a readable image" in result.err
    assert json.loads((folder / "r.json").read_text())["failed"] == 1


def test_captions_of_another_system_are_scored_without_a_model(coca, folder, data):
    rows = [{"image": f"{number}.png", "caption": "a photo of one red cube"} for number in range(15)]
    captions_file(folder, rows)
    result = coca("evaluate", "data.jsonl", "--candidates", "captions.jsonl", "--output", "r.json")
    assert result.code == 0, result.err
    scores = json.loads((folder / "r.json").read_text())["tasks"]["captions"]
    assert 0 < scores["cider"] < 10
    assert "clip_score" not in scores


def test_results_are_put_side_by_side(coca, folder, data):
    for name, text in (("one", "a photo of one red cube on a table"), ("two", "something else")):
        captions_file(folder, [{"image": f"{number}.png", "caption": text} for number in range(15)], f"{name}.jsonl")
        assert coca("evaluate", "data.jsonl", "--candidates", f"{name}.jsonl", "--output", f"{name}.json").code == 0
    result = coca("evaluate", "--compare", "one.json", "two.json", "--report", "both.html")
    assert (result.code, result.out.splitlines()[0].split()) == (0, ["one", "two"])
    assert "the same images and captions" in (folder / "both.html").read_text()


FIRST = [{"image": f"{number}.png", "caption": "x"} for number in range(15)]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (FIRST[:-2], "'13.png' has references, but no caption in 'captions.jsonl', nor do 1 more images"),
        ([*FIRST, {"image": "99.png", "caption": "x"}], "line 16 of 'captions.jsonl' is about '99.png'"),
        ([*FIRST, FIRST[0]], "line 16 of 'captions.jsonl' is a second caption of '0.png'"),
        ([*FIRST[:3], {"image": "3.png", "caption": 5}], "line 4 of 'captions.jsonl' needs a text"),
        (["x"], "line 1 of 'captions.jsonl' is no record"),
    ],
)
def test_candidates_that_do_not_fit_the_data_are_refused_in_one_line(coca, folder, data, rows, words):
    captions_file(folder, rows)
    result = coca("evaluate", "data.jsonl", "--candidates", "captions.jsonl")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert words in result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no data was given"),
        (["data.jsonl", "--tasks", "captions,beauty"], "no such task: beauty"),
        (["data.jsonl", "--candidates", "data.jsonl", "--tasks", "retrieval"], "without a model only"),
        (["data.jsonl", "--tasks", ""], "no such task: none"),
        (["data.jsonl", "--num-beams", "0"], "num-beams 0 is not allowed"),
        (["data.jsonl", "--caption-column", "text"], "Rows have theirs in 'text'"),
        (["data.jsonl", "--tasks", "zero-shot", "--classes", "gone.txt"], "cannot read 'gone.txt': no such file"),
        (["nothing.jsonl"], "nothing.jsonl"),
        (["--compare", "data.jsonl"], "'data.jsonl' holds no results"),
        (["data.jsonl", "--output", "there/r.json"], "cannot write to 'there/r.json'"),
    ],
)
def test_what_cannot_be_evaluated_is_a_usage_error_in_one_line(coca, data, arguments, words):
    result = coca("evaluate", *arguments)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert words in result.err


def test_data_without_captions_is_refused(coca, folder, data):
    (folder / "data.jsonl").write_text('{"image": "0.png"}\n{"image": "1.png"}\n')
    result = coca("evaluate", "data.jsonl")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "caption" in result.err
