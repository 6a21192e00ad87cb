# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Embeddings keep their inputs: row by row in an array, side by side in a table."""

import json
import os
import resource
import sys
from pathlib import Path

import numpy as np
import pytest

from coca_hf.captioning.binary_sinks import check_embedding_output, embedding_sink
from coca_hf.captioning.errors import OutputError
from coca_hf.captioning.runner import Record


VECTORS = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
RECORDS = [
    Record("a.jpg", result=VECTORS[0]),
    Record("b.jpg", error="an empty file"),
    Record("c.jpg", result=VECTORS[1]),
    Record("a.jpg", result=VECTORS[2]),
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: str, *groups: list[Record]) -> None:
    sink = embedding_sink(path)
    sink.resume([], 1)
    for group in groups:
        sink.write(group)
    sink.finish()
    sink.close()


def rows(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text("ascii").splitlines()]


def test_an_array_has_a_row_for_each_image():
    write("out.npy", RECORDS[:2], RECORDS[2:])
    array = np.load("out.npy")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, VECTORS)


def test_beside_an_array_stands_which_row_is_whose():
    write("out.npy", RECORDS)
    assert rows("out.npy.jsonl") == [
        {"image": "a.jpg", "row": 0},
        {"image": "b.jpg", "error": "an empty file"},
        {"image": "c.jpg", "row": 1},
        {"image": "a.jpg", "row": 2},
    ]


def test_an_array_can_be_mapped_into_memory():
    write("out.npy", RECORDS)
    np.testing.assert_array_equal(np.load("out.npy", mmap_mode="r")[1], VECTORS[1])


def test_an_array_of_no_images_is_empty():
    write("out.npy", RECORDS[1:2])
    assert np.load("out.npy").size == 0
    assert rows("out.npy.jsonl") == [{"image": "b.jpg", "error": "an empty file"}]


def test_a_table_has_a_row_for_each_input():
    parquet = pytest.importorskip("pyarrow.parquet")
    write("out.parquet", RECORDS[:2], RECORDS[2:])
    table = parquet.read_table("out.parquet").to_pydict()
    assert table["image"] == ["a.jpg", "b.jpg", "c.jpg", "a.jpg"]
    assert table["error"] == [None, "an empty file", None, None]
    assert table["embedding"][1] is None
    np.testing.assert_array_equal(np.float32([table["embedding"][row] for row in (0, 2, 3)]), VECTORS)


def test_a_table_is_written_in_pieces(monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("coca_hf.captioning.binary_sinks._GROUP_SIZE", 2)
    write("out.parquet", RECORDS[:2], RECORDS[2:3], RECORDS[3:])
    assert parquet.ParquetFile("out.parquet").metadata.num_row_groups == 2
    assert parquet.read_table("out.parquet").num_rows == 4


def test_a_name_that_is_not_utf8_is_escaped_in_a_table():
    parquet = pytest.importorskip("pyarrow.parquet")
    write("out.parquet", [Record(os.fsdecode("ä".encode() + b"\xff.jpg"), result=VECTORS[0])])
    assert parquet.read_table("out.parquet")["image"].to_pylist() == ["ä\\xff.jpg"]


@pytest.mark.parametrize("path", ["out.npy", "out.parquet"])
def test_what_is_not_finished_leaves_nothing(path):
    sink = embedding_sink(path)
    sink.write(RECORDS)
    sink.close()
    assert os.listdir() == []


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_table_on_a_full_disk_is_one_error():
    sink = embedding_sink("out.parquet")
    sink.write(RECORDS)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    with pytest.raises(OutputError, match=r"^cannot write to 'out.parquet': file too large$"):
        sink.finish()
    sink.close()
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir() == []


@pytest.mark.parametrize("taken", ["out.npy", "out.npy.jsonl", "out.parquet"])
def test_what_is_there_is_not_replaced(taken):
    Path(taken).write_text("mine")
    with pytest.raises(OutputError, match=f"'{taken}' exists already"):
        check_embedding_output(taken.removesuffix(".jsonl"))


def test_another_suffix_is_refused():
    with pytest.raises(OutputError, match=r"the name has to end in .npy or .parquet"):
        check_embedding_output("out.csv")


def test_a_table_without_pyarrow_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(OutputError, match=r"pip install 'coca-hf\[parquet\]'"):
        check_embedding_output("out.parquet")
