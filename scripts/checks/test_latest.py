# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Tests the package with the newest releases of everything that it needs, which no constraint holds back.

    python scripts/checks/test_latest.py [--torch torch==2.13.0] [--folder build/latest] [--workers 2]

1. An environment of what pip gives today, the package and its `dev` extra; its versions are printed.
2. A folder that it saves, loaded in a bare environment: torch, transformers, pillow and what these need, nothing else.
3. A folder saved with the oldest supported transformers, loaded with the newest, and the other way round.
4. The fast tests, transformers' common model tests among them.

`--torch` names the requirement for torch, for machines that must not take the newest one.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
CAPTION = Path(__file__).with_name("caption_saved_folder.py")
SAVE = "import sys; sys.path.insert(0, sys.argv[1]); from tiny_folder import *; save_tiny_folder(Path(sys.argv[2]))"
# What decides whether the package works; the rest of the list goes to a file.
NAMED = (
    "torch",
    "transformers",
    "huggingface_hub",
    "tokenizers",
    "safetensors",
    "numpy",
    "pillow",
    "accelerate",
    "peft",
)


class DifferentResultsError(Exception):
    """Two environments disagree about a saved folder."""


def run(*command: object, **environment: str) -> None:
    print("+", *command, flush=True)
    subprocess.run([str(part) for part in command], cwd=ROOT, env={**os.environ, **environment}, check=True)


def output_of(*command: object, **environment: str) -> str:
    print("+", *command, flush=True)
    result = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **environment},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return result.stdout


def make_environment(folder: Path, *requirements: str) -> Path:
    """The Python of a new environment with the newest releases that these requirements allow."""
    run(sys.executable, "-m", "venv", "--clear", folder)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--no-compile", "--upgrade", *requirements)
    return python


def print_versions(python: Path, file: Path) -> None:
    packages = json.loads(output_of(python, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"))
    versions = {package["name"].replace("-", "_"): package["version"] for package in packages}
    file.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()))
    listed = ", ".join(f"{name} {versions[name]}" for name in NAMED if name in versions)
    print(f"\nPython {sys.version.split()[0]}, {listed}; all of them in {file}\n", flush=True)


def oldest_transformers() -> str:
    """The lower bound that pyproject.toml states."""
    found = re.search(r'"transformers>=([0-9.]+)', (ROOT / "pyproject.toml").read_text())
    if found is None:
        raise SystemExit("test_latest: pyproject.toml states no lower bound for transformers")
    version = found.group(1)
    return version if version.count(".") > 1 else f"{version}.0"


def check_same(title: str, expected: str, found: str) -> None:
    if found != expected:
        raise DifferentResultsError(f"{title}\nexpected {expected}\nfound    {found}")
    print(f"{title}: the same ids and embeddings\n", flush=True)


def run_fast_tests(newest: Path, workers: int) -> None:
    run(newest, "scripts/checks/fetch_transformers_tests.py")
    run(newest, "-m", "pytest", "-q", "-n", workers, "--dist", "loadgroup", "-m", "not slow")


def exchange_folders(newest: Path, torch: str, folder: Path) -> None:
    """Saved folders in a bare environment, and between the oldest and the newest transformers."""
    tests = ROOT / "tests"
    oldest_packages, by_newest, by_oldest = (folder / name for name in ("oldest", "by-newest", "by-oldest"))
    for path in (oldest_packages, by_newest, by_oldest):
        shutil.rmtree(path, ignore_errors=True)
    run(newest, "-c", SAVE, tests, by_newest)
    expected = output_of(newest, CAPTION, by_newest)

    bare = make_environment(folder / "bare", torch, "transformers", "pillow")
    print_versions(bare, folder / "bare.txt")
    check_same("A saved folder in a bare environment", expected, output_of(bare, CAPTION, by_newest))

    oldest = oldest_transformers()
    requirement = f"transformers=={oldest}"
    run(newest, "-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--target", oldest_packages, requirement)
    with_oldest = {"PYTHONPATH": str(oldest_packages)}
    run(newest, "-c", SAVE, tests, by_oldest, **with_oldest)
    title = f"A folder saved with transformers {oldest}, loaded with the newest"
    check_same(title, output_of(newest, CAPTION, by_oldest, **with_oldest), output_of(bare, CAPTION, by_oldest))
    title = f"A folder saved with the newest transformers, loaded with {oldest}"
    check_same(title, expected, output_of(bare, CAPTION, by_newest, **with_oldest))


def test(torch: str, folder: Path, workers: int) -> list[str]:
    """The parts that failed. One that fails does not keep the others from running."""
    folder.mkdir(parents=True, exist_ok=True)
    newest = make_environment(folder / "newest", torch, "-e", f"{ROOT}[dev]")
    print_versions(newest, folder / "newest.txt")
    failed = []
    parts: dict[str, Callable[[], None]] = {
        "saved folders": lambda: exchange_folders(newest, torch, folder),
        "the fast tests": lambda: run_fast_tests(newest, workers),
    }
    for name, part in parts.items():
        try:
            part()
        except subprocess.CalledProcessError as error:
            failed.append(f"{name}: exit status {error.returncode} of {' '.join(error.cmd)}")
        except DifferentResultsError as error:
            failed.append(f"{name}: {error}")
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default="torch", metavar="REQUIREMENT")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "latest")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    failed = test(arguments.torch, arguments.folder.resolve(), arguments.workers)
    if failed:
        raise SystemExit("\n".join(["test_latest: FAILED", *failed]))
    print("test_latest: all parts passed")


if __name__ == "__main__":
    main()
