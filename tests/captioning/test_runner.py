# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Batches keep the order of the inputs and hold what can be read; the rest is a record with its reason."""

from pathlib import Path

import pytest
from PIL import Image

from coca_hf.captioning.runner import Record, run
from coca_hf.captioning.sources import Input


class WidthTask:
    """The result of an image is its width; remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def prepare(self, image: Image.Image) -> int:
        return image.width

    def process(self, prepared: list[int]) -> list[str]:
        self.batches.append(prepared)
        return [f"{width} wide" for width in prepared]


@pytest.fixture
def image(tmp_path):
    def save(width: int) -> Input:
        path = tmp_path / f"{width}.png"
        Image.new("L", (width, 2)).save(path)
        return Input(str(path))

    return save


def test_every_input_has_its_record_in_order(image, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    inputs = [image(3), Input("gone", "no such file"), image(4), Input(str(broken)), image(3), image(5)]
    records = [record for group in run(inputs, WidthTask(), batch_size=2) for record in group]
    assert [record.image for record in records] == [item.path for item in inputs]
    assert [record.result for record in records] == ["3 wide", None, "4 wide", None, "3 wide", "5 wide"]
    assert [record.error is None for record in records] == [True, False, True, False, True, True]


def test_batches_hold_images_only_and_are_full(image):
    task = WidthTask()
    inputs = [
        image(1),
        Input("gone", "no such file"),
        image(2),
        image(3),
        Input("gone", "no such file"),
        image(4),
        image(5),
    ]
    list(run(inputs, task, batch_size=2))
    assert task.batches == [[1, 2], [3, 4], [5]]


def test_errors_alone_are_passed_on_at_once(image):
    stream = run([Input("gone", "no such file"), image(1)], WidthTask(), batch_size=8)
    assert next(stream) == [Record("gone", error="no such file")]


def test_errors_do_not_pile_up_behind_a_batch_that_is_not_full(image):
    inputs = (image(1) if number == 0 else Input("gone", "no such file") for number in range(5000))
    assert max(len(group) for group in run(inputs, WidthTask(), batch_size=8)) <= 1008


def test_a_task_without_images_is_never_asked(image):
    task = WidthTask()
    list(run([Input("gone", "no such file")], task, batch_size=2))
    assert task.batches == []


def test_a_file_that_goes_away_before_its_turn_is_an_error(image):
    inputs = [image(1), image(2)]
    stream = run(inputs, WidthTask(), batch_size=1)
    next(stream)
    Path(inputs[1].path).unlink()
    assert next(stream) == [Record(inputs[1].path, error="no such file or folder")]


def test_a_record_carries_the_picture_that_was_asked_for(image):
    ((record,),) = run([image(7)], WidthTask(), batch_size=1, picture=lambda image: image.size)
    assert record.picture == (7, 2)


def test_a_defect_of_the_task_is_raised(image):
    class Broken(WidthTask):
        def process(self, prepared: list[int]) -> list[str]:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(run([image(1)], Broken(), batch_size=1))


def test_a_task_that_loses_a_result_is_a_defect(image):
    class Forgetful(WidthTask):
        def process(self, prepared: list[int]) -> list[str]:
            return []

    with pytest.raises(ValueError, match="shorter"):
        list(run([image(1)], Forgetful(), batch_size=1))
