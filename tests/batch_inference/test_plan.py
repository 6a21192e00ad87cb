# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A run's inputs are listed once, and cut into blocks that hold every input once and in order."""

import os
import tarfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from coca_hf.batch_inference.hf_datasets import DatasetInputs
from coca_hf.batch_inference.plan import Block, PathInputs, Plan, make_blocks


PATHS = [f"{width}.png" for width in (3, 5, 7, 9)]


@pytest.fixture(autouse=True)
def images(work_folder) -> None:
    for path in PATHS:
        Image.new("RGB", (int(path[0]), 4)).save(path)


def blocks_of(paths: list[str], size: int = 2) -> list[Block]:
    return list(make_blocks(PathInputs(paths), size))


def write_shard(name: str) -> None:
    with tarfile.open(name, "w") as shard:
        for path in PATHS:
            shard.add(path)


def test_blocks_hold_every_input_once_and_in_order():
    blocks = blocks_of([*PATHS, "gone.png", PATHS[0]])
    assert [item.path for block in blocks for item in block.inputs()] == [*PATHS, "gone.png", PATHS[0]]
    assert [block.size for block in blocks] == [2, 2, 2]
    assert [block.first for block in blocks] == [0, 2, 4]


def test_a_shard_is_a_block_of_its_own_that_need_not_be_opened():
    write_shard("shard.tar")
    blocks = blocks_of([PATHS[0], "shard.tar", PATHS[1]])
    assert [block.size for block in blocks] == [1, None, 1]
    assert [item.path for item in blocks[1].inputs()] == [f"shard.tar/{path}" for path in PATHS]


def test_a_block_can_be_gone_on_with_from_any_of_its_inputs():
    write_shard("shard.tar")
    for block in blocks_of([*PATHS, "shard.tar"], 4):
        names = [item.path for item in block.inputs()]
        assert [[item.path for item in block.inputs(start)] for start in range(5)] == [names[s:] for s in range(5)]
        assert list(block.names()) == names


def test_the_rows_of_a_table_have_names_before_they_are_read():
    pyarrow.parquet.write_table(pyarrow.table({"image": [b"x", b"y"]}), "t.parquet")
    (block,) = blocks_of(["t.parquet"])
    names = block.names()
    assert [next(names), next(names)] == [item.path for item in block.inputs()]


def test_a_block_travels_as_text_whatever_its_names_hold():
    (block,) = blocks_of([os.fsdecode(b"\xff.png"), "gone.png"])
    assert Block.from_json(block.to_json()).name == block.name
    assert [item.path for item in Block.from_json(block.to_json()).inputs()] == ["\udcff.png", "gone.png"]


def test_a_streamed_dataset_is_one_block_whose_end_is_not_known(monkeypatch):
    monkeypatch.setattr(DatasetInputs, "count", lambda self: None)
    (block,) = make_blocks(DatasetInputs("some/set", streaming=True))
    assert block.size is None


@pytest.mark.parametrize("change", ["more", "time", "suffixes"])
def test_what_changed_has_another_name(change):
    write_shard("shard.tar")
    (before,) = blocks_of(["shard.tar"])
    if change == "more":
        Path("shard.tar").write_bytes(Path("shard.tar").read_bytes() + bytes(10240))
    if change == "time":
        os.utime("shard.tar", (0, 0))
    suffixes = ["img"] if change == "suffixes" else []
    (after,) = make_blocks(PathInputs(["shard.tar"], suffixes))
    assert before.name != after.name


def test_a_plan_does_not_change_with_the_folder_that_it_was_made_of():
    plan = Plan(PathInputs(["."]), 2)
    Image.new("L", (1, 1)).save("1.png")
    for _ in range(2):
        assert [item.path for block in plan for item in block.inputs()] == [f"./{path}" for path in PATHS]
    assert (plan.total, plan.number_of_blocks) == (4, 2)
    assert Plan(PathInputs(["."]), 2).digest != plan.digest


def test_two_iterations_of_a_plan_do_not_disturb_each_other():
    plan = Plan(PathInputs(PATHS), 1)
    pairs = zip(plan, plan, strict=True)
    assert [(one.number, other.number) for one, other in pairs] == [(number, number) for number in range(4)]


def test_containers_are_counted_only_where_that_is_wanted():
    write_shard("shard.tar")
    assert Plan(PathInputs(["shard.tar", PATHS[0]])).total == 5
    assert Plan(PathInputs(["shard.tar", PATHS[0]]), count_containers=False).total is None
