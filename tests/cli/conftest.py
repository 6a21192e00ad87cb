# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A saved tiny model, a folder to work in, and the command in this process and in one of its own."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from PIL import Image
from transformers.utils import logging

from coca_hf.cli import console, main
from own_process import start_command
from tiny_folder import save_tiny_folder


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    return str(save_tiny_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def chance() -> random.Random:
    """For moments that are not to be the same each time; CHANCE_SEED=N plays one again."""
    seed = int(os.environ.get("CHANCE_SEED", random.randrange(2**32)))
    print(f"CHANCE_SEED={seed}")
    return random.Random(seed)


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(name="wait_for")
def wait_for_fixture() -> Callable[..., None]:
    return wait_for


@pytest.fixture
def images(folder) -> list[str]:
    """Three images in `photos/`."""
    (folder / "photos").mkdir()
    for name, colour in (("a.jpg", "red"), ("b.png", "green"), ("c.webp", "blue")):
        Image.new("RGB", (32, 24), colour).save(folder / "photos" / name)
    return ["photos/a.jpg", "photos/b.png", "photos/c.webp"]


@pytest.fixture
def coca(monkeypatch, capfd) -> Iterator[Callable[..., Result]]:
    """The command in this process, its streams captured."""
    # The whole of it would silence the libraries in all tests that follow.
    monkeypatch.setattr(console, "silence_libraries", logging.disable_progress_bar)
    monkeypatch.setattr(console, "_speaker", console.PROGRAM)

    def run(*arguments: str) -> Result:
        capfd.readouterr()
        code = main(arguments)
        return Result(code, *capfd.readouterr())

    yield run
    logging.enable_progress_bar()


@pytest.fixture
def command(monkeypatch) -> list[str]:
    """Begins the command line of a process of its own, started where the installed script starts."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return [sys.executable, "-c", "import sys, coca_hf_command; sys.exit(coca_hf_command.main())"]


@pytest.fixture
def coca_process(command) -> Callable[..., Result]:
    """The command as its users start it."""

    def run(*arguments: str | bytes, **options) -> Result:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        environment = {**os.environ, **options.pop("environment", {})}
        result = subprocess.run([*command, *arguments], env=environment, timeout=300, **options)
        return Result(result.returncode, *(os.fsdecode(stream or b"") for stream in (result.stdout, result.stderr)))

    return run


@pytest.fixture
def start(folder) -> Iterator[Callable[..., ForkServerProcess]]:
    """`start_command`, and its end."""
    started = []

    def run(*arguments: str) -> ForkServerProcess:
        started.append(start_command(*arguments))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.join()
