# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""
The gradients of a whole batch from micro-batches, one of which fits into memory (GradCache, arXiv 2101.06983).

The contrastive loss compares every image with every text of the batch, so that the gradients of micro-batches do not
add up to those of the batch. But the loss needs of each no more than its vectors, and once the loss's gradients at
these are known, the micro-batches are independent of each other again:

1. The towers run over each micro-batch without a graph, for the vectors alone.
2. The loss of all vectors is computed, and its gradients at each of them. Scale and bias of the similarities get
   theirs.
3. The whole model runs over each micro-batch with a graph. Going backward, its captions' share of the caption loss
   and the known gradients at its vectors give what the batch would. Random numbers are drawn again as they were in 1.

So only the towers run twice, once without a graph, and memory is that of one micro-batch, whatever their number.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, register_fsdp_forward_method
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import get_device_states, set_device_states


IMAGE_INPUTS = ("pixel_values", "interpolate_pos_encoding")
TEXT_INPUTS = ("input_ids", "attention_mask", "position_ids", "inputs_embeds")
MicroBatch = dict[str, Any]


@dataclass
class RandomState:
    """What the random numbers of the CPU, and of the device of a micro-batch, go on from."""

    cpu: Tensor
    device_type: str | None
    devices: Sequence[int]
    on_devices: list[Tensor]

    @classmethod
    def of(cls, batch: MicroBatch) -> "RandomState":
        tensors = [value for value in batch.values() if isinstance(value, Tensor)]
        device_type = next((tensor.device.type for tensor in tensors if tensor.device.type != "cpu"), None)
        return cls(torch.get_rng_state(), device_type, *get_device_states(*tensors))

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.device_type is not None:
            set_device_states(self.devices, self.on_devices, device_type=self.device_type)


@dataclass
class Vectors:
    """
    L2-normalised vectors of a micro-batch, (images, dim) and (texts, dim), in float32 at least: leaves whose `grad` is
    the loss's, and the random state that they came from.
    """

    image_embeds: Tensor
    text_embeds: Tensor
    random_state: RandomState


def _callable_parts(model: nn.Module) -> nn.Module:
    """The module whose methods compute vectors and their loss, inside what data parallelism wraps around it."""
    if isinstance(model, FullyShardedDataParallel):
        raise ValueError(
            "Exact accumulation needs FSDP's second version: set fsdp_version to 2, or train without micro-batches."
        )
    if isinstance(model, DistributedDataParallel):
        return _callable_parts(model.module)
    if isinstance(model, FSDPModule):
        for method in ("get_image_features", "get_text_features", "contrastive_loss"):
            # Registered once: each time would wrap it once more.
            if method not in vars(model):
                register_fsdp_forward_method(model, method)
    return model


def _embed(model: Any, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """As the captioner's `forward` does, in the same order, so that the same random numbers are drawn."""
    images = model.get_image_features(**{name: batch[name] for name in IMAGE_INPUTS if name in batch})
    texts = {name: batch[name] for name in TEXT_INPUTS if batch.get(name) is not None}
    texts = model.get_text_features(**texts, use_cache=False)
    return F.normalize(images.pooler_output, dim=-1), F.normalize(texts.pooler_output, dim=-1)


def _as_leaf(embeds: Tensor) -> Tensor:
    return embeds.detach().to(torch.promote_types(embeds.dtype, torch.float32)).requires_grad_()


class ExactAccumulation:
    """
    The contrastive loss of micro-batches as if they were one batch, over all processes; see the top of this module.

    Making one runs the towers over all micro-batches and goes backward through the loss of their vectors, which adds
    the gradients of scale and bias. Then, for each micro-batch in the same order:

    ```python
    accumulation = ExactAccumulation(model, batches)
    num_items = sum((batch["labels"][:, 1:] != -100).sum() for batch in batches)
    for batch in batches:
        with accumulation.next() as add_gradients:
            outputs = model(**batch, return_loss=False, num_items_in_batch=num_items)
            add_gradients(outputs.loss, outputs).backward()
    ```

    Where several processes train, all but the last `backward()` belong into `no_sync()`, as ever; so does making it.

    Args:
        model: A `CoCaForCaptioning` in training mode; plain, inside PEFT's, `DistributedDataParallel`, or sharded by
            FSDP2.
        batches: What `forward` takes, on the model's device. They may differ in length; all have the same number of
            texts an image.
        weight: Of the contrastive loss; by default `contrastive_loss_weight` of the model's config.
        backward: What goes backward from a loss, such as accelerate's. It may scale it.
        gradient_scale: The factor by which `backward` scales gradients.
        autocast: Makes the context in which the towers run.

    Attributes:
        contrastive_loss (Tensor of shape ()): Of the whole batch, without its weight.
        num_batches (int): How many micro-batches there are.

    Raises:
        ValueError: The model is sharded by FSDP's first version; a micro-batch has no text; or they have different
            numbers of texts an image.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[MicroBatch],
        weight: float | None = None,
        backward: Callable[[Tensor], Any] = torch.Tensor.backward,
        gradient_scale: float = 1.0,
        autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ) -> None:
        parts: Any = _callable_parts(model)
        vectors = []
        for batch in batches:
            if all(batch.get(name) is None for name in ("input_ids", "inputs_embeds")):
                raise ValueError("input_ids are missing from a batch: exact accumulation needs them beside labels.")
            state = RandomState.of(batch)
            with torch.no_grad(), autocast():
                image_embeds, text_embeds = _embed(parts, batch)
            vectors.append(Vectors(_as_leaf(image_embeds), _as_leaf(text_embeds), state))
        if len({(one.text_embeds.shape[0] / one.image_embeds.shape[0]) for one in vectors}) > 1:
            raise ValueError(
                "Micro-batches of a step differ in their number of texts an image: give each image as many."
            )
        loss = parts.contrastive_loss(
            torch.cat([one.image_embeds for one in vectors]), torch.cat([one.text_embeds for one in vectors])
        )
        backward(loss * (parts.config.contrastive_loss_weight if weight is None else weight))
        self.contrastive_loss, self.num_batches = loss.detach(), len(vectors)
        self._remaining = iter(vectors)
        self._gradient_scale = gradient_scale

    @contextlib.contextmanager
    def next(self) -> Iterator[Callable[[Tensor, Any], Tensor]]:
        """
        For the next micro-batch: inside, random numbers are drawn as when its vectors were computed.

        Yields:
            A function of a loss () and of the outputs of `forward`: -> the same loss, which going backward also takes
            the contrastive loss's gradients to the outputs' vectors.
        """
        vectors = next(self._remaining)
        vectors.random_state.restore()

        def add_gradients(loss: Tensor, outputs: Any) -> Tensor:
            # Its gradient at each vector is the known one. Scale and bias have theirs already, but data parallelism
            # waits for all parameters to take part.
            terms = (
                (outputs.image_embeds * vectors.image_embeds.grad).sum() / self._gradient_scale,
                (outputs.text_embeds * vectors.text_embeds.grad).sum() / self._gradient_scale,
                (outputs.logits_per_image * 0).sum(),
            )
            for term in terms:
                loss = loss + (term - term.detach()).to(loss.device)
            return loss

        yield add_gradients


__all__ = ["ExactAccumulation"]
