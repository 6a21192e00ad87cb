# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf index` and `coca-hf search`, as somebody with a folder of photos types them."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
from PIL import Image

import coca_hf
from coca_hf.batch_inference.tasks import CaptionTask


@pytest.fixture
def album(coca, folder) -> Path:
    """An index of the example pictures by the bundled model."""
    assert coca("index", *map(str, coca_hf.example_images()), "--output", "album").code == 0
    return folder / "album"


def test_an_index_and_what_words_find_in_it(coca, album):
    result = coca("search", "album", "two pink hearts")
    path = next(path for path in coca_hf.example_images() if path.name.startswith("two-pink"))
    assert result.code == 0
    assert re.fullmatch(
        rf"0\.\d\d\d {re.escape(str(path))}: two large pink hearts on a brown background\n", result.out
    )
    assert result.err == ""


def test_nothing_is_said_to_match(coca, album):
    result = coca("search", "album", "a dog on the beach")
    assert (result.code, result.out) == (0, "")
    assert result.err == "coca-hf search: nothing matches 'a dog on the beach'; --nearest shows what comes nearest\n"
    assert json.loads(coca("search", "album", "a dog on the beach", "--format", "json").out) == []
    assert len(coca("search", "album", "a dog on the beach", "--nearest", "--top", "3").out.splitlines()) == 3


def test_of_a_query_as_long_as_a_book_a_message_shows_the_beginning(coca, album):
    result = coca("search", "album", "no such thing " * 10_000)
    assert (result.code, result.out) == (0, "")
    assert "nothing matches 'no such thing no such thing" in result.err
    assert len(result.err) < 200


def test_json_of_a_search_by_picture(coca, album):
    path = str(coca_hf.example_images()[0])
    hits = json.loads(coca("search", "album", "--image", path, "--format", "json", "--top", "1").out)
    assert [sorted(hit) for hit in hits] == [["caption", "path", "score"]]
    assert (hits[0]["path"], hits[0]["score"]) == (path, 1.0)


def test_a_page_is_complete_in_itself(coca, album):
    result = coca("search", "album", "four green rings", "--format", "html")
    assert result.out.startswith("<!doctype html>")
    assert result.out.count('src="data:image/jpeg;base64,') == 1
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", result.out)
    assert coca("search", "album", "four green rings", "--format", "html", "--output", "page.html").out == ""
    assert Path("page.html").read_text().startswith("<!doctype html>")
    nothing = coca("search", "album", "a dog", "--format", "html")
    assert "<h1>Nothing matches" in nothing.out or "<h1>nothing matches" in nothing.out


def test_what_has_changed_is_told(coca, model, images):
    first = coca("index", "photos", "--output", "ix", "--model", model)
    assert first.err.startswith("coca-hf index: 3 photos in ix: 3 added, in ")
    assert "the model ran" in first.err
    assert coca("index", "photos", "-o", "ix", "--model", model).err.startswith(
        "coca-hf index: 3 photos in ix: nothing has changed, in "
    )
    os.rename("photos/a.jpg", "photos/d.jpg")
    os.unlink("photos/b.png")
    Image.new("RGB", (30, 30), "yellow").save("photos/e.png")
    Path("photos/f.png").write_text("no picture")
    third = coca("index", "photos", "-o", "ix", "--model", model)
    assert third.code == 1
    assert "photos/f.png: not a readable image" in third.err
    assert "3 photos in ix: 1 added, 1 moved, 1 removed, 1 failed, in " in third.err


def test_duplicates_are_shown_in_groups(coca, model, images):
    with Image.open("photos/a.jpg") as image:
        image.resize((64, 48)).save("photos/larger.png")
    coca("index", "photos", "--output", "ix", "--model", model)
    lines = coca("search", "ix", "--duplicates").out.splitlines()
    assert [re.sub(r"[\d.]+ (.*?): .*", r"\1", line) for line in lines] == ["photos/a.jpg", "photos/larger.png"]
    groups = json.loads(coca("search", "ix", "--duplicates", "--format", "json").out)
    assert [[os.path.basename(hit["path"]) for hit in group] for group in groups] == [["a.jpg", "larger.png"]]


def test_ctrl_c_keeps_what_was_done(coca, model, images, monkeypatch):
    process, calls = CaptionTask.process, []

    def once(self, prepared, places):
        calls.append(len(prepared))
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return process(self, prepared, places)

    monkeypatch.setattr(CaptionTask, "process", once)
    result = coca("index", "photos", "--output", "ix", "--model", model, "--batch-size", "1")
    assert result.code == 130
    assert result.err == "coca-hf index: stopped after 1 of 3 new photos; the same command continues\n"
    assert coca("search", "ix", "anything").code == 2
    assert coca("index", "photos", "--output", "ix", "--model", model, "--batch-size", "1").code == 0
    assert len(calls) == 4


def test_a_killed_index_is_made_whole_by_the_same_command(start, coca, model, folder, wait_for):
    (folder / "photos").mkdir()
    for number in range(40):
        Image.new("RGB", (32, 24), (number * 6, 255 - number * 6, 9)).save(folder / "photos" / f"{number:02d}.png")
    arguments = ("index", "photos", "--output", "ix", "--model", model, "--batch-size", "1", "--workers", "0")
    process = start(*arguments)
    log = folder / "ix" / "adding" / "records.jsonl.records"
    wait_for(lambda: any(path.stat().st_size for path in log.glob("*.log")) or not process.is_alive())
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    result = coca(*arguments)
    assert result.code == 0
    assert "40 photos in ix" in result.err
    hits = json.loads(coca("search", "ix", "photo", "--nearest", "--top", "99", "--format", "json").out)
    assert sorted(os.path.basename(hit["path"]) for hit in hits) == sorted(os.listdir("photos"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "gone", "ring"], "'gone' is not there. 'coca-hf index PATH --output gone' makes one."),
        (["search", "photos", "ring"], "'photos' is not an index. 'coca-hf index PATH --output photos' makes one."),
        (["search", "photos"], "give one of these: a QUERY in quotes, --image FILE or --duplicates."),
        (
            ["search", "photos", "a", "--image", "b"],
            "give one of these: a QUERY in quotes, --image FILE or --duplicates.",
        ),
        (["search", "photos", "a", "--format", "xml"], "no such format: 'xml'. Give text, json or html."),
        (["search", "photos", "a", "--top", "0"], "top 0 is not allowed: give 1 or more."),
        (
            ["index", "photos", "--output", "photos"],
            "'photos' holds other things than an index. Name another folder for it.",
        ),
        (["index", "photos", "--output", "a/b"], "cannot make the index 'a/b': there is no folder "),
        (["index", "photos", "-o", "ix", "--model", "gone"], "no model at 'gone'. "),
    ],
)
def test_bad_input_is_one_sentence(coca, images, arguments, message):
    result = coca(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"coca-hf {arguments[0]}: {message}")
    assert result.err.count("\n") == 1


def test_bad_queries_are_one_sentence(coca, album, folder):
    (folder / "broken.jpg").write_text("no picture")
    for arguments, message in (
        (["  "], "the query '  ' has no words in it."),
        (["--image", "broken.jpg"], "cannot read the picture 'broken.jpg': not a readable image"),
        (["ring", "--model", "gone/model"], "the index 'album' was made with another model than 'gone/model'."),
    ):
        result = coca("search", "album", *arguments)
        assert result.code == 2
        assert result.err.startswith(f"coca-hf search: {message}")
        assert result.err.count("\n") == 1
