# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A model whose weights are spread over processes computes what it computes in one."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.fsdp import fully_shard
from transformers.distributed import DistributedConfig

from coca_hf.modeling_coca import CoCaForCaptioning
from own_process import run_together
from tiny import tiny_captioner


NUM_PROCESSES = 2


def make_batch() -> dict[str, torch.Tensor]:
    pixel_values = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[97, 3, 4, 98], [97, 3, 98, 0], [97, 5, 6, 98], [97, 7, 98, 0]])
    return {"pixel_values": pixel_values, "input_ids": ids, "labels": ids.masked_fill(ids == 0, -100)}


def compute(model: CoCaForCaptioning, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # First: nothing has gathered the weights yet.
    ids = model.generate(batch["pixel_values"], num_beams=2, max_new_tokens=6)
    # Processes share the contrastive loss in training only.
    outputs = model.train()(**batch)
    outputs.loss.backward()
    scale_gradient = model.model.logit_scale.grad
    scale_gradient = scale_gradient.full_tensor() if hasattr(scale_gradient, "full_tensor") else scale_gradient
    return {
        "ids": ids,
        "logits": outputs.logits.detach(),
        "image_embeds": outputs.image_embeds.detach(),
        "contrastive_loss": outputs.contrastive_loss.detach(),
        "scale_gradient": scale_gradient,
    }


def _worker(rank: int, folder: str, sizes: dict[str, int], batch_parts: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(NUM_PROCESSES))
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=NUM_PROCESSES
    )
    model = CoCaForCaptioning.from_pretrained(folder, distributed_config=DistributedConfig(**sizes)).eval()
    own = {name: value.chunk(batch_parts)[rank % batch_parts] for name, value in make_batch().items()}
    held = sum(getattr(value, "to_local", lambda value=value: value)().numel() for value in model.parameters())
    result: dict[str, Any] = {**compute(model, own), "held": held}
    torch.save(result, f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("sizes", "batch_parts"),
    [({"tp_size": NUM_PROCESSES}, 1), ({"fsdp_size": NUM_PROCESSES}, NUM_PROCESSES)],
    ids=["tensor-parallel", "fully-sharded"],
)
def test_processes_that_share_the_weights_compute_what_one_does(tmp_path: Path, sizes, batch_parts):
    # Fully sharded, every parameter needs a dimension to divide.
    model = tiny_captioner(text_config={"vocab_size": 100}, nonscalar_logit_scale=True)
    model.save_pretrained(tmp_path)
    expected = compute(model, make_batch())
    run_together(_worker, (str(tmp_path), sizes, batch_parts), NUM_PROCESSES)
    results = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(NUM_PROCESSES)]
    for name in ("ids", "logits", "image_embeds"):
        whole = torch.cat([result[name] for result in results[:batch_parts]])
        torch.testing.assert_close(whole, expected[name], rtol=0, atol=1e-5, msg=name)
    for result in results:
        torch.testing.assert_close(result["contrastive_loss"], expected["contrastive_loss"])
        torch.testing.assert_close(result["scale_gradient"], expected["scale_gradient"])
        assert result["held"] < 0.8 * model.num_parameters()


# --- FSDP2, as its users call it: a loaded checkpoint, then sharded ---

# The ranks need different numbers of steps, so that the one that is done first has to go on for the other's sake.
STEPS = (3, 9)
SEARCHES = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "diverse beams": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
}


def shard_root(model: CoCaForCaptioning) -> None:
    fully_shard(model)


def shard_layers(model: CoCaForCaptioning) -> None:
    """By the classes that the model names for it, and the rest as one."""
    for module in model.modules():
        if type(module).__name__ in model._no_split_modules:
            fully_shard(module)
    fully_shard(model)


def shard_as_accelerate_does(model: CoCaForCaptioning) -> None:
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    # `Accelerator` itself takes DistributedDataParallel on a CPU.
    accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin), mixed_precision="no")
    fsdp2_prepare_model(accelerator, model)


WRAPPINGS = {"root": shard_root, "layers": shard_layers, "accelerate": shard_as_accelerate_does}


def join_processes(rank: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(NUM_PROCESSES))
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=NUM_PROCESSES
    )


def own_pixels(rank: int) -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(rank))


def load_twice(folder: str, wrap: Callable[[CoCaForCaptioning], None]) -> tuple[CoCaForCaptioning, CoCaForCaptioning]:
    """The checkpoint whole, and sharded over the processes."""
    whole, sharded = (CoCaForCaptioning.from_pretrained(folder).eval() for _ in range(2))
    wrap(sharded)
    return whole, sharded


def _generate_sharded(rank: int, folder: str, wrapping: str) -> None:
    join_processes(rank, folder)
    whole, sharded = load_twice(folder, WRAPPINGS[wrapping])
    for search in SEARCHES.values():
        for steps in (STEPS, STEPS[::-1]):
            arguments = {"max_new_tokens": steps[rank], "min_new_tokens": steps[rank], **search}
            expected = whole.generate(own_pixels(rank), synced_gpus=False, **arguments)
            found = sharded.generate(own_pixels(rank), synced_gpus=True, **arguments)
            assert found.tolist() == expected.tolist(), f"{search} with {steps[rank]} steps"
    torch.distributed.destroy_process_group()


def _fill_the_context_sharded(rank: int, folder: str) -> None:
    """One rank is done at once, and goes on until the other has filled its context."""
    join_processes(rank, folder)
    whole, sharded = load_twice(folder, shard_layers)
    for search in SEARCHES.values():
        steps = (19, 1)[rank]
        arguments = {"max_new_tokens": steps, "min_new_tokens": steps, **search}
        expected = whole.generate(own_pixels(rank), synced_gpus=False, **arguments)
        found = sharded.generate(own_pixels(rank), synced_gpus=True, **arguments)
        assert found.tolist() == expected.tolist(), search
    torch.distributed.destroy_process_group()


def _encode_first_sharded(rank: int, folder: str, wrapping: str) -> None:
    join_processes(rank, folder)
    whole, sharded = load_twice(folder, WRAPPINGS[wrapping])
    encoded = sharded.encode_images(own_pixels(rank))
    expected = whole.encode_images(own_pixels(rank))
    torch.testing.assert_close(encoded.image_embeds, expected.image_embeds, rtol=0, atol=1e-5)
    ids = sharded.generate(encoded_images=encoded, max_new_tokens=5, synced_gpus=True)
    assert ids.tolist() == whole.generate(own_pixels(rank), max_new_tokens=5, synced_gpus=False).tolist()
    torch.distributed.destroy_process_group()


def _train_sharded(rank: int, folder: str, wrapping: str) -> None:
    """The same batch on both ranks: averaged over them, its gradients are those of one process."""
    join_processes(rank, folder)
    whole, sharded = load_twice(folder, WRAPPINGS[wrapping])
    batch = make_batch()
    with torch.no_grad():
        expected, found = (model(**batch) for model in (whole, sharded))
    for name in ("logits", "image_embeds", "text_embeds", "loss", "caption_loss", "contrastive_loss"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5, msg=lambda text, n=name: n + text)
    for model in (whole, sharded):
        model.train()
        model(**batch).caption_loss.backward()
    for (name, parameter), other in zip(whole.named_parameters(), sharded.parameters(), strict=True):
        if parameter.grad is not None:
            gradient = other.grad.full_tensor()
            torch.testing.assert_close(
                gradient, parameter.grad, rtol=0, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
            )
    sharded.zero_grad()
    sharded(**batch).loss.backward()
    assert all(parameter.grad.full_tensor().isfinite().all() for parameter in sharded.parameters())
    torch.distributed.destroy_process_group()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    tiny_captioner().save_pretrained(tmp_path)
    return tmp_path


every_wrapping = pytest.mark.parametrize("wrapping", WRAPPINGS)


@every_wrapping
def test_a_sharded_checkpoint_captions_as_a_whole_one_whatever_the_number_of_steps(checkpoint, wrapping):
    run_together(_generate_sharded, (str(checkpoint), wrapping), NUM_PROCESSES)


def test_a_rank_that_is_done_goes_on_until_the_other_has_filled_its_context(checkpoint):
    run_together(_fill_the_context_sharded, (str(checkpoint),), NUM_PROCESSES)


@every_wrapping
def test_images_can_be_encoded_with_sharded_weights_before_anything_else_ran(checkpoint, wrapping):
    run_together(_encode_first_sharded, (str(checkpoint), wrapping), NUM_PROCESSES)


@every_wrapping
def test_a_sharded_checkpoint_trains_as_a_whole_one(checkpoint, wrapping):
    run_together(_train_sharded, (str(checkpoint), wrapping), NUM_PROCESSES)
