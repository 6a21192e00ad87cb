# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""An index follows what is on the disk, and nothing goes through the model twice."""

import io
import json
import os
import shutil
import tarfile

import numpy as np
import pytest

from coca_hf.batch_inference import CaptionJob, EmbedJob, ModelChoice, run
from coca_hf.batch_inference.summary import RunInterrupted
from coca_hf.search import Index, SearchError
from pictures import picture


def paths_in(folder) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*.*") if path.is_file())


def indexed(tmp_path) -> list[str]:
    index = Index.open(tmp_path / "index")
    return sorted(index.photo(row).path for row in range(len(index)))


def test_rows_are_those_that_the_commands_for_captions_and_embeddings_give(tmp_path, photos, build, model):
    summary = build(photos)
    run([photos], EmbedJob(ModelChoice(model)), [tmp_path / "embeddings.npy"], workers=0, progress=False)
    run([photos], CaptionJob(ModelChoice(model)), [tmp_path / "captions.jsonl"], workers=0, progress=False)
    index = Index.open(tmp_path / "index")
    captions = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert (summary.photos, summary.added, summary.failed, len(index)) == (7, 7, 0, 7)
    assert [index.photo(row).path for row in range(7)] == [line["image"] for line in captions]
    assert [index.photo(row).caption for row in range(7)] == [line["caption"] for line in captions]
    np.testing.assert_allclose(index.embeddings, np.load(tmp_path / "embeddings.npy"), atol=1e-5)
    assert index.embeddings.dtype == np.float32


def test_a_second_call_costs_nothing_and_changes_nothing(tmp_path, photos, build, work):
    build(photos)
    work.since()
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "index").iterdir() if path.name != "lock"}
    summary = build(photos)
    assert (summary.kept, summary.added, work.since()) == (7, 0, 0)
    assert files == {
        path.name: path.stat().st_mtime_ns for path in (tmp_path / "index").iterdir() if path.name != "lock"
    }


def test_one_more_photo_costs_one_photo(tmp_path, photos, build, work):
    build(photos)
    work.since()
    before = np.array(Index.open(tmp_path / "index").embeddings)
    picture(20).save(photos / "0a.png")
    summary = build(photos)
    assert (summary.photos, summary.added, summary.kept, work.since()) == (8, 1, 7, 1)
    assert indexed(tmp_path) == paths_in(photos)
    np.testing.assert_array_equal(Index.open(tmp_path / "index").embeddings[:7], before)


def test_moved_copied_touched_and_deleted_files_cost_nothing(tmp_path, photos, build, work, later):
    build(photos)
    captions = {os.path.basename(hit.path): hit.caption for hit in map(Index.open(tmp_path / "index").photo, range(7))}
    work.since()
    (photos / "0.png").rename(photos / "below" / "renamed.png")
    shutil.copy(photos / "1.png", photos / "copy.png")
    later(photos / "2.png")
    (photos / "4.png").unlink()
    summary = build(photos)
    assert (summary.photos, summary.moved, summary.added, summary.removed, summary.kept) == (7, 1, 1, 1, 5)
    assert work.since() == 0
    assert indexed(tmp_path) == paths_in(photos)
    index = Index.open(tmp_path / "index")
    now = {os.path.basename(hit.path): hit.caption for hit in map(index.photo, range(7))}
    assert (now["renamed.png"], now["copy.png"]) == (captions["0.png"], captions["1.png"])
    assert build(photos).kept == 7


def test_a_photo_that_was_edited_is_made_anew(tmp_path, photos, build, work, later):
    build(photos)
    before = np.array(Index.open(tmp_path / "index").embeddings)
    work.since()
    picture(9).save(photos / "2.png")
    later(photos / "2.png")
    summary = build(photos)
    assert (summary.photos, summary.added, work.since()) == (7, 1, 1)
    index = Index.open(tmp_path / "index")
    row = next(row for row in range(7) if index.photo(row).path.endswith("2.png"))
    assert np.abs(index.embeddings[row] - before[2]).max() > 1e-3
    assert indexed(tmp_path) == paths_in(photos)


def test_photos_that_are_not_named_stay_while_their_files_do(tmp_path, photos, build, work):
    build(photos / "0.png", photos / "1.png")
    build(photos / "below")
    assert [os.path.basename(path) for path in indexed(tmp_path)] == ["0.png", "1.png", "3.png"]
    (photos / "1.png").unlink()
    assert build(photos / "below").removed == 1
    assert work.since() == 3


@pytest.mark.parametrize("changes", [False, True], ids=["as it was", "with another photo by then"])
def test_an_interrupted_index_continues_where_it_was(tmp_path, photos, build, work, changes):
    work.limit = 4
    with pytest.raises(RunInterrupted):
        build(photos)
    work.limit = 10**9
    assert work.since() == 4
    if changes:
        picture(21).save(photos / "0a.png")
        (photos / "6.png").unlink()
    build(photos)
    assert work.since() == 3
    assert indexed(tmp_path) == paths_in(photos)
    assert sorted(os.listdir(tmp_path / "index")) == sorted(
        ["index.json", "lock", *(path.name for path in (tmp_path / "index").glob("*-*"))]
    )
    continued = {hit.path: hit.caption for hit in map(Index.open(tmp_path / "index").photo, range(7))}
    shutil.rmtree(tmp_path / "index")
    build(photos)
    assert continued == {hit.path: hit.caption for hit in map(Index.open(tmp_path / "index").photo, range(7))}


def test_what_changes_while_an_index_is_interrupted_is_not_taken_for_what_it_was(tmp_path, photos, build, work, later):
    work.limit = 4
    with pytest.raises(RunInterrupted):
        build(photos)
    work.limit = 10**9
    work.since()
    picture(22).save(photos / "0.png")
    later(photos / "0.png")
    build(photos)
    assert work.since() == 4
    assert indexed(tmp_path) == paths_in(photos)


def test_a_shard_is_indexed_as_a_whole_and_moves_as_a_whole(tmp_path, photos, build, work):
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for number in range(5):
            data = io.BytesIO()
            picture(30 + number).save(data, "PNG")
            entry = tarfile.TarInfo(f"{number}.png")
            entry.size = len(data.getvalue())
            tar.addfile(entry, io.BytesIO(data.getvalue()))
    work.limit = 4
    with pytest.raises(RunInterrupted):
        build(tmp_path / "shard.tar")
    work.limit = 10**9
    picture(40).save(tmp_path / "lone.png")
    build(tmp_path / "lone.png", tmp_path / "shard.tar")
    assert indexed(tmp_path) == [
        str(tmp_path / "lone.png"),
        *(f"{tmp_path}/shard.tar/{number}.png" for number in range(5)),
    ]
    work.since()
    (tmp_path / "shard.tar").rename(tmp_path / "other.tar")
    assert build(tmp_path / "other.tar").moved == 5
    assert work.since() == 0
    assert indexed(tmp_path)[1:] == [f"{tmp_path}/other.tar/{number}.png" for number in range(5)]


def test_what_is_no_picture_is_named_and_the_rest_is_indexed(tmp_path, photos, build):
    (photos / "broken.jpg").write_bytes(b"nothing")
    summary = build(photos, tmp_path / "gone.png")
    assert (summary.photos, summary.failed) == (7, 2)
    assert sorted(os.path.basename(record.image) for record in summary.failures) == ["broken.jpg", "gone.png"]


def test_an_index_of_nothing_is_an_index(tmp_path, build):
    (tmp_path / "empty").mkdir()
    assert (build(tmp_path / "empty").photos, len(Index.open(tmp_path / "index"))) == (0, 0)
    assert Index.open(tmp_path / "index").search("a red ball") == []


def test_an_index_of_other_captions_is_refused_untouched(tmp_path, photos, build):
    build(photos)
    with pytest.raises(SearchError, match="was made with another num-beams"):
        build(photos, num_beams=1)
    assert len(Index.open(tmp_path / "index")) == 7


def test_a_folder_of_other_things_is_refused_untouched(tmp_path, photos, build):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "letter.txt").write_text("dear")
    with pytest.raises(SearchError, match="holds other things than an index"):
        build(photos)
    assert os.listdir(tmp_path / "index") == ["letter.txt"]


def test_two_processes_do_not_change_an_index_at_a_time(tmp_path, photos, build):
    from coca_hf.search.folder import IndexFolder

    with IndexFolder(tmp_path / "index").locked(), pytest.raises(SearchError, match="another process"):
        build(photos)
