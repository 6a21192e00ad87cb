# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Our training is open_clip's, step by step: recordings of scripts/fixtures/record_open_clip_training_fixtures.py.

`PYTHONPATH=tests python tests/training/test_open_clip_trajectory.py b32` prints how far coca_ViT-B-32 is from its own
recording, which is not kept: minutes, and 5 GB of memory.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import TrainingArguments

from coca_hf.conversion.model_config import open_clip_config
from coca_hf.conversion.weights import entries, from_open_clip, to_open_clip
from coca_hf.modeling_coca import CoCaForCaptioning
from coca_hf.training.trainer import CoCaTrainer
from fixtures.open_clip import recipe
from fixtures.open_clip_training import cases


FIXTURES = Path(cases.__file__).parent
TOLERANCE = 1e-4
CASES = cases.cases(recipe)


def recorded(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(FIXTURES / f"{name}.safetensors", framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return json.loads(file.metadata()["recording"]), tensors


def collate(rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Texts no longer than they are, where open_clip's fill the context."""
    pixel_values, ids = map(torch.stack, zip(*rows, strict=True))
    ids = ids[:, : int((ids != 0).sum(1).max())]
    mask = (ids != 0).long()
    return {
        "pixel_values": pixel_values,
        "input_ids": ids,
        "attention_mask": mask,
        "labels": ids.masked_fill(mask == 0, -100),
    }


def train(name: str, folder: Path, micro_batches: int = 1) -> tuple[Tensor, dict[str, Tensor]]:
    """-> losses of each step as open_clip logs them, (steps, 2), and the weights then, in its names."""
    case, shapes = CASES[name], recorded(name)[0]["shapes"]
    config = open_clip_config(case.config)
    table, model = entries(config), CoCaForCaptioning(config)
    model.load_state_dict(from_open_clip(table, recipe.state_dict(shapes)))
    arguments = TrainingArguments(
        str(folder),
        max_steps=case.steps,
        per_device_train_batch_size=case.batch_size // micro_batches,
        gradient_accumulation_steps=micro_batches,
        train_sampling_strategy="sequential",
        learning_rate=case.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=case.warmup_steps,
        weight_decay=cases.WEIGHT_DECAY,
        adam_beta1=cases.BETAS[0],
        adam_beta2=cases.BETAS[1],
        adam_epsilon=cases.EPSILON,
        max_grad_norm=cases.CLIP_NORM,
        logging_steps=1,
        save_strategy="no",
        remove_unused_columns=False,
        use_cpu=True,
        disable_tqdm=True,
        report_to=[],
    )
    examples = list(zip(*cases.examples(case, recipe), strict=True))
    trainer = CoCaTrainer(model, arguments, data_collator=collate, train_dataset=examples)
    trainer.train()
    lines = [line for line in trainer.state.log_history if "caption_loss" in line]
    weights = torch.tensor([cases.CAPTION_LOSS_WEIGHT, cases.CONTRASTIVE_LOSS_WEIGHT])
    losses = torch.tensor([[line["caption_loss"], line["contrastive_loss"]] for line in lines]) * weights
    return losses, to_open_clip(table, model.state_dict())


def differences(name: str, folder: Path, micro_batches: int = 1) -> tuple[Tensor, dict[str, float]]:
    """-> relative ones of each step's losses, (steps, 2), and the largest absolute one of each weight."""
    _, expected = recorded(name)
    losses, weights = train(name, folder, micro_batches)
    loss_differences = (losses - expected["losses"]).abs() / expected["losses"]
    found = {}
    for key, tensor in expected.items():
        if key.startswith("weights/"):
            weight = weights[key.removeprefix("weights/")]
            weight = weight if weight.shape == tensor.shape else cases.sampled(weight)
            found[key] = (weight.reshape(tensor.shape) - tensor).abs().max().item()
    return loss_differences, found


@pytest.mark.parametrize(("name", "micro_batches"), [("tiny", 1), ("tiny", 2), ("b32_shape", 1)])
def test_fifty_steps_are_those_of_open_clip(name, micro_batches, tmp_path: Path):
    losses, weights = differences(name, tmp_path, micro_batches)
    assert losses.shape == (50, 2)
    assert losses.max() <= TOLERANCE
    assert max(weights.values()) <= TOLERANCE


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        of_losses, of_weights = differences(sys.argv[1], Path(scratch))
    worst = max(of_weights, key=of_weights.__getitem__)
    print(f"losses: {of_losses.max():.2e} of {len(of_losses)} steps; weights: {of_weights[worst]:.2e} ({worst})")
