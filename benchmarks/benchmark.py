# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Measures this package against open_clip and others, from nothing: prints a table, writes JSON and plots.

    pip install -e '.[dev,benchmark]'
    python benchmarks/benchmark.py             # everything into benchmarks/speed, an hour and a half on two cores
    python benchmarks/benchmark.py --only text --only growth

The sides of a comparison are processes that are kept alive and asked in turn; figures are medians. Weights are random,
of the real configurations, the same on all sides. Nothing else should run meanwhile.
"""

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
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
    "float32": {},
    "float32, packed": {"packed": True},
    "bfloat16": {"dtype": "bfloat16"},
    "bfloat16, packed": {"dtype": "bfloat16", "packed": True},
    "float32, compiled": {"compiled": True},
    "bfloat16, compiled": {"dtype": "bfloat16", "compiled": True},
}
FLOAT32 = ("float32", "float32, packed")
# Without instructions for it, a processor takes many times as long in bfloat16: no one would choose it there.
HAS_BFLOAT16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
EVERY_AND_COMPILED = tuple(name for name in VARIANTS if HAS_BFLOAT16 or "bfloat16" not in name)
# Compiling takes minutes: in the rows that say so.
EVERY = tuple(name for name in EVERY_AND_COMPILED if "compiled" not in name)
# What a user can switch on besides.
OPTIONS: dict[str, dict[str, Any]] = {
    **{name: VARIANTS[name] for name in EVERY_AND_COMPILED},
    "int8 weights, by torchao": {"int8": True},
}
PHOTOS = {"12-megapixel": (4032, 3024), "640x480": (640, 480)}
DIVERSE = {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.5}
# glibc keeps freed blocks of up to 32 MB, so that a peak would depend on the order of allocations.
MEMORY_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}

Measure = Literal["speed", "time", "memory"]
Record = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """A piece of work: see `benchmark_sides.py`."""

    side: str
    case: str
    arguments: dict[str, Any]
    made_with: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Goal:
    """What a row should reach: `bound` of theirs / ours ("speed") or of ours / theirs ("time", "memory")."""

    row: str
    what: str
    measure: Measure
    bound: dict[str, str]  # by variant; "" for all others


@dataclass(frozen=True)
class Ours:
    """A call of this package's, in some variants, and what it should reach."""

    call: Call
    goals: tuple[Goal, ...]
    variants: tuple[str, ...] = ("float32",)


@dataclass(frozen=True)
class Comparison:
    """Several calls of ours against one of theirs, all asked in turn."""

    name: str
    theirs: Call
    ours: tuple[Ours, ...]
    repeats: int = 3
    warm: bool = True  # whether the first run of each is left out of the median
    fresh: bool = False  # in processes of their own, for the growth of the first run


def _goal(row: str, what: str, bound: str, measure: Measure = "speed") -> Goal:
    return Goal(row, what, measure, {"": bound})


def _captioning_call(model: str) -> str:
    return f"{model}, 2 images, 6 beams in 3 groups, 30 tokens"


def _training_step(length: int) -> str:
    return f"{B32}, a training step of 16 captions of {length} tokens, both losses"


def _captioning(model: str, bounds: tuple[str, str, str]) -> Comparison:
    short = model.removeprefix("coca_ViT-")
    made_with = {"name": model}
    exact, in_bfloat16, default = bounds
    goal = Goal(
        f"generate-{short}",
        _captioning_call(model),
        "speed",
        {"": exact} | {name: in_bfloat16 for name in VARIANTS if name.startswith("bfloat16")},
    )
    same = _goal(f"default-{short}", f"{model}, open_clip's own call with its defaults, same ids", default)
    return Comparison(
        f"generate-{short}",
        # What `num_beams=6, num_beam_groups=3, seq_len=30` are upstream.
        Call("open_clip", "default_call", {"batch": 2}, made_with),
        (
            Ours(Call("coca_hf", "generate", {"batch": 2, **DIVERSE}, made_with), (goal,), EVERY_AND_COMPILED),
            Ours(Call("coca_hf", "default_call", {"batch": 2}, made_with), (same,), FLOAT32),
        ),
    )


def _training(length: int, name: str, speed: str, memory: str) -> list[Comparison]:
    """Time and memory apart: what fixes the one costs the other."""
    what = _training_step(length)
    made_with, arguments = {"name": B32}, {"batch": 16, "length": length}
    theirs = Call("open_clip", "train_step", arguments, made_with)
    steps = {
        what: Call("coca_hf", "train_step", arguments, made_with),
        f"{what}, optimised": Call("coca_hf", "train_step", arguments, {**made_with, "for_training": True}),
    }
    timed = tuple(Ours(call, (_goal(name, label, speed),)) for label, call in steps.items())
    grown = tuple(
        Ours(call, (_goal(f"{name}-memory", f"{label}: peak growth", memory, "memory"),))
        for label, call in steps.items()
    )
    return [
        Comparison(name, theirs, timed, repeats=2),
        Comparison(f"{name}-memory", theirs, grown, repeats=0, fresh=True),
    ]


def _comparisons(photos: dict[str, list[str]]) -> list[Comparison]:
    made_with = {"name": B32}
    many = {"batch": 32, "num_beams": 6}
    beams = {"batch": 2, "num_beams": 6}
    texts = {"batch": 64, "length": 12}

    def on_b32(case: str, arguments: Any, goal: Goal, variants: tuple[str, ...] = EVERY) -> tuple[Ours, ...]:
        return (Ours(Call("coca_hf", case, arguments, made_with), (goal,), variants),)

    def open_clip(case: str, arguments: Any) -> Call:
        return Call("open_clip", case, arguments, made_with)

    rows = [
        Comparison(
            "text",
            open_clip("text_features", texts),
            on_b32("text_features", texts, _goal("text", f"{B32}, 64 captions of 12 tokens", ">= 6")),
            repeats=9,
        ),
        Comparison(
            "image",
            open_clip("image_features", {"batch": 16}),
            on_b32("image_features", {"batch": 16}, _goal("image", f"{B32}, 16 images", "<= 1.0", "time")),
            repeats=9,
        ),
        _captioning(B32, (">= 12", ">= 35", ">= 15")),
        Comparison(
            "blip",
            Call("blip", "generate", beams),
            on_b32("generate", beams, _goal("blip", f"{B32} against BLIP-base: 2 images, 6 beams, 30 tokens", ">= 3")),
        ),
        Comparison(
            "greedy",
            open_clip("generate", {"batch": 32, "generation_type": "top_k", "top_k": 1}),
            on_b32("generate", {"batch": 32}, _goal("greedy", f"{B32}, 32 images, greedy, 30 tokens", ">= 13")),
            repeats=2,
            warm=False,
        ),
        *_training(12, "train", ">= 2.5", "<= 0.5"),
        *_training(76, "train-full", ">= 1.0", "<= 0.7"),
        Comparison(
            "memory",
            open_clip("generate", {**many, "num_beam_groups": 3}),
            on_b32(
                "generate",
                many,
                _goal("memory", f"{B32}, 32 images, 6 beams, 30 tokens: peak growth", "<= 0.333", "memory"),
                ("float32", "bfloat16") if HAS_BFLOAT16 else ("float32",),
            ),
            repeats=0,
            fresh=True,
        ),
        _captioning(L14, (">= 10", ">= 25", ">= 11")),
    ]
    for name, bound in (("12-megapixel", ">= 2"), ("640x480", ">= 1.2")):
        goal = _goal(f"preprocess-{name}", f"{name} JPEG files to pixel values, against CLIP's processor", bound)
        ours, theirs = (
            Call("image_processor", "preprocess", {"paths": photos[name]}, {"kind": kind}) for kind in ("coca", "clip")
        )
        rows.append(Comparison(f"preprocess-{name}", theirs, (Ours(ours, (goal,)),), repeats=9))
    goal = _goal("command", f"{B32}, 64 JPEG files of 640x480, greedy: the command against a bare loop", ">= 0.95")
    files: dict[str, Any] = {"name": B32, "photos": photos["640x480"], "count": 64}
    ours, theirs = (Call("folder", case, {"batch": 16}, files) for case in ("run", "bare_loop"))
    rows.append(Comparison("command", theirs, (Ours(ours, (goal,)),), repeats=2))
    import_goal = _goal("import", "import coca_hf, against torch and transformers", "<= 1.1", "time")
    ours, theirs = (Call("import", "modules", {"names": names}) for names in ("coca_hf", "torch, transformers"))
    rows.append(Comparison("import", theirs, (Ours(ours, (import_goal,)),), repeats=7))
    return rows


class Process:
    """A side at work; asked for one run at a time."""

    def __init__(self, python: str, side: str, made_with: dict[str, Any], environment: dict[str, str]):
        self.process = subprocess.Popen(
            [python, str(SIDES), side, json.dumps(made_with)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self._read()

    def _read(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(self.process.stderr.read())
        return line

    def run(self, call: Call) -> Record:
        self.process.stdin.write(json.dumps([call.case, call.arguments]) + "\n")
        self.process.stdin.flush()
        return json.loads(self._read())

    def close(self) -> None:
        self.process.communicate()


class Bench:
    """Processes by what they were made with, those of one model alive at a time."""

    def __init__(self, folder: Path, reference: Path):
        self.folder, self.reference = folder, reference
        self.processes: dict[str, Process] = {}
        self.model: str | None = None

    def start(self, call: Call, variant: str = "float32", environment: dict[str, str] | None = None) -> Process:
        """A new process for `call`."""
        made_with = dict(call.made_with)
        if "name" in made_with:
            made_with["weights"] = str(self.folder / f"{made_with['name']}.safetensors")
        if call.side in ("coca_hf", "bundled"):
            made_with |= {**VARIANTS, **OPTIONS}[variant]
        python = _make_reference(self.reference) if call.side == "open_clip" else sys.executable
        return Process(python, call.side, made_with, environment or {})

    def process(self, call: Call, variant: str = "float32") -> Process:
        """The process for `call`, made once as long as calls are about one model."""
        if call.made_with.get("name", self.model) != self.model:
            self.close()
            self.model = call.made_with["name"]
        key = json.dumps([call.side, call.made_with, variant])
        if key not in self.processes:
            self.processes[key] = self.start(call, variant)
        return self.processes[key]

    @contextmanager
    def asking(self, comparison: Comparison, calls: list[tuple[Call, str]]) -> Iterator[list[Process]]:
        """A process for each of `calls`, in their order."""
        with ExitStack() as stack:
            if comparison.fresh:
                self.close()
                made = []
                for call, variant in calls:
                    made.append(self.start(call, variant, MEMORY_ENVIRONMENT))
                    stack.callback(made[-1].close)
                yield made
            else:
                yield [self.process(call, variant) for call, variant in calls]

    def close(self) -> None:
        for process in self.processes.values():
            process.close()
        self.processes = {}
        self.model = None


def _in_turn(asked: list[tuple[Process, Call]], repeats: int, warm: bool = True) -> list[Record]:
    """Of each: the median of seconds, the growth in the first run (later ones have what it kept), the result."""
    rounds = [[process.run(call) for process, call in asked] for _ in range(repeats + warm)]
    counted = rounds[1:] if warm and repeats else rounds
    return [
        {
            "seconds": statistics.median(runs[index]["seconds"] for runs in counted),
            "growth": rounds[0][index]["growth"],
            "result": rounds[0][index]["result"],
        }
        for index in range(len(asked))
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
    for name, (width, height) in PHOTOS.items():
        files[name] = []
        for index in range(4):
            coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((width, height))
            grain = random.normal(0, 6, (height, width, 1))
            pixels = np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)
            path = folder / f"{name}-{index}.jpg"
            Image.fromarray(pixels).save(path, quality=90)
            files[name].append(str(path))
    return files


def _compare(comparison: Comparison, bench: Bench) -> list[Record]:
    """A record for each variant and goal."""
    ours = [(one, variant) for one in comparison.ours for variant in one.variants]
    calls = [(one.call, variant) for one, variant in ours]
    # Ours first: it writes the weights.
    with bench.asking(comparison, [*calls, (comparison.theirs, "float32")]) as processes:
        asked = list(zip(processes, [*(call for call, _ in calls), comparison.theirs], strict=True))
        *measured, theirs = _in_turn(asked, comparison.repeats, comparison.warm)
    records = []
    for (one, variant), found in zip(ours, measured, strict=True):
        ratios = {
            "speed": theirs["seconds"] / found["seconds"],
            "time": found["seconds"] / theirs["seconds"],
            "memory": found["growth"] / max(theirs["growth"], 1),
        }
        for goal in one.goals:
            unit = "growth" if goal.measure == "memory" else "seconds"
            record = {"row": goal.row, "what": goal.what, "variant": variant, "measure": goal.measure}
            record |= {"value": ratios[goal.measure], "target": goal.bound.get(variant, goal.bound[""]), "unit": unit}
            record |= {"ours": found[unit], "theirs": theirs[unit]}
            if one.call.case == "default_call":
                record["same_ids"] = found["result"] == theirs["result"]
            records.append(record)
    return records


def _coca(model: str, case: str, **arguments: Any) -> Call:
    return Call("coca_hf", case, arguments, {"name": model})


def _against(row: str, what: str, variant: str, ours: float, theirs: float, target: str = "") -> Record:
    """A row that says how many times `theirs`, in seconds, `ours` is."""
    record = {"row": row, "what": what, "variant": variant, "measure": "time", "target": target}
    return record | {"value": ours / theirs, "unit": "seconds", "ours": ours, "theirs": theirs}


def _floors(model: str, bench: Bench) -> list[Record]:
    """A decoding step against its own products, and what a call spends outside encoder and steps."""
    records = []
    for variant in EVERY:
        step, products = _coca(model, "decoding_step", batch=2, beams=6), _coca(model, "products", rows=12)
        call, encode = _coca(model, "generate", batch=2, **DIVERSE), _coca(model, "encode", batch=2)
        outside = _coca(model, "outside_steps", batch=2, **DIVERSE)
        process = bench.process(step, variant)
        of_step, of_products = _in_turn([(process, step), (process, products)], 20)
        of_call, of_encoder, of_products_beside = _in_turn(
            [(process, call), (process, encode), (process, products)], 5
        )
        share = statistics.median(process.run(outside)["result"] for _ in range(5))
        what = f"{model}, one decoding step of 12 rows against its products alone"
        records.append(_against("step", what, variant, of_step["seconds"], of_products["seconds"], "<= 1.15"))
        what = f"{model}, share of a generate call outside encoder and steps"
        overhead = _against("overhead", what, variant, share, 1.0, "<= 0.10")
        records.append(overhead | {"measure": "share", "unit": "share"})
        if variant == "float32":
            (of_reading,) = _in_turn([(process, _coca(model, "reading"))], 20)
            what = f"{model}, products of a step of 12 rows against reading their weights"
            records.append(_against("reading", what, variant, of_products["seconds"], of_reading["seconds"]))
        what = f"{model}, generate: encoder and products alone, against the whole call"
        floor_seconds = of_encoder["seconds"] + 29 * of_products_beside["seconds"]
        floor = _against("floor", what, variant, of_call["seconds"], floor_seconds)
        records.append(floor | {"floor_of": _captioning_call(model)})
    return records


def _train_floor(bench: Bench) -> list[Record]:
    """A training step against its operations at the rate that a large product reaches."""
    size, records = 2048, []
    for length in (12, 76):
        batch = {"batch": 16, "length": length}
        step, product = _coca(B32, "train_step", **batch), _coca(B32, "large_product", size=size)
        process = bench.process(step)
        a, b = _in_turn([(process, step), (process, product)], 3)
        operations = process.run(_coca(B32, "train_operations", **batch))["result"]
        floor = operations / (2 * size**3 / b["seconds"])
        what = f"{B32}, a training step of 16 captions of {length} tokens, operations alone"
        records.append(
            _against("train-floor", what, "float32", a["seconds"], floor) | {"floor_of": _training_step(length)}
        )
    return records


def _options(bench: Bench, chosen: list[str]) -> list[Record]:
    """What each option brings, and what it does to 1,000 captions of the bundled model; the first is the measure."""
    call = _coca(B32, "generate", batch=2, num_beams=6)
    processes = [bench.process(call, option) for option in chosen]
    seconds = [one["seconds"] for one in _in_turn([(process, call) for process in processes], 3)]
    bench.close()
    caption = Call("bundled", "captions", {"count": 1000})
    captions = []
    for option in chosen:
        captions.append(bench.process(caption, option).run(caption)["result"])
        bench.close()
    plain = captions[0]["texts"]
    return [
        {
            "option": option,
            "speed": seconds[0] / took,
            "captions_right": found["right"],
            "captions_changed": sum(a != b for a, b in zip(found["texts"], plain, strict=True)),
        }
        for option, took, found in zip(chosen, seconds, captions, strict=True)
    ]


def _profile(bench: Bench) -> list[Record]:
    """What a call is made of, in its fastest float32 that needs no compiling."""
    call = _coca(B32, "profile", batch=2, **DIVERSE)
    found = bench.process(call, "float32, packed").run(call)["result"]
    return [{"operation": name, "share": share, "calls": calls} for name, share, calls in found]


GROWTH = {
    "beams": [{"batch": 2, "num_beams": beams, "tokens": 20} for beams in (1, 2, 4, 6, 12, 24)],
    "batch": [{"batch": batch, "num_beams": 1, "tokens": 20} for batch in (1, 4, 16, 64)],
    "tokens": [{"batch": 2, "num_beams": 6, "tokens": tokens} for tokens in (10, 30, 50, 76)],
}
GROWTH_LABELS = {
    "beams": "beams (2 images, 20 tokens)",
    "batch": "images (greedy, 20 tokens)",
    "tokens": "tokens (2 images, 6 beams)",
}


def _growth(bench: Bench) -> list[Record]:
    """Seconds of calls and of their floors: the encoder, and the products of every step."""
    records = []
    for variant in FLOAT32:
        for axis, settings in GROWTH.items():
            for setting in settings:
                rows = setting["batch"] * setting["num_beams"]
                calls = [
                    _coca(B32, "generate", **setting),
                    _coca(B32, "encode", batch=setting["batch"]),
                    _coca(B32, "products", rows=rows),
                ]
                call, encode, products = _in_turn([(bench.process(one, variant), one) for one in calls], 1, warm=False)
                floor = encode["seconds"] + (setting["tokens"] - 1) * products["seconds"]
                at = setting["num_beams" if axis == "beams" else axis]
                records.append({"axis": axis, "at": at, "variant": variant, "ours": call["seconds"], "floor": floor})
    return records


def _relative(records: list[Record]) -> list[Record]:
    """The same with times as multiples of the first plain call of their axis."""
    units = {one["axis"]: one["ours"] for one in reversed(records) if one["variant"] == "float32"}
    return [one | {name: one[name] / units[one["axis"]] for name in ("ours", "floor")} for one in records]


def _plot(records: list[Record], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(GROWTH), figsize=(12, 3.6), layout="constrained")
    for panel, axis in zip(axes, GROWTH, strict=True):
        for colour, variant in enumerate(FLOAT32):
            chosen = [record for record in records if record["axis"] == axis and record["variant"] == variant]
            at = [record["at"] for record in chosen]
            panel.plot(at, [record["ours"] for record in chosen], "o-", color=f"C{colour}", label=variant)
            floors = [record["floor"] for record in chosen]
            panel.plot(at, floors, "--", color=f"C{colour}", label=f"{variant}: encoder and products alone")
        panel.set_xlabel(GROWTH_LABELS[axis])
        panel.set_ylim(bottom=0)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(f"time of a call, {B32}\n(first in float32 = 1)")
    figure.legend(
        *axes[0].get_legend_handles_labels(), fontsize="small", frameon=False, ncols=4, loc="outside upper center"
    )
    figure.savefig(path, dpi=110)


def _is_met(record: Record) -> bool | None:
    if not record["target"]:
        return None
    sign, bound = record["target"].split()
    return record["value"] >= float(bound) if sign == ">=" else record["value"] <= float(bound)


def _floor(record: Record, records: list[Record]) -> str:
    """What the ratio would be if a call took no longer than its floor."""
    for other in records:
        if other.get("floor_of") == record["what"] and other["variant"] == record["variant"]:
            return f"{record['value'] * other['value']:.2f}"
    return ""


def _cells(record: Record, records: list[Record]) -> list[str]:
    """Ratios only: times depend on the machine. They are in results.json."""
    value = f"{record['value']:.0%}" if record["measure"] == "share" else f"{record['value']:.2f}"
    met = {True: "yes", False: "no", None: ""}[_is_met(record)]
    same = {True: "; same ids", False: "; OTHER IDS", None: ""}[record.get("same_ids")]
    floor, commit = _floor(record, records), record.get("commit", "")
    return [record["what"] + same, record["variant"], value, record["target"], met, floor, commit]


HEADER = ("what", "variant", "ratio", "to reach", "met", "floor", "commit")


def _table(records: list[Record]) -> Table:
    table = Table(*HEADER)
    for record in records:
        table.add_row(*_cells(record, records), style="red" if _is_met(record) is False else "")
    return table


def _rows(header: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    """A table in Markdown, or nothing where it would be empty."""
    return ["", *("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows))] if rows else []


def _markdown(results: Record) -> str:
    lines = [
        f"{key}: {value}  " for key, value in results.items() if key not in ("rows", "options", "profile", "growth")
    ]
    lines += _rows(HEADER, [_cells(record, results["rows"]) for record in results["rows"]])
    lines += _rows(
        (f"option ({B32}, 2 images, 6 beams, 30 tokens)", "speed", "bundled model: captions right", "changed"),
        [
            [
                one["option"],
                f"{one['speed']:.2f}",
                f"{one['captions_right']:.1%}",
                f"{one['captions_changed']} of 1,000",
            ]
            for one in results["options"]
        ],
    )
    lines += _rows(
        (f"operation ({B32}, 2 images, 6 beams in 3 groups, 30 tokens; float32, packed)", "share", "calls"),
        [[one["operation"], f"{one['share']:.1%}", str(one["calls"])] for one in results["profile"]],
    )
    lines += ["", "![growth](growth.png)"] if results["growth"] else []
    lines += _rows(
        ("axis", "at", "variant", "call (first in float32 = 1)", "floor", "ratio"),
        [
            [
                GROWTH_LABELS[one["axis"]],
                str(one["at"]),
                one["variant"],
                *(f"{one[name]:.2f}" for name in ("ours", "floor")),
                f"{one['ours'] / one['floor']:.2f}",
            ]
            for one in _relative(results["growth"])
        ],
    )
    return "\n".join(lines) + "\n"


def commit() -> str:
    """Of the code that is measured: rows of one table can be of several."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    return found.stdout.strip()


def machine() -> Record:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    packages = ("coca-hf", "torch", "transformers", "pillow")
    return {
        "date": datetime.date.today().isoformat(),
        "processor": names[0].split(":")[1].strip() if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bfloat16 in hardware": HAS_BFLOAT16,
        "versions": {name: version(name) for name in packages} | {"open_clip_torch": "3.3.0"},
        "python": platform.python_version(),
    }


def _save(results: Record, output: Path) -> None:
    """After each comparison: a run may end early."""
    results |= machine()
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (output / "table.md").write_text(_markdown(results))


def main(
    output: Annotated[Path, typer.Option(help="Folder for results.json, table.md and growth.png.")] = Path(
        "benchmarks/speed"
    ),
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Comparisons whose name starts so; step-B-32, step-L-14, train-floor, options (one: 'options NAME'), "
            "profile and growth too. May repeat; results of the others are kept."
        ),
    ] = None,
    reference: Annotated[Path, typer.Option(help="Where open_clip's environment is, or is made.")] = Path(
        "build/open_clip"
    ),
) -> None:
    """Measures every row, or those that --only picks; results of the others stay as they are."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results = {"rows": [], "options": [], "profile": [], "growth": []} | results
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), reference)
        jobs: dict[str, Any] = {}
        for comparison in _comparisons(_make_photos(bench.folder)):
            jobs[comparison.name] = lambda comparison=comparison: _compare(comparison, bench)
        jobs |= {"step-B-32": lambda: _floors(B32, bench), "step-L-14": lambda: _floors(L14, bench)}
        jobs["train-floor"] = lambda: _train_floor(bench)
        for job, measure in jobs.items():
            if only is None or job.startswith(tuple(only)):
                records = [record | {"commit": commit()} for record in measure()]
                new = {(record["row"], record["what"]) for record in records}
                kept = [record for record in results["rows"] if (record["row"], record["what"]) not in new]
                results["rows"] = kept + records
                _save(results, output)
                console.print(_table(records))
        chosen = [name for name in OPTIONS if only is None or f"options {name}".startswith(tuple(only))]
        if chosen:
            chosen = list(dict.fromkeys(["float32", *chosen]))
            kept = [one for one in results["options"] if one["option"] not in chosen]
            results["options"] = [*_options(bench, chosen), *kept]
            _save(results, output)
        if only is None or "profile".startswith(tuple(only)):
            results["profile"] = _profile(bench)
            _save(results, output)
        if only is None or "growth".startswith(tuple(only)):
            results["growth"] = _growth(bench)
            _plot(_relative(results["growth"]), output / "growth.png")
        bench.close()
    _save(results, output)


if __name__ == "__main__":
    typer.run(main)
