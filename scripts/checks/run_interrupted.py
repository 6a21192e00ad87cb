# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Kill a run over generated images again and again, continue it, and compare it with a run that nobody disturbed.

Every other time the command's processes are killed outright (SIGKILL), else asked to stop (Ctrl-C). Records and
embeddings have to be, byte for byte, those of the undisturbed run; nothing may be lost or doubled.
"""

import json
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table


sys.path.append(str(Path(__file__).resolve().parents[1] / "bundled_model"))

from scenes import make_scene, render


OUTPUTS = ("captions.jsonl", "embeddings.npy", "embeddings.npy.jsonl")


def make_images(folder: Path, number: int) -> None:
    """Small scenes; every hundredth file is no image, so that there are errors among the records."""
    folder.mkdir()
    for index in track(range(number), "making images", console=Console(stderr=True)):
        path = folder / f"{index:06d}.jpg"
        if index % 100 == 3:
            path.write_bytes(b"not an image")
        else:
            render(make_scene("test", index), 64).save(path)


def command(images: Path, output: Path, options: list[str]) -> list[str]:
    places = ["--output", str(output / OUTPUTS[0]), "--embeddings", str(output / OUTPUTS[1])]
    return [sys.executable, "-m", "coca_hf.cli", "caption", str(images), *places, *options]


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def disturb(arguments: list[str], records: Path, at: int, number: signal.Signals, log: Path) -> tuple[int, float]:
    """Starts the command, and sends it the signal once it has written `at` records -> its exit code, and how long it
    took to end."""
    with open(log, "a") as stderr:
        process = subprocess.Popen(arguments, stderr=stderr)
        while lines_in(records) < at and process.poll() is None:
            time.sleep(0.02)
        # Anywhere within a batch.
        time.sleep(random.random() / 4)
        sent = time.monotonic()
        process.send_signal(number)
        return process.wait(timeout=60), time.monotonic() - sent


def run(arguments: list[str], log: Path) -> tuple[int, float]:
    started = time.monotonic()
    with open(log, "a") as stderr:
        return subprocess.run(arguments, stderr=stderr, check=False).returncode, time.monotonic() - started


def main(
    number: Annotated[int, typer.Option(help="How many images.")] = 10_000,
    times: Annotated[int, typer.Option(help="How often the run is ended.")] = 5,
    seed: Annotated[int, typer.Option(help="Decides where.")] = 0,
    record: Annotated[Path | None, typer.Option(help="Where results go, as JSON.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="Further words of the command line.")] = None,
) -> None:
    """Interrupt a captioning run several times; exit code 1 where its output differs from that of a quiet one."""
    random.seed(seed)
    work = Path(tempfile.mkdtemp(prefix="coca-interrupted-"))
    try:
        result = compare(work, number, times, option or [])
    finally:
        shutil.rmtree(work)
    show(result)
    if record:
        record.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    raise typer.Exit(0 if result["equal"] and not result["lost"] and not result["doubled"] else 1)


def compare(work: Path, number: int, times: int, options: list[str]) -> dict[str, Any]:
    images, quiet, hunted = work / "images", work / "quiet", work / "hunted"
    make_images(images, number)
    quiet.mkdir()
    hunted.mkdir()
    log = work / "log"
    places = sorted(random.sample(range(1, max(number * 95 // 100, times + 1)), times))
    ends = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("running", total=times + 2)
        quiet_code, quiet_seconds = run(command(images, quiet, options), log)
        progress.advance(task)
        arguments = command(images, hunted, options)
        records = hunted / OUTPUTS[0]
        for index, at in enumerate(places):
            number_of = signal.SIGINT if index % 2 else signal.SIGKILL
            code, seconds = disturb(arguments, records, at, number_of, log)
            ends.append(
                {
                    "signal": number_of.name,
                    "exit_code": code,
                    "ended_within_seconds": round(seconds, 2),
                    "records": lines_in(records),
                }
            )
            progress.advance(task)
        code, seconds = run(arguments, log)
        progress.advance(task)
    names = [json.loads(line)["image"] for line in records.read_text("ascii").splitlines()]
    return {
        "date": date.today().isoformat(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "images": number,
        "undisturbed": {"exit_code": quiet_code, "seconds": round(quiet_seconds, 1)},
        "interruptions": ends,
        "last": {"exit_code": code, "seconds": round(seconds, 1)},
        "lost": number - len(set(names)),
        "doubled": len(names) - len(set(names)),
        "equal": code == quiet_code
        and all((quiet / name).read_bytes() == (hunted / name).read_bytes() for name in OUTPUTS),
    }


def show(result: dict[str, Any]) -> None:
    table = Table(title=f"{result['images']:,} images", caption=summary(result))
    for name in ("ended by", "exit code", "within seconds", "records in the file"):
        table.add_column(name, justify="right")
    for end in result["interruptions"]:
        table.add_row(
            end["signal"], str(end["exit_code"]), f"{end['ended_within_seconds']:.2f}", f"{end['records']:,}"
        )
    table.add_row("nothing", str(result["last"]["exit_code"]), "", f"{result['images'] - result['lost']:,}")
    Console().print(table)


def summary(result: dict[str, Any]) -> str:
    same = "equal to the undisturbed run's" if result["equal"] else "NOT THE SAME as the undisturbed run's"
    return f"{result['lost']} lost, {result['doubled']} doubled; records, embeddings and exit code {same}"


if __name__ == "__main__":
    typer.run(main)
