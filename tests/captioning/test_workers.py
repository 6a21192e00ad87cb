# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Images are read in other processes, in order, and none of them can end the run."""

import io
import multiprocessing
from collections.abc import Iterator
from contextlib import closing

import pytest
from PIL import Image

import reading
from coca_hf.captioning.errors import InputError
from coca_hf.captioning.images import MAX_PIXELS
from coca_hf.captioning.sources import Input
from coca_hf.captioning.workers import IdleProcesses, Reader, default_workers, read_ahead


pytestmark = pytest.mark.slow


def image_of(width: int, height: int = 4) -> Input:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return Input(f"{width}.png", content=file.getvalue())


def values(inputs: list[Input], prepare, **options) -> list[int | str]:
    stream = read_ahead(inputs, Reader(prepare), 2, 8, **options)
    return [read.error or read.value for read in stream]


def test_what_is_read_comes_in_the_order_of_the_inputs():
    widths = [*range(1, 40)]
    assert values([image_of(width) for width in widths], reading.width) == widths


def test_errors_keep_their_places():
    inputs = [image_of(1), Input("x", error="gone"), Input("y", content=b"nothing"), image_of(2)]
    found = values(inputs, reading.width)
    assert found[:2] == [1, "gone"]
    assert "not a readable image" in str(found[2])
    assert found[3] == 2


def test_an_image_over_which_a_process_dies_costs_that_image_alone():
    found = values([image_of(width) for width in (1, 2, 50, 3, 4, 5)], reading.die_over_wide_ones)
    assert found == [1, 2, "reading it ended the process that did (exit code 3)", 3, 4, 5]


def test_an_image_that_takes_for_ever_costs_that_image_alone():
    found = values([image_of(width) for width in (1, 50, 2, 3)], reading.sleep_over_wide_ones, time_limit_seconds=3)
    assert found == [1, "reading it took longer than 3 seconds", 2, 3]


def test_large_images_are_read_as_well():
    large = image_of(MAX_PIXELS // 2048 + 2, 2048)
    assert values([image_of(1), large, image_of(2)], reading.width) == [1, (MAX_PIXELS // 2048 + 2 + 1) // 2, 2]


def test_a_defect_is_shown_with_its_traceback():
    with pytest.raises(RuntimeError, match="a defect"):
        values([image_of(1)], reading.fail)


def test_an_error_of_the_source_comes_behind_what_was_read():
    def inputs() -> Iterator[Input]:
        yield image_of(1)
        raise InputError("the network is gone")

    stream = read_ahead(inputs(), Reader(reading.width), 2, 8)
    with pytest.raises(InputError, match="the network is gone"):
        list(stream)


def test_no_process_outlives_a_run_that_is_left_early():
    stream = read_ahead((image_of(1) for _ in range(1000)), Reader(reading.width), 2, 8)
    next(stream)
    stream.close()
    assert multiprocessing.active_children() == []


def test_the_same_processes_serve_one_run_after_another():
    numbers = []
    with closing(IdleProcesses()) as idle:
        for start in (1, 5):
            inputs = [image_of(width) for width in range(start, start + 4)]
            assert values(inputs, reading.width, idle=idle) == [*range(start, start + 4)]
            numbers.append({process.pid for process in multiprocessing.active_children()})
    assert numbers[0] == numbers[1] != set()
    assert multiprocessing.active_children() == []


def test_a_process_that_died_while_idle_is_replaced():
    with closing(IdleProcesses()) as idle:
        values([image_of(1)], reading.width, idle=idle)
        for process in multiprocessing.active_children():
            process.kill()
            process.join()
        assert values([image_of(2), image_of(3)], reading.width, idle=idle) == [2, 3]


@pytest.mark.parametrize(("cores", "sharing", "workers"), [(2, 1, 2), (64, 1, 16), (64, 8, 8), (4, 8, 1)])
def test_processors_are_divided_among_those_who_share_them(monkeypatch, cores, sharing, workers):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(cores), raising=False)
    assert default_workers(sharing) == workers
