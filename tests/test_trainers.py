# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""CoCa under what users train models with: Trainer, PEFT, quantised weights, gradient checkpointing."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments

from tiny import END, PAD, START, tiny_captioner


LENGTHS = {"max_new_tokens": 5, "min_new_tokens": 5}


def make_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(1, 90, (4, 6), generator=generator)
    input_ids[:, 0], input_ids[:, -1] = START, END
    input_ids[1, -2], input_ids[1, -1] = END, PAD
    return {
        "pixel_values": torch.randn(4, 3, 16, 16, generator=generator),
        "input_ids": input_ids,
        "attention_mask": (input_ids != PAD).long(),
        "labels": input_ids.masked_fill(input_ids == PAD, -100),
    }


def rows_of(batch: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    return [{name: value[index] for name, value in batch.items()} for index in range(4)]


def settings(folder: Path) -> dict:
    return {"output_dir": str(folder), "use_cpu": True, "report_to": [], "disable_tqdm": True}


# --- evaluation ---


@torch.no_grad()
def test_predictions_for_metrics_are_the_logits_alone(tmp_path: Path):
    model, batch, seen = tiny_captioner(), make_batch(), []

    def compute_metrics(evaluated):
        seen.append(evaluated.predictions)
        return {}

    arguments = TrainingArguments(**settings(tmp_path), per_device_eval_batch_size=2)
    Trainer(model, arguments, eval_dataset=rows_of(batch), compute_metrics=compute_metrics).evaluate()
    np.testing.assert_allclose(seen[0], model(**batch).logits.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("given", ["all", "images and labels"])
def test_captions_of_an_evaluation_do_not_see_the_reference(tmp_path: Path, given):
    model, batch, seen = tiny_captioner(), make_batch(), []
    if given == "images and labels":
        batch = {name: batch[name] for name in ("pixel_values", "labels")}

    def compute_metrics(evaluated):
        seen.append(evaluated.predictions)
        return {}

    arguments = Seq2SeqTrainingArguments(
        **settings(tmp_path), per_device_eval_batch_size=2, predict_with_generate=True, generation_max_length=8
    )
    trainer = Seq2SeqTrainer(model, arguments, eval_dataset=rows_of(batch), compute_metrics=compute_metrics)
    metrics = trainer.evaluate()
    expected = model.generate(batch["pixel_values"], max_length=8)
    found = torch.tensor(seen[0])[:, : expected.shape[1]]
    assert torch.equal(found.masked_fill(found == -100, PAD), expected)
    with torch.no_grad():
        torch.testing.assert_close(metrics["eval_loss"], model(**make_batch()).loss.item(), rtol=0.2, atol=0)


@torch.no_grad()
def test_labels_alone_are_the_text():
    model, batch = tiny_captioner(), make_batch()
    expected = model(**batch)
    found = model(pixel_values=batch["pixel_values"], labels=batch["labels"])
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.contrastive_loss, expected.contrastive_loss)


# --- PEFT ---

TASK_TYPES = [None, "CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION"]


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_adapters_of_any_task_type_train_generate_and_load_again(task_type, tmp_path: Path):
    model, batch = tiny_captioner(), make_batch()
    images = {"pixel_values": batch["pixel_values"]}
    expected = model.generate(**images, **LENGTHS)
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type=task_type))
    assert torch.equal(tuned.generate(**images, **LENGTHS), expected)
    optimizer = torch.optim.SGD([value for value in tuned.parameters() if value.requires_grad], lr=0.5)
    for _ in range(2):
        tuned(**batch).loss.backward()
        optimizer.step()
    assert all(value.grad is not None for value in tuned.parameters() if value.requires_grad)
    tuned.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny_captioner(), str(tmp_path))
    with torch.no_grad():
        logits = tuned.eval()(**batch).logits
        torch.testing.assert_close(again.eval()(**batch).logits, logits, rtol=0, atol=1e-5)
        assert not torch.allclose(logits, tiny_captioner()(**batch).logits, atol=1e-3)


@pytest.mark.parametrize("task_type", [None, "FEATURE_EXTRACTION"])
def test_adapters_of_the_towers_train(task_type):
    batch = make_batch()
    del batch["labels"]
    tuned = get_peft_model(tiny_captioner().model, LoraConfig(r=2, target_modules=["q_proj"], task_type=task_type))
    tuned(**batch, return_loss=True).loss.backward()
    assert all(value.grad is not None for value in tuned.parameters() if value.requires_grad)


# --- quantised weights ---


class CalledLinear(torch.nn.Module):
    """A linear layer without a `weight` to read, as those are whose weights are of eight bits, or elsewhere."""

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        self.hidden = (linear,)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.hidden[0](inputs)


def test_linear_layers_are_only_called():
    model, batch = tiny_captioner().train(), make_batch()
    expected = model(**batch).loss
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.Linear):
                setattr(parent, name, CalledLinear(child))
    loss = model(**batch).loss
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert model.get_input_embeddings().weight.grad.abs().sum() > 0
    assert model.eval().generate(batch["pixel_values"], **LENGTHS).shape == (4, 6)


# --- copies and checkpointing ---


def test_a_copy_is_a_model_of_its_own():
    model, batch = tiny_captioner(), make_batch()
    copied = copy.deepcopy(model)
    torch.testing.assert_close(copied(**batch).loss, model(**batch).loss, rtol=0, atol=0)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert model.lm_head.weight.abs().sum() > 0


def test_gradient_checkpointing_turns_the_cache_off_and_trains_the_same(caplog):
    model, batch = tiny_captioner().train(), make_batch()
    model(**batch).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.activation_checkpointing_enable()
    outputs = model(**batch, use_cache=True)
    assert outputs.cache is None
    outputs.loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)
