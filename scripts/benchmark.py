# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Measures this package against open_clip and others, from nothing: prints a table, writes JSON and plots.

    python scripts/benchmark.py --output benchmarks/cpu          # everything, about an hour on two cores
    python scripts/benchmark.py --only text-features --repeats 3

Both sides of a row are processes that are kept alive and asked in turn; figures are medians. Weights are random, of the
real configurations, the same on both sides. Nothing else should run meanwhile.
"""

import datetime
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table


SIDES = Path(__file__).with_name("benchmark_sides.py")
# open_clip 3.3.0 captions with a class that transformers dropped in 4.57.
REFERENCE = ("open_clip_torch==3.3.0", "torchvision==0.28.0", "timm==1.0.20")
REFERENCE_DEPENDENCIES = ("transformers==4.55.4", "ftfy", "regex", "tqdm", "safetensors", "pillow", "numpy")

B32, L14 = "coca_ViT-B-32", "coca_ViT-L-14"
VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "packed": {"packed": True},
    "bfloat16": {"dtype": "bfloat16", "attention": "eager"},
    "bfloat16, packed": {"dtype": "bfloat16", "attention": "eager", "packed": True},
}
IN_GROUPS = {"num_beams": 6, "num_beam_groups": 3}
DIVERSE = {**IN_GROUPS, "diversity_penalty": 0.5}


@dataclass
class Side:
    """What one process of a row does: see `benchmark_sides.py`."""

    side: str
    case: str
    made_with: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass
class Row:
    """A comparison: `ours` in variants against `theirs`; `target` bounds what `measure` gives."""

    name: str
    what: str
    ours: Side
    theirs: Side
    target: str
    measure: str = "speed"  # theirs / ours; "time" and "memory": ours / theirs
    variants: tuple[str, ...] = ("",)
    repeats: int = 3


def _pair(name: str, what: str, model: str, case: str, target: str, ours: Any, theirs: Any = None, **row: Any) -> Row:
    """A row against open_clip with the same weights."""
    made_with = {"name": model}
    theirs = ours if theirs is None else theirs
    return Row(
        name, what, Side("coca_hf", case, made_with, ours), Side("open_clip", case, made_with, theirs), target, **row
    )


def _rows(files: dict[str, list[str]]) -> list[Row]:
    every = tuple(VARIANTS)
    exact = ("", "packed")
    rows = []
    for short, model, goals in (("b32", B32, (">= 12", ">= 15", ">= 13")), ("l14", L14, (">= 10", ">= 11", ""))):
        two = {"batch": 2}
        what = f"{model}, 2 images, 6 beams in 3 groups, 30 tokens"
        rows += [
            _pair(f"generate-{short}", what, model, "generate", goals[0], {**two, **DIVERSE}, {**two, **IN_GROUPS},
                  variants=every),
            _pair(f"default-{short}", f"{model}, open_clip's own call, same ids", model, "default_call", goals[1], two,
                  variants=exact),
        ]  # fmt: skip
    greedy = {"batch": 32}
    top_k = {**greedy, "generation_type": "top_k", "top_k": 1}
    made_with = {"name": B32}
    beams = {"batch": 2, "num_beams": 6}
    texts = {"batch": 64, "length": 12}
    rows += [
        _pair("greedy", "greedy, 32 images", B32, "generate", ">= 13", greedy, top_k, variants=every, repeats=2),
        Row("blip", "BLIP-base at 384 px, 6 beams, 30 tokens, 2 images", Side("coca_hf", "generate", made_with, beams),
            Side("blip", "generate", {}, beams), ">= 3", variants=every),
        _pair("text-features", "64 captions of 12 tokens", B32, "text_features", ">= 6", texts, variants=exact,
              repeats=7),
        _pair("image-features", "16 images", B32, "image_features", "<= 1.0", {"batch": 16}, measure="time",
              variants=every, repeats=9),
    ]  # fmt: skip
    for name, length, goals in (("train", 12, (">= 2.5", "<= 0.5")), ("train-full", 76, (">= 1.0", "<= 0.7"))):
        for measure, goal in zip(("speed", "memory"), goals, strict=True):
            rows.append(
                _pair(f"{name}-{measure}", f"forward and backward, 16 captions of {length} tokens", B32, "train_step",
                      goal, {"batch": 16, "length": length}, measure=measure, repeats=3)
            )  # fmt: skip
    many = {"batch": 32, "tokens": 12, "num_beams": 6}
    rows.append(
        _pair("memory", "generate, 6 beams, 32 images, 12 tokens: peak growth", B32, "generate", "<= 0.33", many,
              {**many, "num_beam_groups": 3}, measure="memory", repeats=1)
    )  # fmt: skip
    for name, goal in (("12-megapixel", ">= 2"), ("640x480", ">= 1.2")):
        rows.append(
            Row(f"preprocess-{name}", f"JPEG files, {name}, to pixel values; against CLIP's processor",
                Side("image_processor", "preprocess", {"kind": "coca"}, {"paths": files[name]}),
                Side("image_processor", "preprocess", {"kind": "clip"}, {"paths": files[name]}), goal, repeats=9)
        )  # fmt: skip
    for ours, name in (("coca_hf", "import"), ("torch, transformers, coca_hf", "import-all")):
        rows.append(
            Row(name, f"import {ours}", Side("import", "modules", {}, {"names": ours}),
                Side("import", "modules", {}, {"names": "torch, transformers"}), "<= 1.1", measure="time", repeats=7)
        )  # fmt: skip
    return rows


class Process:
    """A side at work; asked for one run at a time."""

    def __init__(self, python: str, side: Side, extra: dict[str, Any]):
        made_with = {**side.made_with, **(extra if "name" in side.made_with else {})}
        command = [python, str(SIDES), side.side, json.dumps(made_with), side.case, json.dumps(side.arguments)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._read()

    def _read(self) -> str:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise RuntimeError(self.process.stderr.read())  # type: ignore[union-attr]
        return line

    def run(self) -> dict[str, Any]:
        self.process.stdin.write("\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        return json.loads(self._read())

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def _alternate(processes: list[Process], repeats: int) -> list[dict[str, Any]]:
    """Median seconds, largest growth (the first run's, before memory is kept for the next) and result of each."""
    runs: list[list[dict[str, Any]]] = [[process.run()] for process in processes]
    growths = [first[0]["growth"] for first in runs]
    for _ in range(repeats if repeats > 1 else 0):
        for process, results in zip(processes, runs, strict=True):
            results.append(process.run())
    return [
        {
            "seconds": statistics.median(run["seconds"] for run in results[1:] or results),
            "growth": growth,
            "result": results[-1]["result"],
        }
        for results, growth in zip(runs, growths, strict=True)
    ]


def _make_reference(folder: Path) -> str:
    """An environment in which open_clip's CoCa runs whole: -> its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        pip = [str(python), "-m", "pip", "install", "-q"]
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([*pip, f"torch=={version('torch').split('+')[0]}"], check=True)
        subprocess.run([*pip, "--no-deps", *REFERENCE], check=True)
        subprocess.run([*pip, *REFERENCE_DEPENDENCIES], check=True)
    return str(python)


def _make_photos(folder: Path) -> dict[str, list[str]]:
    """JPEG files with smooth shapes, edges and grain, as photographs have."""
    files: dict[str, list[str]] = {}
    random = np.random.default_rng(0)
    for name, (width, height) in {"12-megapixel": (4032, 3024), "640x480": (640, 480)}.items():
        files[name] = []
        for index in range(4):
            coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((width, height))
            grain = random.normal(0, 6, (height, width, 1))
            pixels = np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)
            path = folder / f"{name}-{index}.jpg"
            Image.fromarray(pixels).save(path, quality=90)
            files[name].append(str(path))
    return files


def _measure_row(row: Row, pythons: dict[str, str], folder: Path, repeats: int | None) -> list[dict[str, Any]]:
    """A record for each variant of ours, all asked in turn with theirs."""
    extra = {"weights": str(folder / f"{row.ours.made_with.get('name')}.safetensors")}
    records = []
    for variant in row.variants:
        with (
            Process(pythons["coca_hf"], row.ours, {**extra, **VARIANTS[variant]}) as ours,
            Process(pythons.get(row.theirs.side, pythons["coca_hf"]), row.theirs, extra) as theirs,
        ):
            a, b = _alternate([ours, theirs], repeats or row.repeats)
        ratios = {
            "speed": b["seconds"] / a["seconds"],
            "time": a["seconds"] / b["seconds"],
            "memory": a["growth"] / max(b["growth"], 1),
        }
        record = {"row": row.name, "what": row.what, "variant": variant, "measure": row.measure, "target": row.target}
        record |= {"value": ratios[row.measure], "ours": a["seconds"], "theirs": b["seconds"]}
        record |= {"our_growth": a["growth"], "their_growth": b["growth"]}
        if row.name.startswith("default"):
            record["same_ids"] = a["result"] == b["result"]
        records.append(record)
    return records


def _coca(case: str, model: str, variant: str, folder: Path, **arguments: Any) -> Process:
    side = Side("coca_hf", case, {"name": model}, arguments)
    return Process(sys.executable, side, {"weights": str(folder / f"{model}.safetensors"), **VARIANTS[variant]})


def _floor_records(folder: Path, repeats: int) -> list[dict[str, Any]]:
    """A decoding step against its own products, and what a call spends outside encoder and steps."""
    records = []
    for model in (B32, L14):
        for variant in VARIANTS:
            with (
                _coca("decoding_step", model, variant, folder, batch=2, beams=6) as step,
                _coca("products", model, variant, folder, rows=12) as products,
            ):
                a, b = _alternate([step, products], 10 * repeats)
            record = {"row": "step", "what": f"{model}, one step of 12 rows against its products", "variant": variant}
            record |= {"measure": "time", "target": "<= 1.15", "value": a["seconds"] / b["seconds"]}
            records.append(record | {"ours": a["seconds"], "theirs": b["seconds"]})
            with (
                _coca("generate", model, variant, folder, batch=2, **DIVERSE) as call,
                _coca("encode", model, variant, folder, batch=2) as encode,
            ):
                c, d = _alternate([call, encode], repeats)
            rest = c["seconds"] - d["seconds"] - 29 * a["seconds"]
            record = {"row": "overhead", "what": f"{model}, share of a call outside encoder and steps"}
            record |= {"variant": variant, "measure": "share", "target": "<= 0.10", "value": rest / c["seconds"]}
            records.append(record | {"ours": c["seconds"], "theirs": c["seconds"] - rest})
    return records


GROWTH = {
    "beams": [{"batch": 2, "num_beams": beams, "tokens": 20} for beams in (1, 2, 4, 6, 12, 24)],
    "batch": [{"batch": batch, "num_beams": 1, "tokens": 20} for batch in (1, 4, 16, 64)],
    "tokens": [{"batch": 2, "num_beams": 6, "tokens": tokens} for tokens in (10, 30, 50, 76)],
}


def _growth_records(folder: Path, variant: str) -> list[dict[str, Any]]:
    """Seconds of a call and of its floor: the encoder, and the products of every step."""
    records = []
    for axis, settings in GROWTH.items():
        for setting in settings:
            rows = setting["batch"] * setting["num_beams"]
            with (
                _coca("generate", B32, variant, folder, **setting) as call,
                _coca("encode", B32, variant, folder, batch=setting["batch"]) as encode,
                _coca("products", B32, variant, folder, rows=rows) as products,
            ):
                a, b, c = _alternate([call, encode, products], 2)
            floor = b["seconds"] + (setting["tokens"] - 1) * c["seconds"]
            record = {"axis": axis, "variant": variant, "ours": a["seconds"], "floor": floor}
            records.append({**record, "at": setting["num_beams" if axis == "beams" else axis], "setting": setting})
    return records


def _plot(records: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(GROWTH), figsize=(12, 3.6), layout="constrained")
    colours = {variant: f"C{index}" for index, variant in enumerate(VARIANTS)}
    for axis, name in zip(axes, GROWTH, strict=True):
        for variant in dict.fromkeys(record["variant"] for record in records):
            chosen = [record for record in records if record["axis"] == name and record["variant"] == variant]
            at = [record["at"] for record in chosen]
            label = variant or "float32"
            axis.plot(at, [record["ours"] for record in chosen], "o-", color=colours[variant], label=label)
            axis.plot(at, [record["floor"] for record in chosen], "--", color=colours[variant], label=f"{label}: floor")
        axis.set_xlabel({"beams": "beams (2 images, 20 tokens)", "batch": "images (greedy, 20 tokens)"}.get(
            name, "tokens (2 images, 6 beams)"))  # fmt: skip
        axis.set_ylim(bottom=0)
    axes[0].set_ylabel("seconds, coca_ViT-B-32")
    axes[0].legend(fontsize="small")
    figure.savefig(path, dpi=110)


def _is_met(value: float, target: str) -> bool | None:
    if not target:
        return None
    sign, bound = target.split()
    return value >= float(bound) if sign == ">=" else value <= float(bound)


def _table(records: list[dict[str, Any]]) -> Table:
    table = Table("row", "what", "variant", "measured", "to reach", "ours, s", "against, s")
    for record in records:
        met = _is_met(record["value"], record["target"])
        unit = " x" if record["measure"] != "share" else ""
        colour = {True: "green", False: "red", None: "white"}[met]
        table.add_row(
            record["row"], record["what"], record["variant"] or "float32",
            f"[{colour}]{record['value']:.2f}{unit}[/]", record["target"],
            f"{record['ours']:.3g}", f"{record['theirs']:.3g}",
        )  # fmt: skip
    return table


def _machine() -> dict[str, Any]:
    import torch

    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    packages = ("coca-hf", "torch", "transformers", "pillow")
    return {
        "date": datetime.date.today().isoformat(),
        "processor": names[0].split(":")[1].strip() if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "versions": {name: version(name) for name in packages} | {"open_clip_torch": "3.3.0"},
        "python": platform.python_version(),
    }


def main(
    output: Annotated[Path, typer.Option(help="Folder for results.json, table.txt and growth.png.")] = Path(
        "build/benchmark"
    ),
    only: Annotated[list[str] | None, typer.Option(help="Rows whose name starts so; 'step' and 'growth' too.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Runs of each side; by default each row's own.")] = None,
    reference: Annotated[Path, typer.Option(help="Where open_clip's environment is, or is made.")] = Path(
        "build/open_clip"
    ),
) -> None:
    """Measures every row, or those that --only picks."""

    def is_wanted(name: str) -> bool:
        return only is None or any(name.startswith(wanted) for wanted in only)

    output.mkdir(parents=True, exist_ok=True)
    console = Console()
    path = output / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {"rows": [], "growth": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [row for row in _rows(_make_photos(folder)) if is_wanted(row.name)]
        pythons = {"coca_hf": sys.executable}
        if any(row.theirs.side == "open_clip" for row in rows):
            pythons["open_clip"] = _make_reference(reference)
        jobs = [(row.name, lambda row=row: _measure_row(row, pythons, folder, repeats)) for row in rows]
        if is_wanted("step"):
            jobs.append(("step", lambda: _floor_records(folder, repeats or 3)))
        for job, measure in jobs:
            records = measure()
            new = {record["row"] for record in records}
            results["rows"] = [record for record in results["rows"] if record["row"] not in new] + records
            _save(results, path)
            console.print(_table(records))
        if is_wanted("growth"):
            results["growth"] = [record for variant in ("", "packed") for record in _growth_records(folder, variant)]
    _save(results, path)
    if results["growth"]:
        _plot(results["growth"], output / "growth.png")
    table = _table(results["rows"])
    console.print(table)
    with (output / "table.txt").open("w") as file:
        Console(file=file, width=160).print(table)


def _save(results: dict[str, Any], path: Path) -> None:
    """Row by row: a run may end early."""
    path.write_text(json.dumps({**_machine(), **{key: results[key] for key in ("rows", "growth")}}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
