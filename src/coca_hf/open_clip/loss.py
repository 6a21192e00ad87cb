# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""open_clip's `ClipLoss` and `CoCaLoss`."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class _GatheredWithGradient(torch.autograd.Function):
    """The rows of all processes; each process's gradient is the sum of what all of them make of its rows."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        return _gathered(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def _gathered(features: Tensor) -> Tensor:
    parts = [torch.empty_like(features) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, features.contiguous())
    return torch.cat(parts)


class ClipLoss(nn.Module):
    """
    open_clip's contrastive loss: the mean of the cross-entropies of images among texts and of texts among images.

    Args:
        local_loss: With several processes, whether each compares its own rows only with those of all.
        gather_with_grad: With several processes, whether gradients flow to the rows of the others.
        cache_labels: Without effect: labels are made anew, which costs nothing.
        rank: Number of this process.
        world_size: How many processes there are, whose process group has been initialised if there are several.
        use_horovod: Must be False.

    Raises:
        ValueError: `use_horovod=True`.
    """

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
    ):
        super().__init__()
        if use_horovod:
            raise ValueError("use_horovod=True is not supported: use torch.distributed.")
        self.local_loss = local_loss
        self.gather_with_grad = gather_with_grad
        self.rank = rank
        self.world_size = world_size

    def _of_all(self, features: Tensor) -> Tensor:
        """(rows, width) of this process -> (all rows, width)."""
        if self.gather_with_grad:
            return _GatheredWithGradient.apply(features)
        everything = _gathered(features.detach())
        if self.local_loss:
            return everything
        # This process's own rows keep their gradient.
        parts = list(everything.chunk(self.world_size))
        parts[self.rank] = features
        return torch.cat(parts)

    def get_logits(
        self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor, logit_bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(rows, width) twice, normalised -> scores of each image among texts, of each text among images."""
        all_images, all_texts = image_features, text_features
        if self.world_size > 1:
            all_images, all_texts = self._of_all(image_features), self._of_all(text_features)
        if self.world_size > 1 and not self.local_loss:
            image_features, text_features = all_images, all_texts
        bias = 0 if logit_bias is None else logit_bias
        return (
            logit_scale * image_features @ all_texts.T + bias,
            logit_scale * text_features @ all_images.T + bias,
        )

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """
        The loss (), or `{"contrastive_loss": loss}`.

        Args:
            image_features: (rows, width), normalised.
            text_features: (rows, width), normalised; those of the images' own texts.
            logit_scale: Scale of the similarity, not its logarithm.
            logit_bias: Bias of the similarity.
            output_dict: Whether to return a dictionary.
        """
        loss = self._contrast(image_features, text_features, logit_scale, logit_bias)
        return {"contrastive_loss": loss} if output_dict else loss

    def _contrast(
        self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor, logit_bias: Tensor | None = None
    ) -> Tensor:
        per_image, per_text = self.get_logits(image_features, text_features, logit_scale, logit_bias)
        first = len(per_image) * self.rank if self.world_size > 1 and self.local_loss else 0
        labels = torch.arange(first, first + len(per_image), device=per_image.device)
        return (F.cross_entropy(per_image, labels) + F.cross_entropy(per_text, labels)) / 2


class CoCaLoss(ClipLoss):
    """
    open_clip's two losses of CoCa, each multiplied by its weight.

    Args:
        caption_loss_weight: Weight of the captioning loss; 2.0 in CoCa's paper.
        clip_loss_weight: Weight of the contrastive loss; 1.0 in CoCa's paper.
        pad_id: Label that is not learnt.
        local_loss, gather_with_grad, cache_labels, rank, world_size, use_horovod: See [`ClipLoss`].
    """

    def __init__(
        self,
        caption_loss_weight: float,
        clip_loss_weight: float,
        pad_id: int = 0,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
    ):
        super().__init__(local_loss, gather_with_grad, cache_labels, rank, world_size, use_horovod)
        self.clip_loss_weight = clip_loss_weight
        self.caption_loss_weight = caption_loss_weight
        self.caption_loss = nn.CrossEntropyLoss(ignore_index=pad_id)

    def forward(  # type: ignore[override]
        self,
        image_features: Tensor,
        text_features: Tensor,
        logits: Tensor,
        labels: Tensor,
        logit_scale: Tensor,
        output_dict: bool = False,
    ) -> tuple[Tensor, Tensor] | dict[str, Tensor]:
        """
        The contrastive and the captioning loss, weighted: a pair, or `contrastive_loss` and `caption_loss`.

        Args:
            image_features, text_features, logit_scale, output_dict: See [`ClipLoss`].
            logits: (rows, length, vocabulary), as the model returns them beside `labels`.
            labels: (rows, length), the next tokens.
        """
        clip_loss = torch.tensor(0, device=logits.device)
        if self.clip_loss_weight:
            clip_loss = self.clip_loss_weight * self._contrast(image_features, text_features, logit_scale)
        caption_loss = self.caption_loss_weight * self.caption_loss(logits.transpose(1, 2), labels)
        if output_dict:
            return {"contrastive_loss": clip_loss, "caption_loss": caption_loss}
        return clip_loss, caption_loss
