# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A run is one call that can be made again after whatever ended it, and gives what it gives undisturbed."""

import io
import json
import os
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from coca_hf.batch_inference import DatasetInputs, PathInputs, run
from coca_hf.batch_inference import containers as containers_module
from coca_hf.batch_inference.errors import OutputError
from coca_hf.batch_inference.inputs import Record
from coca_hf.batch_inference.log_writing import Entry
from coca_hf.batch_inference.summary import RunInterrupted
from width_task import WidthJob, WidthTask


PATHS = [f"{width}.png" for width in range(1, 10)]


@pytest.fixture(autouse=True)
def images(work_folder, monkeypatch) -> None:
    # Every batch goes to the disk by itself.
    monkeypatch.setattr("coca_hf.batch_inference.log_writing._SECONDS_BETWEEN_ENTRIES", 0.0)
    for width in range(1, 10):
        Image.new("RGB", (width, 4)).save(f"{width}.png")


class StoppingTask(WidthTask):
    """Ends at its batch number `at`, by `error`."""

    def __init__(self, at: int, error: type[BaseException] = KeyboardInterrupt):
        super().__init__(embeddings=True)
        self.at = at
        self.error = error

    def process(self, prepared, places):
        if len(self.batches) == self.at:
            raise self.error
        return super().process(prepared, places)


class Words:
    def __init__(self):
        self.said = []
        self.failed = []

    def options(self) -> dict:
        return {
            "progress": False,
            "say": self.said.append,
            "on_failure": lambda record: self.failed.append(record.image),
        }


class Kept:
    """A stream that keeps what it is given."""

    def __init__(self):
        self.images: list[str] = []

    def write(self, records) -> None:
        self.images += [record.image for record in records]


def job(task: WidthTask | None = None, **options) -> WidthJob:
    return WidthJob(embeddings=True, options=options, task=task)


def go(paths=PATHS, outputs=("c.jsonl", "e.npy"), the_job=None, **options):
    return run(paths, the_job or job(), outputs, batch_size=2, **{"progress": False, "workers": 0, **options})


def contents() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path().glob("*") if path.suffix in (".jsonl", ".npy", ".tar")}


def lines(path: str = "c.jsonl") -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_a_run_counts_and_names_what_failed():
    summary = go([*PATHS, "gone.png"])
    assert (summary.images, summary.failed, summary.total) == (9, 1, 10)
    assert [(record.image, record.error) for record in summary.failures] == [("gone.png", "no such file or folder")]
    assert lines()[0] == {"image": "1.png", "caption": "1 wide"}
    np.testing.assert_array_equal(np.load("e.npy")[:, 0], range(1, 10))
    assert 0 <= summary.busy_share <= 1


def test_outputs_may_be_path_objects_and_inputs_anything_that_can_be_gone_through():
    assert go((Path(path) for path in PATHS), [Path("c.jsonl")]).images == 9


def test_one_path_in_place_of_a_list_is_refused():
    with pytest.raises(TypeError, match="give a list of paths"):
        go("photos/")
    with pytest.raises(TypeError, match="give a list of paths"):
        go(PATHS, "c.jsonl")


@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, SystemExit])
def test_a_run_that_ended_at_any_batch_is_continued_to_the_same_end(at, error):
    paths = [*PATHS[:5], "gone.png", *PATHS[5:]]
    go(paths)
    undisturbed = contents()
    for path in Path().glob("*c.jsonl*"):
        path.unlink()
    Path("e.npy").unlink()
    Path("e.npy.jsonl").unlink()
    stopping = StoppingTask(at, error)
    if at < 5:
        with pytest.raises(error):
            go(paths, the_job=job(stopping))
    words = Words()
    rest = job()
    summary = go(paths, the_job=rest, **words.options())
    assert contents() == undisturbed
    assert (summary.images, summary.failed) == (9, 1)
    batches = [[1, 2], [3, 4], [5, 6], [7, 8], [9]]
    assert (stopping.batches if at < 5 else []) + (rest.task.batches if rest.task else []) == batches
    assert words.said == ([f"Resuming after {summary.resumed} existing records"] if 0 < at < 5 else [])
    assert not Path("c.jsonl.records").exists()


def test_ctrl_c_says_how_far_the_run_is():
    with pytest.raises(RunInterrupted) as interruption:
        go(the_job=job(StoppingTask(2)))
    summary = interruption.value.summary
    assert (summary.records, summary.total) == (4, 9)
    assert [line["image"] for line in lines()] == PATHS[:4]
    assert isinstance(interruption.value, KeyboardInterrupt)


def test_what_was_done_when_ctrl_c_came_is_kept_though_it_was_not_on_the_disk_yet(monkeypatch):
    monkeypatch.setattr("coca_hf.batch_inference.log_writing._SECONDS_BETWEEN_ENTRIES", 1000.0)
    with pytest.raises(RunInterrupted):
        go(the_job=job(StoppingTask(3)))
    rest = job()
    go(the_job=rest)
    assert rest.task.batches == [[7, 8], [9]]


def test_a_finished_run_is_not_done_again():
    go()
    before = contents()
    again = job()
    summary = go(the_job=again)
    assert again.task is None
    assert (summary.images, summary.failed) == (9, 0)
    assert contents() == before


def test_a_run_that_ended_between_its_last_two_steps_is_finished(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("coca_hf.batch_inference.record_log.RecordLog.remove", lambda log: None)
        go()
    go(the_job=job(StoppingTask(0)))
    assert not Path("c.jsonl.records").exists()


def test_outputs_that_were_half_made_are_made_anew(monkeypatch):
    def stop(*_, **__):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("coca_hf.batch_inference.place.write_note", stop)
        with pytest.raises(SystemExit):
            go()
    before = contents()
    Path("e.npy.jsonl").unlink()
    go(the_job=job(StoppingTask(0)))
    assert contents() == before


def test_a_finished_run_over_other_inputs_is_refused_and_nothing_is_changed():
    go()
    before = contents()
    Image.new("RGB", (1, 1)).save("aaa.png")
    with pytest.raises(OutputError, match=r"'c.jsonl' is finished, but was made from other inputs"):
        go(["aaa.png", *PATHS])
    assert contents() == before
    assert sorted(path.name for path in Path().glob("*c.jsonl*")) == [".c.jsonl.run.json", "c.jsonl"]


def test_other_choices_are_refused_and_nothing_is_changed():
    go()
    before = contents()
    with pytest.raises(
        OutputError, match=r"'c.jsonl' was made with another beams. Name another file, or remove it first"
    ):
        go(the_job=job(beams=2))
    assert contents() == before


def test_other_choices_are_refused_while_a_run_is_not_finished():
    with pytest.raises(KeyboardInterrupt):
        go(the_job=job(StoppingTask(2)))
    before = contents()
    with pytest.raises(OutputError, match=r"was made with another beams. Name another file, or remove"):
        go(the_job=job(beams=2))
    assert contents() == before


def test_an_output_behind_a_link_is_continued_and_other_choices_are_refused():
    os.mkdir("elsewhere")
    os.symlink("elsewhere/c.jsonl", "c.jsonl")
    with pytest.raises(KeyboardInterrupt):
        go(outputs=["c.jsonl"], the_job=WidthJob(task=StoppingTask(2)))
    with pytest.raises(OutputError, match="another beams"):
        go(outputs=["c.jsonl"], the_job=WidthJob(options={"beams": 2}))
    rest = WidthJob()
    go(outputs=["elsewhere/c.jsonl"], the_job=rest)
    assert rest.task.batches == [[5, 6], [7, 8], [9]]
    assert os.path.islink("c.jsonl")


def test_a_run_that_somebody_is_at_is_refused():
    class Nested(WidthTask):
        def process(self, prepared, places):
            with pytest.raises(OutputError, match=r"another run is writing to 'c.jsonl'"):
                go()
            return super().process(prepared, places)

    summary = go(the_job=job(Nested(embeddings=True)))
    assert summary.images == 9


def test_lines_of_a_finished_run_over_fewer_inputs_are_taken_over():
    go(PATHS[:5], ["c.jsonl"], WidthJob())
    words, rest = Words(), WidthJob()
    go(PATHS, ["c.jsonl"], rest, **words.options())
    assert rest.task.batches == [[6, 7], [8, 9]]
    assert words.said == ["Resuming after 5 existing records"]
    assert [line["image"] for line in lines()] == PATHS
    assert not Path("c.jsonl.before").exists()


def test_records_of_other_inputs_are_put_aside():
    go(PATHS[:5], ["c.jsonl"], WidthJob())
    words, rest = Words(), WidthJob()
    go([PATHS[0], *PATHS[4:]], ["c.jsonl"], rest, **words.options())
    assert rest.task.batches == [[5, 6], [7, 8], [9]]
    assert [line["image"] for line in lines("c.jsonl.before")] == PATHS[:5]
    assert words.said[0] == "4 records belonged to other inputs. The file as it was is c.jsonl.before"


@pytest.mark.parametrize("outputs", [(), ("e.npy",)], ids=["streams alone", "an output beside"])
def test_streams_are_given_every_record_in_order_each_time(outputs):
    for stop in (2, 3, None):
        kept = Kept()
        try:
            go(outputs=outputs, the_job=job(None if stop is None else StoppingTask(stop)), streams=[kept])
        except KeyboardInterrupt:
            assert kept.images == PATHS[: len(kept.images)]
        else:
            assert kept.images == PATHS


def test_streams_want_the_records_of_a_finished_run_too():
    go(outputs=["e.npy"])
    before, kept = contents(), Kept()
    go(outputs=["e.npy"], streams=[kept])
    assert kept.images == PATHS
    assert contents() == before


def test_a_failure_is_reported_once(tmp_path):
    words = Words()
    with pytest.raises(KeyboardInterrupt):
        go(["gone.png", *PATHS], the_job=job(StoppingTask(2)), **words.options())
    summary = go(["gone.png", *PATHS], **words.options())
    assert words.failed == ["gone.png"]
    assert [record.image for record in summary.failures] == ["gone.png"]


def test_a_shard_is_continued_in_its_middle():
    with tarfile.open("s.tar", "w") as shard:
        for path in PATHS:
            shard.add(path)
    with pytest.raises(KeyboardInterrupt):
        go(["s.tar"], the_job=job(StoppingTask(3)))
    rest = job()
    go(["s.tar"], the_job=rest)
    assert rest.task.batches == [[7, 8], [9]]
    assert rest.task.places == [(0, 6), (0, 7), (0, 8)]


def test_a_run_into_a_shard_is_finished_though_a_file_of_it_is_no_image_any_more():
    with pytest.raises(KeyboardInterrupt):
        go(outputs=["c.tar"], the_job=job(StoppingTask(2)))
    Path("1.png").write_bytes(b"replaced")
    assert go(outputs=["c.tar"]).images == 9
    with tarfile.open("c.tar") as shard:
        assert shard.getnames()[:3] == ["000000000.txt", "000000000.json", "000000001.png"]


def png(width: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, 4)).save(file, "PNG")
    return file.getvalue()


def test_rows_of_a_table_that_are_done_are_not_read_again(monkeypatch):
    table = pyarrow.table({"image": [png(width) for width in range(1, 10)]})
    pyarrow.parquet.write_table(table, "t.parquet", row_group_size=2)
    with pytest.raises(KeyboardInterrupt):
        go(["t.parquet"], the_job=job(StoppingTask(3)))
    groups = []
    read = pyarrow.parquet.ParquetFile.iter_batches

    def noted(self, *arguments, row_groups, **options):
        groups.extend(row_groups)
        return read(self, *arguments, row_groups=row_groups, **options)

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", noted)
    rest = job()
    go(["t.parquet"], the_job=rest)
    assert (rest.task.batches, groups) == ([[7, 8], [9]], [3, 4])


def test_rows_of_a_streamed_dataset_that_are_done_are_not_read_again(monkeypatch):
    monkeypatch.setattr("coca_hf.batch_inference.hf_datasets._ROWS_BETWEEN_BOOKMARKS", 2)
    features = datasets.Features({"photo": datasets.Image()})
    for number in range(8):
        stored = [{"bytes": png(2 * number + offset), "path": None} for offset in (1, 2)]
        datasets.Dataset.from_dict({"photo": stored}, features=features).to_parquet(f"set/{number}.parquet")
    inputs = DatasetInputs("set", streaming=True)
    with pytest.raises(KeyboardInterrupt):
        go(inputs, the_job=job(StoppingTask(6)))
    # The first file says what columns there are; the stream is in the sixth, and its library a file or two behind.
    for number in (1, 2, 3):
        Path(f"set/{number}.parquet").write_bytes(b"not a table any more")
    rest = job()
    summary = go(inputs, the_job=rest)
    assert (rest.task.batches, summary.images) == ([[13, 14], [15, 16]], 16)
    assert [line["image"] for line in lines()] == [f"set/train[{row}]" for row in range(16)]


def test_few_rows_of_large_images_are_in_memory_at_a_time():
    small, large = ([bytes(size)] * 64 for size in (1000, 12_000_000))
    for name, values, expected in (("small", small, 16), ("large", large[:8], 2)):
        pyarrow.parquet.write_table(
            pyarrow.table({"image": values}), f"{name}.parquet", compression="none", use_dictionary=False
        )
        with pyarrow.parquet.ParquetFile(f"{name}.parquet") as table:
            assert containers_module._rows_at_once(table, 0, "image") == expected


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_large_images_of_a_table_go_through_whole(workers):
    """1 MB each, more than any buffer between processes holds."""
    noise = np.random.default_rng(0)
    stored = []
    for width in range(580, 620):
        file = io.BytesIO()
        Image.fromarray(noise.integers(0, 256, (580, width, 3), np.uint8)).save(file, "BMP")
        stored.append(file.getvalue())
    pyarrow.parquet.write_table(pyarrow.table({"image": stored}), "t.parquet")
    go(["t.parquet"], workers=workers)
    assert [line["caption"] for line in lines()] == [f"{width} wide" for width in range(580, 620)]


def test_an_entry_that_cannot_be_written_is_not_forgotten():
    class FullLog:
        def append(self, chunks):
            raise OutputError("full")

    class Chunk:
        is_last = True

    entry = Entry(FullLog())
    with pytest.raises(OutputError):
        entry.add(Chunk())
    assert len(entry.chunks) == 1


def test_what_is_in_a_record_stays_in_it():
    assert Record("a.jpg", {"caption": "a"}).line() == {"image": "a.jpg", "caption": "a"}
    assert Record("a.jpg", error="gone").line() == {"image": "a.jpg", "error": "gone"}


def test_the_members_of_a_shard_with_other_suffixes_are_images_where_that_is_said():
    with tarfile.open("s.tar", "w") as shard:
        shard.add("7.png", "7.IMG")
    assert go(PathInputs(["s.tar"], ["img"])).images == 1
