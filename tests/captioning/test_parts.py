# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A shared run is cut into blocks, and each block's part is made once, whoever makes it."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coca_hf.captioning import ray_data
from coca_hf.captioning.containers import DatasetInputs
from coca_hf.captioning.errors import InputError, ModelError, OutputError
from coca_hf.captioning.jobs import CaptionJob
from coca_hf.captioning.models import ModelChoice
from coca_hf.captioning.parts import Block, Part, Parts, make_blocks
from coca_hf.captioning.ray_data import BlockWorker, _from_a_thread, read_records, run_on_ray
from coca_hf.captioning.sources import PathInputs
from coca_hf.captioning.tasks import Captioned


WIDTHS = [3, 5, 7, 9]
PATHS = [f"{width}.png" for width in WIDTHS]


class WidthTask:
    """A caption for each image, of its width; counts how often it was asked."""

    def __init__(self):
        self.asked = 0

    def prepare(self, image: Image.Image) -> int:
        return image.width

    def process(self, prepared: list[int]) -> list[str]:
        self.asked += 1
        return [f"{width} wide" for width in prepared]


class WidthVectors(WidthTask):
    def process(self, prepared: list[int]) -> list[Captioned]:
        return [Captioned(f"{width} wide", np.float32([width, width / 3])) for width in prepared]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray_data, "silence_libraries", lambda: None)
    for width in WIDTHS:
        Image.new("RGB", (width, 4)).save(f"{width}.png")
    return tmp_path


@pytest.fixture
def parts() -> Parts:
    parts = Parts("parts")
    parts.begin({"model": "a"})
    return parts


def blocks_of(paths: list[str], size: int = 2) -> list[Block]:
    return list(make_blocks(PathInputs(paths), size))


def write_shard(name: str) -> None:
    with tarfile.open(name, "w") as shard:
        for path in PATHS:
            shard.add(path)


def counts(part: Part) -> tuple[int, int, int]:
    return part.number, part.records, part.failed


def test_blocks_hold_every_input_once_and_in_order():
    blocks = blocks_of([*PATHS, "gone.png", PATHS[0]])
    assert [item.path for block in blocks for item in block.inputs()] == [*PATHS, "gone.png", PATHS[0]]
    assert [block.size for block in blocks] == [2, 2, 2]


def test_a_shard_is_a_block_of_its_own_that_need_not_be_opened():
    write_shard("shard.tar")
    blocks = blocks_of([PATHS[0], "shard.tar", PATHS[1]])
    assert [block.size for block in blocks] == [1, None, 1]
    assert [item.path for item in blocks[1].inputs()] == [f"shard.tar/{path}" for path in PATHS]


def test_a_block_travels_as_text_whatever_its_names_hold():
    (block,) = blocks_of([os.fsdecode(b"\xff.png"), "gone.png"])
    assert Block.from_json(block.to_json()).name == block.name
    assert [item.path for item in Block.from_json(block.to_json()).inputs()] == ["\udcff.png", "gone.png"]


def test_the_rows_of_a_streamed_dataset_cannot_be_shared(monkeypatch):
    monkeypatch.setattr(DatasetInputs, "_rows", lambda self: ([], "image"))
    with pytest.raises(InputError, match="cannot be shared"):
        list(make_blocks(DatasetInputs("some/set", streaming=True)))


def test_a_part_is_made_once(parts):
    task = WidthTask()
    (block,) = blocks_of(["gone.png", *PATHS[:1]])
    assert counts(parts.do(block, task, 4)) == (0, 2, 1)
    assert counts(parts.do(block, task, 4)) == (0, 2, 1)
    assert task.asked == 1


def test_a_part_says_how_long_the_model_ran(parts):
    part = parts.do(blocks_of(PATHS, 4)[0], WidthTask(), 2)
    assert 0 < part.model_seconds <= part.seconds
    assert parts.done(blocks_of(PATHS, 4)[0]).seconds == 0


def test_a_caption_that_looks_like_an_error_is_none(parts):
    class Liar(WidthTask):
        def process(self, prepared: list[int]) -> list[str]:
            return ['"error": "none"' for _ in prepared]

    (block,) = blocks_of(PATHS, 4)
    parts.do(block, Liar(), 4)
    assert counts(parts.done(block)) == (0, 4, 0)


def test_records_come_back_with_captions_vectors_and_errors(parts):
    (block,) = blocks_of([PATHS[2], "gone.png", PATHS[0]], 3)
    parts.do(block, WidthVectors(), 2)
    wide, gone, narrow = parts.read(block)
    assert (wide.result.caption, narrow.result.caption) == ("7 wide", "3 wide")
    np.testing.assert_array_equal(wide.result.embedding, np.float32([7, 7 / 3]))
    np.testing.assert_array_equal(narrow.result.embedding, np.float32([3, 1]))
    assert (gone.image, gone.error) == ("gone.png", "no such file or folder")


def test_records_say_where_images_are_where_that_is_asked_for(parts):
    write_shard("shard.tar")
    (block,) = blocks_of(["shard.tar"])
    parts.do(block, WidthTask(), 2)
    assert {record.content for record in parts.read(block)} == {None}
    found = [record.content.size for record in parts.read(block, with_content=True)]
    assert found == [os.path.getsize(path) for path in PATHS]


def test_a_shard_that_went_away_behind_its_captions_leaves_the_captions(parts):
    write_shard("shard.tar")
    (block,) = blocks_of(["shard.tar"])
    parts.do(block, WidthTask(), 2)
    os.unlink("shard.tar")
    assert [record.result for record in parts.read(block, with_content=True)] == [f"{width} wide" for width in WIDTHS]


def test_a_shard_that_changed_is_done_again(parts):
    write_shard("shard.tar")
    parts.do(blocks_of(["shard.tar"])[0], WidthTask(), 2)
    with tarfile.open("shard.tar", "a") as shard:
        shard.addfile(tarfile.TarInfo("more.txt"), io.BytesIO())
    os.utime("shard.tar", (0, 0))
    assert parts.done(blocks_of(["shard.tar"])[0]) is None


def test_parts_of_other_options_are_refused(parts):
    with pytest.raises(OutputError, match="made with another model"):
        Parts("parts").begin({"model": "b"})


def test_a_folder_that_is_not_ours_is_refused():
    Path("photos").mkdir()
    Path("photos/a.jpg").touch()
    with pytest.raises(OutputError, match="'photos' was made with another"):
        Parts("photos").begin({"model": "a"})
    assert os.listdir("photos") == ["a.jpg"]


def test_what_killed_processes_left_is_cleaned_up(parts):
    block, other = blocks_of(PATHS)
    parts.do(block, WidthTask(), 2)
    parts.tries(other)
    Path("parts/.0123.jsonl.aside").touch()
    parts.clean()
    assert sorted(os.listdir("parts")) == [f"{block.name}.f32", f"{block.name}.jsonl"]


def test_a_full_disk_is_told_in_words_and_leaves_no_part(parts, monkeypatch):
    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    (block,) = blocks_of(PATHS, 4)
    with pytest.raises(OutputError, match="cannot write to 'parts': no space left on device"):
        parts.do(block, WidthTask(), 2)
    assert os.listdir("parts") == []


def answer(worker: BlockWorker, block: Block) -> dict:
    return {name: values[0] for name, values in worker({"block": [block.to_json()]}).items()}


def worker_with(monkeypatch, task) -> BlockWorker:
    job = CaptionJob(ModelChoice("model"))
    monkeypatch.setattr(CaptionJob, "load", lambda self: task)
    return BlockWorker(job, "parts", 2, 0)


def test_a_block_over_which_processes_died_becomes_errors(parts, monkeypatch):
    task = WidthTask()
    worker = worker_with(monkeypatch, task)
    (block,) = blocks_of([*PATHS[:1], "gone.png"])
    for _ in range(3):
        parts.tries(block)
    result = answer(worker, block)
    assert (result["records"], result["failed"], result["error"], task.asked) == (2, 2, "", 0)
    errors = [record.error for record in parts.read(block)]
    assert errors == ["3 processes died over the block of inputs that this one is in", "no such file or folder"]


def test_a_block_that_a_lost_process_had_is_done_by_the_next(parts, monkeypatch):
    worker = worker_with(monkeypatch, WidthTask())
    (block,) = blocks_of(PATHS[:2])
    parts.tries(block)
    result = answer(worker, block)
    assert (result["records"], result["failed"]) == (2, 0)


def test_a_model_that_cannot_be_loaded_is_told_as_such(parts, monkeypatch):
    def fail(self):
        raise ModelError("there is no model")

    monkeypatch.setattr(CaptionJob, "load", fail)
    worker = BlockWorker(CaptionJob(ModelChoice("model")), "parts", 2, 0)
    assert answer(worker, blocks_of(PATHS)[0])["error"] == "ModelError: there is no model"


def test_a_run_whose_parts_are_all_there_starts_no_ray(monkeypatch):
    job = CaptionJob(ModelChoice("model"))
    parts = Parts("parts")
    parts.begin(job.made_with(16))
    (block,) = make_blocks(PathInputs(PATHS))
    parts.do(block, WidthTask(), 2)
    assert [counts(part) for part in run_on_ray(job, PATHS, "parts")] == [(0, 4, 0)]
    assert [record.result for record in read_records(PATHS, "parts")] == [f"{width} wide" for width in WIDTHS]


def test_what_ray_raises_reaches_who_waits():
    def rows():
        yield {"number": 1}
        raise InputError("gone")

    found = _from_a_thread(rows())
    assert next(found) == {"number": 1}
    with pytest.raises(InputError, match="gone"):
        next(found)
