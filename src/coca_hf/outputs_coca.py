# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What CoCa's models return."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling, BaseModelOutputWithPoolingAndCrossAttentions
from transformers.utils import ModelOutput


@dataclass
class CoCaVisionModelOutput(BaseModelOutputWithPooling):
    r"""
    last_hidden_state (`torch.FloatTensor` of shape `(batch, 1 + patches, hidden)`): The encoder's output.
    pooler_output (`torch.FloatTensor` of shape `(batch, contrastive_hidden_size)`):
        The contrastive vector before its projection, or the projected one where it comes from
        `CoCaModel.get_image_features`; `(batch, tokens, contrastive_hidden_size)` with `pool_type="none"`.
    image_tokens (`torch.FloatTensor` of shape `(batch, image tokens, image_tokens_hidden_size)`):
        What the decoder attends to.
    cross_attentions (`tuple[torch.FloatTensor]`, *optional*):
        The poolers' attention weights, each of shape `(batch, heads, queries, 1 + patches)`.
    image_embeds (`torch.FloatTensor` of shape `(batch, projection_dim)`, *optional*):
        The projected vector, not normalised, from [`CoCaVisionModelWithProjection`].
    """

    image_tokens: torch.FloatTensor | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None
    image_embeds: torch.FloatTensor | None = None


@dataclass
class CoCaTextModelOutput(BaseModelOutputWithPoolingAndCrossAttentions):
    r"""
    last_hidden_state (`torch.FloatTensor` of shape `(batch, text, hidden)`):
        States of the text's tokens, without [CLS]; not normed where the tower has a [CLS].
    pooler_output (`torch.FloatTensor` of shape `(batch, hidden)`, *optional*):
        The contrastive vector before its projection, or the projected one where it comes from
        `CoCaModel.get_text_features`; `(batch, text, hidden)` with `pool_type="none"`. Absent with a `cache`, whose
        text may go on.
    cache (`Cache`, *optional*): Keys and values of the text's tokens.
    text_embeds (`torch.FloatTensor` of shape `(batch, projection_dim)`, *optional*):
        The projected vector, not normalised, from [`CoCaTextModelWithProjection`].
    """

    text_embeds: torch.FloatTensor | None = None


@dataclass
class CoCaOutput(ModelOutput):
    r"""
    loss (`torch.FloatTensor` of shape `()`, *optional*): Contrastive loss, with `return_loss=True`.
    logits_per_image (`torch.FloatTensor` of shape `(images, texts)`): Scaled similarities.
    logits_per_text (`torch.FloatTensor` of shape `(texts, images)`): Its transpose.
    text_embeds (`torch.FloatTensor` of shape `(texts, projection_dim)`): L2-normalised.
    image_embeds (`torch.FloatTensor` of shape `(images, projection_dim)`): L2-normalised.
    text_model_output (`CoCaTextModelOutput`): Output of `CoCaModel.get_text_features`.
    vision_model_output (`CoCaVisionModelOutput`): Output of `CoCaModel.get_image_features`.
    """

    loss: torch.FloatTensor | None = None
    logits_per_image: torch.FloatTensor | None = None
    logits_per_text: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None
    image_embeds: torch.FloatTensor | None = None
    text_model_output: CoCaTextModelOutput | None = None
    vision_model_output: CoCaVisionModelOutput | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(v.to_tuple() if isinstance(v, ModelOutput) else v for v in self.values())


@dataclass
class CoCaEncodedImages(ModelOutput):
    r"""
    What [`CoCaForCaptioning`] needs of images to decode any number of texts: computed once by `encode_images`, then
    passed to `forward` or `generate` as `encoded_images` in place of `pixel_values`.

    image_embeds (`torch.FloatTensor` of shape `(images, projection_dim)`): L2-normalised.
    image_tokens (`torch.FloatTensor` of shape `(images, image tokens, image_tokens_hidden_size)`):
        What the decoder attends to.
    """

    image_embeds: torch.FloatTensor | None = None
    image_tokens: torch.FloatTensor | None = None


@dataclass
class CoCaForCaptioningOutput(ModelOutput):
    r"""
    loss (`torch.FloatTensor` of shape `()`, *optional*):
        `caption_loss_weight * caption_loss + contrastive_loss_weight * contrastive_loss`, when `labels` are given.
    caption_loss (`torch.FloatTensor` of shape `()`, *optional*): Cross-entropy of each next token.
    contrastive_loss (`torch.FloatTensor` of shape `()`, *optional*):
        See [`contrastive_loss`]. Absent where there is no text vector, as with a `cache`.
    logits (`torch.FloatTensor` of shape `(rows, text, vocabulary)`, *optional*):
        Scores of the token after each position. Absent when images are given without text.
    image_embeds (`torch.FloatTensor` of shape `(images, projection_dim)`, *optional*): L2-normalised.
    text_embeds (`torch.FloatTensor` of shape `(rows, projection_dim)`, *optional*): L2-normalised.
    logits_per_image (`torch.FloatTensor` of shape `(images, rows)`, *optional*): Scaled similarities.
    cache (`Cache`, *optional*):
        Keys and values of the text tower's layers, then of the decoder's, then those of the image in each of the
        decoder's layers.
    hidden_states, attentions, cross_attentions (`tuple[torch.FloatTensor]`, *optional*):
        The decoder's, on request: `(rows, text, hidden)`, `(rows, heads, text, text)` and
        `(rows, heads, text, image tokens)`.
    text_model_output (`CoCaTextModelOutput`, *optional*): Output of the text tower.
    image_outputs (`CoCaVisionModelOutput`, *optional*): Output of the vision tower, absent with `encoded_images`.
    """

    loss: torch.FloatTensor | None = None
    caption_loss: torch.FloatTensor | None = None
    contrastive_loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    image_embeds: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None
    logits_per_image: torch.FloatTensor | None = None
    cache: Cache | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None
    text_model_output: CoCaTextModelOutput | None = None
    image_outputs: CoCaVisionModelOutput | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(v.to_tuple() if isinstance(v, ModelOutput) else v for v in self.values())


__all__ = [
    "CoCaEncodedImages",
    "CoCaForCaptioningOutput",
    "CoCaOutput",
    "CoCaTextModelOutput",
    "CoCaVisionModelOutput",
]
