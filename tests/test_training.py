# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Losses and gradients: by hand, accumulated, across processes, through Trainer and PEFT."""

import math
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments

from coca_hf.losses_coca import contrastive_loss
from coca_hf.modeling_coca import CoCaForCaptioning
from own_process import run_together
from tiny import END, START, tiny_captioner


LENGTHS = (6, 4, 8, 5)


def make_batch(seed: int = 0) -> dict[str, torch.Tensor]:
    """Four images with captions of different lengths; in the labels, the start token and padding are -100."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(1, 90, (4, 8), generator=generator)
    attention_mask = (torch.arange(8) < torch.tensor(LENGTHS)[:, None]).long()
    input_ids[:, 0] = START
    input_ids[torch.arange(4), torch.tensor(LENGTHS) - 1] = END
    input_ids = input_ids * attention_mask
    return {
        "pixel_values": torch.randn(4, 3, 16, 16, generator=generator),
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": input_ids.masked_fill((attention_mask == 0) | (input_ids == START), -100),
    }


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: parameter.grad.clone() for name, parameter in parameters.items()}


def test_the_caption_loss_is_the_mean_cross_entropy_of_each_next_token():
    model, batch = tiny_captioner(), make_batch()
    outputs = model(**batch)
    log_probs = outputs.logits.log_softmax(dim=-1)
    scores = [
        log_probs[row, position, batch["input_ids"][row, position + 1]]
        for row, length in enumerate(LENGTHS)
        for position in range(length - 1)
    ]
    torch.testing.assert_close(outputs.caption_loss, -torch.stack(scores).mean())


def test_the_contrastive_loss_is_symmetric_cross_entropy_over_the_batch():
    model, batch = tiny_captioner(), make_batch()
    outputs = model(**batch)
    similarity = outputs.image_embeds @ outputs.text_embeds.t() * model.model.logit_scale.exp()
    by_hand = -(similarity.log_softmax(dim=0).diagonal() + similarity.log_softmax(dim=1).diagonal()).mean() / 2
    torch.testing.assert_close(outputs.contrastive_loss, by_hand)


@pytest.mark.parametrize(("caption_weight", "contrastive_weight"), [(2.0, 1.0), (1.0, 0.0), (0.0, 3.0)])
def test_the_loss_is_weighted_as_configured(caption_weight, contrastive_weight):
    model = tiny_captioner(caption_loss_weight=caption_weight, contrastive_loss_weight=contrastive_weight)
    outputs = model(**make_batch())
    expected = caption_weight * outputs.caption_loss + contrastive_weight * outputs.contrastive_loss
    torch.testing.assert_close(outputs.loss, expected)


def test_shift_labels_replace_labels():
    model, batch = tiny_captioner(), make_batch()
    shifted = F.pad(batch["labels"][:, 1:], (0, 1), value=-100)
    expected = model(**batch)
    outputs = model(**{**batch, "labels": None}, shift_labels=shifted)
    torch.testing.assert_close(outputs.loss, expected.loss)


@pytest.mark.parametrize("is_training", [True, False])
def test_labels_leave_the_logits_in_the_output(is_training):
    outputs = tiny_captioner().train(is_training)(**make_batch())
    assert outputs.logits.shape == (4, 8, 99)


@pytest.mark.parametrize("side", ["left", "right"])
def test_more_padding_changes_neither_losses_nor_gradients(side):
    model, batch = tiny_captioner(), make_batch()
    padding = (5, 0) if side == "left" else (0, 5)
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    padded = {name: F.pad(batch[name], padding, value=value) for name, value in fill.items()}
    model(**batch).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    outputs = model(**{**batch, **padded})
    outputs.loss.backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_every_parameter_gets_a_gradient():
    model = tiny_captioner().train()
    model(**make_batch()).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(use_reentrant):
    model, batch = tiny_captioner().train(), make_batch()
    model(**batch).loss.backward()
    expected = gradients(model)
    model.zero_grad()
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    model(**batch).loss.backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_patches_are_dropped_in_training_only():
    model = tiny_captioner(vision_config={"patch_dropout": 0.5})
    pixel_values = make_batch()["pixel_values"]
    assert model.eval().model.vision_model(pixel_values).last_hidden_state.shape[1] == 1 + 16
    assert model.train().model.vision_model(pixel_values).last_hidden_state.shape[1] == 1 + 8


def _contrastive_worker(rank: int, world_size: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    features = torch.load(f"{folder}/features.pt", weights_only=True)
    images, texts = (part.chunk(world_size)[rank].clone().requires_grad_() for part in features)
    everyone = torch.distributed.group.WORLD
    image_embeds, text_embeds = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
    loss = contrastive_loss(image_embeds, text_embeds, torch.tensor(5.0), group=everyone)
    loss.backward()
    # As distributed data parallel averages them.
    torch.save((loss.detach(), images.grad / world_size, texts.grad / world_size), f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def test_processes_share_one_contrastive_loss_and_its_gradient(tmp_path: Path):
    features = torch.randn(2, 6, 12, generator=torch.Generator().manual_seed(0))
    torch.save(features, tmp_path / "features.pt")
    images, texts = (part.clone().requires_grad_() for part in features)
    expected = contrastive_loss(F.normalize(images, dim=-1), F.normalize(texts, dim=-1), torch.tensor(5.0))
    expected.backward()
    run_together(_contrastive_worker, (2, str(tmp_path)), 2)
    results = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for loss, _, _ in results:
        torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(torch.cat([result[1] for result in results]), images.grad)
    torch.testing.assert_close(torch.cat([result[2] for result in results]), texts.grad)


class Captions(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: value[index] for name, value in make_batch().items()}


def train(model: torch.nn.Module, folder: Path, **arguments) -> Trainer:
    defaults = {"learning_rate": 1e-2, "per_device_train_batch_size": 4, "use_cpu": True, "report_to": [], "seed": 0}
    trainer = Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder), save_strategy="no", **{**defaults, **arguments}),
        train_dataset=Captions(),
        eval_dataset=Captions(),
    )
    trainer.train()
    return trainer


def test_trainer_trains_both_losses_and_evaluates(tmp_path: Path):
    model = tiny_captioner()
    before = model(**make_batch())
    trainer = train(model, tmp_path, max_steps=30)
    after = model.eval()(**make_batch())
    assert after.caption_loss < before.caption_loss / 2
    assert after.contrastive_loss < before.contrastive_loss
    metrics = trainer.evaluate()
    assert math.isclose(metrics["eval_loss"], after.loss.item(), rel_tol=1e-4)


def test_accumulated_batches_weigh_each_caption_token_alike(tmp_path: Path):
    whole, parts = (tiny_captioner(contrastive_loss_weight=0.0) for _ in range(2))
    train(whole, tmp_path, max_steps=1, optim="sgd")
    train(parts, tmp_path, max_steps=1, optim="sgd", per_device_train_batch_size=1, gradient_accumulation_steps=4)
    for (name, expected), parameter in zip(whole.named_parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-4, atol=1e-5, msg=name)


def test_accumulated_batches_average_the_contrastive_loss():
    model, batch = tiny_captioner(), make_batch()
    num_items = (batch["labels"] != -100).sum()
    halves = [{name: value[part] for name, value in batch.items()} for part in (slice(0, 2), slice(2, 4))]
    shares = [(half["labels"] != -100).sum() / num_items for half in halves]
    for half, share in zip(halves, shares, strict=True):
        alone = model(**half)
        together = model(**half, num_items_in_batch=num_items)
        torch.testing.assert_close(together.contrastive_loss, alone.contrastive_loss * share)
        torch.testing.assert_close(together.caption_loss, alone.caption_loss * share)


def test_lora_trains_its_own_parameters_only_and_merges_back(tmp_path: Path):
    model = tiny_captioner()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    peft_model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    train(peft_model, tmp_path, max_steps=5)
    tuned = peft_model.eval()(**make_batch()).logits
    merged = peft_model.merge_and_unload()
    assert isinstance(merged, CoCaForCaptioning)
    torch.testing.assert_close(merged(**make_batch()).logits, tuned, rtol=1e-4, atol=1e-4)
    changed = {name for name, value in merged.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(".q_proj." in name or ".v_proj." in name for name in changed)
