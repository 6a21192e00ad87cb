# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whatever text comes in as a prompt, a label or a name, what comes out is a result or one clean line."""

import codecs
import os
import tempfile

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from coca_hf.batch_inference.errors import ModelError
from coca_hf.batch_inference.inputs import Record
from coca_hf.batch_inference.jobs import CaptionOptions
from coca_hf.batch_inference.models import ModelChoice
from coca_hf.batch_inference.outputs import as_record, json_line, parse_line
from coca_hf.batch_inference.paths import PathList, iter_paths
from coca_hf.batch_inference.tasks import CaptionTask, ClassifyTask
from coca_hf.batch_inference.wording import printable
from tiny_folder import save_tiny_folder


# Arguments that are not UTF-8 arrive as surrogates, and so do names of files.
ANY_TEXT = st.text(st.characters(codec=None), max_size=60) | st.binary(max_size=60).map(os.fsdecode)
NAMES = st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name)

IMAGE = Image.effect_noise((24, 24), 60).convert("RGB")


@pytest.fixture(scope="module")
def choice(tmp_path_factory) -> ModelChoice:
    return ModelChoice(str(save_tiny_folder(tmp_path_factory.mktemp("model"))), "cpu")


@given(prompt=ANY_TEXT)
@example(prompt="")
@example(prompt="<end_of_text>")
@example(prompt="<start_of_text>" * 3)
@example(prompt="&#xD800;\0\u202e")
@example(prompt="a photo of " * 100)
@settings(max_examples=25, deadline=None)
def test_any_prompt_is_continued_or_refused_in_words(choice, prompt):
    try:
        task = CaptionTask(choice, CaptionOptions(prompt=prompt, max_new_tokens=2))
        (result,) = task.process([task.prepare(IMAGE)], [(0, 0)])
        said = result.fields["caption"]
    except ModelError as error:
        said = str(error)
    assert len(said.splitlines()) <= 1
    said.encode("utf-8")


@given(labels=st.lists(ANY_TEXT, min_size=2, max_size=5, unique=True), words=ANY_TEXT)
@settings(max_examples=25, deadline=None)
def test_any_labels_have_probabilities(choice, labels, words):
    task = ClassifyTask(choice, labels, words.replace("{}", "") + "{}")
    (result,) = task.process([task.prepare(IMAGE)], [(0, 0)])
    scores = result.fields["scores"]
    assert set(scores) == set(labels)
    assert sum(scores.values()) == pytest.approx(1, abs=1e-4)


@given(text=ANY_TEXT)
def test_any_text_is_one_harmless_line_on_a_screen(text):
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    shown.encode("utf-8")


@given(name=ANY_TEXT, caption=ANY_TEXT, failed=st.booleans())
def test_any_record_comes_back_from_its_line(name, caption, failed):
    record = Record(name, error=caption) if failed else Record(name, {"caption": caption})
    line = json_line(record)
    assert line.count(b"\n") == 1
    assert parse_line(line) == {"image": name, "error" if failed else "caption": caption}
    assert as_record(parse_line(line)) == record


@given(line=st.binary(max_size=200))
@example(line=b'{"image": "a", "caption": "b"}')
@example(line=b"[" * 100_000 + b"\n")
@example(line=b'{"image": 1, "caption": "b"}\n')
def test_any_bytes_are_a_record_or_none(line):
    record = parse_line(line)
    assert record is None or isinstance(record["image"], str)


@given(names=st.lists(NAMES, min_size=1, max_size=8), ends_with_zero=st.booleans())
def test_any_names_are_read_from_a_list_that_zeros_separate(names, ends_with_zero):
    content = b"\0".join([*names, b""] if ends_with_zero or len(names) == 1 else names)
    # A mark of the encoding is none of the first name's.
    assume(not content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)))
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        assert [os.fsencode(name) for name in PathList(file.name)] == names


@given(path=ANY_TEXT)
@example(path="\ud800")
@settings(max_examples=200, deadline=None)
def test_any_path_is_inputs(path):
    # Not a folder above the tests, of which there may be large ones.
    relative = "nowhere/" + path.replace("..", "")
    assert all(item.error or item.content is None for item in iter_paths([relative]))
