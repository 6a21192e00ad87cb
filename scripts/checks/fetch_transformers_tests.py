# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Fetches the model tests of the installed transformers release, which its wheel leaves out.

    python scripts/checks/fetch_transformers_tests.py

The source archive of exactly the installed version is downloaded with pip and its `tests/` folder unpacked to
`.cache/transformers-<version>/tests`. A version that is already there is left alone, so a second run needs no network.
"""

import importlib.metadata
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path


CACHE = Path(__file__).resolve().parents[2] / ".cache"


class FetchError(Exception):
    """The source archive could not be had, or holds no tests."""


def folder_of_tests(cache: Path = CACHE) -> Path:
    """Where the tests of the installed transformers release are, or will be."""
    return cache / f"transformers-{importlib.metadata.version('transformers')}" / "tests"


def download_source_archive(version: str, folder: Path) -> Path:
    """Path of the release's `.tar.gz` in `folder`. Raises `FetchError` with pip's own last words."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", "transformers", "--dest", str(folder), f"transformers=={version}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = sorted(folder.glob("transformers-*.tar.gz"))
    if result.returncode != 0 or not archives:
        said = (result.stderr or result.stdout).strip().splitlines() or ["nothing"]
        raise FetchError(
            f"cannot download the source archive of transformers {version}; pip says: {said[-1]}\n"
            "The common model tests need it once; connect to a package index and run this again."
        )
    return archives[0]


def unpack_tests(archive: Path, destination: Path) -> None:
    """Unpacks the archive's top-level `tests/` as `destination`, all of it or nothing."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent) as work, tarfile.open(archive) as source:
        unpacked = Path(work) / "tests"
        for member in source:
            _, *path = Path(member.name).parts
            if path[:1] == ["tests"] and member.isfile():
                target = Path(work, *path)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.extractfile(member).read())
        if not unpacked.is_dir():
            raise FetchError(f"{archive.name} holds no tests/ folder")
        # The test modules import the folder itself as a package; the archive leaves its empty __init__.py out.
        (unpacked / "__init__.py").touch()
        shutil.rmtree(destination, ignore_errors=True)
        unpacked.rename(destination)


def fetch(cache: Path = CACHE) -> Path:
    """The folder with the installed release's tests, downloaded if it is not there yet."""
    destination = folder_of_tests(cache)
    if not (destination / "__init__.py").is_file():
        with tempfile.TemporaryDirectory() as download:
            archive = download_source_archive(importlib.metadata.version("transformers"), Path(download))
            unpack_tests(archive, destination)
    return destination


if __name__ == "__main__":
    try:
        print(fetch())
    except FetchError as error:
        sys.exit(f"fetch_transformers_tests: {error}")
