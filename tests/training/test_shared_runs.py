# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Two processes train together: the same as one, and continued bit for bit."""

import json
import os
import socket
from pathlib import Path

import pytest
import torch
from PIL import Image

from coca_hf.batch_inference.progress import Progress
from coca_hf.training import train
from own_process import run_together
from tiny_folder import CORPUS, save_tiny_folder


pytestmark = pytest.mark.slow

STEPS = 7


class EndAt(Progress):
    """As a power cut behind a step."""

    def __init__(self, step: int):
        self.step, self.done = step, 0

    def advance(self, number: int) -> None:
        self.done += number
        if self.done == self.step:
            raise RuntimeError("the end")


def _train(folder: str, output: str, batch_size: int, end: int) -> None:
    torch.set_num_threads(1)
    train(
        f"{folder}/photos.jsonl",
        model=f"{folder}/model",
        output=f"{folder}/{output}",
        evaluate=f"{folder}/photos.jsonl",
        batch_size=batch_size,
        max_steps=STEPS,
        save_every=2,
        log_every=1,
        learning_rate=1e-3,
        workers=0,
        device="cpu",
        progress=EndAt(end),
    )


def _worker(rank: int, folder: str, port: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true")
    with pytest.raises(RuntimeError, match="the end"):
        _train(folder, "continued", 4, end=5)
    for output in ("continued", "once"):
        _train(folder, output, 4, end=-1)
    torch.distributed.destroy_process_group()


def test_two_processes_are_one_and_continue_bit_for_bit(tmp_path: Path):
    save_tiny_folder(tmp_path / "model")
    with open(tmp_path / "photos.jsonl", "w") as file:
        for number in range(19):
            Image.effect_noise((20, 24), 5 * number).convert("RGB").save(tmp_path / f"{number}.png")
            file.write(json.dumps({"image": f"{number}.png", "caption": CORPUS[number]}) + "\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run_together(_worker, (str(tmp_path), port), 2)
    for name in ("model.safetensors", "log.jsonl", "evaluations.jsonl", "result.json"):
        assert (tmp_path / "continued" / name).read_bytes() == (tmp_path / "once" / name).read_bytes(), name
    _train(str(tmp_path), "alone", 8, end=-1)
    alone, shared = ((tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("alone", "once"))
    assert len(alone) == STEPS
    for one, two in zip(alone, shared, strict=True):
        assert json.loads(two) == pytest.approx(json.loads(one), rel=1e-4)
