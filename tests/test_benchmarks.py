# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The benchmark scripts run; what they measure is no test's business."""

import json

import pytest

import benchmark
from benchmark_gpu import main as measure_on_gpu


pytestmark = pytest.mark.slow


def test_one_comparison_leaves_the_results_of_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "PHOTOS", dict.fromkeys(benchmark.PHOTOS, (64, 48)))
    other = {"row": "other", "what": "w", "variant": "float32", "measure": "time", "value": 1.0, "target": "<= 2.0"}
    other |= {"unit": "seconds", "ours": 1.0, "theirs": 1.0}
    floor = other | {"row": "floor", "what": "f", "value": 1.5, "target": "", "floor_of": "w"}
    (tmp_path / "results.json").write_text(json.dumps({"rows": [other, floor], "growth": []}))
    benchmark.main(output=tmp_path, only=["preprocess-640x480"], reference=tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert [record["row"] for record in results["rows"]] == ["other", "floor", "preprocess-640x480"]
    assert results["versions"]["open_clip_torch"] == "3.3.0"
    table = (tmp_path / "table.md").read_text()
    assert "| w | float32 | 1.00 | <= 2.0 | yes | 1.50 |" in table


def test_everything_for_a_gpu_runs_on_a_cpu_with_a_tiny_model(tmp_path):
    path = tmp_path / "gpu.json"
    measure_on_gpu(output=path, device="cpu", train_batch=256, quick=True, reference=tmp_path)
    results = json.loads(path.read_text())
    assert [(one["batch"], one["beams"]) for one in results["captioning"][::2]] == [(1, 1), (1, 6), (2, 1), (2, 6)]
    # How they compare is a matter of the machine: without bfloat16, large products are slower than small ones.
    assert all(one["images_per_second"] > 0 and one["floor"] > 0 for one in results["captioning"])
    for one in results["training"]:
        steps_per_second = one["samples_per_second"] / one["batch"]
        rate = results["rates"]["operations_per_second"]
        assert one["model_operations_share"] == pytest.approx(one["operations"] * steps_per_second / rate)
    # The same model and batch, whatever is made of it.
    assert len({one["operations"] for one in results["training"]}) == 1
