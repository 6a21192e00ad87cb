# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whatever ends a run, the same command finishes it, and what comes out is what an undisturbed run gives."""

import json
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image


pytestmark = pytest.mark.slow


@pytest.fixture
def photos(folder) -> Path:
    """Enough images for a run that can be caught in the middle, and among them some that are none."""
    (folder / "photos").mkdir()
    for number in range(20):
        Image.effect_noise((24, 24), 10 * number).save(f"photos/{number:03d}.png")
    for number in range(20, 200):
        os.link(f"photos/{number % 20:03d}.png", f"photos/{number:03d}.png")
    for number in (7, 8, 100):
        Path(f"photos/{number:03d}.png").unlink()
        Path(f"photos/{number:03d}.png").write_bytes(b"not an image")
    return folder / "photos"


def size(pattern: str) -> int:
    return sum(path.stat().st_size for path in Path().glob(pattern))


CAPTIONS = ["caption", "photos", "--max-new-tokens", "4", "--output", "out.jsonl", "--embeddings", "out.npy"]
SAMPLED = ["caption", "photos", "--max-new-tokens", "4", "--top-k", "9", "--seed", "1", "--output", "out.jsonl"]
SHARD = ["caption", "photos", "--max-new-tokens", "4", "--output", "out.tar"]
TABLE = ["embed", "photos", "--output", "out.parquet"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
@pytest.mark.parametrize(
    ("arguments", "journal", "products"),
    [
        (CAPTIONS, "out.jsonl", ["out.jsonl", "out.npy", "out.npy.jsonl"]),
        (SAMPLED, "out.jsonl", ["out.jsonl"]),
        (SHARD, "out.tar.records/*.log", ["out.tar"]),
        (TABLE, "out.parquet.records/*.log", ["out.parquet"]),
    ],
    ids=["captions", "sampled", "shard", "table"],
)
def test_a_run_that_ended_at_a_random_moment_is_continued_to_the_same_end(
    coca, start, model, photos, arguments, journal, products, number, chance, wait_for
):
    arguments = [*arguments, "--model", model, "--batch-size", "3", "--workers", "0"]
    process = start(*arguments, "--quiet")
    wait_for(lambda: size(journal) > 100)
    time.sleep(chance.random() / 4)
    os.kill(process.pid, number)
    process.join(30)
    assert process.exitcode in (-number, 130)
    continued = coca(*arguments)
    ends = [Path(name).read_bytes() for name in products]
    assert "Resuming after" in continued.err
    for name in products:
        Path(name).unlink()
    undisturbed = coca(*arguments)
    assert continued.code == undisturbed.code == 1
    assert ends == [Path(name).read_bytes() for name in products]


def test_no_reading_process_outlives_a_killed_run(start, model, photos, wait_for):
    process = start("caption", "photos", "--model", model, "--workers", "2", "--output", "out.jsonl")
    wait_for(lambda: size("out.jsonl") > 100)
    process.kill()
    process.join()
    wait_for(lambda: not processes_in_session(process.pid), seconds=20)


def processes_in_session(session: int) -> list[int]:
    # Behind the name in brackets: state, parent, group, session.
    lines = {int(path.parent.name): read(path) for path in Path("/proc").glob("[0-9]*/stat")}
    fields = {number: line.rpartition(")")[2].split() for number, line in lines.items() if line}
    return [number for number, words in fields.items() if words[3] == str(session) and words[0] != "Z"]


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has just ended
        return ""


@contextmanager
def little_room() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("arguments", "product"), [(["caption"], "out.jsonl"), (["embed"], "out.npy"), (["embed"], "out.parquet")]
)
def test_a_full_disk_ends_the_run_with_one_line_and_more_room_continues_it(
    coca, model, photos, arguments, product, monkeypatch
):
    # What is done within a second goes to the disk together, and here that would be all.
    monkeypatch.setattr("coca_hf.batch_inference.log_writing._SECONDS_BETWEEN_ENTRIES", 0.0)
    arguments = [*arguments, "photos", "--model", model, "--output", product, "--workers", "0"]
    with little_room():
        full = coca(*arguments, "--quiet")
    assert full.code == 1
    # Behind those about files that are no images.
    command, reason = f"coca-hf {arguments[0]}", "file too large"
    assert full.err.splitlines()[-1] == f"{command}: cannot write to {product!r}: {reason}."
    continued = coca(*arguments)
    assert "Resuming after" in continued.err
    end = Path(product).read_bytes()
    for path in Path().glob(f"{product}*"):
        path.unlink()
    assert coca(*arguments).code == continued.code == 1
    assert Path(product).read_bytes() == end


def test_a_file_that_is_taken_away_in_the_middle_is_an_error_among_the_others(start, model, photos, wait_for):
    arguments = ["caption", "photos", "--max-new-tokens", "4", "--batch-size", "1", "--workers", "0"]
    process = start(*arguments, "--model", model, "--output", "out.jsonl")
    wait_for(lambda: size("out.jsonl") > 0)
    Path("photos/199.png").unlink()
    process.join(120)
    assert process.exitcode == 1
    records = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert len(records) == 200
    assert records[-1] == {"image": "photos/199.png", "error": "no such file or folder"}
    assert sum("error" in record for record in records) == 4


def test_other_options_do_not_continue_a_run(coca, model, images):
    assert coca("caption", *images, "--model", model, "--output", "out.jsonl").code == 0
    before = Path("out.jsonl").read_bytes()
    result = coca("caption", *images, "--model", model, "--output", "out.jsonl", "--num-beams", "2")
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        "coca-hf caption: 'out.jsonl' was made with another num-beams. Name another file, or remove it first.\n"
    )
    assert Path("out.jsonl").read_bytes() == before


def test_records_of_other_inputs_are_put_aside_never_over_others(coca, model, images):
    for paths in (images, images[1:], images[:1]):
        assert coca("caption", *paths, "--model", model, "--output", "out.jsonl").code == 0
    kept = [
        [json.loads(line)["image"] for line in Path(name).read_text().splitlines()]
        for name in ("out.jsonl.before", "out.jsonl.before-2", "out.jsonl")
    ]
    assert kept == [images, images[1:], images[:1]]


def test_a_torn_last_line_is_made_again(coca, model, images):
    arguments = ["caption", *images, "--model", model, "--output", "out.jsonl"]
    coca(*arguments)
    whole = Path("out.jsonl").read_bytes()
    Path("out.jsonl").write_bytes(whole[:-9])
    assert coca(*arguments).code == 0
    assert Path("out.jsonl").read_bytes() == whole


def test_captions_that_went_into_a_shard_come_out_of_it(coca, model, images):
    coca("caption", *images, "gone.png", "--model", model, "--output", "out.tar")
    again = coca("caption", "out.tar", "--model", model, "--output", "-")
    assert [json.loads(line)["image"] for line in again.out.splitlines()] == [
        "out.tar/000000000.jpg",
        "out.tar/000000001.png",
        "out.tar/000000002.webp",
    ]


def test_captions_and_embeddings_of_one_pass_are_those_of_two(coca, model, images):
    inputs = [images[1], "gone.png", images[0], images[1]]
    coca("caption", *inputs, "--model", model, "--output", "both.parquet", "--embeddings", "both.npy")
    coca("caption", *inputs, "--model", model, "--output", "captions.jsonl")
    coca("embed", *inputs, "--model", model, "--output", "embeddings.parquet")
    both = pyarrow.parquet.read_table("both.parquet").to_pylist()
    captions = [json.loads(line) for line in Path("captions.jsonl").read_text().splitlines()]
    embeddings = pyarrow.parquet.read_table("embeddings.parquet").to_pylist()
    rows = [json.loads(line) for line in Path("both.npy.jsonl").read_text().splitlines()]
    assert [row["image"] for row in both] == inputs
    assert [row["caption"] for row in both] == [record.get("caption") for record in captions]
    assert [row.get("row") for row in rows] == [0, None, 1, 2]
    found = np.load("both.npy")
    expected = [row["embedding"] for row in embeddings if row["embedding"]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
