# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Measure the peak memory of `coca-hf embed`, its processes together, over more and more inputs, and plot it.

The model is the bundled one's kind with a single narrow layer, which this script makes with random weights: memory
that grows would grow with the inputs, whatever the model, and 100,000 of them take a minute or two.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import psutil
import torch
import transformers
import typer
from PIL import Image
from rich.console import Console
from rich.progress import track

import coca_hf


BENCHMARKS = Path(__file__).resolve().parent

# Files that differ; more inputs are further names of them.
_FILES = 200


def save_small_model(folder: Path) -> None:
    config = coca_hf.CoCaConfig.from_pretrained(coca_hf.bundled_model())
    for part in (config.vision_config, config.text_config, config.multimodal_config):
        part.num_hidden_layers = 1
    coca_hf.CoCaForCaptioning(config).save_pretrained(folder)
    coca_hf.CoCaProcessor.from_pretrained(coca_hf.bundled_model()).save_pretrained(folder)


def make_inputs(folder: Path, number: int) -> None:
    folder.mkdir()
    for index in range(min(number, _FILES)):
        Image.effect_noise((320, 240), 40).convert("RGB").save(folder / f"{index:06d}.jpg")
    for index in range(_FILES, number):
        os.link(folder / f"{index % _FILES:06d}.jpg", folder / f"{index:06d}.jpg")


def memory_of(process: psutil.Process) -> int:
    """Resident bytes of a process and its children, pages that several share counted for each."""
    total = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            total += each.memory_info().rss
        except psutil.Error:
            continue  # it has just ended
    return total


def measure(images: Path, model: Path, output: Path) -> tuple[float, float]:
    """-> peak memory in megabytes, seconds."""
    arguments = [sys.executable, "-m", "coca_hf.cli", "embed", str(images), "--model", str(model), "--quiet"]
    started, peak = time.monotonic(), 0
    process = psutil.Popen([*arguments, "--workers", "2", "--output", str(output)], stderr=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, memory_of(process))
        time.sleep(0.25)
    if process.returncode:
        raise SystemExit(f"the command ended with exit code {process.returncode}")
    return peak / 1e6, time.monotonic() - started


def plot(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    axes.plot([run["inputs"] for run in result["runs"]], [run["peak_mb"] for run in result["runs"]], "o-")
    most = max(run["peak_mb"] for run in result["runs"])
    axes.set(xscale="log", ylim=(0, 1.25 * most), xlabel="inputs", ylabel="peak memory, all processes (MB)")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_title(f"coca-hf embed, {result['model']}, 2 reading processes", fontsize=10)
    axes.grid(alpha=0.3)
    for run in result["runs"]:
        axes.annotate(
            f"{run['peak_mb']:.0f}",
            (run["inputs"], run["peak_mb"]),
            (0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    figure.savefig(path, dpi=120)


def main(
    inputs: Annotated[list[int] | None, typer.Option(help="How many images; may be repeated.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for memory.json and memory.png.")] = BENCHMARKS,
) -> None:
    """Write `memory.json` and `memory.png`."""
    runs = []
    with tempfile.TemporaryDirectory(prefix="coca-memory-") as name:
        work = Path(name)
        save_small_model(work / "model")
        for number in track(
            inputs or [1_000, 3_000, 10_000, 30_000, 100_000], "measuring", console=Console(stderr=True)
        ):
            make_inputs(work / str(number), number)
            peak, seconds = measure(work / str(number), work / "model", work / f"{number}.npy")
            runs.append({"inputs": number, "peak_mb": round(peak, 1), "seconds": round(seconds, 1)})
    result = {
        "date": date.today().isoformat(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "model": "a tiny model",
        "runs": runs,
    }
    output.mkdir(exist_ok=True)
    (output / "memory.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    plot(result, output / "memory.png")
    for run in runs:
        print(f"{run['inputs']:>8,} inputs: {run['peak_mb']:,.0f} MB, {run['seconds']:.0f} s")


if __name__ == "__main__":
    typer.run(main)
