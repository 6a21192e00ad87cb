# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Samples into batches: opened, cropped and tokenised by processes of their own, ahead of the model."""

import math
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from ..batch_inference.errors import ImageError, InputError
from ..image_processing_coca import eight_bit, resized_size, target_size
from ..image_text_data import ImageTextData
from .samples import Plan, Sample, drawn_for, drawn_for_batch


IGNORED = -100
ChangeBatch = Callable[[dict[str, torch.Tensor], np.random.Generator], dict[str, torch.Tensor]]

# torchvision's RandomResizedCrop, with the scale that open_clip trains with.
_SCALE, _RATIO, _TRIES = (0.9, 1.0), (3 / 4, 4 / 3), 10


def random_crop(size: tuple[int, int], random: np.random.Generator) -> tuple[int, int, int, int]:
    """Of an image of (width, height), the box (left, top, right, bottom) of a part of 90 to 100 % of its area."""
    width, height = size
    for _ in range(_TRIES):
        area = width * height * random.uniform(*_SCALE)
        ratio = math.exp(random.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            left, top = int(random.integers(width - across + 1)), int(random.integers(height - down + 1))
            return left, top, left + across, top + down
    # The largest part in the middle whose shape is allowed.
    across = min(width, round(height * _RATIO[1]))
    down = min(height, round(width / _RATIO[0]))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


class Batches(Dataset):
    """
    By a list of samples, their batch: the model's inputs and what became of each sample.

    `pixel_values` (images, 3, height, width), `input_ids`, `attention_mask` and `labels` (images, text), padded to the
    longest text and cut at the model's context; `labels` are -100 at padding. Beside them, `about` holds numbers and
    names of the samples' records, those that were `skipped` with their reasons, and how many captions were
    `truncated`. A sample whose image cannot be read is left out; a batch without any left takes the next record that
    can be read. `failure`, a sentence, comes in place of all where the data itself cannot be read any more.
    `change_batch` is given the model's inputs at the end and returns those to use.
    """

    def __init__(
        self,
        data: ImageTextData,
        processor: Any,
        *,
        context: int,
        crop: bool,
        seed: int,
        exact: bool = False,
        change_batch: ChangeBatch | None = None,
    ):
        self.data, self.processor = data, processor
        self.context, self.crop, self.seed, self.exact = context, crop, seed, exact
        self.change_batch = change_batch

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        try:
            return self._batch(samples)
        except InputError as error:
            # Raised here, it would reach the run as a page of traceback.
            return {"failure": str(error)}

    def _batch(self, samples: Sequence[Sample]) -> dict[str, Any]:
        taken: list[tuple[int, str, Image, str]] = []
        skipped: list[tuple[str, str]] = []
        for sample in samples:
            self._take(sample, taken, skipped)
        last = samples[-1]
        for further in range(1, len(self.data)):
            if taken:
                break
            self._take(Sample(last.epoch, (last.record + further) % len(self.data)), taken, skipped)
        if not taken:
            raise InputError(f"none of the {len(self.data):,} images can be read; {skipped[0][0]}: {skipped[0][1]}")
        records, names, images, texts = zip(*taken, strict=True)
        inputs, truncated = self._tokenised(list(texts))
        own = {"do_resize": False, "do_center_crop": False} if self.crop else {}
        pixels = self.processor.image_processor(list(images), return_tensors="pt", **own)["pixel_values"]
        about = {"records": records, "names": list(names), "skipped": skipped, "truncated": truncated}
        batch = {"pixel_values": pixels, **inputs}
        if self.change_batch is not None:
            batch = self.change_batch(batch, drawn_for_batch(self.seed, samples))
        return {**batch, "about": about}

    def _take(self, sample: Sample, taken: list[tuple[int, str, Image, str]], skipped: list[tuple[str, str]]) -> None:
        record = self.data[sample.record]
        if not record.captions:
            skipped.append((record.path, "no caption"))
            return
        try:
            image = record.open_image(None if self.exact else self._resized_size)
        except ImageError as error:
            skipped.append((record.path, str(error)))
            return
        random = drawn_for(self.seed, sample)
        number = int(random.integers(len(record.captions))) if sample.caption is None else sample.caption
        if self.crop:
            height, width = target_size(self.processor.image_processor.size)
            part = eight_bit(image).crop(random_crop(image.size, random))
            image = part.resize((width, height), self.processor.image_processor.resample)
        caption = record.captions[min(number, len(record.captions) - 1)]
        taken.append((sample.record, record.path, image, caption))

    def _resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        processor = self.processor.image_processor
        return resized_size(size, target_size(processor.size), processor.resize_mode)

    def _tokenised(self, texts: list[str]) -> tuple[dict[str, torch.Tensor], int]:
        tokenizer = self.processor.tokenizer
        lengths = [len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]]
        inputs = tokenizer(
            texts, padding=True, truncation=True, max_length=self.context, padding_side="right", return_tensors="pt"
        )
        mask = inputs["attention_mask"]
        return {
            "input_ids": inputs["input_ids"],
            "attention_mask": mask,
            "labels": inputs["input_ids"].masked_fill(mask == 0, IGNORED),
        }, sum(length > self.context for length in lengths)


class _MicroBatches(Sampler):
    """Of a plan, from one step to another. Its length is that of the whole run, which is how the library counts."""

    def __init__(self, plan: Plan, start: int, stop: int):
        self.plan, self.start, self.stop = plan, start, stop

    def __len__(self) -> int:
        return self.stop * self.plan.accumulate

    def __iter__(self) -> Iterator[list[Sample]]:
        return self.plan.micro_batches(self.start, self.stop)


def batch_loader(batches: Batches, plan: Plan, start: int, stop: int, workers: int) -> DataLoader:
    """The micro-batches of this process from step `start` to before step `stop`."""
    return DataLoader(
        batches,
        batch_sampler=_MicroBatches(plan, start, stop),
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_begin_worker,
        # Enough for a batch of slow images not to hold up the model.
        prefetch_factor=4 if workers else None,
        # It draws a seed for its workers, which must not be taken from the model's random numbers.
        generator=torch.Generator().manual_seed(0),
    )


def _as_it_is(batch: Any) -> Any:
    return batch


def _begin_worker(_number: int) -> None:
    # Ctrl-C reaches all processes of a terminal, and a request to end often all of a job; the run itself ends its
    # workers, once it has saved what is done.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
