# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Several processes train as one: exact accumulation, Trainer with DDP and with FSDP2."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainingArguments

from coca_hf.training.accumulation import ExactAccumulation
from coca_hf.training.trainer import CoCaTrainer
from own_process import run_together
from tiny import tiny_captioner
from training.test_accumulation import assert_same, gradients, make_batch, split, whole


# Images of the micro-batches of each process.
SIZES = {2: ((3, 2), (2, 1)), 4: ((2, 1), (1, 1), (1, 2), (2, 2))}


def join(rank: int, folder: str, number: int) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(number), LOCAL_WORLD_SIZE=str(number))
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=number
    )


def _accumulate(rank: int, folder: str, number: int) -> None:
    join(rank, folder, number)
    model = DistributedDataParallel(tiny_captioner().train().double())
    sizes = SIZES[number]
    batch = make_batch(sum(map(sum, sizes)), texts_per_image=2)
    parts = split(batch, [size for own in sizes for size in own])[2 * rank : 2 * rank + 2]
    num_items = (batch["labels"][:, 1:] != -100).sum()
    rows_and_columns = []

    def seen(logits: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        rows_and_columns.append(logits.shape)
        return cross_entropy(logits, *args, **kwargs)

    cross_entropy, F.cross_entropy = F.cross_entropy, seen
    with model.no_sync():
        accumulation = ExactAccumulation(model, parts)
    # A row for each text of this process; images and texts of all processes.
    rows, images = 2 * sum(sizes[rank]), sum(map(sum, sizes))
    assert rows_and_columns == [(rows, images), (rows, 2 * images)]
    for part, context in zip(parts, (model.no_sync, torch.enable_grad), strict=True):
        with context(), accumulation.next() as add_gradients:
            outputs = model(**part, return_loss=False, num_items_in_batch=num_items)
            # DDP averages what has to be added up.
            add_gradients(number * outputs.loss, outputs).backward()
    torch.save((accumulation.contrastive_loss, gradients(model.module)), f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("number", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_each_process_computes_its_rows_and_all_get_the_gradients_of_one(number, tmp_path: Path):
    run_together(_accumulate, (str(tmp_path), number), number)
    model = tiny_captioner().train().double()
    outputs, expected = whole(model, make_batch(sum(map(sum, SIZES[number])), texts_per_image=2))
    for rank in range(number):
        loss, found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        torch.testing.assert_close(loss, outputs.contrastive_loss.detach(), rtol=1e-6, atol=0)
        assert_same(found, expected, 1e-6)


# --- Trainer ---

FSDP2 = {"fsdp": True, "fsdp_config": {"version": 2}}


def train(
    folder: str, output: str, micro_batches: int, batch_size: int, resumed_from: str | None = None, **settings: Any
) -> CoCaTrainer:
    """Five steps of eight images of which the processes have their parts, saved after the third."""
    model = tiny_captioner()
    arguments = TrainingArguments(
        f"{folder}/{output}",
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=micro_batches,
        max_steps=5,
        train_sampling_strategy="sequential",
        learning_rate=1e-3,
        warmup_steps=2,
        weight_decay=0.1,
        adam_epsilon=1e-6,
        logging_steps=1,
        save_steps=3,
        remove_unused_columns=False,
        use_cpu=True,
        disable_tqdm=True,
        report_to=[],
        **settings,
    )
    batch = make_batch(24)
    rows = [{name: value[index] for name, value in batch.items()} for index in range(24)]
    trainer = CoCaTrainer(model, arguments, train_dataset=rows)
    trainer.train(resumed_from)
    return trainer


def losses(trainer: CoCaTrainer) -> Tensor:
    names = ("loss", "caption_loss", "contrastive_loss", "grad_norm", "learning_rate")
    lines = [line for line in trainer.state.log_history if "loss" in line]
    return torch.tensor([[line[name] for name in names] for line in lines])


def full(parameter: Tensor) -> Tensor:
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


def assert_weights(trainer: CoCaTrainer, expected: dict[str, Tensor]) -> None:
    for name, value in trainer.model.named_parameters():
        weight = full(value.detach())
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=2e-5, msg=lambda text, n=name: n + text)


def _train(rank: int, folder: str, settings: dict[str, Any], resumed_from: str) -> None:
    join(rank, folder, 2)
    torch.set_num_threads(1)
    expected = torch.load(f"{folder}/expected.pt", weights_only=True)
    trainer = train(folder, "together", micro_batches=2, batch_size=2, **settings)
    torch.testing.assert_close(losses(trainer), expected["losses"], rtol=1e-4, atol=0)
    assert_weights(trainer, expected["weights"])
    resumed = train(folder, "resumed", micro_batches=2, batch_size=2, resumed_from=resumed_from, **settings)
    assert resumed.state.global_step == 5
    assert_weights(resumed, expected["weights"])
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("settings", [{}, FSDP2], ids=["DDP", "FSDP2"])
def test_two_processes_do_the_steps_of_one_and_read_its_checkpoints_as_it_reads_theirs(settings, tmp_path: Path):
    alone = train(str(tmp_path), "alone", micro_batches=1, batch_size=8)
    expected = {"losses": losses(alone), "weights": {n: p.detach() for n, p in alone.model.named_parameters()}}
    torch.save(expected, tmp_path / "expected.pt")
    run_together(_train, (str(tmp_path), settings, f"{tmp_path}/alone/checkpoint-3"), 2)
    theirs = tmp_path / "together" / "checkpoint-3"
    before = sorted(path.name for path in theirs.iterdir())
    again = train(str(tmp_path), "again", micro_batches=1, batch_size=8, resumed_from=str(theirs))
    assert again.state.global_step == 5
    assert_weights(again, expected["weights"])
    assert sorted(path.name for path in theirs.iterdir()) == before
    assert sorted(path.name for path in theirs.parent.iterdir()) == ["checkpoint-3", "checkpoint-5"]
