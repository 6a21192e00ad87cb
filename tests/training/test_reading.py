# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What reads ahead of the model: readers that signals do not reach, and what a program does to each batch."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coca_hf.image_text_data import open_image_text_data
from coca_hf.training import train
from coca_hf.training.reading import Batches, batch_loader
from coca_hf.training.samples import Plan, Samples
from tiny_folder import CORPUS, save_tiny_folder, tiny_processor


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    with open(tmp_path / "photos.jsonl", "w") as file:
        for number in range(6):
            Image.effect_noise((20, 24), 5 * number).convert("RGB").save(tmp_path / f"{number}.png")
            file.write(json.dumps({"image": f"{number}.png", "caption": CORPUS[number]}) + "\n")
    return tmp_path / "photos.jsonl"


def test_readers_leave_signals_to_the_run(photos):
    data = open_image_text_data(photos)
    batches = Batches(data, tiny_processor(), context=24, crop=True, seed=0)
    plan = Plan(Samples(data, "one", True, 0), batch_size=2)
    loader = iter(batch_loader(batches, plan, 0, 40, workers=1))
    found = [next(loader)]
    (reader,) = multiprocessing.active_children()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(reader.pid, number)
    found += loader
    assert len(found) == 40


def hide_words(batch: dict[str, torch.Tensor], random: np.random.Generator) -> dict[str, torch.Tensor]:
    hidden = torch.from_numpy(random.random(batch["input_ids"].shape) < 0.3) & (batch["labels"] != -100)
    return {**batch, "labels": batch["labels"].masked_fill(hidden, -100)}


def test_a_changed_batch_is_what_the_model_learns_and_the_same_each_time(photos, tmp_path):
    save_tiny_folder(tmp_path / "model")
    logs = {}
    for name, change, workers in (("plain", None, 0), ("changed", hide_words, 0), ("again", hide_words, 1)):
        train(
            photos,
            model=tmp_path / "model",
            output=tmp_path / name,
            batch_size=3,
            max_steps=2,
            log_every=1,
            learning_rate=1e-3,
            device="cpu",
            workers=workers,
            change_batch=change,
        )
        logs[name] = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
    assert logs["changed"] == logs["again"]
    assert all(a["caption_loss"] != b["caption_loss"] for a, b in zip(logs["plain"], logs["changed"], strict=True))
    assert logs["plain"][0]["contrastive_loss"] == logs["changed"][0]["contrastive_loss"]
