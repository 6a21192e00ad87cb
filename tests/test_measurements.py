# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What measures the command with many images works with a few."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import fuzz
import measure_memory
import run_interrupted


pytestmark = pytest.mark.slow


def run(main, *arguments: str) -> None:
    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, [*arguments])
    assert result.exit_code == 0, result.output


def test_an_interrupted_run_is_compared_with_a_quiet_one(tmp_path: Path):
    record = tmp_path / "interrupted.json"
    run(run_interrupted.main, "--number", "40", "--times", "1", "--record", str(record))
    result = json.loads(record.read_text())
    assert (result["lost"], result["doubled"], result["equal"]) == (0, 0, True)
    assert [end["signal"] for end in result["interruptions"]] == ["SIGKILL"]


def test_memory_is_measured_and_plotted(tmp_path: Path):
    run(measure_memory.main, "--inputs", "10", "--output", str(tmp_path))
    (measured,) = json.loads((tmp_path / "memory.json").read_text())["runs"]
    assert measured["peak_mb"] > 50
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")


def test_fuzzing_counts_what_comes_out(tmp_path: Path):
    record = tmp_path / "fuzz.json"
    run(fuzz.main, "--number", "400", "--workers", "1", "--record", str(record))
    result = json.loads(record.read_text())
    assert sum(result["outcomes"].values()) == 400
    assert result["bugs"] == []
    assert result["outcomes"]["an image"] > 0
