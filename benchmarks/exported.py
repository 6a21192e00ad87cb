# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Exported models beside PyTorch: speed, memory, size and floors of coca_ViT-B-32; captions of the bundled model.

    python benchmarks/exported.py main                      # into benchmarks/exported.json
    python benchmarks/exported.py main --folder EXPORTED    # an exported coca_ViT-B-32 that is there already
    python benchmarks/exported.py main --parts speed --side "open_clip 3.3.0, float32" --row "64 texts of 12 tokens"

Sides and rows that are not measured keep what the file has of them. open_clip runs in an environment of its own, whose
Python is given by --open-clip: `benchmark.py` makes one.

Weights of coca_ViT-B-32 are random. Every side runs in a process of its own, on as many threads; times are the best of
several calls, with nothing else running.
"""

import datetime
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import AutoProcessor

import coca_hf
from benchmark import Call, Process
from coca_hf.conversion import open_clip_config


RESULTS = Path(__file__).with_name("exported.json")
SCENES = Path(__file__).parents[1] / "scripts" / "bundled_model"
NAME = "coca_ViT-B-32"
LENGTH = {"max_new_tokens": 30, "min_new_tokens": 29}
# What `num_beams=6` of open_clip's generate() is.
BEAMS = {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.5, **LENGTH}
# Rows by name: what open_clip is asked for, None where it has no such call.
ROWS: dict[str, tuple[str, dict[str, Any]] | None] = {
    "2 images, 6 beams in 3 groups, 30 tokens": ("generate", {"batch": 2, "num_beams": 6}),
    "32 images, greedy, 30 tokens": ("generate", {"batch": 32, "generation_type": "top_k", "top_k": 1}),
    "vision tower, 8 images": None,
    "64 texts of 12 tokens": ("text_features", {"batch": 64, "length": 12}),
}
SIDES_OF_SPEED = ("open_clip 3.3.0, float32", "PyTorch, float32", "PyTorch, float32, packed", "ONNX Runtime, int8")

app = typer.Typer(add_completion=False)


def random_model() -> coca_hf.CoCaForCaptioning:
    torch.manual_seed(0)
    return coca_hf.CoCaForCaptioning(open_clip_config(NAME)).eval()


def best(call: Callable[[], Any], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


@app.command(hidden=True)
def side(kind: str, folder: str = "", row: Annotated[list[str] | None, typer.Option()] = None) -> None:
    """Seconds of one side by row, as JSON: "float32" and "packed" are PyTorch, "exported" is what is in the folder."""
    if kind == "exported":
        model: Any = coca_hf.load(folder)
    else:
        model = random_model()
        if kind == "packed":
            model = coca_hf.optimize_for_inference(model)
    random = torch.Generator().manual_seed(0)
    pixel_values = torch.randn(32, 3, 224, 224, generator=random)
    texts = torch.randint(1, 49000, (64, 12), generator=random)
    works: dict[str, tuple[Callable[[], Any], int]] = {
        "2 images, 6 beams in 3 groups, 30 tokens": (lambda: model.generate(pixel_values[:2], **BEAMS), 3),
        "32 images, greedy, 30 tokens": (lambda: model.generate(pixel_values, num_beams=1, **LENGTH), 2),
        "vision tower, 8 images": (lambda: model.get_image_features(pixel_values[:8]), 5),
        "64 texts of 12 tokens": (lambda: model.get_text_features(texts), 5),
    }
    seconds, peak = {}, None
    with torch.inference_mode():
        for name, (work, repeats) in works.items():
            if not row or name in row:
                seconds[name] = best(work, repeats)
                if peak is None and "beams" in name:
                    # What a process that captions needs, libraries included.
                    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    typer.echo(json.dumps({"seconds": seconds, "peak bytes of captioning": peak}))


def of_open_clip(python: str, rows: list[str]) -> dict[str, Any]:
    """The same of open_clip, whose calls take long: the better of two."""
    process = Process(python, "open_clip", {"name": NAME, "weights": None}, {})
    seconds = {}
    for name in rows:
        asked_for = ROWS[name]
        if asked_for is not None:
            call = Call("open_clip", *asked_for)
            seconds[name] = min(process.run(call)["seconds"] for _ in range(2))
    process.close()
    return {"seconds": seconds, "peak bytes of captioning": None}


@app.command(hidden=True)
def quality(folder: str = "", count: int = 1000) -> None:
    """Captions of rendered scenes, how many are right, and R@1, as JSON."""
    sys.path.insert(0, str(SCENES))
    from scene_metrics import SceneModel, retrieval_recall
    from scenes import parse_caption, render, scenes

    name = folder or str(coca_hf.bundled_model())
    model = SceneModel(coca_hf.load(name, dtype="auto" if folder else "float32"), AutoProcessor.from_pretrained(name))
    captions = model.captions(map(render, scenes("test", count)))
    right = sum(
        parse_caption(text) == scene.facts for text, scene in zip(captions, scenes("test", count), strict=True)
    )
    recall = retrieval_recall(model, count // 100)
    typer.echo(json.dumps({"captions": captions, "right": right / count, "recall@1": recall}))


def asked(*arguments: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".onnx", ".data", ".bin", ".xml"))


def reading_rate() -> float:
    """Bytes a second that a large tensor is read with, on all threads: the floor of a decoding step."""
    numbers = torch.ones(2**27)
    return numbers.nbytes / best(numbers.sum, 3)


def speed(
    before: dict[str, Any], folder: Path, sides: Sequence[str], rows: list[str], open_clip: str | None
) -> dict[str, Any]:
    """What was measured before, with these sides and rows measured anew."""
    of_rows = [word for name in rows for word in ("--row", name)]
    measures = {
        "open_clip 3.3.0, float32": lambda: of_open_clip(str(open_clip), rows),
        "PyTorch, float32": lambda: asked("side", "float32", *of_rows),
        "PyTorch, float32, packed": lambda: asked("side", "packed", *of_rows),
        "ONNX Runtime, int8": lambda: asked("side", "exported", "--folder", str(folder), *of_rows),
    }
    found = before.get("sides", {})
    for name in sides:
        if name != "open_clip 3.3.0, float32" or open_clip is not None:
            made = measures[name]()
            old = found.get(name, {"seconds": {}, "peak bytes of captioning": None})
            found[name] = {
                "seconds": old["seconds"] | made["seconds"],
                "peak bytes of captioning": made["peak bytes of captioning"] or old["peak bytes of captioning"],
            }
    return {
        "model": NAME,
        "sides": found,
        "bytes": bytes_of(folder),
        "bytes read a second": reading_rate(),
        "threads": torch.get_num_threads(),
    }


@app.command()
def main(
    folder: Annotated[Path | None, typer.Option(help="An exported coca_ViT-B-32.")] = None,
    bundled: Annotated[Path | None, typer.Option(help="The bundled model, exported in int8.")] = None,
    count: Annotated[int, typer.Option(help="Scenes to caption.")] = 1000,
    parts: Annotated[str, typer.Option(help="speed, quality or both.")] = "both",
    side: Annotated[list[str] | None, typer.Option(help="Sides to time (default: all).")] = None,
    row: Annotated[list[str] | None, typer.Option(help="Rows to time (default: all).")] = None,
    open_clip: Annotated[str | None, typer.Option(help="Python of an environment with open_clip 3.3.0.")] = None,
) -> None:
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    scratch = Path("build/exported")
    scratch.mkdir(parents=True, exist_ok=True)
    if parts in ("speed", "both"):
        if folder is None:
            folder = scratch / "b32-int8"
        if not folder.exists():
            processor = AutoProcessor.from_pretrained(coca_hf.bundled_model())
            coca_hf.export(random_model(), folder, int8=True, processor=processor)
        results["speed"] = speed(
            results.get("speed", {}), folder, side or SIDES_OF_SPEED, row or list(ROWS), open_clip
        )
    if parts in ("quality", "both"):
        if bundled is None:
            bundled = scratch / "bundled-int8"
            coca_hf.export(coca_hf.bundled_model(), bundled, int8=True)
        plain, int8 = (
            asked("quality", "--count", str(count)),
            asked("quality", "--folder", str(bundled), "--count", str(count)),
        )
        pairs = list(zip(plain.pop("captions"), int8.pop("captions"), strict=True))
        results["quality"] = {
            "scenes": count,
            "float32": plain,
            "int8": int8,
            "unchanged": sum(first == second for first, second in pairs) / count,
            "bytes": bytes_of(bundled),
        }
    results["date"] = datetime.date.today().isoformat()
    results["processors"] = os.cpu_count()
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    typer.echo(json.dumps(results, indent=2))


if __name__ == "__main__":
    app()
