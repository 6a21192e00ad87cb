# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Batches keep the order of the inputs and hold what can be read; the rest is a record with its reason."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from PIL import Image

from coca_hf.batch_inference.batches import Chunk, Part, run_batches
from coca_hf.batch_inference.plan import PathInputs, make_blocks
from coca_hf.batch_inference.reading import Reader
from width_task import WidthTask


@pytest.fixture(autouse=True)
def images(work_folder) -> None:
    for width in range(1, 8):
        Image.new("L", (width, 2)).save(f"{width}.png")
    Path("broken.png").write_bytes(b"no picture")


def chunks(paths: Iterable[str], task: WidthTask, batch_size: int, block_size: int = 512, **options) -> list[Chunk]:
    parts = [Part(block) for block in make_blocks(PathInputs(list(paths)), block_size)]
    return list(run_batches(parts, task, batch_size, **options))


def test_every_input_has_its_record_in_order():
    paths = ["3.png", "gone", "4.png", "broken.png", "3.png", "5.png"]
    records = [record for chunk in chunks(paths, WidthTask(), 2) for record in chunk.records]
    assert [record.image for record in records] == paths
    captions = [record.fields.get("caption") for record in records]
    assert captions == ["3 wide", None, "4 wide", None, "3 wide", "5 wide"]
    assert [record.error is None for record in records] == [True, False, True, False, True, True]


def test_batches_hold_images_only_and_are_full():
    task = WidthTask()
    chunks(["1.png", "gone", "2.png", "3.png", "gone", "4.png", "5.png"], task, 2)
    assert task.batches == [[1, 2], [3, 4], [5]]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_the_batch_size_is_that_of_every_batch_but_the_last(batch_size):
    task = WidthTask()
    chunks([f"{width}.png" for width in range(1, 8)], task, batch_size)
    assert [len(batch) for batch in task.batches[:-1]] == [batch_size] * ((7 - 1) // batch_size)


def test_a_batch_never_holds_images_of_two_blocks():
    task = WidthTask()
    done = chunks(["1.png", "2.png", "3.png", "4.png", "5.png"], task, 2, block_size=3)
    assert task.batches == [[1, 2], [3], [4, 5]]
    # That a block has no more shows behind its last input.
    assert [(chunk.block.number, chunk.start, len(chunk.records), chunk.is_last) for chunk in done] == [
        (0, 0, 2, False),
        (0, 2, 1, True),
        (1, 0, 2, False),
        (1, 2, 0, True),
    ]


def test_every_image_has_a_place_of_its_own_whatever_the_blocks():
    paths = ["1.png", "gone", "2.png", "3.png"]
    found = []
    for block_size in (1, 2, 512):
        task = WidthTask()
        chunks(paths, task, 2, block_size)
        found.append(task.places)
    assert found == [[(0, 0), (2, 0), (3, 0)]] * 3


def test_a_block_is_continued_with_the_batches_that_it_would_have_had():
    (block,) = make_blocks(PathInputs([f"{width}.png" for width in range(1, 8)]))
    task = WidthTask()
    (rest, end) = run_batches([Part(block, 4)], task, 2)
    assert task.batches == [[5, 6], [7]]
    assert (rest.start, end.start, end.is_last) == (4, 6, True)


def test_errors_do_not_pile_up_behind_a_batch_that_is_not_full():
    paths = ["1.png", *["gone"] * 5000]
    assert max(len(chunk.records) for chunk in chunks(paths, WidthTask(), 8, block_size=10_000)) <= 1008


def test_a_task_without_images_is_never_asked():
    task = WidthTask()
    chunks(["gone"], task, 2)
    assert task.batches == []


def test_a_file_that_goes_away_before_its_turn_is_an_error():
    (block,) = make_blocks(PathInputs(["1.png", "2.png"]))
    stream = run_batches([Part(block)], WidthTask(), 1)
    next(stream)
    Path("2.png").unlink()
    (record,) = next(stream).records
    assert (record.image, record.error) == ("2.png", "no such file or folder")


def test_a_record_carries_the_picture_that_was_asked_for():
    task = WidthTask()
    reader = Reader(task.prepare, picture=lambda image: bytes(image.size))
    done = chunks(["7.png"], task, 1, reader=reader)
    assert done[0].records[0].picture == bytes([7, 2])


def test_a_defect_of_the_task_is_raised():
    class Broken(WidthTask):
        def process(self, prepared, places):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        chunks(["1.png"], Broken(), 1)


def test_a_task_that_loses_a_result_is_a_defect():
    class Forgetful(WidthTask):
        def process(self, prepared, places):
            return []

    with pytest.raises(ValueError, match="shorter"):
        chunks(["1.png"], Forgetful(), 1)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.cr2", "RAW files are not read: export it as JPEG, PNG or TIFF"),
        ("a.PSD", "Photoshop files are not read: export it as JPEG, PNG or TIFF"),
    ],
)
def test_a_picture_of_a_format_that_is_not_read_is_named_whatever_is_in_it(name, reason):
    # A RAW file is a TIFF file whose first picture is a thumbnail.
    Image.new("RGB", (4, 4)).save(name, "TIFF")
    (chunk,) = chunks([name], WidthTask(), 1)
    assert chunk.records[0].error == reason


def test_a_photograph_of_a_phone_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setattr("coca_hf.batch_inference.images.known_formats", lambda: ["JPEG"])
    Path("a.heic").write_bytes(b"x")
    (chunk,) = chunks(["a.heic"], WidthTask(), 1)
    assert chunk.records[0].error == "HEIF files need pillow-heif: pip install 'coca-hf[heif]'"
