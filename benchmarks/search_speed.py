# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How long a query takes in an index of many photos: random vectors, of which the model is no part.

`query_ms` is by the clock, `processor_ms` what the processors spent on it, which other work hardly changes.

python benchmarks/search_speed.py --photos 100000 1000000 --output benchmarks/search-speed.json
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from coca_hf.batch_inference.models import ModelChoice
from coca_hf.search import Index
from coca_hf.search.calibration import Calibration
from coca_hf.search.folder import Contents, IndexFolder, Photo


DIMENSIONS = 512
QUERIES = 20


def make(folder: Path, photos: int) -> None:
    """An index on the disk as `build_index` leaves it."""
    folder.mkdir()
    rows = [Photo(f"/photos/{row:07d}.jpg", f"photo number {row}", "", 0, 0, "") for row in range(photos)]
    contents = Contents("", {"model": ""}, np.empty((0, DIMENSIONS), np.float32), Calibration(photos))
    IndexFolder(folder).write(contents, rows, _pieces(photos))


def _pieces(photos: int) -> Iterator[np.ndarray]:
    chance = np.random.default_rng(0)
    for start in range(0, photos, 1 << 14):
        piece = chance.standard_normal((min(1 << 14, photos - start), DIMENSIONS), dtype=np.float32)
        yield piece / np.linalg.norm(piece, axis=1, keepdims=True)


class _Known(Index):
    """Texts are vectors already: what is timed is the search."""

    def embed_texts(self, texts: object) -> np.ndarray:
        vector = np.random.default_rng(1).standard_normal((1, DIMENSIONS), dtype=np.float32)
        return vector / np.linalg.norm(vector)


def measure(photos: int) -> dict[str, float]:
    """Seconds to open the index, and milliseconds of the first query and, as medians, of later ones."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder, "index"), photos)
        start = time.perf_counter()
        index = _Known(IndexFolder(Path(folder, "index")).read(), folder, ModelChoice(""))
        opened = time.perf_counter() - start
        taken, spent = [], []
        for _ in range(1 + QUERIES):
            start, before = time.perf_counter(), time.process_time()
            index.search("anything", cutoff=False)
            taken.append(1000 * (time.perf_counter() - start))
            spent.append(1000 * (time.process_time() - before))
    return {
        "photos": photos,
        "open_s": round(opened, 3),
        "first_query_ms": round(taken[0], 1),
        "query_ms": round(statistics.median(taken[1:]), 2),
        "processor_ms": round(statistics.median(spent[1:]), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, nargs="+", default=[100_000])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    for photos in options.photos:
        rows.append(measure(photos))
        print(rows[-1], flush=True)
    if options.output:
        machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        facts = {**machine, "threads": torch.get_num_threads(), "numpy": np.__version__, "dimensions": DIMENSIONS}
        options.output.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
