# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Kill (SIGKILL) a training run at random moments, continue it, and compare it with a run that nobody disturbed.

From each kind of data, alone and in several processes. Weights, log, measurements and card have to be, byte for byte,
those of the undisturbed run, and so has the optimizer, which the run is continued from.
"""

import io
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from rich.console import Console
from rich.table import Table


sys.path.append(str(Path(__file__).resolve().parents[1] / "bundled_model"))

from scenes import caption, make_scene, render


COMPARED = ("model.safetensors", "log.jsonl", "evaluations.jsonl", "skipped.jsonl", "result.json", "README.md")


def make_rows(folder: Path, number: int) -> list[dict[str, Any]]:
    """Small scenes with two captions each; the fourth file is no image."""
    (folder / "images").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for index in range(number):
        scene = make_scene("train", index)
        name = f"images/{index:04d}.png"
        render(scene, 64).save(folder / name)
        texts = [caption(scene.facts, random.Random(f"{index} {place}")) for place in range(2)]
        rows.append({"image": name, "caption": texts})
    (folder / rows[3]["image"]).write_bytes(b"no image")
    return rows


def json_lines(folder: Path, rows: list[dict[str, Any]]) -> str:
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "data.jsonl")


def csv(folder: Path, rows: list[dict[str, Any]]) -> str:
    lines = (f"{row['image']},{text}\n" for row in rows for text in row["caption"])
    (folder / "data.csv").write_text("image,caption\n" + "".join(lines))
    return str(folder / "data.csv")


def coco(folder: Path, rows: list[dict[str, Any]]) -> str:
    images = [{"id": number, "file_name": row["image"]} for number, row in enumerate(rows)]
    texts = [{"image_id": number, "caption": text} for number, row in enumerate(rows) for text in row["caption"]]
    (folder / "data.json").write_text(json.dumps({"images": images, "annotations": texts}))
    return str(folder / "data.json")


def text_files(folder: Path, rows: list[dict[str, Any]]) -> str:
    for row in rows:
        (folder / row["image"]).with_suffix(".txt").write_text("\n".join(row["caption"]) + "\n")
    return str(folder / "images")


def shard(folder: Path, rows: list[dict[str, Any]]) -> str:
    with tarfile.open(folder / "data.tar", "w") as file:
        for number, row in enumerate(rows):
            file.add(folder / row["image"], f"{number:04d}.png")
            text = "\n".join(row["caption"]).encode()
            member = tarfile.TarInfo(f"{number:04d}.txt")
            member.size = len(text)
            file.addfile(member, io.BytesIO(text))
    return str(folder / "data.tar")


def parquet(folder: Path, rows: list[dict[str, Any]]) -> str:
    from pyarrow import Table as ArrowTable
    from pyarrow.parquet import write_table

    content = [{"image": (folder / row["image"]).read_bytes(), "caption": row["caption"]} for row in rows]
    write_table(ArrowTable.from_pylist(content), folder / "data.parquet")
    return str(folder / "data.parquet")


def saved_dataset(folder: Path, rows: list[dict[str, Any]]) -> str:
    import datasets

    content = [{"image": {"bytes": (folder / row["image"]).read_bytes()}, "caption": row["caption"]} for row in rows]
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.List(datasets.Value("string"))})
    datasets.Dataset.from_list(content, features=features).save_to_disk(str(folder / "saved"))
    return str(folder / "saved")


SOURCES: dict[str, Callable[[Path, list[dict[str, Any]]], str]] = {
    "jsonl": json_lines,
    "csv": csv,
    "coco": coco,
    "folder": text_files,
    "tar": shard,
    "parquet": parquet,
    "datasets": saved_dataset,
}


def command(data: str, output: Path, held_out: str, steps: int, processes: int) -> list[str]:
    own = [sys.executable, "-m"]
    if processes > 1:
        own = [*own, "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone", "-m"]
    words = [*own, "coca_hf.cli", "train", data, "--output", str(output), "--evaluate", held_out, "--device", "cpu"]
    words += ["--max-steps", str(steps), "--save-every", "3", "--log-every", "2", "--evaluate-every", str(steps // 2)]
    return [*words, "--batch-size", "4", "--learning-rate", "1e-4", "--ema", "0.9", "--workers", "1"]


def kill_at(arguments: list[str], output: Path, step: int) -> int:
    """Starts the command, kills all its processes somewhere behind that step -> lines that its log then had."""
    log = output / "log.jsonl"
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and (not log.exists() or 2 * log.read_bytes().count(b"\n") < step):
        time.sleep(0.02)
    time.sleep(random.random() / 2)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return log.read_bytes().count(b"\n") if log.exists() else 0


def compare(work: Path, kind: str, processes: int, steps: int, times: int) -> dict[str, Any]:
    """What became of one kind of data."""
    rows = make_rows(work, 30)
    data = SOURCES[kind](work, rows)
    held_out = str(work / "held.jsonl")
    Path(held_out).write_text("".join(json.dumps(row) + "\n" for row in rows[4:8]))
    quiet, hunted = work / "quiet", work / "hunted"
    subprocess.run(command(data, quiet, held_out, steps, processes), check=False)
    arguments = command(data, hunted, held_out, steps, processes)
    places = sorted(random.sample(range(1, steps - 2), times))
    kills = [kill_at(arguments, hunted, place) for place in places]
    code = subprocess.run(arguments, check=False).returncode
    names = [name for name in COMPARED if (quiet / name).exists()]
    equal = {name: (quiet / name).read_bytes() == (hunted / name).read_bytes() for name in names}
    return {"data": kind, "processes": processes, "killed_at_lines": kills, "code": code, "equal": equal}


def main(
    source: Annotated[list[str] | None, typer.Option(help="Kinds of data (default: all).")] = None,
    processes: Annotated[int, typer.Option(min=1, help="That train together.")] = 1,
    steps: Annotated[int, typer.Option(help="Of each run.")] = 40,
    times: Annotated[int, typer.Option(help="How often a run is killed.")] = 5,
    seed: Annotated[int, typer.Option(help="Decides when.")] = 0,
    record: Annotated[Path | None, typer.Option(help="Where results go, as JSON.")] = None,
) -> None:
    """Exit code 1 where a disturbed run ends otherwise than a quiet one."""
    random.seed(seed)
    table = Table("data", "processes", "killed at lines of the log", "the same")
    results = []
    for kind in source or SOURCES:
        work = Path(tempfile.mkdtemp(prefix="coca-training-"))
        try:
            results.append(compare(work, kind, processes, steps, times))
        finally:
            shutil.rmtree(work)
        result = results[-1]
        same = all(result["equal"].values())
        table.add_row(kind, str(processes), str(result["killed_at_lines"]), "yes" if same else "NO")
    Console().print(table)
    if record:
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        content = {"versions": {**versions, "transformers": transformers.__version__}, "runs": results}
        record.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    raise typer.Exit(0 if all(all(each["equal"].values()) for each in results) else 1)


if __name__ == "__main__":
    typer.run(main)
