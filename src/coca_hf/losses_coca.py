# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The contrastive loss, of one process or of several."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def contrastive_loss(
    image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor, logit_bias: Tensor | None = None, group: Any = None
) -> Tensor:
    """
    Symmetric cross-entropy between images and their texts (CoCa, equation 1; open_clip's `ClipLoss` with
    `gather_with_grad` and `local_loss`), in float32, or in float64 where the embeddings are.

    An image may have several texts. Each of them is then classified among all texts but the image's other ones, which
    are no negatives; and each text is classified among all images.

    Each process computes the rows of its own images and texts, against those of all processes, and gets the loss of
    all: the gradients are those of one process with the whole batch, once data parallelism has averaged them.

    Args:
        image_embeds: (images, dim), L2-normalised.
        text_embeds: (texts, dim), L2-normalised; as many for each image, those of an image adjacent.
        logit_scale: Factor of the similarities, already exponentiated.
        logit_bias: Added to the similarities. The loss does not depend on it.
        group: Processes whose batches are joined into one, of whatever lengths; by default this batch stands alone.
    """
    device, dtype = image_embeds.device, torch.promote_types(image_embeds.dtype, torch.float32)
    image_embeds, text_embeds = image_embeds.to(dtype), text_embeds.to(device, dtype)
    scale, bias = logit_scale.to(device, dtype), 0 if logit_bias is None else logit_bias.to(device, dtype)
    all_image_embeds, all_text_embeds, rank = image_embeds, text_embeds, 0
    num_images, num_texts = [image_embeds.shape[0]], [text_embeds.shape[0]]
    if group is not None:
        rank = torch.distributed.get_rank(group)
        num_images, num_texts = _lengths(image_embeds, group), _lengths(text_embeds, group)
        all_image_embeds = _gather(image_embeds, num_images, group)
        all_text_embeds = _gather(text_embeds, num_texts, group)
    image_of_text = _image_of_text(num_images, num_texts, device)
    own_texts = sum(num_texts[:rank]) + torch.arange(num_texts[rank], device=device)
    own_images = image_of_text[own_texts]
    with torch.autocast(device.type, enabled=False):
        texts_to_images = scale * text_embeds @ all_image_embeds.t() + bias
        images_to_texts = scale * image_embeds @ all_text_embeds.t() + bias
    if num_texts[rank] > num_images[rank]:
        # A row for each text: its image against all texts but the image's other ones.
        images_to_texts = images_to_texts[own_images - sum(num_images[:rank])]
        is_other_text = (own_images[:, None] == image_of_text).scatter(1, own_texts[:, None], False)
        images_to_texts = images_to_texts.masked_fill(is_other_text, torch.finfo(dtype).min)
    loss = F.cross_entropy(texts_to_images, own_images, reduction="sum")
    loss = (loss + F.cross_entropy(images_to_texts, own_texts, reduction="sum")) / (2 * sum(num_texts))
    return loss if group is None else torch.distributed.nn.functional.all_reduce(loss, group=group)


def _lengths(tensor: Tensor, group: Any) -> list[int]:
    """How many rows each process has."""
    length = torch.tensor(tensor.shape[:1], device=tensor.device)
    lengths = [torch.empty_like(length) for _ in range(torch.distributed.get_world_size(group))]
    torch.distributed.all_gather(lengths, length, group=group)
    return torch.cat(lengths).tolist()


def _gather(tensor: Tensor, lengths: list[int], group: Any) -> Tensor:
    """(rows, dim) of this process -> (rows of all, dim), gradients flowing back to every process."""
    padded = F.pad(tensor, (0, 0, 0, max(lengths) - tensor.shape[0]))
    gathered = torch.distributed.nn.functional.all_gather(padded.contiguous(), group=group)
    return torch.cat([rows[:length] for rows, length in zip(gathered, lengths, strict=True)])


def _image_of_text(num_images: list[int], num_texts: list[int], device: torch.device) -> Tensor:
    """Numbers of images and of texts in each process -> (texts of all,) indices of images of all."""
    first, indices = 0, []
    for count, length in zip(num_images, num_texts, strict=True):
        indices.append(first + torch.arange(count, device=device).repeat_interleave(length // count))
        first += count
    return torch.cat(indices)


__all__ = ["contrastive_loss"]
