# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Kill (SIGKILL) a training run at random moments, continue it, and compare it with a run that nobody disturbed.

From each kind of data, alone and in two processes. Weights, log, measurements and card have to be, byte for byte,
those of the undisturbed run, and so has each tensor of the last checkpoint: what the optimizer remembers, and the
weights' moving average.

The command runs in forked processes, which find the libraries imported, so that all kinds of data take minutes.
"""

import io
import json
import multiprocessing
import os
import platform
import random
import shutil
import signal
import socket
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import torch
import transformers
import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from coca_hf.cli import main as main_of_the_command
from coca_hf.training.folder import RunFolder


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


# The last is the same folder, read as it comes.
SOURCES: dict[str, Callable[[Path, list[dict[str, Any]]], str]] = {
    "jsonl": json_lines,
    "csv": csv,
    "coco": coco,
    "folder": text_files,
    "tar": shard,
    "parquet": parquet,
    "dataset": saved_dataset,
    "streaming": saved_dataset,
}


def command(kind: str, data: str, output: Path, held_out: str, steps: int) -> list[str]:
    words = ["train", data, "--output", str(output), "--evaluate", held_out, "--device", "cpu", "--quiet"]
    words += ["--max-steps", str(steps), "--save-every", "3", "--log-every", "2", "--evaluate-every", str(steps // 2)]
    words += ["--batch-size", "4", "--learning-rate", "1e-4", "--ema", "0.9", "--workers", "1"]
    return [*words, "--streaming"] if kind == "streaming" else words


def run_command(rank: int, number: int, port: int, arguments: list[str]) -> None:
    """In a process of its own, one of so many that train together."""
    os.setsid()
    # As in a command that was started by hand; here it would be how this process came about.
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    if number > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(number), LOCAL_WORLD_SIZE=str(number))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true")
    finish = RunFolder.finish

    def finish_later(folder: RunFolder) -> None:
        # The last checkpoint goes at the end of a run.
        shutil.copytree(folder.checkpoints, kept_checkpoints(folder.path))
        finish(folder)

    with mock.patch.object(RunFolder, "finish", finish_later):
        sys.exit(main_of_the_command(arguments))


def kept_checkpoints(output: Path) -> Path:
    return output.with_name(f"{output.name}-checkpoints")


class Run:
    """The command, in so many processes that train together, each with its readers in a session of its own."""

    def __init__(self, arguments: list[str], number: int):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", "coca_hf.training.run", "coca_hf.cli"])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.processes = [
            context.Process(target=run_command, args=(rank, number, port, arguments)) for rank in range(number)
        ]
        for process in self.processes:
            process.start()

    def is_alive(self) -> bool:
        return any(process.is_alive() for process in self.processes)

    def kill(self) -> None:
        for process in self.processes:
            if process.is_alive():
                try:
                    os.killpg(process.pid or 0, signal.SIGKILL)
                except ProcessLookupError:  # too young to have a session
                    process.kill()
        self.codes()

    def codes(self) -> list[int | None]:
        for process in self.processes:
            process.join()
        return [process.exitcode for process in self.processes]


def kill_at(run: Run, output: Path, step: int) -> int:
    """Kills all processes somewhere behind that step -> lines that the log then had."""
    log = output / "log.jsonl"

    def lines() -> int:
        return log.read_bytes().count(b"\n") if log.exists() else 0

    while run.is_alive() and 2 * lines() < step:
        time.sleep(0.02)
    time.sleep(random.random() / 2)
    run.kill()
    return lines()


def same_tensors(one: Any, other: Any) -> bool:
    """Of nested lists and dicts, all numbers alike, to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_tensors(value, other[name]) for name, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same_tensors, one, other))
    return bool(one == other)


def same_checkpoint(one: Path, other: Path) -> dict[str, bool]:
    optimizers = (torch.load(folder / "optimizer.pt", weights_only=True) for folder in (one, other))
    averages = (load_file(folder / "average.safetensors") for folder in (one, other))
    weights = (load_file(folder / "model.safetensors") for folder in (one, other))
    found = {"optimizer": optimizers, "moving average": averages, "weights of the checkpoint": weights}
    return {name: same_tensors(*pair) for name, pair in found.items()}


def compare(work: Path, kind: str, processes: int, steps: int, times: int) -> dict[str, Any]:
    """What became of one kind of data."""
    rows = make_rows(work, 30)
    data = SOURCES[kind](work, rows)
    held_out = str(work / "held.jsonl")
    Path(held_out).write_text("".join(json.dumps(row) + "\n" for row in rows[4:8]))
    quiet, hunted = work / "quiet", work / "hunted"
    expected = Run(command(kind, data, quiet, held_out, steps), processes).codes()
    arguments = command(kind, data, hunted, held_out, steps)
    places = sorted(random.sample(range(1, steps - 2), times))
    kills = [kill_at(Run(arguments, processes), hunted, place) for place in places]
    codes = Run(arguments, processes).codes()
    equal = {name: (quiet / name).read_bytes() == (hunted / name).read_bytes() for name in COMPARED}
    last = f"checkpoint-{steps}"
    equal |= same_checkpoint(kept_checkpoints(quiet) / last, kept_checkpoints(hunted) / last)
    equal["exit code"] = codes == expected
    return {"data": kind, "processes": processes, "killed_at_lines": kills, "equal": equal}


def main(
    source: Annotated[list[str] | None, typer.Option(help="Kinds of data (default: all).")] = None,
    processes: Annotated[list[int] | None, typer.Option(help="That train together (default: 1, and 2).")] = None,
    steps: Annotated[int, typer.Option(help="Of each run.")] = 40,
    times: Annotated[int, typer.Option(help="How often a run is killed.")] = 5,
    seed: Annotated[int, typer.Option(help="Decides when.")] = 0,
    record: Annotated[Path | None, typer.Option(help="Where results go, as JSON; it keeps those of others.")] = None,
) -> None:
    """Exit code 1 where a disturbed run ends otherwise than a quiet one."""
    random.seed(seed)
    table = Table("data", "processes", "killed at lines of the log", "the same")
    results = []
    for number in processes or (1, 2):
        for kind in source or SOURCES:
            with tempfile.TemporaryDirectory(prefix="coca-training-") as work:
                results.append(compare(Path(work), kind, number, steps, times))
            same = all(results[-1]["equal"].values())
            table.add_row(kind, str(number), str(results[-1]["killed_at_lines"]), "yes" if same else "NO")
            print(results[-1], flush=True)
    Console().print(table)
    if record:
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        done = {(run["data"], run["processes"]) for run in results}
        earlier = json.loads(record.read_text("utf-8"))["runs"] if record.exists() else []
        runs = [run for run in earlier if (run["data"], run["processes"]) not in done] + results
        content = {"versions": {**versions, "transformers": transformers.__version__}, "runs": runs}
        record.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    raise typer.Exit(0 if all(all(each["equal"].values()) for each in results) else 1)


if __name__ == "__main__":
    typer.run(main)
