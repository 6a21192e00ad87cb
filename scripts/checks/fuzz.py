# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Feed random bytes and mutated real files of every format to what reads images.

Each input has to give an image or an `ImageError`. Anything else that is raised, a process that dies and one that
stands still are findings, told with the seed that makes the input again.
"""

import io
import json
import multiprocessing
import platform
import random
import resource
import struct
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import PIL
import psutil
import typer
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from coca_hf.batch_inference.errors import ImageError
from coca_hf.batch_inference.images import MAX_PIXELS, known_formats, read_image


PIECE = 200
"""Inputs that a process is given at a time."""

_MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "L", "P", "RGBA", "1", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("P", "L"),
    "BMP": ("RGB", "L", "P"),
    "TIFF": ("RGB", "L", "P", "CMYK", "1", "F"),
    "PPM": ("RGB", "L", "1"),
    "AVIF": ("RGB", "RGBA"),
    "JPEG2000": ("RGB", "L"),
    "HEIF": ("RGB", "RGBA"),
}
# Values that counts and sizes in a header go wrong with.
_AWKWARD = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


@dataclass
class Findings:
    """What became of some inputs."""

    outcomes: Counter[str] = field(default_factory=Counter)
    bugs: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    resident_mb: float = 0.0
    peak_mb: float = 0.0

    def add(self, other: "Findings") -> None:
        self.outcomes += other.outcomes
        self.bugs += other.bugs
        self.slowest = max(self.slowest, other.slowest)
        self.resident_mb = max(self.resident_mb, other.resident_mb)
        self.peak_mb = max(self.peak_mb, other.peak_mb)


@lru_cache
def real_files() -> list[tuple[str, bytes]]:
    """A file of each format and mode, with what the format can hold beside pixels."""
    files = []
    noise = Image.effect_noise((61, 43), 60).convert("RGB")
    for name in known_formats():
        for mode in _MODES[name]:
            file = io.BytesIO()
            noise.convert("L").convert("I;16").save(file, name) if mode == "I;16" else noise.convert(mode).save(
                file, name
            )
            files.append((f"{name} {mode}", file.getvalue()))
    for name, options in (("GIF", {}), ("WEBP", {}), ("PNG", {}), ("TIFF", {"compression": "tiff_lzw"})):
        file = io.BytesIO()
        noise.save(file, name, save_all=True, append_images=[noise.rotate(90), noise.rotate(180)], **options)
        files.append((f"{name} frames", file.getvalue()))
    return files


def mutated(data: bytes, chance: random.Random) -> bytes:
    """One to eight changes, most of them near the beginning, where headers are."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        if not changed:
            break
        place = min(int(chance.expovariate(1 / (len(changed) / 8))), len(changed) - 1)
        kind = chance.randrange(6)
        if kind == 0:
            changed[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            changed[place] = chance.randrange(256)
        elif kind == 2:
            packed = struct.pack(chance.choice("<>") + "I", chance.choice(_AWKWARD))[: chance.choice((1, 2, 4))]
            changed[place : place + len(packed)] = packed
        elif kind == 3:
            del changed[place : place + chance.randint(1, 64)]
        elif kind == 4:
            changed[place:place] = chance.randbytes(chance.randint(1, 32))
        else:
            del changed[chance.randrange(len(changed)) :]
    return bytes(changed)


def make_input(seed: int) -> tuple[str, bytes]:
    """-> what it is, its bytes."""
    chance = random.Random(seed)
    kind = chance.randrange(8)
    name, data = chance.choice(real_files())
    if kind == 0:
        return "random bytes", chance.randbytes(chance.randint(0, 2000))
    if kind == 1:
        # The signature leads further into a decoder.
        return f"{name}, random behind its head", data[:32] + chance.randbytes(chance.randint(0, 2000))
    return f"{name}, mutated", mutated(data, chance)


def try_inputs(seeds: range) -> Findings:
    findings = Findings()
    for seed in seeds:
        name, data = make_input(seed)
        started = time.monotonic()
        try:
            outcome = "an image" if _pixels(read_image(data)) <= MAX_PIXELS else "an image that is too large"
        except ImageError as error:
            outcome = "an error: " + _kind(str(error))
            if "\n" in str(error) or " at 0x" in str(error):
                findings.bugs.append(f"seed {seed}: not one clean line: {error!r}")
        except Exception as error:  # what is looked for
            outcome = "a bug"
            findings.bugs.append(f"seed {seed}: {error!r}")
        findings.outcomes[outcome] += 1
        findings.slowest = max(findings.slowest, (time.monotonic() - started, f"seed {seed}: {name}"))
    # Of an image that was read nothing is left here: what is measured is what stays.
    findings.resident_mb = psutil.Process().memory_info().rss / 1e6
    findings.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return findings


def _pixels(image: Image.Image) -> int:
    return image.width * image.height


def _kind(reason: str) -> str:
    if "pixels" in reason:
        return "too many pixels"
    return "broken" if reason.startswith("a broken") else reason.partition(" (")[0]


def pieces(number: int, seed: int) -> Iterator[range]:
    for start in range(seed, seed + number, PIECE):
        yield range(start, min(start + PIECE, seed + number))


def main(
    number: Annotated[int, typer.Option(help="How many inputs.")] = 120_000,
    seed: Annotated[int, typer.Option(help="The first input's.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    limit: Annotated[float, typer.Option(help="Seconds a piece of inputs may take.")] = 300,
    record: Annotated[Path | None, typer.Option(help="Where results go, as JSON.")] = None,
) -> None:
    """Exit code 1 where anything but an image or a clean error came out."""
    found, tenths = Findings(), [Findings() for _ in range(10)]
    work = list(pieces(number, seed))
    with (
        Progress(console=Console(stderr=True)) as progress,
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool,
    ):
        task = progress.add_task("fuzzing", total=number)
        futures: list[tuple[range, Future[Findings]]] = [(piece, pool.submit(try_inputs, piece)) for piece in work]
        for index, (piece, future) in enumerate(futures):
            result = future.result(timeout=limit)
            found.add(result)
            tenths[10 * index // len(work)].add(result)
            progress.advance(task, len(piece))
    summary = {
        "date": date.today().isoformat(),
        "versions": {"python": platform.python_version(), "pillow": PIL.__version__},
        "inputs": number,
        "outcomes": dict(found.outcomes.most_common()),
        "bugs": found.bugs,
        "slowest": {"seconds": round(found.slowest[0], 3), "input": found.slowest[1]},
        "memory_mb": {
            "peak": round(found.peak_mb),
            "most between inputs, by tenths of the run": [round(tenth.resident_mb) for tenth in tenths],
        },
    }
    print(json.dumps(summary, indent=2))
    if record:
        record.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    raise typer.Exit(1 if found.bugs else 0)


if __name__ == "__main__":
    typer.run(main)
