# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Which samples are in which step, and what is drawn for each: from seed and numbers alone."""

from collections import Counter

import numpy as np
import pytest

from coca_hf.batch_inference.inputs import Input
from coca_hf.image_text_data import CaptionedImage
from coca_hf.image_text_data.records import PackedRecords
from coca_hf.training.errors import TrainingOptionError
from coca_hf.training.reading import random_crop
from coca_hf.training.samples import Plan, Sample, Samples, drawn_for


def data_of(number: int, window: int | None = None) -> PackedRecords:
    records = (CaptionedImage(str(n), Input(str(n)), ("a", "b", "c")[: 1 + n % 3]) for n in range(number))
    data = PackedRecords(records, [])
    data.window = window
    return data


def steps_of(number: int, batch_size: int, accumulate: int, processes: int, steps: int) -> list[list[Sample]]:
    """Of each step, the samples of all processes, rank by rank."""
    samples = Samples(data_of(number), "one", True, 3)
    found = []
    for rank in range(processes):
        plan = Plan(samples, batch_size, accumulate, processes, rank)
        batches = list(plan.micro_batches(0, steps))
        assert len(batches) == steps * accumulate
        assert all(batches)
        found.append([batches[step * accumulate : (step + 1) * accumulate] for step in range(steps)])
    return [[sample for rank in found for batch in rank[step] for sample in batch] for step in range(steps)]


@pytest.mark.parametrize(("batch_size", "accumulate", "processes"), [(12, 1, 1), (6, 2, 1), (3, 2, 2), (4, 1, 3)])
def test_however_a_step_is_shared_out_it_holds_the_same_samples(batch_size, accumulate, processes):
    steps = steps_of(41, batch_size, accumulate, processes, 8)
    assert steps == steps_of(41, 12, 1, 1, 8)
    # 3 whole steps and one of 5 an epoch, each of whose records is there once.
    for epoch in range(2):
        seen = Counter(sample.record for step in steps[4 * epoch : 4 * epoch + 4] for sample in step)
        assert seen == Counter(range(41))
    assert [sample.record for sample in steps[0]] != [sample.record for sample in steps[4]]


def test_a_plan_can_begin_anywhere():
    plan = Plan(Samples(data_of(41), "one", True, 3), 4, 2)
    whole = list(plan.micro_batches(0, 15))
    assert list(plan.micro_batches(7, 15)) == whole[14:]
    assert [plan.samples_before(step) for step in (0, 1, 5, 6, 7)] == [0, 8, 40, 48, 56]


def test_what_is_too_little_for_every_micro_batch_is_left_out():
    plan = Plan(Samples(data_of(9), "one", False, 0), 2, 2)
    assert (plan.steps_per_epoch, plan.samples_before(2)) == (2, 8)
    with pytest.raises(TrainingOptionError, match="9 samples are too few for 5 micro-batches in 2 processes"):
        Plan(Samples(data_of(9), "one", False, 0), 2, 5, 2)


def test_all_captions_are_samples_of_their_own():
    samples = Samples(data_of(5), "all", False, 0)
    found = [samples.sample(0, number) for number in range(len(samples))]
    assert [(each.record, each.caption) for each in found] == [
        *[(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)],
        *[(3, 0), (4, 0), (4, 1)],
    ]


def test_streamed_data_is_shuffled_among_neighbours():
    order = Samples(data_of(10, window=4), "one", True, 0).order(1)
    assert [sorted(part) for part in (order[:4], order[4:8], order[8:])] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_what_is_drawn_differs_by_seed_epoch_and_record_only():
    def drawn(seed: int, epoch: int, record: int) -> float:
        return drawn_for(seed, Sample(epoch, record)).random()

    places = [(seed, epoch, record) for seed in range(3) for epoch in range(3) for record in range(3)]
    assert len({drawn(*place) for place in places}) == len(places)
    assert drawn(1, 2, 0) == drawn(1, 2, 0)


def test_crops_are_those_of_open_clips_training():
    """A share of 0.9 to 1 of the area, uniform; a shape between 3:4 and 4:3; anywhere inside."""
    random = np.random.default_rng(0)
    boxes = np.array([random_crop((400, 300), random) for _ in range(2000)])
    left, top, right, bottom = boxes.T
    assert left.min() >= 0
    assert top.min() >= 0
    assert right.max() <= 400
    assert bottom.max() <= 300
    shares = (right - left) * (bottom - top) / (400 * 300)
    ratios = (right - left) / (bottom - top)
    assert shares.min() > 0.895
    assert shares.max() <= 1
    assert ratios.min() > 0.74
    assert ratios.max() < 1.34
    # Of a picture that is too long, the largest part of an allowed shape, in the middle.
    assert random_crop((1000, 30), random) == (480, 0, 520, 30)
