# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A list of paths in a file stands for those paths."""

import os
from pathlib import Path

import pytest

from coca_hf.batch_inference.errors import InputError
from coca_hf.batch_inference.paths import PathList


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("content", "paths"),
    [
        (b"a.jpg\nb c.jpg\n", ["a.jpg", "b c.jpg"]),
        (b"a.jpg\r\nb.jpg\r\n", ["a.jpg", "b.jpg"]),
        (b"a.jpg\n\nb.jpg", ["a.jpg", "b.jpg"]),
        (b"a\n.jpg\0b\r.jpg\0", ["a\n.jpg", "b\r.jpg"]),
        (b"\xff.jpg\n", [os.fsdecode(b"\xff.jpg")]),
        (b"", []),
        (b"\xef\xbb\xbfa.jpg\r\nb.jpg\n", ["a.jpg", "b.jpg"]),
        ("\ufeffä.jpg\r\nb.jpg\r\n".encode("utf-16-le"), ["ä.jpg", "b.jpg"]),
        ("\ufeffä.jpg\nb.jpg".encode("utf-16-be"), ["ä.jpg", "b.jpg"]),
    ],
    ids=[
        *("lines", "lines of Windows", "no last line end", "zeros", "not UTF-8", "nothing"),
        *("UTF-8 with a mark", "UTF-16 of Windows", "UTF-16, big end first"),
    ],
)
def test_lines_are_paths(content, paths):
    Path("list").write_bytes(content)
    assert list(PathList("list")) == paths


def test_a_path_across_the_pieces_that_are_read_is_whole():
    names = [f"{number:05d}-{'x' * 90}.jpg" for number in range(3000)]
    Path("list").write_text("\n".join(names))
    assert list(PathList("list")) == names


def test_it_is_read_anew_each_time():
    Path("list").write_text("a.jpg\n")
    paths = PathList("list")
    assert list(paths) == list(paths) == ["a.jpg"]


def make_pipe() -> None:
    os.mkfifo("list")


def make_folder() -> None:
    os.mkdir("list")


@pytest.mark.parametrize(
    ("make", "reason"),
    [(lambda: None, "no such file"), (make_pipe, "a named pipe"), (make_folder, "a folder")],
    ids=["missing", "pipe", "folder"],
)
def test_what_cannot_be_a_list_is_refused(make, reason):
    make()
    with pytest.raises(InputError, match=f"cannot read the list 'list': {reason}"):
        PathList("list")
