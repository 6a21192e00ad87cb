# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Runs what the documentation shows: `python documented.py FOLDER PAGE...` works through the pages in one process.

Blocks marked `python` and `bash` run from top to bottom, in a folder of the page's own; those marked otherwise are
only shown. The folder holds what the pages speak of: see `make_workspace`. Prints a line of JSON for each page: its
name, and what went wrong or null.
"""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
COMMAND = "import sys, coca_hf_command; sys.exit(coca_hf_command.main())"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `line` is that of its first line of code."""

    page: str
    language: str
    line: int
    code: str


def pages() -> list[str]:
    """The README, the contributor's page and the site's, as paths from the repository's root."""
    site = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return [name for name in ("README.md", "CONTRIBUTING.md") if (ROOT / name).exists()] + site


def blocks_of(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.finditer(r"^( *)```([a-z]*)[^\n]*\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE)
    blocks = []
    for match in found:
        indent = match[1]
        code = "".join(line.removeprefix(indent) for line in match[3].splitlines(keepends=True))
        blocks.append(Block(page, match[2], text.count("\n", 0, match.start(3)) + 1, code))
    return blocks


def commands_in(block: Block) -> list[str]:
    """Lines of a shell, with continued ones joined, without comments and without a prompt."""
    lines = block.code.replace("\\\n", " ").splitlines()
    bare = (re.sub(r"(^|\s)#\s.*", "", line).strip().removeprefix("$ ") for line in lines)
    return [line for line in bare if line]


def make_workspace(folder: Path) -> None:
    """
    What the pages' examples find in the folder that they run in.

    `photo.jpg`; `photos/` with six pictures, two of them in `photos/summer/`; `captioned.jsonl` with a caption for
    each; `shards/0000.tar` and `shards/0001.tar`, WebDataset shards of the same with `.txt` members; `labels.txt`.
    """
    import coca_hf

    examples = [path for path in coca_hf.example_images() if path.suffix in (".jpg", ".png")][:6]
    (folder / "photos" / "summer").mkdir(parents=True)
    (folder / "shards").mkdir()
    shutil.copyfile(examples[0], folder / "photo.jpg")
    records = []
    for number, example in enumerate(examples):
        place = Path("photos", "summer" if number > 3 else "", example.name)
        shutil.copyfile(example, folder / place)
        text = "a drawing of " + example.stem.replace("-", " ")
        records.append({"image": place.as_posix(), "caption": text})
        with tarfile.open(folder / "shards" / f"{number // 3:04d}.tar", "a") as shard:
            shard.add(example, f"{number:06d}{example.suffix}")
            member = tarfile.TarInfo(f"{number:06d}.txt")
            member.size = len(text)
            shard.addfile(member, io.BytesIO(text.encode()))
    (folder / "captioned.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "labels.txt").write_text("a red circle\na blue square\nthree yellow stars\n")


def run_page(page: str, folder: Path) -> None:
    """Raises what the first block that fails raises, with the block's place."""
    make_workspace(folder)
    names = {"__name__": "__documentation__"}
    with working_in(folder):
        for block in blocks_of(page):
            if block.language == "python":
                code = compile("\n" * (block.line - 1) + block.code, block.page, "exec")
                exec(code, names)
            elif block.language == "bash":
                run_shell(block)


def run_shell(block: Block) -> None:
    """`coca-hf` lines in this process, where the libraries are loaded; a block with anything else in a shell."""
    import shlex

    from coca_hf.cli import main

    lines = commands_in(block)
    if all(re.fullmatch(r"coca-hf [^|>&;$]*", line) for line in lines):
        for line in lines:
            if code := main(shlex.split(line)[1:]):
                raise RuntimeError(f"{block.page}:{block.line}: '{line}' ended with {code}")
        return
    shell = ["bash", "-euo", "pipefail", "-c", block.code]
    done = subprocess.run(shell, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{block.page}:{block.line}: ended with {done.returncode}: {done.stdout}{done.stderr}")


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """As `contextlib.chdir`, which Python 3.10 lacks."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def put_command_on_path(folder: Path) -> None:
    """`coca-hf` for shells, of the package that this process imports."""
    folder.mkdir()
    script = folder / "coca-hf"
    script.write_text(f"#!{sys.executable}\n{COMMAND}\n")
    script.chmod(0o755)
    os.environ["PATH"] = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])


def main(folder: Path, names: list[str]) -> None:
    import torch

    torch.set_num_threads(1)
    put_command_on_path(folder / "bin")
    outcome = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what examples print is not the outcome
    for name in names:
        error, start = None, time.process_time()
        try:
            run_page(name, folder / name.replace("/", "-"))
        except BaseException:
            error = traceback.format_exc()
        print(json.dumps({"page": name, "error": error}), file=outcome, flush=True)
        print(f"{name}: {time.process_time() - start:.1f} s of this process", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
