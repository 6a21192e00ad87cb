# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Several processes, or Ray, give what one process gives, and a lost one costs nothing but time."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from coca_hf.batch_inference import engine
from coca_hf.batch_inference.record_log import write_note
from coca_hf.batch_inference.summary import Summary
from coca_hf.batch_inference.tasks import CaptionTask
from run_ray_interrupted import workers_of


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    monkeypatch.setattr(engine, "BLOCK_SIZE", 2)


@pytest.fixture
def photos(images) -> list[str]:
    """In pairs, so that blocks and batches are the same: the last bit of a vector depends on its batch."""
    return [*images, images[0], images[1], "gone.png"]


@pytest.fixture
def as_process(coca, monkeypatch):
    """One of several processes, as `accelerate launch` starts them."""

    def run(rank: int, number: int, *arguments: str):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(number))
        try:
            return coca(*arguments)
        finally:
            monkeypatch.delenv("WORLD_SIZE")

    return run


BOTH = ["caption", "--output", "out.jsonl", "--embeddings", "out.parquet"]
SHARD = ["caption", "--output", "out.tar"]
ARRAY = ["embed", "--output", "out.npy"]
# A block is never smaller than a batch.
SMALL = ["--workers", "0", "--batch-size", "2"]


def contents() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path().glob("out*")}


@pytest.mark.parametrize("arguments", [BOTH, SHARD, ARRAY], ids=["captions and embeddings", "shard", "array"])
def test_two_processes_give_what_one_gives(coca, as_process, model, photos, small_blocks, arguments):
    arguments = [*arguments, *photos, "--model", model, "--batch-size", "2", "--workers", "0"]
    second = as_process(1, 2, *arguments)
    first = as_process(0, 2, *arguments)
    shared = contents()
    for path in Path().glob(".out*"):
        path.unlink()
    for name in shared:
        Path(name).unlink()
    alone = coca(*arguments)
    assert (second.code, first.code, alone.code) == (0, 1, 1)
    assert second.out == second.err == ""
    assert shared == contents()
    assert "gone.png: no such file or folder" in first.err
    assert "5 images, 1 failed, in " in first.err
    assert not list(Path().glob("*.records"))


def test_a_finished_run_is_not_done_again(as_process, model, photos, small_blocks, monkeypatch):
    arguments = [*BOTH, *photos, "--model", model, *SMALL]
    for rank in (1, 0):
        as_process(rank, 2, *arguments)
    before = contents()
    monkeypatch.setattr("coca_hf.batch_inference.tasks.CaptionTask", None)
    again = [as_process(rank, 2, *arguments) for rank in (1, 0)]
    assert [result.code for result in again] == [0, 1]
    assert "5 images, 1 failed, in " in again[1].err
    assert contents() == before


def test_a_run_that_ended_goes_on_with_the_parts_that_are_missing_in_other_numbers(
    coca, as_process, model, photos, small_blocks, monkeypatch
):
    arguments = ["caption", *photos, "--model", model, "--output", "out.jsonl", *SMALL]
    as_process(2, 3, *arguments)
    as_process(1, 2, *arguments)
    done = []
    process = CaptionTask.process

    def noted(task, prepared, places):
        done.extend(places)
        return process(task, prepared, places)

    monkeypatch.setattr(CaptionTask, "process", noted)
    rest = as_process(0, 2, *arguments)
    # Of the two blocks of this process, the second is there already.
    assert done == [(0, 0), (1, 0)]
    shared = contents()
    Path("out.jsonl").unlink()
    coca(*arguments)
    assert contents() == shared
    assert "Resuming after 4 existing records" in rest.err
    assert "5 images, 1 failed" in rest.err


def test_other_options_do_not_mix_with_parts_that_are_there(as_process, model, photos, small_blocks):
    arguments = ["caption", *photos, "--model", model, "--output", "out.jsonl", *SMALL]
    as_process(1, 2, *arguments)
    write_note("out.jsonl.records/run.json", {"command": "caption", "num_beams": 3})
    for rank in (1, 0):
        result = as_process(rank, 2, *arguments)
        assert result.code == 2
        assert "num-beams" in result.err
        assert "remove '" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ray", "local"], "a shared run needs a file as its --output"),
        (["--ray", "local", "--output", "-"], "a shared run needs a file as its --output"),
        (["--ray", "local", "--output", "o.jsonl", "--streaming"], "--streaming works in one process only"),
        (["--ray-workers", "2"], "need --ray"),
        (["--ray", "local", "--ray-gpus", "-1"], "--ray-gpus is 0 or more"),
    ],
)
def test_what_cannot_be_shared_is_refused_at_once(coca, images, arguments, message):
    result = coca("caption", *images, *arguments)
    assert result.code == 2
    assert message in result.err


def test_one_of_several_processes_says_why_it_needs_a_file(as_process, images):
    result = as_process(0, 2, "caption", *images)
    assert result.code == 2
    assert "this is one of 2 processes (WORLD_SIZE says so): a shared run needs a file" in result.err


def test_labels_and_a_report_are_shared_like_the_rest(coca, as_process, model, photos, small_blocks):
    labels = ["classify", *photos, "--labels", "cube,ball", "--model", model, "--output", "out.jsonl"]
    report = ["caption", *photos, "--model", model, "--report", "out.html", "--output", "captions.jsonl"]
    for arguments in (labels, report):
        for rank in (1, 0):
            as_process(rank, 2, *arguments, "--workers", "0", "--batch-size", "2")
    assert [list(record) for record in map(json.loads, Path("out.jsonl").read_text().splitlines())] == [
        *[["image", "label", "scores"]] * 5,
        ["image", "error"],
    ]
    assert Path("out.html").read_text("utf-8").count("data:image/jpeg;base64,") == 5


def test_a_process_that_comes_late_finds_its_work_done(as_process, model, photos, small_blocks, monkeypatch):
    """The first process did it, for the other was silent for long."""
    arguments = ["caption", *photos, "--model", model, "--output", "out.jsonl", *SMALL, "--quiet"]
    monkeypatch.setattr(engine.run, "__kwdefaults__", {**engine.run.__kwdefaults__, "patience_seconds": 0.1})
    assert as_process(0, 2, *arguments).code == 1
    assert len(Path("out.jsonl").read_text().splitlines()) == 6
    monkeypatch.setattr("coca_hf.batch_inference.tasks.CaptionTask", None)
    assert as_process(1, 2, *arguments).code == 0
    assert not list(Path().glob("*.records"))


def test_one_failed_image_is_no_crash_to_a_launcher(as_process, model, photos, monkeypatch):
    """It would print pages and end the other processes for any exit code but 0."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    arguments = ["caption", *photos, "--model", model, "--output", "out.jsonl", *SMALL]
    result = as_process(0, 1, *arguments)
    assert result.code == 0
    assert "5 images, 1 failed, in " in result.err


def test_a_run_that_is_interrupted_says_where_its_records_are(as_process, model, photos, small_blocks, monkeypatch):
    def stop(self, prepared, places):
        raise KeyboardInterrupt

    arguments = ["caption", *photos, "--model", model, "--output", "out.jsonl", *SMALL]
    as_process(1, 2, *arguments)
    monkeypatch.setattr("coca_hf.batch_inference.tasks.CaptionTask.process", stop)
    assert as_process(2, 3, *arguments).err == ""
    result = as_process(0, 1 + 1, *arguments)
    assert result.code == 130
    assert result.err.splitlines()[-1] == (
        "coca-hf caption: stopped after 2 of 6 inputs; "
        "finished work is in out.jsonl.records; out.jsonl is not complete; the same command continues"
    )


def test_rays_address_is_one_of_three_kinds(coca, images, monkeypatch):
    asked = []
    monkeypatch.setattr("coca_hf.cli.session.run", lambda *_, ray, **__: asked.append(ray.address) or Summary())
    for address in ("local", "auto", "10.0.0.1:6379"):
        coca("caption", *images, "--ray", address, "--output", f"{len(asked)}.jsonl")
    assert asked == [None, "auto", "10.0.0.1:6379"]


@pytest.mark.slow
def test_accelerate_launches_it(coca, model, photos):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    arguments = ["caption", *photos, "--model", model, "--workers", "0", "--output", "out.jsonl"]
    subprocess.run([*launch, "-m", "coca_hf.cli", *arguments], capture_output=True, timeout=300, check=False)
    shared = Path("out.jsonl").read_bytes()
    Path("out.jsonl").unlink()
    assert coca(*arguments).code == 1
    assert shared == Path("out.jsonl").read_bytes()


@pytest.fixture
def shards(folder) -> list[str]:
    """Each a block of its own, and enough in them to be caught in the middle."""
    for number in range(30):
        Image.effect_noise((24, 24), 5 * number).save(f"{number:03d}.png")
    Path("030.png").write_bytes(b"not an image")
    names = [f"shard-{number}.tar" for number in range(8)]
    subprocess.run(["tar", "cf", names[0], *sorted(os.listdir())], check=True)
    for name in names[1:]:
        shutil.copyfile(names[0], name)
    return names


def wait_for(condition, run: subprocess.Popen) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        assert run.poll() is None
        time.sleep(0.02)


def work_there() -> int:
    return sum(path.stat().st_size for path in Path().glob("out.jsonl.records/*.log"))


@pytest.mark.slow
def test_a_killed_ray_worker_costs_nothing_but_time(coca, command, model, shards):
    arguments = ["caption", *shards, "--model", model, "--batch-size", "4", "--max-new-tokens", "9", "--workers", "0"]
    with open("log", "w") as log:
        run = subprocess.Popen(
            [*command, *arguments, "--output", "out.jsonl", "--ray", "local"], stdout=log, stderr=log
        )
        wait_for(work_there, run)
        family = psutil.Process(run.pid).children(recursive=True)
        (worker,) = workers_of(run)
        worker.send_signal(signal.SIGKILL)
        assert run.wait(timeout=180) == 1
    assert coca(*arguments, "--output", "alone.jsonl").code == 1
    assert Path("out.jsonl").read_bytes() == Path("alone.jsonl").read_bytes()
    said = Path("log").read_text().splitlines()
    assert all(line.startswith("coca-hf caption: ") for line in said), said
    assert "240 images, 8 failed, in " in said[-1]
    assert psutil.wait_procs(family, timeout=20)[1] == []
