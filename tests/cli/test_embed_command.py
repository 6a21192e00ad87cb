# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf embed`: a vector for every image that can be read, and a trace of the others."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from coca_hf.batch_inference.tasks import EmbedTask


def test_an_array_and_its_rows(coca, model, images):
    result = coca("embed", images[0], "gone.jpg", images[1], "--model", model, "--output", "out.npy")
    assert result.code == 1
    array = np.load("out.npy")
    rows = [json.loads(line) for line in Path("out.npy.jsonl").read_text("ascii").splitlines()]
    assert array.shape == (2, 12)
    np.testing.assert_allclose(np.linalg.norm(array, axis=1), 1, atol=1e-6)
    assert rows == [
        {"image": images[0], "row": 0},
        {"image": "gone.jpg", "error": "no such file or folder"},
        {"image": images[1], "row": 1},
    ]


def test_a_table_holds_what_the_array_holds(coca, model, images):
    coca("embed", "photos", "--model", model, "-o", "out.npy")
    assert coca("embed", "photos", "--model", model, "-o", "out.parquet").code == 0
    table = pyarrow.parquet.read_table("out.parquet").to_pydict()
    assert table["image"] == images
    np.testing.assert_array_equal(np.float32(table["embedding"]), np.load("out.npy"))


def test_a_summary_and_nothing_else(coca, model, images):
    result = coca("embed", "photos", "--model", model, "-o", "out.npy")
    assert result.out == ""
    assert result.err.startswith("coca-hf embed: 3 images in ")
    assert result.err.count("\n") == 1


def test_a_run_that_breaks_leaves_no_file(coca, model, images, monkeypatch):
    def process(self, prepared, places):
        raise ZeroDivisionError

    monkeypatch.setattr(EmbedTask, "process", process)
    with pytest.raises(ZeroDivisionError):
        coca("embed", "photos", "--model", model, "-o", "out.npy")
    assert sorted(os.listdir()) == ["photos"]
