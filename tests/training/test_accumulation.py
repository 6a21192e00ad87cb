# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Micro-batches give the gradients of the batch that they are parts of."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from coca_hf import optimize_for_training
from coca_hf.training.accumulation import ExactAccumulation
from tiny import END, PAD, START, tiny_captioner


TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-4}


def make_batch(num_images: int, texts_per_image: int = 1, seed: int = 0) -> dict[str, Tensor]:
    """Images, with captions of 3 to 9 tokens."""
    generator = torch.Generator().manual_seed(seed)
    rows = num_images * texts_per_image
    lengths = torch.randint(3, 10, (rows,), generator=generator)
    lengths[0] = 9
    input_ids = torch.randint(1, 90, (rows, 9), generator=generator)
    input_ids[:, 0] = START
    input_ids[torch.arange(rows), lengths - 1] = END
    attention_mask = (torch.arange(9) < lengths[:, None]).long()
    input_ids = input_ids.masked_fill(attention_mask == 0, PAD)
    return {
        "pixel_values": torch.randn(num_images, 3, 16, 16, generator=generator),
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": input_ids.masked_fill(attention_mask == 0, -100),
    }


def split(batch: dict[str, Tensor], sizes: Iterable[int]) -> list[dict[str, Tensor]]:
    """Micro-batches of so many images, each no longer than its longest text."""
    texts_per_image = len(batch["input_ids"]) // len(batch["pixel_values"])
    parts, first = [], 0
    for size in sizes:
        images, texts = (slice(first * n, (first + size) * n) for n in (1, texts_per_image))
        longest = int(batch["attention_mask"][texts].sum(1).max())
        part = {name: batch[name][texts, :longest] for name in ("input_ids", "attention_mask", "labels")}
        parts.append({"pixel_values": batch["pixel_values"][images], **part})
        first += size
    return parts


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.grad for name, value in model.named_parameters() if value.requires_grad}


def whole(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    torch.manual_seed(1)
    outputs = model(**batch)
    outputs.loss.backward()
    found = gradients(model)
    model.zero_grad()
    return outputs, found


def accumulated(model: nn.Module, parts: list[dict[str, Tensor]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(1)
    num_items = sum((part["labels"][:, 1:] != -100).sum() for part in parts)
    accumulation = ExactAccumulation(model, parts)
    caption_loss = torch.zeros(())
    for part in parts:
        with accumulation.next() as add_gradients:
            outputs = model(**part, return_loss=False, num_items_in_batch=num_items)
            add_gradients(outputs.loss, outputs).backward()
        caption_loss = caption_loss + outputs.caption_loss.detach()
    losses = {"caption_loss": caption_loss, "contrastive_loss": accumulation.contrastive_loss}
    found = gradients(model)
    model.zero_grad()
    return losses, found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Relative to the largest entry of each gradient, but for those that are zero and their rounding."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        is_zero = name.endswith(("k_proj.bias", "logit_bias"))
        largest = 1e-3 if is_zero else gradient.abs().max()
        assert largest > 0, name
        assert (found[name] - gradient).abs().max() <= tolerance * largest, name


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("sizes", [(8, 8), (4, 4, 4, 4), (1,) * 16, (6, 6, 4)], ids=["2", "4", "16", "a smaller last"])
def test_the_gradients_are_those_of_the_whole_batch(sizes, dtype):
    model = tiny_captioner(vision_config={"patch_dropout": 0.5}, logit_bias_init_value=-3.0).train().to(dtype)
    batch = make_batch(16)
    outputs, expected = whole(model, batch)
    losses, found = accumulated(model, split(batch, sizes))
    assert_same(found, expected, TOLERANCES[dtype])
    for name, loss in losses.items():
        torch.testing.assert_close(loss, outputs[name].detach(), rtol=1e-5, atol=0, check_dtype=False)


@pytest.mark.parametrize("texts_per_image", [1, 3])
def test_images_may_have_several_texts_and_texts_any_length(texts_per_image):
    model = tiny_captioner().train().double()
    batch = make_batch(5, texts_per_image)
    _, expected = whole(model, batch)
    _, found = accumulated(model, split(batch, (2, 2, 1)))
    assert_same(found, expected, 1e-6)


def with_adapters(model: nn.Module) -> nn.Module:
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    return adapted.train()


def with_frozen_towers(model: nn.Module) -> nn.Module:
    model.model.vision_model.requires_grad_(False)
    model.model.text_model.requires_grad_(False)
    return model


def with_checkpointing(model: nn.Module) -> nn.Module:
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


CHANGES = {
    "adapters": with_adapters,
    "frozen towers": with_frozen_towers,
    "gradient checkpointing": with_checkpointing,
    "optimised": optimize_for_training,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_changed_models_have_the_gradients_of_the_whole_batch(change):
    torch.manual_seed(0)
    model = change(tiny_captioner(vision_config={"patch_dropout": 0.5}).train().double())
    batch = make_batch(6)
    _, expected = whole(model, batch)
    _, found = accumulated(model, split(batch, (3, 3)))
    assert_same(found, expected, 1e-6)


def test_the_towers_run_twice_and_the_decoder_once():
    model, calls = tiny_captioner().train(), Counter()
    for name in ("model.vision_model", "model.text_model", "decoder"):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.update([name]))
    accumulated(model, split(make_batch(8), (2, 2, 2, 2)))
    assert calls == {"model.vision_model": 8, "model.text_model": 8, "decoder": 4}


def test_what_cannot_be_accumulated_is_refused_in_words():
    model, batch = tiny_captioner().train(), make_batch(4)
    labels_alone = {name: batch[name] for name in ("pixel_values", "labels")}
    with pytest.raises(ValueError, match="input_ids are missing"):
        ExactAccumulation(model, [labels_alone])
    with pytest.raises(ValueError, match="number of texts an image"):
        ExactAccumulation(model, [make_batch(2, 1), make_batch(2, 2)])
