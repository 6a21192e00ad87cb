# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Images are read in other processes, in order, and none of them can end the run."""

import io
import multiprocessing
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
from PIL import Image

import reading
from coca_hf.batch_inference.errors import InputError
from coca_hf.batch_inference.images import MAX_PIXELS
from coca_hf.batch_inference.inputs import Input
from coca_hf.batch_inference.reading import Reader, ReadingProcesses, default_processes, read_ahead


pytestmark = pytest.mark.slow


def image_of(width: int, height: int = 4) -> Input:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return Input(f"{width}.png", content=file.getvalue())


def read(inputs, processes: ReadingProcesses) -> list[int | str]:
    with closing(read_ahead(enumerate(inputs), processes, 8)) as stream:
        return [prepared.error or prepared.value for _, _, prepared in stream]


def values(inputs, prepare, **options) -> list[int | str]:
    with closing(ReadingProcesses(Reader(prepare), 2, **options)) as processes:
        return read(inputs, processes)


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
    assert found == [1, 2, "the process that read it died (exit code 3)", 3, 4, 5]


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

    with closing(ReadingProcesses(Reader(reading.width), 2)) as processes:
        stream = read_ahead(enumerate(inputs()), processes, 8)
        assert next(stream)[2].value == 1
        with pytest.raises(InputError, match="the network is gone"):
            next(stream)


def test_no_process_outlives_a_run_that_is_left_early():
    with closing(ReadingProcesses(Reader(reading.width), 2)) as processes:
        stream = read_ahead(enumerate(image_of(width) for width in range(1, 1000)), processes, 8)
        next(stream)
        stream.close()
    assert multiprocessing.active_children() == []


def test_the_same_processes_serve_one_run_after_another():
    numbers = []
    with closing(ReadingProcesses(Reader(reading.width), 2)) as processes:
        for start in (1, 5):
            inputs = [image_of(width) for width in range(start, start + 4)]
            assert read(inputs, processes) == [*range(start, start + 4)]
            numbers.append({process.pid for process in multiprocessing.active_children()})
    assert numbers[0] == numbers[1] != set()
    assert multiprocessing.active_children() == []


def test_processes_that_died_while_idle_are_replaced():
    with closing(ReadingProcesses(Reader(reading.width), 2)) as processes:
        assert read([image_of(1)], processes) == [1]
        for process in multiprocessing.active_children():
            process.kill()
            process.join()
        time.sleep(0.5)
        assert read([image_of(2), image_of(3)], processes) == [2, 3]


def test_processes_that_cannot_start_end_the_run_in_words():
    with (
        closing(ReadingProcesses(Reader(reading.Unpicklable()), 2)) as processes,
        pytest.raises(InputError, match=r"cannot be started, or die at once. Try --workers 0"),
    ):
        read([image_of(1)], processes)


@pytest.mark.timeout(120)
def test_inputs_and_answers_larger_than_any_buffer_between_processes_pass_each_other():
    """Both ways at once: 1 MB to the processes and 300 kB back, of which a socket holds some 200 kB."""
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "BMP")
    inputs = [Input(f"{number}", content=file.getvalue()) for number in range(60)]
    with closing(ReadingProcesses(Reader(reading.large_array), 2)) as processes:
        found = [prepared.value.nbytes for _, _, prepared in read_ahead(enumerate(inputs), processes, 48)]
    assert found == [316 * 316 * 3] * 60


def test_few_bytes_are_under_way_however_many_inputs_may_be():
    """Of a table with large images, not as many are in memory as there are of small ones."""
    asked = []

    def inputs() -> Iterator[Input]:
        for number in range(40):
            asked.append(number)
            yield Input(f"{number}", content=bytes(12_000_000))

    with closing(ReadingProcesses(Reader(reading.width), 1)) as processes:
        stream = read_ahead(enumerate(inputs()), processes, 48)
        next(stream)
        time.sleep(1)
        assert len(asked) <= 8
        stream.close()


def test_a_source_that_stalls_does_not_hold_up_who_leaves():
    stalled = threading.Event()

    def inputs() -> Iterator[Input]:
        yield image_of(1)
        stalled.wait(60)

    started = time.monotonic()
    with closing(ReadingProcesses(Reader(reading.width), 1)) as processes:
        stream = read_ahead(enumerate(inputs()), processes, 8)
        assert next(stream)[2].value == 1
        stream.close()
    assert time.monotonic() - started < 30
    stalled.set()


@pytest.mark.parametrize(("cores", "sharing", "workers"), [(2, 1, 2), (64, 1, 16), (64, 8, 8), (4, 8, 1)])
def test_processors_are_divided_among_those_who_share_them(monkeypatch, cores, sharing, workers):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(cores), raising=False)
    assert default_processes(sharing) == workers
