# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a worker on Ray does with a block; that Ray itself hands blocks out is tested with the command."""

from pathlib import Path

import pytest
from PIL import Image

from coca_hf.batch_inference import CaptionJob, ModelChoice, ray_data
from coca_hf.batch_inference.batches import Part, run_batches
from coca_hf.batch_inference.errors import InputError, ModelError
from coca_hf.batch_inference.plan import Block, PathInputs, make_blocks
from coca_hf.batch_inference.ray_data import BlockWorker, _from_a_thread, read_records, run_on_ray
from coca_hf.batch_inference.record_log import RecordLog
from width_task import WidthJob, WidthTask


PATHS = [f"{width}.png" for width in (3, 5, 7, 9)]


@pytest.fixture(autouse=True)
def images(work_folder, monkeypatch) -> None:
    monkeypatch.setattr(ray_data, "silence_libraries", lambda: None)
    for path in PATHS:
        Image.new("RGB", (int(path[0]), 4)).save(path)


@pytest.fixture
def log() -> RecordLog:
    log = RecordLog("log")
    log.begin({"command": "width"})
    return log


def blocks_of(paths: list[str], size: int = 2) -> list[Block]:
    return list(make_blocks(PathInputs(paths), size))


def answer(worker: BlockWorker, block: Block) -> dict:
    return {name: values[0] for name, values in worker({"block": [block.to_json()]}).items()}


def images_in(block: Block) -> list[tuple]:
    log = RecordLog("log")
    log.refresh()
    return [(record.image, record.fields.get("caption"), record.error) for record in log.records(block)]


def test_a_worker_appends_what_it_does_to_the_log(log):
    (block,) = blocks_of([PATHS[0], "gone.png"])
    result = answer(BlockWorker(WidthJob(), "log", 2, 0), block)
    assert (result["records"], result["failed"], result["error"]) == (2, 1, "")
    assert 0 < result["model_seconds"] <= result["seconds"]
    assert images_in(block) == [("3.png", "3 wide", None), ("gone.png", None, "no such file or folder")]


def test_a_block_that_a_lost_worker_had_begun_is_gone_on_with(log):
    (block,) = blocks_of(PATHS, 4)
    log.append([next(run_batches([Part(block)], WidthTask(), 2))])
    job = WidthJob()
    answer(BlockWorker(job, "log", 2, 0), block)
    assert job.task.batches == [[7, 9]]
    assert [name for name, _, _ in images_in(block)] == PATHS


def test_a_block_over_which_workers_died_becomes_errors(log):
    job = WidthJob()
    (block,) = blocks_of([PATHS[0], "gone.png"])
    for _ in range(3):
        log.tries(block)
    result = answer(BlockWorker(job, "log", 2, 0), block)
    assert (result["records"], result["failed"], result["error"], job.task) == (2, 2, "", None)
    errors = [error for _, _, error in images_in(block)]
    assert errors == ["3 processes died over the block of inputs that this one is in", "no such file or folder"]


def test_a_model_that_cannot_be_loaded_is_told_as_such(log):
    class Broken(WidthJob):
        def load(self):
            raise ModelError("there is no model")

    assert answer(BlockWorker(Broken(), "log", 2, 0), blocks_of(PATHS)[0])["error"] == "ModelError: there is no model"


def test_a_run_whose_blocks_are_all_done_starts_no_ray():
    job = CaptionJob(ModelChoice("model"))
    log = RecordLog("log")
    log.begin(job.made_with())
    (block,) = make_blocks(PathInputs(PATHS))
    for chunk in run_batches([Part(block)], WidthTask(), 2):
        log.append([chunk])
    (done,) = run_on_ray(job, PATHS, "log")
    assert (done.number, done.records, done.failed) == (0, 4, 0)
    assert [record.fields["caption"] for record in read_records(PATHS, "log")] == [
        "3 wide",
        "5 wide",
        "7 wide",
        "9 wide",
    ]


@pytest.mark.parametrize("inputs", ["shards/", Path("shards")])
def test_one_path_in_place_of_a_list_is_refused_at_once(inputs):
    with pytest.raises(TypeError, match="give a list of paths"):
        run_on_ray(CaptionJob(ModelChoice("model")), inputs, "log")
    assert not Path("log").exists()


def test_what_ray_raises_reaches_who_waits():
    def rows():
        yield {"number": 1}
        raise InputError("gone")

    found = _from_a_thread(rows())
    assert next(found) == {"number": 1}
    with pytest.raises(InputError, match="gone"):
        next(found)
