# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A model whose weights are spread over processes computes what it computes in one."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
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
    outputs = model(**batch)
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
