# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is in the log is there as a whole or not at all, whoever wrote it and whatever ended it."""

import os
import random
from pathlib import Path

import numpy as np
import pytest

from coca_hf.batch_inference.batches import Chunk
from coca_hf.batch_inference.errors import OutputError
from coca_hf.batch_inference.inputs import Record
from coca_hf.batch_inference.plan import Block
from coca_hf.batch_inference.record_log import LoggedRecords, RecordLog


MADE_WITH = {"model": "a"}
BLOCK = Block(0, "block-0", 0, [[f"{number}.png", None] for number in range(9)])
OTHER = Block(1, "block-1", 9, [["9.png", None]])


def record(number: int) -> Record:
    if number % 4 == 3:
        return Record(f"{number}.png", error="an empty file")
    vector = np.float32([number, number / 3])
    return Record(f"{number}.png", {"caption": f"number {number}"}, None, vector, bytes([number]) * number)


def chunk(start: int, stop: int, block: Block = BLOCK, bookmark=None) -> Chunk:
    records = [record(number) for number in range(start, stop)]
    return Chunk(block, start, records, stop == 9, bookmark)


def new_log(made_with: dict = MADE_WITH) -> RecordLog:
    log = RecordLog("out.records", "out.npy")
    log.begin(made_with, ["out.npy"])
    return log


def images(log: RecordLog, block: Block = BLOCK) -> list[str]:
    return [record.image for record in log.records(block)]


def test_records_come_back_as_they_were():
    new_log().append([chunk(0, 2), chunk(2, 9)])
    found = list(new_log().records(BLOCK))
    for number, read in enumerate(found):
        written = record(number)
        assert (read.image, read.fields, read.error) == (written.image, written.fields, written.error)
        assert read.picture == (written.picture or None)
        np.testing.assert_array_equal(read.embedding, written.embedding)
    assert len(found) == 9


def test_a_block_is_done_when_its_last_record_is_there():
    log = new_log()
    log.append([chunk(0, 4)])
    part = new_log().part(BLOCK)
    assert (part.block, part.start) == (BLOCK, 4)
    log.append([chunk(4, 9)])
    assert new_log().part(BLOCK) is None
    assert new_log().part(OTHER).start == 0


def test_the_latest_bookmark_is_kept():
    log = new_log()
    log.append([chunk(0, 2, bookmark=[2, {"row": 2}]), chunk(2, 4)])
    log.append([chunk(4, 5)])
    assert new_log().part(BLOCK).bookmark == [2, {"row": 2}]


def test_a_log_is_read_on_by_those_who_watch_it():
    watching, working = new_log(), new_log()
    working.append([chunk(0, 4)])
    assert watching.refresh() == {"block-0"}
    assert watching.refresh() == set()
    assert watching.progress(BLOCK).records == 4


@pytest.mark.parametrize(
    "pieces",
    [[(0, 9), (0, 9)], [(0, 4), (0, 9)], [(0, 4), (2, 9)], [(0, 5), (0, 4), (4, 6), (5, 9)], [(4, 9), (0, 4)]],
)
def test_two_that_did_the_same_double_nothing(pieces):
    """A process that was taken for lost goes on, and another does its block again."""
    for start, stop in pieces:
        new_log().append([chunk(start, stop)])
    log = new_log()
    assert images(log) == [f"{number}.png" for number in range(9)]
    done = log.progress(BLOCK)
    assert (done.records, done.failed, done.is_complete) == (9, 2, True)


def test_what_follows_a_gap_does_not_count():
    new_log().append([chunk(0, 2)])
    new_log().append([chunk(4, 9)])
    assert (len(images(new_log())), new_log().part(BLOCK).start) == (2, 2)


def test_records_of_any_number_of_bytes_that_reached_the_disk_are_whole():
    log = new_log()
    for start, stop in ((0, 3), (3, 5), (5, 9)):
        log.append([chunk(start, stop)])
    (path,) = Path("out.records").glob("*.log")
    whole = path.read_bytes()
    seen = set()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        seen.add(len(images(new_log())))
    assert seen == {0, 3, 5}


def test_an_entry_whose_bytes_never_reached_the_disk_is_none():
    """After a power cut a file can have its length and zeros for its end."""
    log = new_log()
    log.append([chunk(0, 3)])
    (path,) = Path("out.records").glob("*.log")
    first = path.stat().st_size
    log.append([chunk(3, 9)])
    whole = path.read_bytes()
    for place in range(first, len(whole), 11):
        path.write_bytes(whole[:place] + bytes(len(whole) - place))
        assert len(images(new_log())) == 3


def test_bytes_that_changed_at_any_place_of_the_last_entry_cost_that_entry():
    new_log().append([chunk(0, 9)])
    (path,) = Path("out.records").glob("*.log")
    whole = path.read_bytes()
    header = whole.index(b"\n") + 1
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    for place in chance.sample(range(header, len(whole)), 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert images(new_log()) == []


def test_an_entry_that_was_damaged_later_is_told_in_words():
    log = new_log()
    log.append([chunk(0, 3)])
    log.append([chunk(3, 9)])
    (path,) = Path("out.records").glob("*.log")
    path.write_bytes(path.read_bytes().replace(b'{"image": "1.png"', b"~" * 17))
    with pytest.raises(OutputError, match=r"it is damaged. Remove it to make its records again$"):
        images(new_log())


@pytest.mark.parametrize("written", [0, 1, 40, 400])
def test_a_full_disk_is_told_in_words_and_what_is_there_stays_readable(monkeypatch, written):
    log = new_log()
    log.append([chunk(0, 3)])

    def write_some(descriptor: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", fail)
        return write(descriptor, data[:written])

    def fail(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    write = os.write
    monkeypatch.setattr(os, "write", write_some)
    with pytest.raises(OutputError, match=r"^cannot write to 'out.npy': no space left on device$"):
        log.append([chunk(3, 9)])
    monkeypatch.setattr(os, "write", write)
    assert len(images(new_log())) == 3
    log.append([chunk(3, 9)])
    assert len(images(new_log())) == 9


def test_every_entry_is_on_the_disk_before_the_work_goes_on(monkeypatch):
    synced = []
    sync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size) or sync(descriptor)
    )
    log = new_log()
    for start, stop in ((0, 3), (3, 9)):
        synced.clear()
        log.append([chunk(start, stop)])
        (path,) = Path("out.records").glob("*.log")
        assert path.stat().st_size in synced


def test_records_of_other_choices_are_refused_and_named():
    new_log().append([chunk(0, 3)])
    with pytest.raises(OutputError, match=r"'out.npy' was made with another model. Name another file, or remove '"):
        new_log({"model": "b"})
    assert len(images(new_log())) == 3


def test_a_log_without_records_is_nobodys():
    new_log({"model": "b"})
    new_log()


def test_a_folder_that_is_not_ours_is_refused():
    Path("out.records").mkdir()
    Path("out.records/a.jpg").touch()
    with pytest.raises(OutputError, match=r"'out.records' exists already"):
        new_log()
    assert os.listdir("out.records") == ["a.jpg"]


def test_only_one_run_may_write_to_an_output():
    first, second = new_log(), new_log()
    first.lock()
    with pytest.raises(OutputError, match=r"another run is writing to 'out.npy'. Wait for it, or name another file"):
        second.lock()
    first.append([chunk(0, 3)])
    first.close()
    second.lock()


def test_a_log_of_nothing_leaves_nothing():
    log = new_log()
    log.lock()
    log.close()
    assert os.listdir() == []


def test_what_killed_processes_left_is_cleaned_up():
    log = new_log()
    log.append([chunk(0, 3)])
    log.tries(BLOCK)
    Path("out.records/.run.json.0123.aside").touch()
    log.clean()
    assert {Path(name).suffix for name in os.listdir("out.records")} == {".log", ".json"}


def test_records_of_all_blocks_come_in_the_order_of_the_inputs():
    log = new_log()
    log.append([Chunk(OTHER, 0, [record(9)], True)])
    log.append([chunk(0, 9)])
    records = LoggedRecords([BLOCK, OTHER], new_log()).count()
    assert [each.image for each in records] == [f"{number}.png" for number in range(10)]
    assert (records.images, records.failed) == (8, 2)
