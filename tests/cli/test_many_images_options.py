# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Lists, tables, shards and datasets reach every command that many images go through."""

import json
import tarfile
from pathlib import Path

import datasets
import pyarrow.parquet
import pytest


@pytest.fixture
def dataset(images) -> str:
    stored = [{"bytes": Path(path).read_bytes(), "path": None} for path in images]
    features = datasets.Features({"photo": datasets.Image()})
    datasets.Dataset.from_dict({"photo": stored}, features=features).save_to_disk("saved")
    return "saved"


def records(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_list_gives_what_its_paths_give(coca, model, images):
    paths = [images[1], "gone.png", "photos", images[1]]
    Path("list").write_text("\n".join(paths))
    listed = coca("caption", "--from-file", "list", "--model", model, "--output", "-")
    given = coca("caption", *paths, "--model", model, "--output", "-")
    assert (listed.code, listed.out) == (given.code, given.out) == (1, given.out)
    assert len(records(listed.out)) == 6


@pytest.mark.parametrize(
    "options", [[], ["--streaming", "--workers", "0"], ["--column", "photo"]], ids=["stored", "streamed", "column"]
)
def test_a_dataset_gives_what_its_images_give(coca, model, images, dataset, options):
    found = coca("caption", "--dataset", dataset, *options, "--model", model, "--output", "-")
    given = coca("caption", *images, "--model", model, "--output", "-")
    assert [record["image"] for record in records(found.out)] == [f"saved/train[{row}]" for row in range(3)]
    captions = [[record["caption"] for record in records(result.out)] for result in (found, given)]
    assert captions[0] == captions[1]


def test_a_streamed_dataset_is_continued(coca, model, dataset):
    arguments = ["caption", "--dataset", dataset, "--streaming", "--model", model, "--workers", "0"]
    arguments += ["--output", "out.jsonl"]
    assert coca(*arguments).code == 0
    whole = Path("out.jsonl").read_bytes()
    Path("out.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:1]))
    again = coca(*arguments)
    assert (again.code, Path("out.jsonl").read_bytes()) == (0, whole)
    assert "Resuming after 1 existing record" in again.err


def test_a_table_of_images_becomes_a_table_of_embeddings(coca, model, images):
    table = pyarrow.table({"image": [*(Path(path).read_bytes() for path in images), b"nothing"]})
    pyarrow.parquet.write_table(table, "images.parquet")
    assert coca("embed", "images.parquet", "--model", model, "--output", "out.parquet").code == 1
    rows = pyarrow.parquet.read_table("out.parquet").to_pylist()
    assert [row["image"] for row in rows] == [f"images.parquet[{row}]" for row in range(4)]
    assert [row["embedding"] is None for row in rows] == [False, False, False, True]
    assert "not a readable image" in rows[3]["error"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_shards_by_their_numbers_compressed_or_not_and_with_members_of_other_suffixes(coca, model, images, mode):
    ending = ".tar.gz" if mode == "w:gz" else ".tar"
    for number, path in enumerate(images):
        with tarfile.open(f"s-{number:03d}{ending}", mode) as shard:
            shard.add(path, f"{number}.img")
            shard.add(path, f"._{number}.jpg")
    arguments = ["caption", f"s-{{000..002}}{ending}", "--model", model, "--output", "-"]
    found = coca(*arguments, "--member-suffix", "img")
    assert found.code == 0
    assert [record["image"] for record in records(found.out)] == [f"s-{n:03d}{ending}/{n}.img" for n in range(3)]
    given = coca("caption", *images, "--model", model, "--output", "-")
    assert [one["caption"] for one in records(found.out)] == [one["caption"] for one in records(given.out)]
    assert "no images in this shard; it has .img, .jpg, see --member-suffix" in coca(*arguments).err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no images were given"),
        (["a.jpg", "--from-file", "list"], "PATH and --from-file cannot be combined: give one of them"),
        (["a.jpg", "--dataset", "x"], "PATH and --dataset cannot be combined: give one of them"),
        (["a.jpg", "--streaming"], "need --dataset"),
        (["--from-file", "missing"], "cannot read the list 'missing'"),
        (["a.jpg", "--workers", "-1"], "workers -1 is not allowed"),
    ],
)
def test_sources_that_cannot_be_are_refused_before_anything_is_loaded(coca, arguments, message):
    result = coca("caption", *arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err


def test_a_dataset_that_is_not_there_ends_the_run_in_one_line(coca, model):
    result = coca("caption", "--dataset", "./nowhere", "--model", model, "--output", "out.jsonl")
    assert result.code == 1
    assert result.err.startswith("coca-hf caption: cannot load the dataset './nowhere': ")
    assert result.err.count("\n") == 1
    assert not Path("out.jsonl").exists()


@pytest.mark.parametrize("command", ["caption", "embed"])
def test_further_options_have_a_screen_of_their_own(coca, command):
    result = coca(command, "--help-more")
    assert result.code == 0
    assert max(map(len, result.out.splitlines())) <= 80
    for option in (
        "--from-file",
        "--dataset",
        "--streaming",
        "--workers",
        "--ray",
        "--ray-workers",
        "--ray-gpus",
        "--member-suffix",
    ):
        assert option in result.out


def test_the_summary_says_how_long_the_model_ran(coca, model, images):
    result = coca("caption", *images, "--model", model, "--output", "out.jsonl")
    assert "; the model ran " in result.err
    assert result.err.endswith("% of its time\n")
