# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import fetch_transformers_tests as fetching


SCRIPT = Path(fetching.__file__)


def archive(path: Path, names: list[str]) -> Path:
    """A source archive with empty files of these names."""
    with tarfile.open(path, "w:gz") as target:
        for name in names:
            target.addfile(tarfile.TarInfo(name), io.BytesIO())
    return path


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_only_the_tests_are_unpacked_and_become_a_package(tmp_path):
    source = archive(
        tmp_path / "a.tar.gz", ["t-1/setup.py", "t-1/src/tests/no.py", "t-1/tests/a.py", "t-1/tests/b/c.py"]
    )
    fetching.unpack_tests(source, tmp_path / "cache" / "t-1" / "tests")
    assert files_below(tmp_path / "cache") == {"t-1/tests/__init__.py", "t-1/tests/a.py", "t-1/tests/b/c.py"}


def test_an_archive_without_tests_is_refused_and_leaves_nothing(tmp_path):
    source = archive(tmp_path / "a.tar.gz", ["t-1/setup.py"])
    with pytest.raises(fetching.FetchError, match=r"a\.tar\.gz holds no tests/ folder"):
        fetching.unpack_tests(source, tmp_path / "cache" / "tests")
    assert files_below(tmp_path / "cache") == set()


def test_what_is_there_is_not_downloaded_again(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "download_source_archive", None)
    folder = fetching.folder_of_tests(tmp_path)
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    assert fetching.fetch(tmp_path) == folder


def test_without_a_network_the_reason_and_the_remedy_are_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(fetching.FetchError, match=r"(?s)cannot download .* pip says: .*connect to a package index"):
        fetching.fetch(tmp_path)


def test_the_tests_that_ran_are_those_of_the_installed_release():
    result = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=True)
    assert Path(result.stdout.strip()) == fetching.folder_of_tests()
