# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Exported models beside PyTorch: speed, memory, size and floors of coca_ViT-B-32; captions of the bundled model.

    python benchmarks/exported.py                      # into benchmarks/exported.json
    python benchmarks/exported.py --folder EXPORTED    # an exported coca_ViT-B-32 that is there already

Weights of coca_ViT-B-32 are random. Every side runs in a process of its own, on as many threads; times are the best of
several calls, taken in turn with nothing else running.
"""

import datetime
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import AutoProcessor

import coca_hf
from coca_hf.conversion import open_clip_config


RESULTS = Path(__file__).with_name("exported.json")
SCENES = Path(__file__).parents[1] / "scripts" / "bundled_model"
NAME = "coca_ViT-B-32"
CAPTION = {"num_beams": 6, "max_new_tokens": 30, "min_new_tokens": 30}

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
def side(kind: str, folder: str = "") -> None:
    """Times of one side, as JSON: "float32" and "packed" are PyTorch, "exported" is what is in the folder."""
    if kind == "exported":
        model: Any = coca_hf.load(folder)
    else:
        model = random_model()
        if kind == "packed":
            model = coca_hf.optimize_for_inference(model)
    random = torch.Generator().manual_seed(0)
    pixel_values = torch.randn(8, 3, 224, 224, generator=random)
    texts = torch.randint(1, 49000, (64, 12), generator=random)
    with torch.inference_mode():
        captioning = best(lambda: model.generate(pixel_values[:2], **CAPTION), 3)
        # What a process that captions needs, libraries included.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        rows = {
            "2 images, 6 beams, 30 tokens": captioning,
            "vision tower, 8 images": best(lambda: model.get_image_features(pixel_values), 3),
            "64 texts of 12 tokens": best(lambda: model.get_text_features(texts), 3),
        }
    typer.echo(json.dumps({"seconds": rows, "peak bytes of captioning": peak}))


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


@app.command()
def main(
    folder: Annotated[Path | None, typer.Option(help="An exported coca_ViT-B-32.")] = None,
    bundled: Annotated[Path | None, typer.Option(help="The bundled model, exported in int8.")] = None,
    count: Annotated[int, typer.Option(help="Scenes to caption.")] = 1000,
    parts: Annotated[str, typer.Option(help="speed, quality or both.")] = "both",
) -> None:
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    scratch = Path("build/exported")
    scratch.mkdir(parents=True, exist_ok=True)
    if parts in ("speed", "both"):
        if folder is None:
            folder = scratch / "b32-int8"
            processor = AutoProcessor.from_pretrained(coca_hf.bundled_model())
            coca_hf.export(random_model(), folder, int8=True, processor=processor)
        sides = {
            "PyTorch, float32": asked("side", "float32"),
            "PyTorch, float32, packed": asked("side", "packed"),
            "ONNX Runtime, int8": asked("side", "exported", "--folder", str(folder)),
        }
        results["speed"] = {
            "model": NAME,
            "sides": sides,
            "bytes": bytes_of(folder),
            "bytes read a second": reading_rate(),
            "threads": torch.get_num_threads(),
        }
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
