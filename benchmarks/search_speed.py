# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How long a query takes in an index of many photos: random vectors, of which the model is no part.

`query_ms` is by the clock, `processor_ms` what the processors spent on it, which other work hardly changes; both are
of the nearest ten photos. `cutoff_ms` is with the cut-off, where 2,000 photos, as many as are looked at, are similar
enough for their captions to decide. `memory_mb` is the most that the searching process took beside what it had
imported, and `mapped_mb` the file of the embeddings, which is in that: the system may drop it from memory at any time.

python benchmarks/search_speed.py --photos 100000 1000000 --output benchmarks/search-speed.json
"""

import argparse
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import NormalDist

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
    # Similarities of random vectors: 2,000 of them are above the lower limit, none above the upper one.
    limit = NormalDist(0, DIMENSIONS**-0.5).inv_cdf(1 - 2000 / photos)
    pairs = tuple((1, limit if row < 50 else 1.0) for row in range(100))
    calibration = Calibration(photos, frozenset({"photo", "number"}), frozenset({"7"}), pairs)
    contents = Contents("", {"model": ""}, np.empty((0, DIMENSIONS), np.float32), calibration)
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
    """Seconds to open the index, milliseconds of the first query and, as medians, of later ones, and memory."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder, "index"), photos)
        # Another process, in whose memory nothing is left of what making the index took.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as searcher:
            found = searcher.submit(search, str(Path(folder, "index"))).result()
    return {"photos": photos, **found, "mapped_mb": round(photos * DIMENSIONS * 4 / 1e6)}


def search(folder: str) -> dict[str, float]:
    before = _memory_mb()
    start = time.perf_counter()
    index = _Known(IndexFolder(folder).read(), folder, ModelChoice(""))
    opened = time.perf_counter() - start
    first, _ = _times(lambda: index.search("anything", cutoff=False), 1)
    taken, spent = _times(lambda: index.search("anything", cutoff=False), QUERIES)
    with_cutoff, cutoff_spent = _times(lambda: index.search("photo number 7"), QUERIES)
    return {
        "open_s": round(opened, 3),
        "first_query_ms": round(first, 1),
        "query_ms": round(taken, 2),
        "processor_ms": round(spent, 2),
        "cutoff_ms": round(with_cutoff, 2),
        "cutoff_processor_ms": round(cutoff_spent, 2),
        "memory_mb": round(_memory_mb() - before),
    }


def _times(call: Callable[[], object], number: int) -> tuple[float, float]:
    """Medians of the clock's and of the processors' milliseconds."""
    taken, spent = [], []
    for _ in range(number):
        start, before = time.perf_counter(), time.process_time()
        call()
        taken.append(1000 * (time.perf_counter() - start))
        spent.append(1000 * (time.process_time() - before))
    return statistics.median(taken), statistics.median(spent)


def _memory_mb() -> float:
    """The most so far; Linux counts kilobytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


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
