# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Records arrive whole or not at all, and nothing that is there already is touched."""

import io
import json
import os
import resource
import signal
from pathlib import Path

import pytest

from coca_hf.captioning.errors import OutputError
from coca_hf.captioning.runner import Record
from coca_hf.captioning.sinks import AsideFile, JsonLinesSink, LineSink, check_output


RECORDS = [Record("a.jpg", result="a cat"), Record("b.jpg", error="an empty file"), Record("c.jpg", result="ein Bär")]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


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


def json_sink(path: str = "out.jsonl") -> JsonLinesSink:
    return JsonLinesSink(path, lambda caption: {"caption": caption})


def lines(path: str = "out.jsonl") -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text("ascii").splitlines()]


def test_a_new_name_is_a_fine_output():
    check_output("new.jsonl", [".jsonl"])


def test_checking_leaves_nothing_behind():
    check_output("new.jsonl", [".jsonl"])
    assert os.listdir() == []


def test_an_empty_file_is_a_fine_output():
    Path("empty.jsonl").touch()
    check_output("empty.jsonl", [".jsonl"])


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("taken.jsonl", "exists already"),
        ("folder.jsonl", "it is a folder"),
        ("folder.jsonl/", "it is a folder"),
        ("nowhere/out.jsonl", "there is no folder 'nowhere'"),
        ("taken.jsonl/out.jsonl", "not a directory"),
        ("out.txt", "the name has to end in .jsonl"),
        ("out", "the name has to end in .jsonl"),
        ("x" * 300 + ".jsonl", "file name too long"),
        ("/dev/null", "it is not a regular file"),
        ("/proc/out.jsonl", "cannot write to '/proc/out.jsonl': "),
    ],
)
def test_an_output_that_cannot_be_is_refused_in_words(path, reason):
    Path("taken.jsonl").write_text("my notes\n")
    Path("folder.jsonl").mkdir()
    with pytest.raises(OutputError, match=reason):
        check_output(path, [".jsonl"])
    assert Path("taken.jsonl").read_text() == "my notes\n"


@pytest.mark.parametrize("path", ["/dev/null", "-"])
def test_records_may_go_to_streams(path):
    check_output(path, [".jsonl"], streams=True)


def test_a_line_of_json_for_each_record():
    sink = json_sink()
    sink.write(RECORDS)
    assert lines() == [
        {"image": "a.jpg", "caption": "a cat"},
        {"image": "b.jpg", "error": "an empty file"},
        {"image": "c.jpg", "caption": "ein Bär"},
    ]


def test_a_name_that_is_not_utf8_survives_in_json():
    json_sink().write([Record(os.fsdecode(b"\xff\n.jpg"), result="")])
    assert os.fsencode(lines()[0]["image"]) == b"\xff\n.jpg"


def test_records_are_in_the_file_as_soon_as_they_are_written():
    sink = json_sink()
    sink.write(RECORDS[:1])
    assert len(lines()) == 1
    sink.write(RECORDS[1:])
    assert len(lines()) == 3


def test_a_full_disk_leaves_whole_lines(file_size_limit):
    sink = json_sink()
    sink.write([Record("a.jpg", result="x" * 400)])
    with pytest.raises(OutputError, match=r"^cannot write to 'out.jsonl': file too large$"):
        sink.write([Record("b.jpg", result="x" * 300), Record("c.jpg", result="x" * 400)])
    assert [line["image"] for line in lines()] == ["a.jpg", "b.jpg"]


def test_an_interruption_in_the_middle_of_a_line_leaves_whole_lines(monkeypatch):
    sink = json_sink()
    sink.write(RECORDS[:1])
    write = os.write

    def interrupted(descriptor: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", interrupt)
        return write(descriptor, data[:10])

    def interrupt(descriptor: int, data: bytes) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sink.write(RECORDS[1:])
    assert lines() == [{"image": "a.jpg", "caption": "a cat"}]


def test_a_reader_that_went_away_is_not_an_output_error():
    reading, writing = os.pipe()
    sink = json_sink(f"/dev/fd/{writing}")
    os.close(writing)
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        sink.write(RECORDS)


def test_lines_leave_errors_out():
    stream = io.StringIO()
    LineSink(stream, lambda record: f"{record.image}: {record.result}").write(RECORDS)
    assert stream.getvalue() == "a.jpg: a cat\nc.jpg: ein Bär\n"


def test_a_full_stream_is_an_output_error():
    stream = open("/dev/full", "w")  # noqa: SIM115 - closing writes what is left, which cannot work
    with pytest.raises(OutputError, match="no space left on device"):
        LineSink(stream, str).write(RECORDS)
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def test_a_file_aside_appears_when_it_is_complete():
    aside = AsideFile("out.npy")
    aside.write(b"half")
    assert not Path("out.npy").exists()
    aside.write(b" and half")
    aside.commit()
    aside.close()
    assert Path("out.npy").read_bytes() == b"half and half"
    assert os.listdir() == ["out.npy"]


def test_a_file_aside_that_is_not_complete_leaves_nothing():
    aside = AsideFile("out.npy")
    aside.write(b"half")
    aside.close()
    assert os.listdir() == []


def test_a_file_aside_goes_through_a_link():
    Path("real").mkdir()
    os.symlink("real/out.npy", "out.npy")
    aside = AsideFile("out.npy")
    aside.write(b"all")
    aside.commit()
    assert os.path.islink("out.npy")
    assert Path("real/out.npy").read_bytes() == b"all"


def test_a_file_aside_has_the_rights_of_an_ordinary_file():
    Path("ordinary").touch()
    aside = AsideFile("out.npy")
    aside.commit()
    assert Path("out.npy").stat().st_mode == Path("ordinary").stat().st_mode


def test_a_full_disk_is_an_output_error_of_the_name_that_was_given(file_size_limit):
    aside = AsideFile("out.npy")
    with pytest.raises(OutputError, match=r"^cannot write to 'out.npy': file too large$"):
        aside.write(b"x" * 100_000)
    aside.close()
    assert os.listdir() == []
