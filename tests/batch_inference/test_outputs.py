# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Outputs hold every record, appear when they are complete, and take no place of anything else."""

import json
import os
import resource
import signal
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from coca_hf.batch_inference.batches import Chunk
from coca_hf.batch_inference.errors import OutputError
from coca_hf.batch_inference.files import AsideFile
from coca_hf.batch_inference.inputs import Record
from coca_hf.batch_inference.outputs import (
    FORMATS,
    Output,
    Sidecars,
    Stream,
    as_outputs,
    check_outputs,
    format_of,
    is_stream,
)
from coca_hf.batch_inference.plan import PathInputs, make_blocks
from coca_hf.batch_inference.record_log import LoggedRecords, RecordLog


BOTH = frozenset({"captions", "embeddings"})
VECTORS = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
RECORDS = [
    Record("a.jpg", {"caption": "a cat"}, embedding=VECTORS[0]),
    Record("b.jpg", error="an empty file"),
    Record("c.jpg", {"caption": "ein Bär"}, embedding=VECTORS[1]),
    Record("a.jpg", {"caption": ""}, embedding=VECTORS[2]),
]


def logged(records: Iterable[Record]) -> LoggedRecords:
    records = list(records)
    blocks = list(make_blocks(PathInputs([record.image for record in records])))
    log = RecordLog("log")
    log.begin({})
    for block in blocks:
        own = records[block.first : block.first + len(block.paths)]
        log.append([Chunk(block, 0, own, True)])
    log.refresh()
    return LoggedRecords(blocks, log).count()


def write(path: str, records: Iterable[Record] = RECORDS, content: str | None = None) -> None:
    (output,) = [Output(path, content)] if content else as_outputs([path], BOTH)
    format_of(output, BOTH).write(logged(records), output)


def check(path: str, content: str | None = None, makes: frozenset[str] = BOTH, ours=lambda path: False) -> None:
    check_outputs([Output(path, content)] if content else as_outputs([path], makes), makes, ours)


def lines(path: str = "out.jsonl") -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text("ascii").splitlines()]


@pytest.fixture
def file_size_limit():
    """Files can grow to 1000 bytes, as on a disk that is nearly full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores the signal already, but a test runner may not.
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_line_of_json_for_each_record():
    write("out.jsonl")
    assert lines() == [
        {"image": "a.jpg", "caption": "a cat"},
        {"image": "b.jpg", "error": "an empty file"},
        {"image": "c.jpg", "caption": "ein Bär"},
        {"image": "a.jpg", "caption": ""},
    ]


def test_a_name_that_is_not_utf8_survives_in_json():
    write("out.jsonl", [Record(os.fsdecode(b"\xff\n.jpg"), {"caption": ""})])
    assert os.fsencode(lines()[0]["image"]) == b"\xff\n.jpg"


def test_an_array_has_a_row_for_each_image_and_beside_it_stands_which_is_whose():
    write("out.npy")
    array = np.load("out.npy", mmap_mode="r")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, VECTORS)
    assert lines("out.npy.jsonl") == [
        {"image": "a.jpg", "row": 0},
        {"image": "b.jpg", "error": "an empty file"},
        {"image": "c.jpg", "row": 1},
        {"image": "a.jpg", "row": 2},
    ]


def test_an_array_of_no_images_is_empty():
    write("out.npy", RECORDS[1:2])
    assert np.load("out.npy").size == 0
    assert lines("out.npy.jsonl") == [{"image": "b.jpg", "error": "an empty file"}]


def test_a_table_of_embeddings_has_a_row_for_each_input():
    write("out.parquet", content="embeddings")
    table = pyarrow.parquet.read_table("out.parquet").to_pydict()
    assert table["image"] == ["a.jpg", "b.jpg", "c.jpg", "a.jpg"]
    assert table["error"] == [None, "an empty file", None, None]
    assert table["embedding"][1] is None
    np.testing.assert_array_equal(np.float32([table["embedding"][row] for row in (0, 2, 3)]), VECTORS)


def test_a_table_of_captions_has_a_row_for_each_input():
    write("out.parquet")
    assert pyarrow.parquet.read_table("out.parquet").to_pydict() == {
        "image": ["a.jpg", "b.jpg", "c.jpg", "a.jpg"],
        "caption": ["a cat", None, "ein Bär", ""],
        "error": [None, "an empty file", None, None],
    }


def test_a_table_is_written_in_pieces(monkeypatch):
    monkeypatch.setattr("coca_hf.batch_inference.outputs._GROUP_SIZE", 2)
    write("out.parquet")
    assert pyarrow.parquet.ParquetFile("out.parquet").metadata.num_row_groups == 2
    assert pyarrow.parquet.read_table("out.parquet").num_rows == 4


def test_a_name_that_is_not_utf8_is_escaped_in_a_table():
    write("out.parquet", [Record(os.fsdecode("ä".encode() + b"\xff.jpg"), {"caption": ""})])
    assert pyarrow.parquet.read_table("out.parquet")["image"].to_pylist() == ["ä\\xff.jpg"]


def test_a_shard_holds_images_captions_and_records_and_of_what_went_away_the_caption():
    for name in ("a.jpg", "replaced.jpg"):
        Image.new("RGB", (4, 4)).save(name, "PNG")
    records = [
        Record("a.jpg", {"caption": "a cat"}),
        Record("gone.jpg", {"caption": "a dog"}),
        Record("replaced.jpg", {"caption": "a cow"}),
        Record("b.jpg", error="an empty file"),
    ]
    Path("replaced.jpg").write_bytes(b"no image any more")
    write("out.tar", records)
    with tarfile.open("out.tar") as shard:
        members = {member.name: shard.extractfile(member).read() for member in shard}
    assert list(members) == [
        "000000000.png",
        *(f"{number:09d}.{suffix}" for number in range(3) for suffix in ("txt", "json")),
        "000000003.json",
    ]
    assert members["000000000.png"] == Path("a.jpg").read_bytes()
    assert members["000000002.txt"] == b"a cow"
    assert json.loads(members["000000003.json"]) == {"image": "b.jpg", "error": "an empty file"}


@pytest.mark.parametrize("path", ["out.jsonl", "out.npy", "out.parquet", "out.tar"])
def test_what_cannot_be_finished_leaves_nothing(path, file_size_limit):
    os.mkdir("here")
    vectors = np.ones((1, 50_000), np.float32)
    records = [Record("a.jpg", {"caption": "x" * 50_000}, embedding=vectors[0])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LoggedRecords, "__iter__", lambda self: iter(records))
        patch.setattr(LoggedRecords, "with_content", lambda self: iter(records))
        (output,) = as_outputs([f"here/{path}"], BOTH)
        with pytest.raises(OutputError, match=rf"^cannot write to 'here/{path}': file too large$"):
            format_of(output, BOTH).write(LoggedRecords([], RecordLog("log"), 1), output)
    assert os.listdir("here") == []


def test_every_format_is_documented_and_has_a_row_of_its_own():
    assert len({(row.content, row.suffix) for row in FORMATS}) == len(FORMATS)
    assert all(row.write.__doc__ or row.content == "report" for row in FORMATS)


def test_a_new_name_is_a_fine_output_and_checking_leaves_nothing_behind():
    check("new.jsonl")
    check("new.npy")
    assert os.listdir() == []


def test_an_empty_file_is_a_fine_output():
    Path("empty.jsonl").touch()
    check("empty.jsonl")
    assert os.listdir() == ["empty.jsonl"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("taken.jsonl", "'taken.jsonl' exists already"),
        ("taken.npy", "'taken.npy.jsonl' exists already"),
        ("folder.jsonl", "it is a folder"),
        ("folder.jsonl/", "it is a folder"),
        ("nowhere/out.jsonl", "there is no folder 'nowhere'"),
        ("taken.jsonl/out.jsonl", "not a directory"),
        ("out.txt", "the name has to end in .jsonl"),
        ("out", "the name has to end in .jsonl"),
        ("x" * 300 + ".jsonl", "file name too long"),
        ("/dev/null", "it is not a regular file"),
        ("/proc/out.jsonl", "cannot write to '/proc/out.jsonl': "),
        ("page.html", "'page.html' exists already"),
    ],
)
def test_an_output_that_cannot_be_is_refused_in_words(path, reason):
    for name in ("taken.jsonl", "taken.npy.jsonl", "page.html"):
        Path(name).write_text("my notes\n")
    Path("folder.jsonl").mkdir()
    with pytest.raises(OutputError, match=reason):
        check(path)
    assert Path("taken.jsonl").read_text() == "my notes\n"


@pytest.mark.parametrize(
    ("path", "makes", "suffixes"),
    [
        ("out.csv", {"embeddings"}, ".npy or .parquet"),
        ("out.csv", {"captions"}, ".jsonl or .parquet or .tar"),
        ("out.tar", {"labels"}, ".jsonl"),
    ],
)
def test_a_suffix_that_a_job_cannot_fill_is_refused(path, makes, suffixes):
    with pytest.raises(OutputError, match=f"the name has to end in {suffixes}$"):
        check(path, makes=frozenset(makes))


def test_an_output_of_what_is_not_made_is_refused():
    with pytest.raises(OutputError, match="the run makes no embeddings"):
        check("out.npy", makes=frozenset({"captions"}))


@pytest.mark.parametrize(
    "paths",
    [["e.npy.jsonl", "e.npy"], ["a.jsonl", "./a.jsonl"], ["a.jsonl", "link.jsonl"], ["a.jsonl", "d/../a.jsonl"]],
)
def test_a_file_that_two_outputs_want_is_refused(paths):
    os.mkdir("d")
    os.symlink("a.jsonl", "link.jsonl")
    with pytest.raises(OutputError, match="is given for two outputs"):
        check_outputs(as_outputs(paths, BOTH), BOTH, lambda path: False)


def test_a_table_without_pyarrow_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(OutputError, match=r"pip install 'coca-hf\[parquet\]'"):
        check("out.parquet")


def test_one_path_in_place_of_a_list_of_outputs_is_refused():
    with pytest.raises(TypeError, match="give a list of paths"):
        as_outputs("out.jsonl", BOTH)


@pytest.mark.parametrize(("path", "expected"), [("/dev/null", True), ("-", True), ("out.jsonl", False), (".", False)])
def test_devices_and_pipes_are_streams(path, expected):
    assert is_stream(path) is expected


def test_a_stream_has_a_line_as_soon_as_it_is_written():
    stream = Stream("out.jsonl")
    stream.write(RECORDS[:1])
    assert len(lines()) == 1
    stream.write(RECORDS[1:])
    assert len(lines()) == 4


def test_a_full_disk_leaves_whole_lines(file_size_limit):
    stream = Stream("out.jsonl")
    stream.write([Record("a.jpg", {"caption": "x" * 400})])
    with pytest.raises(OutputError, match=r"^cannot write to 'out.jsonl': file too large$"):
        stream.write([Record("b.jpg", {"caption": "x" * 300}), Record("c.jpg", {"caption": "x" * 400})])
    assert [line["image"] for line in lines()] == ["a.jpg", "b.jpg"]


def test_an_interruption_in_the_middle_of_a_line_leaves_whole_lines(monkeypatch):
    stream = Stream("out.jsonl")
    stream.write(RECORDS[:1])
    write = os.write

    def interrupted(descriptor: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", interrupt)
        return write(descriptor, data[:10])

    def interrupt(descriptor: int, data: bytes) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stream.write(RECORDS[1:])
    assert lines() == [{"image": "a.jpg", "caption": "a cat"}]


def test_a_reader_that_went_away_is_not_an_output_error():
    reading, writing = os.pipe()
    stream = Stream(f"/dev/fd/{writing}")
    os.close(writing)
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        stream.write(RECORDS)


def test_captions_stand_beside_their_images_and_what_is_there_is_kept():
    for name in ("a.jpg", "c.jpg"):
        Path(name).touch()
    Path("c.txt").write_text("my own words\n")
    for _ in range(2):
        sidecars = Sidecars()
        sidecars.write([*RECORDS[:3], Record("shard.tar/d.jpg", {"caption": "a dog"})])
    assert Path("a.txt").read_text() == "a cat\n"
    assert Path("c.txt").read_text() == "my own words\n"
    # What this run wrote before an interruption is not somebody else's.
    assert (sidecars.written, sidecars.kept) == (0, 1)
    assert sorted(os.listdir()) == ["a.jpg", "a.txt", "c.jpg", "c.txt"]


def test_captions_replace_what_stands_beside_their_images_where_that_is_wanted():
    Path("c.jpg").touch()
    Path("c.txt").write_text("my own words\n")
    Sidecars(replace=True).write(RECORDS[2:3])
    assert Path("c.txt").read_text("utf-8") == "ein Bär\n"


def test_a_file_aside_appears_when_it_is_complete():
    with AsideFile("out.npy") as aside:
        aside.write(b"half")
        assert not Path("out.npy").exists()
        aside.write(b" and half")
        aside.commit()
    assert Path("out.npy").read_bytes() == b"half and half"
    assert os.listdir() == ["out.npy"]


def test_a_file_aside_that_is_not_complete_leaves_nothing():
    with AsideFile("out.npy") as aside:
        aside.write(b"half")
    assert os.listdir() == []


def test_a_file_aside_is_on_the_disk_before_it_has_its_name(monkeypatch):
    happened = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: happened.append("sync") or sync(file))
    monkeypatch.setattr(os, "replace", lambda *paths: happened.append("name") or replace(*paths))
    with AsideFile("out.npy") as aside:
        aside.write(b"all")
        aside.commit()
    # The last one is the folder's, which holds the name.
    assert happened == ["sync", "name", "sync"]


def test_files_aside_of_one_name_do_not_meet():
    """Processes in containers can have the same numbers."""
    first, second = AsideFile("out.npy"), AsideFile("out.npy")
    first.write(b"first")
    second.write(b"second")
    first.commit()
    second.close()
    assert Path("out.npy").read_bytes() == b"first"


def test_a_file_aside_goes_through_a_link():
    Path("real").mkdir()
    os.symlink("real/out.npy", "out.npy")
    with AsideFile("out.npy") as aside:
        aside.write(b"all")
        aside.commit()
    assert os.path.islink("out.npy")
    assert Path("real/out.npy").read_bytes() == b"all"


def test_a_file_aside_has_the_rights_of_an_ordinary_file():
    Path("ordinary").touch()
    with AsideFile("out.npy") as aside:
        aside.commit()
    assert Path("out.npy").stat().st_mode == Path("ordinary").stat().st_mode
