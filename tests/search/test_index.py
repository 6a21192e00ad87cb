# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Search is exact, finds nothing where nothing matches, and says in a sentence what it cannot use."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import coca_hf
from coca_hf.batch_inference import ModelChoice
from coca_hf.search import Index, SearchError, build_index
from coca_hf.search.folder import Contents
from pictures import picture
from scenes import Facts, Group, render, scene_of


@pytest.fixture(scope="module")
def examples(tmp_path_factory) -> Path:
    """The example pictures' index by the bundled model, and a smaller copy of one of them."""
    folder = tmp_path_factory.mktemp("examples")
    build_index(coca_hf.example_images(), folder / "index", workers=0, progress=False)
    return folder / "index"


def names(hits) -> list[str]:
    return [os.path.basename(hit.path) for hit in hits]


def random_index(number: int, dimensions: int = 32) -> Index:
    embeddings = np.random.default_rng(0).standard_normal((number, dimensions)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    lines = [
        json.dumps(
            {"path": f"/{row}.jpg", "caption": "", "source": "", "size": 0, "mtime_ns": 0, "content": ""}
        ).encode()
        for row in range(number)
    ]
    return Index(Contents("", {}, embeddings, lines=lines), "index", ModelChoice(""))


def test_words_find_the_photos_that_show_them(examples):
    index = Index.open(examples)
    assert names(index.search("two pink hearts")) == ["two-pink-hearts.jpg"]
    assert names(index.search("a red circle"))[0] == "red-circle.jpg"
    hit = index.search("four green rings", top=1)[0]
    assert (hit.path, hit.caption) == (
        str(next(path for path in coca_hf.example_images() if path.name.startswith("four"))),
        "four medium green rings on a white background",
    )
    assert 0.3 < hit.score < 1


@pytest.mark.parametrize("query", ["three purple squares", "a dog on the beach", "my grandmother's birthday"])
def test_words_that_no_photo_shows_find_nothing(examples, query):
    index = Index.open(examples)
    assert index.search(query) == []
    assert len(index.search(query, top=5, cutoff=False)) == 5


def test_a_picture_finds_itself_whatever_its_size(examples, tmp_path):
    path = next(path for path in coca_hf.example_images() if path.name == "purple-cross.bmp")
    with Image.open(path) as image:
        smaller = image.convert("RGB").resize((70, 70))
    smaller.save(tmp_path / "smaller.jpg")
    index = Index.open(examples)
    assert names(index.search(smaller, top=1)) == ["purple-cross.bmp"]
    assert names(index.search(tmp_path / "smaller.jpg", top=1)) == ["purple-cross.bmp"]
    assert index.search(path, top=1)[0].score == pytest.approx(1, abs=1e-5)


def test_the_nearest_are_those_of_a_plain_product(monkeypatch):
    index = random_index(50_000)
    query = index.embeddings[123] + index.embeddings[40_000]
    monkeypatch.setattr(Index, "embed_texts", lambda self, texts: query[None])
    hits = index.search("anything", top=100, cutoff=False)
    expected = np.argsort(-(index.embeddings.astype(np.float64) @ query))[:100]
    assert [hit.path for hit in hits] == [f"/{row}.jpg" for row in expected]
    np.testing.assert_allclose([hit.score for hit in hits], index.embeddings[expected] @ query, atol=1e-6)


def test_duplicates_are_the_pairs_above_the_limit_in_groups(monkeypatch):
    index = random_index(5000)
    embeddings = index.embeddings
    chance = np.random.default_rng(1)
    for row, of in ((4000, 3), (4999, 4000), (2500, 2499)):
        embeddings[row] = embeddings[of] + 0.01 * chance.standard_normal(32)
        embeddings[row] /= np.linalg.norm(embeddings[row])
    monkeypatch.setattr("coca_hf.search.index.look_of", lambda path: np.zeros(192, np.float32))
    groups = index.duplicates()
    assert [[hit.path for hit in group] for group in groups] == [
        ["/3.jpg", "/4000.jpg", "/4999.jpg"],
        ["/2499.jpg", "/2500.jpg"],
    ]
    assert all(0.95 <= hit.score <= 1 for group in groups for hit in group)


def test_copies_of_a_photo_are_duplicates_and_photos_of_the_same_things_are_not(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    facts = Facts((Group(2, "medium", "red", "circle"),), None, "white")
    for seed in range(4):
        render(scene_of(facts, seed), 160).save(photos / f"{seed}.png")
    with Image.open(photos / "2.png") as image:
        image.resize((120, 120)).save(photos / "smaller.jpg", quality=80)
    build_index([photos], tmp_path / "index", workers=0, progress=False)
    assert [sorted(names(group)) for group in Index.open(tmp_path / "index").duplicates()] == [
        ["2.png", "smaller.jpg"]
    ]


@pytest.mark.parametrize("query", ["", "  ", "?!", "…"])
def test_a_query_without_words_is_refused(examples, query):
    with pytest.raises(SearchError, match="has no words in it"):
        Index.open(examples).search(query)


def test_a_query_of_many_words_is_cut_to_the_context(examples):
    assert Index.open(examples).search("two pink hearts and " * 200, top=3, cutoff=False)


def test_a_picture_that_cannot_be_read_is_refused(examples, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    index = Index.open(examples)
    for path in (tmp_path / "broken.jpg", tmp_path / "gone.jpg"):
        with pytest.raises(SearchError, match=f"cannot read the picture '{path}'"):
            index.search(path)


def changed(examples: Path, tmp_path: Path, **facts) -> Path:
    shutil.copytree(examples, tmp_path / "changed")
    path = tmp_path / "changed" / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))
    return tmp_path / "changed"


def test_what_is_no_index_is_refused(examples, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SearchError, match=r"is not there\. 'coca-hf index PATH --output"):
        Index.open(tmp_path / "gone")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(SearchError, match="is not an index"):
            Index.open(path)


def test_an_index_of_another_version_is_refused(examples, tmp_path):
    with pytest.raises(SearchError, match="has version 7, and this release of coca-hf reads version 1"):
        Index.open(changed(examples, tmp_path, version=7))


def test_a_damaged_index_is_refused(examples, tmp_path):
    folder = changed(examples, tmp_path)
    photos = next(folder.glob("photos-*"))
    photos.write_bytes(photos.read_bytes().splitlines()[0] + b"\n")
    with pytest.raises(SearchError, match="is damaged, its files do not belong together"):
        Index.open(folder)
    photos.unlink()
    with pytest.raises(SearchError, match=f"is damaged, {photos.name} is missing"):
        Index.open(folder)


def test_an_index_whose_files_hold_something_else_is_refused(examples, tmp_path):
    folder = changed(examples, tmp_path, calibration=None)
    with pytest.raises(SearchError, match=r"is damaged, so is its index\.json: remove it and make it anew"):
        Index.open(folder)
    shutil.rmtree(folder)
    folder = changed(examples, tmp_path)
    photos = next(folder.glob("photos-*"))
    photos.write_bytes(b'{"pfad": 1}\n' * len(photos.read_bytes().splitlines()))
    with pytest.raises(SearchError, match="is damaged, what it has of photo 1 is none"):
        Index.open(folder).photo(0)


def test_another_model_than_the_index_was_made_with_is_refused(examples, tmp_path, model):
    with pytest.raises(SearchError, match="was made with another model"):
        Index.open(examples, model).search("a ring")
    with pytest.raises(SearchError, match=r"is not at '/gone' any more\. Say where it is with --model"):
        Index.open(changed(examples, tmp_path, model="/gone")).search("a ring")


def test_a_model_that_was_moved_is_found_where_it_is_said_to_be(tmp_path, model):
    shutil.copytree(model, tmp_path / "model")
    picture(1).save(tmp_path / "1.png")
    build_index(
        [tmp_path / "1.png"], tmp_path / "index", ModelChoice(str(tmp_path / "model")), workers=0, progress=False
    )
    (tmp_path / "model").rename(tmp_path / "moved")
    index = Index.open(tmp_path / "index", str(tmp_path / "moved"))
    assert len(index.search("a photo of one red ball", cutoff=False)) == 1


def test_an_open_index_stays_what_it_was_while_it_is_changed(tmp_path, model):
    for number in range(3):
        picture(number).save(tmp_path / f"{number}.png")
    paths = sorted(tmp_path.glob("*.png"))
    build_index(paths[:2], tmp_path / "index", ModelChoice(model), workers=0, progress=False)
    index = Index.open(tmp_path / "index")
    build_index(paths, tmp_path / "index", ModelChoice(model), workers=0, progress=False)
    assert len(index.search("a photo", cutoff=False)) == 2
    assert len(Index.open(tmp_path / "index").search("a photo", cutoff=False)) == 3
