# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf caption`: a caption or a reason for every input, as text, as records and as a page."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from coca_hf import CoCaForCaptioning
from coca_hf.batch_inference.tasks import CaptionTask
from coca_hf.batch_inference.wording import printable


def records(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text("ascii").splitlines()]


def test_a_line_for_each_image_on_stdout(coca, model, images):
    result = coca("caption", "photos", "--model", model)
    assert result.code == 0
    assert [line.split(": ", 1)[0] for line in result.out.splitlines()] == images


def test_nothing_else_is_said(coca, model, images):
    assert coca("caption", "photos", "--model", model).err == ""


def test_records_hold_what_the_lines_say(coca, model, images):
    lines = coca("caption", *images, "--model", model).out.splitlines()
    result = coca("caption", *images, "--model", model, "--output", "out.jsonl")
    assert result.out == ""
    assert [f"{record['image']}: {printable(record['caption'])}" for record in records("out.jsonl")] == lines


def test_every_input_has_a_record_whatever_it_is(coca, model, images):
    os.mkfifo("pipe.jpg")
    os.mkdir("folder.jpg")
    os.symlink("nowhere", "lost.jpg")
    Path("square[1].jpg").write_bytes(Path(images[0]).read_bytes())
    Path("torn.jpg").write_bytes(Path(images[0]).read_bytes()[:300])
    inputs = [
        "pipe.jpg",
        images[0],
        "folder.jpg",
        "lost.jpg",
        "square[1].jpg",
        "gone.jpg",
        "torn.jpg",
        images[0],
        "/dev/zero",
    ]
    result = coca("caption", *inputs, "--model", model, "--output", "out.jsonl", "--batch-size", "2")
    assert result.code == 1
    written = records("out.jsonl")
    assert [record["image"] for record in written] == inputs
    assert ["caption" in record for record in written] == [name in (images[0], "square[1].jpg") for name in inputs]
    assert all(set(record) in ({"image", "caption"}, {"image", "error"}) for record in written)


def test_what_failed_is_named_with_its_reason_on_stderr(coca, model, images):
    result = coca("caption", "gone.jpg", *images, "--model", model)
    assert result.code == 1
    assert result.err == "coca-hf caption: gone.jpg: no such file or folder\n"
    assert len(result.out.splitlines()) == 3


def test_quiet_still_names_what_failed(coca, model, images):
    result = coca("caption", "gone.jpg", *images, "--model", model, "--quiet", "--output", "out.jsonl")
    assert result.err == "coca-hf caption: gone.jpg: no such file or folder\n"


def test_a_summary_names_the_files(coca, model, images):
    result = coca("caption", "gone.jpg", *images, "--model", model, "--output", "out.jsonl", "--report", "out.html")
    summary = result.err.splitlines()[-1]
    assert summary.startswith("coca-hf caption: 3 images, 1 failed, in ")
    words = (
        r" s, written to out.jsonl and out.html; float32 with packed weights on cpu; the model ran \d+% of its time$"
    )
    assert re.search(words, summary)


def test_where_nothing_can_be_read_no_model_is_loaded(coca, model, monkeypatch):
    monkeypatch.setattr(CaptionTask, "__init__", None)
    result = coca("caption", "gone.jpg", "--model", model)
    assert (result.code, result.err) == (1, "coca-hf caption: gone.jpg: no such file or folder\n")


def test_a_quoted_glob_and_a_double_dash(coca, model, images):
    Image.new("RGB", (8, 8)).save("-x.jpg")
    result = coca("caption", "--model", model, "--", "photos/*.[jp]*", "-x.jpg")
    assert [line.split(": ", 1)[0] for line in result.out.splitlines()] == [*images[:2], "-x.jpg"]


def test_batches_of_any_size_give_the_same(coca, model, images):
    outputs = {coca("caption", *images, "--model", model, "--batch-size", size).out for size in ("1", "2", "100")}
    assert len(outputs) == 1


def test_names_are_escaped_on_the_screen(coca, model, images):
    os.rename(images[0], "a\x1b[31m\nb.jpg")
    result = coca("caption", "a\x1b[31m\nb.jpg", "--model", model)
    assert result.out.startswith(r"a\x1b[31m\nb.jpg: ")
    assert result.out.count("\n") == 1


@pytest.fixture
def asked(monkeypatch) -> list[dict]:
    """What every call of the model's `generate` was asked for."""
    calls = []
    generate = CoCaForCaptioning.generate

    def noted(self, **arguments):
        calls.append(arguments)
        return generate(self, **arguments)

    monkeypatch.setattr(CoCaForCaptioning, "generate", noted)
    return calls


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--num-beams", "4", "--num-beam-groups", "2"], {"num_beams": 4, "num_beam_groups": 2}),
        (["--num-beams", "3"], {"num_beams": 3, "num_beam_groups": 1}),
        (["--max-new-tokens", "3"], {"max_new_tokens": 3}),
    ],
    ids=str,
)
def test_every_option_of_a_search_reaches_the_model(coca, model, images, asked, options, expected):
    result = coca("caption", *images, "--model", model, "--max-new-tokens", "6", *options)
    assert (result.code, result.err) == (0, "")
    assert {name: asked[0].get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--top-k", "3"], [("TopKLogitsWarper", {"top_k": 3})]),
        (["--top-p", "0.25"], [("TopKLogitsWarper", {"top_k": 50}), ("TopPLogitsWarper", {"top_p": 0.25})]),
        (
            ["--temperature", "0.5", "--top-k", "7", "--top-p", "0.5"],
            [
                ("TemperatureLogitsWarper", {"temperature": 0.5}),
                ("TopKLogitsWarper", {"top_k": 7}),
                ("TopPLogitsWarper", {"top_p": 0.5}),
            ],
        ),
    ],
    ids=str,
)
def test_every_option_of_sampling_reaches_the_model(coca, model, images, asked, options, expected):
    assert coca("caption", *images, "--model", model, "--seed", "1", *options).code == 0
    warpers = asked[0]["logits_processor"][0].warpers
    assert [type(warper).__name__ for warper in warpers] == [name for name, _ in expected]
    for warper, (_, settings) in zip(warpers, expected, strict=True):
        assert {name: getattr(warper, name) for name in settings} == settings


@pytest.mark.parametrize("options", [["--top-k", "9"], ["--temperature", "3"], ["--top-p", "0.95"]], ids=" ".join)
def test_a_sampled_caption_is_not_the_likeliest(coca, model, images, options):
    likeliest = coca("caption", *images, "--model", model).out
    sampled = [coca("caption", *images, "--model", model, "--seed", str(seed), *options).out for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]
    assert likeliest not in sampled


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_batch_size_reaches_the_model(coca, model, images, asked, size):
    coca("caption", *images, "--model", model, "--batch-size", str(size))
    assert [len(call["pixel_values"]) for call in asked] == {1: [1, 1, 1], 2: [2, 1], 3: [3]}[size]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_type_and_the_device_reach_the_model(coca, model, images, asked, dtype):
    coca("caption", *images, "--model", model, "--device", "cpu", "--dtype", dtype)
    assert asked[0]["pixel_values"].dtype == getattr(torch, dtype)
    assert asked[0]["pixel_values"].device == torch.device("cpu")


@pytest.mark.parametrize("options", [["--batch-size", "1"], ["--batch-size", "2"], ["--workers", "2"]], ids=" ".join)
def test_a_seed_gives_the_same_captions_whatever_the_batches(coca, model, images, options):
    arguments = ["caption", *images, images[0], "gone.jpg", images[0], "--model", model, "--temperature", "3"]
    arguments += ["--seed", "1", "--output", "-"]
    captions = coca(*arguments).out
    assert coca(*arguments, *options).out == captions
    # The same image, and random numbers of its own each time.
    same = [record["caption"] for record in map(json.loads, captions.splitlines()) if record["image"] == images[0]]
    assert len(set(same)) == 3


def test_a_prompt_begins_every_caption(coca, model, images):
    result = coca("caption", *images, "--model", model, "--prompt", "one red cube")
    assert all(": one red cube" in line for line in result.out.splitlines())


def test_the_report_shows_every_input_and_the_options(coca, model, images):
    result = coca("caption", "photos", "gone.jpg", "--model", model, "--num-beams", "2", "--report", "out.html")
    page = Path("out.html").read_text("utf-8")
    assert len(result.out.splitlines()) == 3
    assert page.count("data:image/jpeg;base64,") == 3
    assert "no such file or folder" in page
    assert f"<dt>Model</dt><dd>{model}</dd>" in page
    assert "<dt>Num beams</dt><dd>2</dd>" in page


def test_the_report_of_a_second_run_replaces_the_first(coca, model, images):
    coca("caption", images[0], "--model", model, "--report", "out.html")
    assert coca("caption", *images, "--model", model, "--report", "out.html").code == 0
    assert Path("out.html").read_text("utf-8").count("data:image/jpeg;base64,") == 3


def test_a_request_beyond_the_context_is_a_usage_error(coca, model, images):
    result = coca("caption", *images, "--model", model, "--max-new-tokens", "1000", "--output", "out.jsonl")
    assert result.code == 2
    assert result.err.startswith("coca-hf caption: max-new-tokens 1000 does not fit: the model's context is ")
    assert not Path("out.jsonl").exists()


def test_a_defect_of_ours_keeps_its_traceback(coca, model, images, monkeypatch):
    def process(self, prepared, places):
        raise ZeroDivisionError

    monkeypatch.setattr(CaptionTask, "process", process)
    with pytest.raises(ZeroDivisionError):
        coca("caption", *images, "--model", model)


def test_two_files_that_are_one_are_refused_before_anything_is_written(coca, model, images):
    result = coca("caption", *images, "--model", model, "--output", "e.npy.jsonl", "--embeddings", "e.npy")
    assert result.code == 2
    assert "'e.npy.jsonl' is given for two outputs" in result.err
    assert sorted(os.listdir()) == ["photos"]


def test_captions_beside_the_images(coca, model, images):
    Path("photos/b.txt").write_text("my own words\n")
    lines = dict(line.split(": ", 1) for line in coca("caption", *images, "--model", model).out.splitlines())
    result = coca("caption", "photos", "--model", model, "--sidecar")
    assert (result.code, result.out) == (0, "")
    message = "2 captions written beside the images, 1 existing one kept; --overwrite replaces them"
    assert result.err == f"coca-hf caption: {message}\n"
    assert Path("photos/a.txt").read_text() == lines["photos/a.jpg"] + "\n"
    assert Path("photos/b.txt").read_text() == "my own words\n"


def test_images_with_captions_beside_them_are_not_captioned_again(coca, model, images, monkeypatch):
    coca("caption", "photos", "--model", model, "--sidecar")
    monkeypatch.setattr(CaptionTask, "__init__", None)
    result = coca("caption", "photos", "--model", model, "--sidecar")
    assert "0 captions written beside the images, 3 existing ones kept" in result.err


def test_captions_beside_the_images_are_replaced_where_that_is_wanted(coca, model, images):
    Path("photos/b.txt").write_text("my own words\n")
    coca("caption", "photos", "--model", model, "--sidecar", "--overwrite", "--output", "out.jsonl")
    captions = {Path(record["image"]).stem: record["caption"] for record in records("out.jsonl")}
    assert {path.stem: path.read_text() for path in Path("photos").glob("*.txt")} == {
        name: f"{caption}\n" for name, caption in captions.items()
    }


def test_overwriting_belongs_to_captions_beside_the_images(coca, images):
    result = coca("caption", *images, "--overwrite")
    assert (result.code, result.err) == (2, "coca-hf caption: --overwrite needs --sidecar.\n")


def test_formats_that_are_not_read_are_counted_and_named(coca, model, images):
    Path("photos/d.cr2").write_bytes(b"x")
    result = coca("caption", "photos", "--model", model, "--output", "out.jsonl")
    assert result.code == 1
    assert "photos/d.cr2: RAW files are not read: export it as JPEG, PNG or TIFF" in result.err
    assert "3 images, 1 failed, in " in result.err


def test_records_appended_to_what_a_shell_has_opened(coca_process, model, images):
    Path("all.jsonl").write_text("before\n")
    with open("all.jsonl", "a") as stream:
        result = coca_process("caption", *images, "--model", model, "--output", "-", stdout=stream)
    assert (result.code, result.err) == (0, "")
    assert len(Path("all.jsonl").read_text().splitlines()) == 4
    assert sorted(os.listdir()) == ["all.jsonl", "photos"]
