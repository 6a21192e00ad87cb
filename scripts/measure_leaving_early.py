# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What could be saved if captions left their batch as they end, instead of waiting for the longest.

The bundled model's captions of unseen scenes say how many are left at each step of a batch; steps are timed with so
many rows, for the bundled model and for `coca_ViT-B-32` (random weights), on one thread.
"""

import json
import platform
import statistics
import time
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import transformers
import typer
from rich.console import Console
from rich.progress import track

import coca_hf
from coca_hf.conversion import open_clip_config
from scenes import make_scene, render


BATCH = 16
ROWS = (1, 2, 4, 8, 16)


def caption_lengths(number: int) -> list[int]:
    """Tokens of each caption, its end included."""
    model = coca_hf.CoCaForCaptioning.from_pretrained(coca_hf.bundled_model()).eval()
    processor = coca_hf.CoCaProcessor.from_pretrained(coca_hf.bundled_model())
    end = model.generation_config.eos_token_id
    lengths: list[int] = []
    for start in track(range(0, number, BATCH), "captioning", console=Console(stderr=True)):
        images = [render(make_scene("test", index), 64) for index in range(start, start + BATCH)]
        with torch.inference_mode():
            ids = model.generate(**processor(images=images, return_tensors="pt"), do_sample=False)[:, 1:]
        lengths += [row.index(end) + 1 if end in row else len(row) for row in ids.tolist()]
    return lengths


def seconds_a_step(model: Any, steps: int, repeats: int) -> dict[int, float]:
    """By rows; the least of some repetitions, which other programs disturbed least."""
    size = model.config.vision_config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    found = {}
    for rows in ROWS:
        with torch.inference_mode():
            encoded = model.encode_images(torch.randn(rows, 3, height, width))
            times = []
            for _ in range(repeats):
                started = time.process_time()
                model.generate(encoded_images=encoded, max_new_tokens=steps, min_new_tokens=steps, do_sample=False)
                times.append((time.process_time() - started) / steps)
        found[rows] = min(times)
    return found


def saving(lengths: list[int], by_rows: dict[int, float]) -> float:
    """The share of decoding time, were only rows in the batch whose captions have not ended."""
    rows, seconds = list(by_rows), list(by_rows.values())
    together = leaving = 0.0
    for start in range(0, len(lengths) - BATCH + 1, BATCH):
        batch = lengths[start : start + BATCH]
        for step in range(max(batch)):
            together += by_rows[BATCH]
            leaving += float(np.interp(sum(length > step for length in batch), rows, seconds))
    return 1 - leaving / together


def main(
    number: Annotated[int, typer.Option(help="Captions; a multiple of 16.")] = 512,
    steps: Annotated[int, typer.Option(help="Steps that are timed.")] = 20,
    repeats: Annotated[int, typer.Option(help="Of each timing.")] = 5,
    record: Annotated[Path | None, typer.Option(help="Where results go, as JSON.")] = None,
) -> None:
    torch.set_num_threads(1)
    lengths = caption_lengths(number)
    batches = [lengths[start : start + BATCH] for start in range(0, len(lengths), BATCH)]
    base = open_clip_config("coca_ViT-B-32")
    models = {
        "bundled": coca_hf.CoCaForCaptioning.from_pretrained(coca_hf.bundled_model()).eval(),
        "coca_ViT-B-32": coca_hf.CoCaForCaptioning(base).eval(),
    }
    result: dict[str, Any] = {
        "date": date.today().isoformat(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "captions": number,
        "tokens": {"mean": statistics.mean(lengths), "mean_of_the_longest_of_16": statistics.mean(map(max, batches))},
        "models": {},
    }
    for name, model in models.items():
        by_rows = seconds_a_step(model, steps, repeats)
        result["models"][name] = {
            "ms_a_step_by_rows": {str(rows): round(1000 * seconds, 2) for rows, seconds in by_rows.items()},
            "share_of_decoding_that_leaving_would_save": round(saving(lengths, by_rows), 3),
        }
    print(json.dumps(result, indent=2))
    if record:
        record.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
