# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Kill workers of a run on a Ray of its own, interrupt it, continue it, and compare it with a quiet run.

Inputs are tar shards, each a block of work. Nothing may be lost or doubled, and what was written stays written.
"""

import json
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import torch
import typer
from rich.console import Console
from rich.progress import Progress

from coca_hf.batch_inference.record_log import RecordLog
from run_interrupted import lines_in, make_images, run


OUTPUTS = ("captions.jsonl", "embeddings.npy", "embeddings.npy.jsonl")


def make_shards(work: Path, number: int, size: int) -> list[str]:
    make_images(work / "images", number)
    images = sorted((work / "images").iterdir())
    shards = []
    for start in range(0, number, size):
        shards.append(str(work / f"{start // size:05d}.tar"))
        with tarfile.open(shards[-1], "w") as shard:
            for path in images[start : start + size]:
                shard.add(path, path.name)
    return shards


def command(shards: list[str], output: Path, options: list[str]) -> list[str]:
    places = ["--output", str(output / OUTPUTS[0]), "--embeddings", str(output / OUTPUTS[1])]
    return [sys.executable, "-m", "coca_hf.cli", "caption", *shards, *places, *options]


def workers_of(run: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes of a command that hold a model on its Ray."""
    found = []
    for process in psutil.Process(run.pid).children(recursive=True):
        try:
            if "MapWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue  # it has just ended
    return found


def blocks_in(output: Path) -> int:
    """How many blocks are done."""
    log = RecordLog(str(output / f"{OUTPUTS[0]}.records"))
    log.refresh()
    return sum(any(entry.is_last for entry in entries) for entries in log.entries.values())


def wait_until(condition: Callable[[], bool], run: subprocess.Popen[bytes]) -> None:
    while not condition():
        if run.poll() is not None:
            raise SystemExit(f"the command ended by itself, with exit code {run.returncode}")
        time.sleep(0.05)


def lose_workers(arguments: list[str], output: Path, places: list[int], log: Path) -> list[dict[str, Any]]:
    """Starts the command, and kills a worker at so many blocks that are done; the last time it is Ctrl-C for all."""
    losses = []
    with open(log, "a") as stderr:
        process = subprocess.Popen(arguments, stdout=stderr, stderr=stderr)
        for at in places[:-1]:
            wait_until(lambda at=at: blocks_in(output) >= at and bool(workers_of(process)), process)  # type: ignore[misc]
            workers_of(process)[0].send_signal(signal.SIGKILL)
            losses.append({"lost": "a worker", "blocks": blocks_in(output)})
        wait_until(lambda: blocks_in(output) >= places[-1], process)
        family, sent = psutil.Process(process.pid).children(recursive=True), time.monotonic()
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=60)
        seconds = round(time.monotonic() - sent, 2)
        _, orphans = psutil.wait_procs(family, timeout=20)
        if code != 130:
            raise SystemExit(f"the command went on until exit code {code} when it was interrupted")
        interruption = {"exit_code": code, "ended_within_seconds": seconds, "orphans": len(orphans)}
        losses.append({"lost": "the command, by Ctrl-C", "blocks": blocks_in(output), **interruption})
    return losses


def compare(work: Path, number: int, size: int, times: int) -> dict[str, Any]:
    shards = make_shards(work, number, size)
    quiet, hunted, log = work / "quiet", work / "hunted", work / "log"
    quiet.mkdir()
    hunted.mkdir()
    places = [len(shards) * (index + 1) // (times + 2) for index in range(times + 1)]
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("running", total=3)
        quiet_code, quiet_seconds = run(command(shards, quiet, []), log)
        progress.advance(task)
        arguments = command(shards, hunted, ["--ray", "local"])
        losses = lose_workers(arguments, hunted, places, log)
        progress.advance(task)
        written = blocks_in(hunted)
        code, seconds = run(arguments, log)
        progress.advance(task)
    names = [json.loads(line)["image"] for line in (hunted / OUTPUTS[0]).read_text("ascii").splitlines()]
    return {
        "date": date.today().isoformat(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "ray": version("ray")},
        "images": number,
        "blocks": len(shards),
        "one process, undisturbed": {"exit_code": quiet_code, "seconds": round(quiet_seconds, 1)},
        "losses": losses,
        "continued": {"exit_code": code, "seconds": round(seconds, 1), "blocks that were there": written},
        "said": log.read_text("utf-8").splitlines()[-1].replace(f"{work}/", ""),
        "lost": lines_in(quiet / OUTPUTS[0]) - len(set(names)),
        "doubled": len(names) - len(set(names)),
        "equal_records": code == quiet_code and all(text(quiet, name) == text(hunted, name) for name in OUTPUTS[::2]),
        # Shards end batches, and the last bits of a vector depend on its batch.
        "embeddings_differ_by": float(np.abs(np.load(quiet / OUTPUTS[1]) - np.load(hunted / OUTPUTS[1])).max()),
    }


def text(output: Path, name: str) -> str:
    return (output / name).read_text("ascii")


def is_good(result: dict[str, Any]) -> bool:
    complete = result["equal_records"] and not result["lost"] and not result["doubled"]
    return complete and result["embeddings_differ_by"] < 1e-5


def main(
    number: Annotated[int, typer.Option(help="How many images.")] = 3_000,
    size: Annotated[int, typer.Option(help="Images a shard.")] = 100,
    times: Annotated[int, typer.Option(help="How often a worker is killed, before the command is interrupted.")] = 2,
    record: Annotated[Path | None, typer.Option(help="Where results go, as JSON.")] = None,
) -> None:
    """Exit code 1 where the output of the disturbed run differs from that of a quiet one."""
    work = Path(tempfile.mkdtemp(prefix="coca-ray-"))
    try:
        result = compare(work, number, size, times)
    finally:
        shutil.rmtree(work)
    print(json.dumps(result, indent=2))
    if record:
        record.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    raise typer.Exit(0 if is_good(result) else 1)


if __name__ == "__main__":
    typer.run(main)
