# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The two losses: several texts an image, processes whose batches differ in length, precision, what Trainer does."""

import datetime
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainingArguments

from coca_hf import optimize_for_training
from coca_hf.losses_coca import contrastive_loss
from own_process import run_together
from tiny import END, PAD, START, tiny_captioner


def make_batch(num_images: int, texts_per_image: int = 1, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = num_images * texts_per_image
    input_ids = torch.randint(1, 90, (rows, 7), generator=generator)
    input_ids[:, 0], input_ids[:, -1] = START, END
    input_ids[::2, -2], input_ids[::2, -1] = END, PAD
    return {
        "pixel_values": torch.randn(num_images, 3, 16, 16, generator=generator),
        "input_ids": input_ids,
        "attention_mask": (input_ids != PAD).long(),
        "labels": input_ids.masked_fill(input_ids == PAD, -100),
    }


def part_of_batch(batch: dict[str, Tensor], first: int, last: int) -> dict[str, Tensor]:
    """The images from `first` to `last`, and their texts."""
    texts_per_image = len(batch["input_ids"]) // len(batch["pixel_values"])
    text = slice(first * texts_per_image, last * texts_per_image)
    return {name: value[first:last] if name == "pixel_values" else value[text] for name, value in batch.items()}


def embeds(rows: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(rows, 12, generator=torch.Generator().manual_seed(seed)), dim=-1)


# --- several texts an image ---


def contrastive_loss_by_hand(image_embeds: Tensor, text_embeds: Tensor, scale: float) -> Tensor:
    """A loop over the texts: each among all images, and its image among it and the texts of other images."""
    texts_per_image = len(text_embeds) // len(image_embeds)
    terms = []
    for text in range(len(text_embeds)):
        image = text // texts_per_image
        among_images = [scale * text_embeds[text] @ other for other in image_embeds]
        among_texts = [
            scale * image_embeds[image] @ text_embeds[other]
            for other in range(len(text_embeds))
            if other == text or other // texts_per_image != image
        ]
        similarity = scale * image_embeds[image] @ text_embeds[text]
        terms.append(torch.stack(among_images).logsumexp(0) - similarity)
        terms.append(torch.stack(among_texts).logsumexp(0) - similarity)
    return torch.stack(terms).mean()


@pytest.mark.parametrize("num_images", [1, 4])
@pytest.mark.parametrize("texts_per_image", [1, 2, 3])
def test_texts_of_the_same_image_are_no_negatives_of_each_other(num_images, texts_per_image):
    image_embeds, text_embeds = embeds(num_images, 0), embeds(num_images * texts_per_image, 1)
    found = contrastive_loss(image_embeds, text_embeds, torch.tensor([5.0]))
    torch.testing.assert_close(found, contrastive_loss_by_hand(image_embeds, text_embeds, 5.0))


def test_both_losses_train_where_an_image_has_several_texts():
    model, batch = tiny_captioner().train(), make_batch(3, texts_per_image=2)
    outputs = model(**batch)
    scale = model.model.logit_scale.exp().item()
    by_hand = contrastive_loss_by_hand(outputs.image_embeds, outputs.text_embeds, scale)
    torch.testing.assert_close(outputs.contrastive_loss, by_hand, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs.loss, 2 * outputs.caption_loss + by_hand, rtol=1e-5, atol=1e-5)
    outputs.loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_the_caption_loss_of_several_texts_is_that_of_each_with_its_image():
    model, batch = tiny_captioner(), make_batch(3, texts_per_image=2)
    repeated = {**batch, "pixel_values": batch["pixel_values"].repeat_interleave(2, dim=0)}
    torch.testing.assert_close(model(**batch).caption_loss, model(**repeated).caption_loss)


def test_texts_that_cannot_be_shared_out_among_the_images_are_refused():
    batch = make_batch(4)
    with pytest.raises(ValueError, match="4 texts for 3 images: give each image as many"):
        tiny_captioner()(**{**batch, "pixel_values": batch["pixel_values"][:3]})


# --- labels ---


def test_the_contrastive_loss_counts_by_its_share_of_the_tokens_whatever_stands_for_none():
    model, batch = tiny_captioner(), make_batch(3)
    expected = model(**batch, num_items_in_batch=40)
    labels = batch["labels"].masked_fill(batch["labels"] == -100, 3)
    found = model(**{**batch, "labels": labels}, ignore_index=3, num_items_in_batch=40)
    assert (batch["labels"] == 3).sum() == 0
    torch.testing.assert_close(found.contrastive_loss, expected.contrastive_loss)
    torch.testing.assert_close(found.loss, expected.loss)


def test_a_text_is_that_of_its_labels_whatever_stands_for_none():
    model, batch = tiny_captioner(), make_batch(3)
    pixel_values, labels = batch["pixel_values"], batch["labels"]
    expected = model(pixel_values=pixel_values, labels=labels)
    found = model(pixel_values=pixel_values, labels=labels.masked_fill(labels == -100, 3), ignore_index=3)
    torch.testing.assert_close(found.loss, expected.loss)


@pytest.mark.parametrize("given", [{"logits_to_keep": 1}, {"logits_to_keep": torch.tensor([0, 2])}, {"labels": 5}])
@pytest.mark.parametrize("is_optimized", [False, True])
def test_labels_of_another_length_than_the_logits_are_refused(given, is_optimized):
    model, batch = tiny_captioner().train(), make_batch(3)
    model = optimize_for_training(model) if is_optimized else model
    if "labels" in given:
        given = {"labels": batch["labels"][:, : given["labels"]]}
    with pytest.raises(ValueError, match=r"labels have \d positions, and there are logits of \d"):
        model(**{**batch, **given})


# --- scale, bias and precision ---


def test_the_bias_of_the_similarity_gets_a_gradient_and_changes_no_loss():
    batch = make_batch(3)
    model = tiny_captioner(logit_bias_init_value=-10.0).train()
    outputs = model(**batch)
    outputs.loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    with torch.no_grad():
        model.model.logit_bias.add_(3)
        torch.testing.assert_close(model(**batch).loss, outputs.loss)


def test_the_losses_of_a_bfloat16_model_are_computed_in_float32():
    image_embeds, text_embeds = embeds(64, 0).bfloat16(), embeds(64, 1).bfloat16()
    found = contrastive_loss(image_embeds, text_embeds, torch.tensor([100.0]).bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, contrastive_loss(image_embeds.float(), text_embeds.float(), torch.tensor(100.0)))
    outputs = tiny_captioner().bfloat16()(**make_batch(3))
    assert {outputs.loss.dtype, outputs.caption_loss.dtype, outputs.contrastive_loss.dtype} == {torch.float32}


def test_the_scale_is_clamped_in_place_at_a_hundred():
    model = tiny_captioner(logit_scale_init_value=6.0)
    scale = model.model.logit_scale
    model.clamp_logit_scale()
    assert model.model.logit_scale is scale
    assert scale.requires_grad
    assert math.isclose(scale.exp().item(), 100, rel_tol=1e-5)
    model.clamp_logit_scale(1.0)
    assert scale.item() == 1
    model.clamp_logit_scale(2.0)
    assert scale.item() == 1


# --- label smoothing ---


def test_trainers_label_smoothing_is_refused_in_words(tmp_path: Path):
    arguments = TrainingArguments(
        str(tmp_path), label_smoothing_factor=0.1, use_cpu=True, report_to=[], max_steps=1, disable_tqdm=True
    )
    batch = make_batch(3)
    rows = [{name: value[index] for name, value in batch.items()} for index in range(3)]
    with pytest.raises(ValueError, match="label_smoothing_factor"):
        Trainer(tiny_captioner(), arguments, train_dataset=rows).train()


# --- processes ---

LENGTHS = (3, 2)


def join(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=60),
    )


def own_part(batch: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    first = sum(LENGTHS[:rank])
    return part_of_batch(batch, first, first + LENGTHS[rank])


def _gradients_of_uneven_batches(rank: int, folder: str, texts_per_image: int) -> None:
    join(rank, folder)
    # The captions' loss is a mean over each process's own tokens, so that only the other one can be compared.
    model = DistributedDataParallel(tiny_captioner(caption_loss_weight=0.0).train())
    for _ in range(2):
        model.zero_grad()
        outputs = model(**own_part(make_batch(5, texts_per_image), rank))
        outputs.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.module.named_parameters()}
    torch.save((outputs.contrastive_loss.detach(), gradients), f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("texts_per_image", [1, 2])
def test_batches_of_different_lengths_give_the_loss_and_gradients_of_one(tmp_path: Path, texts_per_image):
    run_together(_gradients_of_uneven_batches, (str(tmp_path), texts_per_image), 2)
    model = tiny_captioner(caption_loss_weight=0.0).train()
    outputs = model(**make_batch(5, texts_per_image))
    outputs.loss.backward()
    for rank in range(2):
        loss, gradients = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        torch.testing.assert_close(loss, outputs.contrastive_loss.detach())
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(
                gradients[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}"
            )


def _two_steps(rank: int, folder: str, changes: dict) -> None:
    join(rank, folder)
    model = DistributedDataParallel(tiny_captioner(**changes).train())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        model(**make_batch(2, texts_per_image=3, seed=2 * step + rank)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.save(model.module.state_dict(), f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("changes", [{}, {"logit_bias_init_value": -10.0}], ids=["no bias", "a bias"])
def test_data_parallel_processes_train_several_texts_an_image(tmp_path: Path, changes):
    run_together(_two_steps, (str(tmp_path), changes), 2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name])
    before = tiny_captioner(**changes).state_dict()
    assert not torch.equal(first["model.logit_scale"], before["model.logit_scale"])


def without_labels(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in batch.items() if name != "labels"}


class CollectiveError(Exception):
    pass


@pytest.fixture
def _collectives_fail(tmp_path: Path, monkeypatch):
    """A group of processes, of which the others never answer."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)

    def refuse(*args, **kwargs):
        raise CollectiveError

    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group=None: 2)
    for name in ("all_gather", "all_gather_into_tensor", "all_reduce", "broadcast", "barrier"):
        monkeypatch.setattr(torch.distributed, name, refuse)
    yield
    monkeypatch.undo()
    torch.distributed.destroy_process_group()


QUIET = {
    "evaluation": ({}, False, True),
    "a weight of 0": ({"contrastive_loss_weight": 0.0}, True, True),
    "no labels": ({}, True, False),
}


@pytest.mark.usefixtures("_collectives_fail")
@pytest.mark.parametrize(("changes", "is_training", "with_labels"), QUIET.values(), ids=QUIET.keys())
def test_nothing_waits_for_other_processes_but_a_contrastive_loss_in_training(changes, is_training, with_labels):
    batch = make_batch(3)
    tiny_captioner(**changes).train(is_training)(**(batch if with_labels else without_labels(batch)))
    # Otherwise this test would find nothing.
    with pytest.raises(CollectiveError):
        tiny_captioner().train()(**batch)


@pytest.mark.usefixtures("_collectives_fail")
def test_towers_wait_for_other_processes_in_training_only():
    batch = without_labels(make_batch(3))
    model = tiny_captioner().model
    model.eval()(**batch, return_loss=True)
    with pytest.raises(CollectiveError):
        model.train()(**batch, return_loss=True)


def _alone(rank: int, folder: str) -> None:
    join(rank, folder)
    if rank == 0:
        batch = make_batch(3)
        model = tiny_captioner().eval()
        expected = contrastive_loss_by_hand(
            *(
                F.normalize(model.model(**without_labels(batch))[name], dim=-1)
                for name in ("image_embeds", "text_embeds")
            ),
            model.model.logit_scale.exp().item(),
        )
        torch.testing.assert_close(model(**batch).contrastive_loss, expected, rtol=1e-5, atol=1e-5)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_one_process_alone_evaluates(tmp_path: Path):
    run_together(_alone, (str(tmp_path),), 2)
