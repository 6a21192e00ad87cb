# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf caption`: a caption or a reason for every input, as text, as records and as a page."""

import json
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from coca_hf.captioning.tasks import CaptionTask
from coca_hf.captioning.text import printable


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
    assert re.search(r" s, written to out.jsonl and out.html; the model ran \d+% of its time$", summary)


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


@pytest.mark.parametrize(
    "options",
    [
        ["--num-beams", "4", "--num-beam-groups", "2"],
        ["--max-new-tokens", "3"],
        ["--top-p", "0.9", "--seed", "1"],
        ["--top-k", "5", "--temperature", "0.7", "--seed", "1"],
        ["--prompt", "a photo of", "--num-beams", "2"],
        ["--device", "cpu", "--dtype", "bfloat16"],
    ],
    ids=" ".join,
)
def test_every_option_reaches_the_model(coca, model, images, options):
    arguments = ["caption", *images, "--model", model, "--max-new-tokens", "6", *options]
    result = coca(*arguments)
    assert (result.code, result.err) == (0, "")
    assert coca(*arguments).out == result.out


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
    def process(self, prepared):
        raise ZeroDivisionError

    monkeypatch.setattr(CaptionTask, "process", process)
    with pytest.raises(ZeroDivisionError):
        coca("caption", *images, "--model", model)
