# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Several processes, or Ray, give what one process gives, and a lost one costs nothing but time."""

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

from coca_hf.captioning import parts as parts_module
from coca_hf.cli import main
from run_ray_interrupted import workers_of


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    monkeypatch.setattr(parts_module.make_blocks, "__defaults__", (2,))


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
    assert not Path(f"{min(shared)}.parts").exists()


def test_a_finished_run_is_not_done_again(as_process, model, photos, small_blocks, monkeypatch):
    arguments = [*BOTH, *photos, "--model", model, "--workers", "0"]
    for rank in (1, 0):
        as_process(rank, 2, *arguments)
    before = contents()
    monkeypatch.setattr("coca_hf.captioning.tasks.CaptionTask", None)
    again = [as_process(rank, 2, *arguments) for rank in (1, 0)]
    assert [result.code for result in again] == [0, 1]
    assert "5 images, 1 failed, in " in again[1].err
    assert contents() == before


def test_a_run_that_ended_goes_on_with_the_parts_that_are_missing_in_other_numbers(
    coca, as_process, model, photos, small_blocks, monkeypatch
):
    arguments = ["caption", *photos, "--model", model, "--output", "out.jsonl", "--workers", "0"]
    as_process(2, 3, *arguments)
    as_process(1, 2, *arguments)
    done = []
    monkeypatch.setattr("coca_hf.captioning.tasks.CaptionTask.seek", lambda task, position: done.append(position))
    rest = as_process(0, 2, *arguments)
    assert set(done) == {0}  # where the first block begins: of those that are left to this process, the only one
    shared = contents()
    Path("out.jsonl").unlink()
    coca(*arguments)
    assert contents() == shared
    assert "continues behind 2 records" in rest.err
    assert "5 images, 1 failed" in rest.err


def test_other_options_do_not_mix_with_parts_that_are_there(as_process, model, photos, small_blocks):
    arguments = ["caption", *photos, "--model", model, "--output", "out.jsonl", "--workers", "0"]
    os.mkdir("out.jsonl.parts")
    as_process(1, 2, *arguments)
    parts_module.Parts("out.jsonl.parts").note.write({"command": "caption", "num_beams": 3}, "running")
    for rank in (1, 0):
        result = as_process(rank, 2, *arguments)
        assert result.code == 2
        assert "was made with another num-beams" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ray"], "work that is shared needs a file for its --output"),
        (["--ray", "--output", "-"], "work that is shared needs a file for its --output"),
        (["--ray", "--output", "o.jsonl", "--report", "r.html"], "--report is for a run of one process"),
        (["--ray", "--output", "o.jsonl", "--streaming"], "--streaming is for a run of one process"),
        (["--ray-workers", "2"], "belong to --ray"),
        (["--ray", "--ray-gpus", "-1"], "--ray-gpus is 0 or more"),
    ],
)
def test_what_cannot_be_shared_is_refused_at_once(coca, images, arguments, message):
    result = coca("caption", *images, *arguments)
    assert result.code == 2
    assert message in result.err


def test_one_of_several_processes_says_why_it_needs_a_file(as_process, images):
    result = as_process(0, 2, "caption", *images)
    assert result.code == 2
    assert "this is one of 2 processes (WORLD_SIZE says so): work that is shared needs a file" in result.err


def test_classify_is_for_one_process(as_process, images):
    result = as_process(0, 2, "classify", *images, "--labels", "a,b")
    assert result.code == 2
    assert "classify runs in one" in result.err


def test_a_run_that_is_interrupted_says_where_its_records_are(as_process, model, photos, small_blocks, monkeypatch):
    def stop(self, prepared):
        raise KeyboardInterrupt

    arguments = ["caption", *photos, "--model", model, "--output", "out.jsonl", "--workers", "0"]
    as_process(1, 2, *arguments)
    monkeypatch.setattr("coca_hf.captioning.tasks.CaptionTask.process", stop)
    assert as_process(2, 3, *arguments).err == ""
    result = as_process(0, 1 + 1, *arguments)
    assert result.code == 130
    assert result.err.splitlines()[-1] == (
        "coca-hf caption: stopped after 0 of 6 inputs; "
        "finished blocks are in out.jsonl.parts; the same command continues"
    )


def test_ray_goes_without_an_address_in_front_of_paths(coca, images, monkeypatch):
    asked = []
    monkeypatch.setattr("coca_hf.cli.options.ray_choice", lambda ray, *rest: asked.append(ray))
    for words in (["--ray", *images], [*images, "--ray"], ["--ray", "auto", *images], ["--ray", "10.0.0.1:6379", "x"]):
        main(["caption", "--output", "missing/o.jsonl", *words])
    assert asked == ["local", "local", "auto", "10.0.0.1:6379"]


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


def parts_there() -> set[str]:
    return {path.name for path in Path().glob("out.jsonl.parts/*.jsonl")}


@pytest.mark.slow
def test_a_killed_ray_worker_costs_nothing_but_time(coca, command, model, shards):
    arguments = ["caption", *shards, "--model", model, "--batch-size", "4", "--max-new-tokens", "9", "--workers", "0"]
    with open("log", "w") as log:
        run = subprocess.Popen([*command, *arguments, "--output", "out.jsonl", "--ray"], stdout=log, stderr=log)
        wait_for(parts_there, run)
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
