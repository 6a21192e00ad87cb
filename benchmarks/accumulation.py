# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Measures what exact accumulation costs: micro-batches as one batch, against their gradients merely added up.

    python benchmarks/accumulation.py                  # coca_ViT-B-32, some minutes on two cores
    python benchmarks/accumulation.py --only time      # or memory, or adapters
    python benchmarks/accumulation.py --quick          # a tiny model, to see that it runs

A step goes forward and backward over all its micro-batches, of 16 images and captions of 12 tokens each, with
`optimize_for_training`. Times are the processor's, of all threads, so that others may run meanwhile; they are medians,
the sides in turn. Memory is the growth of a process's peak during its first step, gradients included.
"""

import ctypes
import json
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmark import machine
from benchmark_sides import captions, images, measure
from coca_hf import optimize_for_training
from coca_hf.conversion import open_clip_config
from coca_hf.modeling_coca import CoCaForCaptioning
from coca_hf.training.accumulation import ExactAccumulation
from quick_model import quick_config


MODEL, BATCH, LENGTH = "coca_ViT-B-32", 16, 12
MAX_TIME, MAX_GROWTH = 1.35, 1.05
M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
Side = Literal["added up", "exact", "adapters"]
Record = dict[str, Any]


class Step:
    """A training step of so many micro-batches."""

    def __init__(self, side: Side, micro_batches: int, quick: bool) -> None:
        torch.manual_seed(0)
        model: Any = CoCaForCaptioning(quick_config() if quick else open_clip_config(MODEL)).train()
        if side == "adapters":
            from peft import LoraConfig, get_peft_model

            targets = ["q_proj", "k_proj", "v_proj", "out_proj"]
            model = get_peft_model(model, LoraConfig(r=8, target_modules=targets)).train()
        self.model, self.is_exact = optimize_for_training(model), side != "added up"
        x, ids = images(micro_batches * BATCH), captions(micro_batches * BATCH, LENGTH, LENGTH)
        self.batches = [
            {"pixel_values": pixels, "input_ids": texts, "labels": texts}
            for pixels, texts in zip(x.split(BATCH), ids.split(BATCH), strict=True)
        ]
        self.num_items = sum(batch["labels"][:, 1:].numel() for batch in self.batches)

    def __call__(self) -> None:
        self.model.zero_grad()
        if not self.is_exact or len(self.batches) == 1:
            for batch in self.batches:
                self.model(**batch, num_items_in_batch=self.num_items).loss.backward()
            return
        accumulation = ExactAccumulation(self.model, self.batches)
        for batch in self.batches:
            with accumulation.next() as add_gradients:
                outputs = self.model(**batch, return_loss=False, num_items_in_batch=self.num_items)
                add_gradients(outputs.loss, outputs).backward()


def _first_step(side: Side, micro_batches: int, quick: bool) -> Record:
    # glibc keeps freed blocks of up to 32 MB, so that a peak would depend on the order of allocations.
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)
    found = measure(Step(side, micro_batches, quick))
    return {"side": side, "micro_batches": micro_batches, "seconds": found["seconds"], "growth": found["growth"]}


def _processor_seconds(step: Step) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def _times(micro_batches: int, repeats: int, quick: bool) -> list[Record]:
    sides: tuple[Side, ...] = ("added up", "exact")
    steps = [Step(side, micro_batches, quick) for side in sides]
    rounds = [[_processor_seconds(step) for step in steps] for _ in range(repeats)]
    return [
        {"side": side, "micro_batches": micro_batches, "seconds": statistics.median(times)}
        for side, times in zip(sides, zip(*rounds, strict=True), strict=True)
    ]


def _alone(function: Any, *arguments: Any) -> Any:
    """What `function` gives in a process of its own, which finds the libraries imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["accumulation", "peft"])
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, *arguments).result()


def _measure_all(only: str | None, micro_batches: list[int], repeats: int, quick: bool) -> Record:
    results: Record = {}
    if only in (None, "time"):
        results["time"] = [row for number in micro_batches for row in _alone(_times, number, repeats, quick)]
    if only in (None, "memory"):
        results["memory"] = [_alone(_first_step, "exact", number, quick) for number in micro_batches]
    if only in (None, "adapters"):
        sides: tuple[Side, ...] = ("added up", "adapters")
        results["adapters"] = [_alone(_first_step, side, 1, quick) for side in sides]
    return results


def _table(results: Record) -> Table:
    table = Table("what", "ratio", "to reach")
    for plain, exact in zip(results.get("time", [])[::2], results.get("time", [])[1::2], strict=True):
        what = (
            f"{plain['micro_batches']} micro-batches: processor time of exact accumulation against gradients added up"
        )
        table.add_row(what, f"{exact['seconds'] / plain['seconds']:.2f}", f"<= {MAX_TIME}")
    for row in results.get("memory", [])[1:]:
        fewest = results["memory"][0]["micro_batches"]
        what = f"{row['micro_batches']} micro-batches: peak growth against that of {fewest}"
        table.add_row(what, f"{row['growth'] / results['memory'][0]['growth']:.3f}", f"<= {MAX_GROWTH}")
    if "adapters" in results:
        plain, adapters = results["adapters"]
        table.add_row(
            "adapters of rank 8: growth against all weights'", f"{adapters['growth'] / plain['growth']:.2f}", ""
        )
    return table


def main(
    output: Annotated[Path, typer.Option(help="File for the results; what it has of other parts stays.")] = Path(
        "benchmarks/accumulation.json"
    ),
    only: Annotated[str | None, typer.Option(help="time, memory or adapters.")] = None,
    micro_batches: Annotated[list[int] | None, typer.Option(help="How many: 2, 4 and 16 by default.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Steps of each side whose median counts.")] = 2,
    quick: Annotated[bool, typer.Option("--quick", help="A tiny model.")] = False,
) -> None:
    """Measures, writes the results to --output and prints ratios."""
    results = json.loads(output.read_text()) if output.exists() else {}
    results |= {"model": "tiny" if quick else MODEL, "batch": BATCH, "length": LENGTH, **machine()}
    results |= _measure_all(only, micro_batches or [2, 4, 16], repeats, quick)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + "\n")
    Console().print(_table(results))


if __name__ == "__main__":
    typer.run(main)
