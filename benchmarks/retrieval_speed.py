# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Time and memory of `retrieval_recall` for as many images and captions as COCO's test split has: random vectors.

`memory_mb` is the most that the call takes beside its arguments (Linux). All scores at once would be 500 MB.

    python benchmarks/retrieval_speed.py --output benchmarks/retrieval-speed.json
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import torch

from coca_hf.evaluation import retrieval_recall


IMAGES, CAPTIONS = 5000, 5
STATUS = Path("/proc/self/status")


def measure(dimensions: int) -> dict[str, float]:
    chance = np.random.default_rng(0)
    images = _normalised(chance.standard_normal((IMAGES, dimensions), dtype=np.float32))
    owners = np.repeat(np.arange(IMAGES), CAPTIONS)
    # So that a text is found, but not by everyone first.
    noise = chance.standard_normal((len(owners), dimensions), dtype=np.float32)
    texts = _normalised(images[owners] + noise / 4)
    del noise
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _memory_mb("VmRSS")
    start, spent = time.perf_counter(), time.process_time()
    retrieval_recall(images, texts, owners.tolist())
    taken, spent = time.perf_counter() - start, time.process_time() - spent
    return {
        "dimensions": dimensions,
        "seconds": round(taken, 2),
        "processor_seconds": round(spent, 2),
        "memory_mb": round(_memory_mb("VmHWM") - before),
    }


def _normalised(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _memory_mb(name: str) -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    for dimensions in (512, 768):
        rows.append(measure(dimensions))
        print(rows[-1], flush=True)
    if options.output:
        machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        facts = {**machine, "threads": torch.get_num_threads(), "images": IMAGES, "captions": IMAGES * CAPTIONS}
        options.output.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
