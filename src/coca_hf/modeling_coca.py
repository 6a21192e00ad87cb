# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""CoCa: Contrastive Captioners are Image-Text Foundation Models (arXiv 2205.01917), in open_clip's variant."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import (
    bidirectional_mask_function,
    causal_mask_function,
    create_causal_mask,
    sdpa_mask,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    BaseModelOutputWithPooling,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.generic import can_return_tuple, is_flash_attention_requested
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_coca import CoCaConfig, CoCaMultimodalConfig, CoCaTextConfig, CoCaVisionConfig
from .generation_coca import CoCaGenerationMixin
from .model_card_coca import CoCaModelCardMixin


KeyValue = tuple[Tensor, Tensor]

# 32 MB in float32, or a sixteenth of all where that is more: each chunk reads the vocabulary's weights, and adds to
# their gradients, once more.
MIN_LOGITS_AT_ONCE, MAX_LOGITS_CHUNKS = 2**23, 16


class _Gather(torch.autograd.Function):
    """(batch, dim) of this process -> (processes * batch, dim) of all, gradients flowing back to every process."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, group: Any) -> Tensor:
        ctx.group = group
        gathered = [torch.empty_like(features) for _ in range(torch.distributed.get_world_size(group))]
        torch.distributed.all_gather(gathered, features.contiguous(), group=group)
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous()
        torch.distributed.all_reduce(gradient, group=ctx.group)
        shares = gradient.chunk(torch.distributed.get_world_size(ctx.group))
        return shares[torch.distributed.get_rank(ctx.group)], None


def _is_plain_linear(layer: nn.Module) -> bool:
    """Whether its weights may be used without it: an adapter does more, and so do hooks, by which others shard it."""
    return type(layer) is nn.Linear and not layer._forward_hooks and not layer._forward_pre_hooks


class _ChunkedLoss(torch.autograd.Function):
    """
    The sum of `chunk_loss(logits, labels)` over chunks of positions, whose logits never exist all at once.

    Gradients are made of the logits while these are there, so that nothing is computed again when going backward.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        labels: Tensor,
        size: int,
        dtype: torch.dtype,
        chunk_loss: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """(positions, hidden), (vocabulary, hidden), (positions,), positions in a chunk, of the products -> ()."""
        cast_states, cast_weight = states.to(dtype), weight.to(dtype)
        needs_states, needs_weight, *_ = ctx.needs_input_grad
        states_gradient = torch.empty_like(cast_states) if needs_states else None
        # Added up in float32 at least, over many chunks.
        sum_dtype = torch.promote_types(dtype, torch.float32)
        weight_gradient = torch.zeros_like(weight, dtype=sum_dtype) if needs_weight else None
        total = torch.zeros((), device=states.device)
        for start in range(0, max(len(states), 1), size):
            chunk = slice(start, start + size)
            logits = F.linear(cast_states[chunk], cast_weight)
            with torch.enable_grad():
                loss = chunk_loss(logits.requires_grad_(), labels[chunk])
            (gradient,) = torch.autograd.grad(loss, logits)
            total += loss.detach()
            if states_gradient is not None:
                torch.mm(gradient, cast_weight, out=states_gradient[chunk])
            if weight_gradient is None:
                continue
            if gradient.dtype == weight_gradient.dtype:
                weight_gradient.addmm_(gradient.t(), cast_states[chunk])
            else:
                weight_gradient += gradient.t() @ cast_states[chunk]
        ctx.gradients = states_gradient, weight_gradient
        ctx.dtypes = states.dtype, weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("The loss of skip_logits=True has one backward pass: do without retain_graph=True.")
        # In place and given away: the weights' gradient is as large as they are.
        gradients, ctx.gradients = ctx.gradients, None
        scaled = (
            None if gradient is None else gradient.mul_(scale).to(dtype)
            for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
        )
        return *scaled, None, None, None, None


def image_text_contrastive_loss(
    image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor, group: Any = None
) -> Tensor:
    """
    Symmetric cross-entropy between each image and its text among all of the batch (CoCa, equation 1; open_clip's
    `ClipLoss` with `gather_with_grad`).

    Args:
        image_embeds: (batch, dim), L2-normalised.
        text_embeds: (batch, dim), L2-normalised; row i belongs to image i.
        logit_scale: factor of the similarities, already exponentiated.
        group: processes whose batches are joined into one, all equally long; by default this one's stands alone.
    """
    if group is not None:
        image_embeds, text_embeds = _Gather.apply(image_embeds, group), _Gather.apply(text_embeds, group)
    logits_per_image = logit_scale * image_embeds @ text_embeds.t()
    labels = torch.arange(len(logits_per_image), device=logits_per_image.device)
    return (F.cross_entropy(logits_per_image, labels) + F.cross_entropy(logits_per_image.t(), labels)) / 2


@dataclass
class CoCaVisionModelOutput(BaseModelOutputWithPooling):
    r"""
    last_hidden_state (`torch.FloatTensor` of shape `(batch, 1 + patches, hidden)`): The encoder's output.
    pooler_output (`torch.FloatTensor` of shape `(batch, pooled_hidden_size)`):
        The contrastive vector before its projection, or the projected one where it comes from
        `CoCaModel.get_image_features`; `(batch, tokens, pooled_hidden_size)` with `pool_type="none"`.
    image_tokens (`torch.FloatTensor` of shape `(batch, image tokens, image_tokens_hidden_size)`):
        What the decoder attends to.
    cross_attentions (`tuple[torch.FloatTensor]`, *optional*):
        The poolers' attention weights, each of shape `(batch, heads, queries, 1 + patches)`.
    """

    image_tokens: torch.FloatTensor | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class CoCaOutput(ModelOutput):
    r"""
    loss (`torch.FloatTensor` of shape `()`, *optional*): Contrastive loss, with `return_loss=True`.
    logits_per_image (`torch.FloatTensor` of shape `(images, texts)`): Scaled similarities.
    logits_per_text (`torch.FloatTensor` of shape `(texts, images)`): Its transpose.
    text_embeds (`torch.FloatTensor` of shape `(texts, projection_dim)`): L2-normalised.
    image_embeds (`torch.FloatTensor` of shape `(images, projection_dim)`): L2-normalised.
    text_model_output (`BaseModelOutputWithPooling`): Output of `CoCaModel.get_text_features`.
    vision_model_output (`CoCaVisionModelOutput`): Output of `CoCaModel.get_image_features`.
    """

    loss: torch.FloatTensor | None = None
    logits_per_image: torch.FloatTensor | None = None
    logits_per_text: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None
    image_embeds: torch.FloatTensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: CoCaVisionModelOutput | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(v.to_tuple() if isinstance(v, ModelOutput) else v for v in self.values())


@dataclass
class CoCaEncodedImages(ModelOutput):
    r"""
    Images as [`CoCaForCaptioning`] needs them to decode any number of texts: computed once, then passed to `forward`
    or `generate` as `encoded_images` in place of `pixel_values`.

    image_embeds (`torch.FloatTensor` of shape `(images, projection_dim)`): L2-normalised.
    key_values (`tuple`):
        For each layer of the decoder, the cross-attention's keys and values, each of shape
        `(images, heads, image tokens, head size)`.
    """

    image_embeds: torch.FloatTensor | None = None
    key_values: tuple[KeyValue, ...] | None = None


@dataclass
class CoCaForCaptioningOutput(ModelOutput):
    r"""
    loss (`torch.FloatTensor` of shape `()`, *optional*):
        `caption_loss_weight * caption_loss + contrastive_loss_weight * contrastive_loss`, when `labels` are given.
    caption_loss (`torch.FloatTensor` of shape `()`, *optional*): Cross-entropy of each next token.
    contrastive_loss (`torch.FloatTensor` of shape `()`, *optional*):
        See [`image_text_contrastive_loss`]; absent where there is no text vector, as with a filled cache.
    logits (`torch.FloatTensor` of shape `(batch, text, vocabulary)`, *optional*):
        Scores of the token after each position; absent with `skip_logits=True`.
    image_embeds (`torch.FloatTensor` of shape `(images, projection_dim)`): L2-normalised.
    text_embeds (`torch.FloatTensor` of shape `(batch, projection_dim)`, *optional*): L2-normalised.
    cache (`Cache`, *optional*): Self-attention keys and values: the text tower's layers, then the decoder's.
    hidden_states, attentions, cross_attentions (`tuple[torch.FloatTensor]`, *optional*):
        The decoder's, on request: `(batch, text, hidden)`, `(batch, heads, text, text)` and
        `(batch, heads, text, image tokens)`.
    text_model_output (`BaseModelOutputWithPooling`): Output of the text tower.
    image_outputs (`CoCaVisionModelOutput`, *optional*): Output of the vision tower, absent with `encoded_images`.
    """

    loss: torch.FloatTensor | None = None
    caption_loss: torch.FloatTensor | None = None
    contrastive_loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    image_embeds: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None
    cache: Cache | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    image_outputs: CoCaVisionModelOutput | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(v.to_tuple() if isinstance(v, ModelOutput) else v for v in self.values())


def sincos_position_embedding(size: int, grid_size: tuple[int, int]) -> Tensor:
    """
    Fixed two-dimensional sine-cosine positions, with a zero row for the class token: -> (1 + patches, size).

    The first half of the channels encodes the column, the second half the row; each half is sines, then cosines
    (Masked Autoencoders' `get_2d_sincos_pos_embed`, which open_clip uses).
    """
    height, width = grid_size
    frequencies = 1 / 10000 ** (torch.arange(size // 4, dtype=torch.float64) / (size / 4))
    rows = torch.arange(height, dtype=torch.float64).repeat_interleave(width)
    columns = torch.arange(width, dtype=torch.float64).repeat(height)
    angles = [positions[:, None] * frequencies for positions in (columns, rows)]
    table = torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1)
    return F.pad(table, (0, 0, 1, 0)).float()


class CoCaVisionEmbeddings(nn.Module):
    """Patches of an image, after a class token, with positions."""

    def __init__(self, config: CoCaVisionConfig):
        super().__init__()
        self.config = config
        self.class_embedding = nn.Parameter(torch.empty(config.hidden_size))
        self.patch_embedding = nn.Conv2d(
            config.num_channels,
            config.hidden_size,
            kernel_size=config.patch_size,
            stride=config.patch_size,
            bias=False,
        )
        num_positions = 1 + config.grid_size[0] * config.grid_size[1]
        self.position_embedding = nn.Embedding(num_positions, config.hidden_size)
        if config.position_embedding_type == "sincos":
            self.position_embedding.requires_grad_(False)

    def _positions(self) -> Tensor:
        """-> (1 + patches, hidden)."""
        # Through the module, whose weight may be on a disk until it is called.
        device = self.class_embedding.device
        return self.position_embedding(torch.arange(self.position_embedding.num_embeddings, device=device))

    def interpolate_pos_encoding(self, grid_size: tuple[int, int]) -> Tensor:
        """Positions for another grid of patches, by bicubic interpolation: -> (1 + patches, hidden)."""
        class_position, patch_positions = self._positions().split([1, self.position_embedding.num_embeddings - 1])
        patch_positions = patch_positions.t().unflatten(1, self.config.grid_size)[None]  # (1, hidden, rows, columns)
        resized = F.interpolate(patch_positions.float(), size=grid_size, mode="bicubic", align_corners=False)
        return torch.cat([class_position, resized[0].flatten(1).t().to(class_position.dtype)])

    def forward(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """(batch, channels, height, width) -> (batch, 1 + patches, hidden)."""
        if pixel_values.ndim != 4:
            raise ValueError(
                f"pixel_values has the shape {tuple(pixel_values.shape)}, but must have (batch, channels, height, "
                "width); for one image, that is a batch of one."
            )
        expected = self.config.image_size
        expected = (expected, expected) if isinstance(expected, int) else tuple(expected)
        given = tuple(pixel_values.shape[-2:])
        if given != expected and not interpolate_pos_encoding:
            raise ValueError(
                f"pixel_values are {given[0]} x {given[1]} pixels, but the model was made for "
                f"{expected[0]} x {expected[1]}: resize them, or pass interpolate_pos_encoding=True."
            )
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))
        grid_size = tuple(patches.shape[-2:])
        positions = self._positions() if given == expected else self.interpolate_pos_encoding(grid_size)
        patches = patches.flatten(2).transpose(1, 2)  # (batch, patches, hidden)
        class_token = self.class_embedding.expand(patches.shape[0], 1, -1)
        return torch.cat([class_token, patches], dim=1) + positions


class CoCaPatchDropout(nn.Module):
    """Leaves out a random share of the patches in training, never the class token (arXiv 2212.00794)."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(batch, 1 + patches, hidden) -> (batch, 1 + kept patches, hidden)."""
        if not self.training or self.rate == 0:
            return hidden_states
        batch, length, hidden = hidden_states.shape
        num_kept = max(1, int((length - 1) * (1 - self.rate)))
        kept = torch.rand(batch, length - 1, device=hidden_states.device).topk(num_kept).indices + 1
        kept = F.pad(kept, (1, 0), value=0)
        return hidden_states.gather(1, kept[:, :, None].expand(-1, -1, hidden))


class CoCaTextEmbeddings(nn.Module):
    """Token embeddings with learned positions, and the [CLS] embedding where the tower has one."""

    def __init__(self, config: CoCaTextConfig):
        super().__init__()
        self.config = config
        has_cls = config.pool_type == "cls"
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        # [CLS] stands right after the longest text, whatever the length of the text before it.
        self.position_embedding = nn.Embedding(config.max_position_embeddings + has_cls, config.hidden_size)
        self.cls_embedding = nn.Parameter(torch.empty(config.hidden_size)) if has_cls else None

    def forward(self, input_ids: Tensor, position_ids: Tensor, append_cls: bool = False) -> Tensor:
        """(batch, text), (batch or 1, text) -> (batch, text + 1 with [CLS], hidden)."""
        hidden_states = self.token_embedding(input_ids) + self.position_embedding(position_ids)
        if append_cls:
            cls_position = torch.full_like(position_ids[:1, :1], self.config.max_position_embeddings)
            cls_token = self.cls_embedding + self.position_embedding(cls_position)  # (1, 1, hidden)
            hidden_states = torch.cat([hidden_states, cls_token.expand(len(hidden_states), 1, -1)], dim=1)
        return hidden_states


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """(batch, heads, length, head size) each -> (batch, query length, heads, head size), attention weights."""
    weights = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = F.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def _attention_interface(config: Any, attention_mask: Any) -> Callable:
    implementation = config._attn_implementation
    # Flash kernels take no mask per query, which [CLS] needs: see `_key_masked_attention_mask`.
    if attention_mask is not None and is_flash_attention_requested(config) and attention_mask.ndim == 4:
        implementation = "sdpa"
    return ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)


class CoCaAttention(nn.Module):
    """Multi-head self-attention, cached where `cache` is given."""

    def __init__(
        self, config: CoCaVisionConfig | CoCaTextConfig | CoCaMultimodalConfig, is_causal: bool, layer_idx: int
    ):
        super().__init__()
        self.config = config
        self.is_causal = is_causal
        self.layer_idx = layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        # All three in one, in their place: see `pack_weights`.
        self.qkv_proj: nn.Module | None = None
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        num_uncached: int = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[Tensor, Tensor | None]:
        """
        (batch, length, hidden) -> (batch, length, hidden), weights (batch, heads, length, keys) or `None`.

        The last `num_uncached` positions stay out of the cache, which must be empty if there are any.
        """
        batch, length, _ = hidden_states.shape
        heads = (batch, length, -1, self.head_dim)
        if self.qkv_proj is None:
            projected = self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)
        else:
            projected = self.qkv_proj(hidden_states).chunk(3, dim=-1)
        query, key, value = (states.view(heads).transpose(1, 2) for states in projected)
        if cache is not None and num_uncached:
            cached = slice(None, length - num_uncached)
            cache.update(key[:, :, cached], value[:, :, cached], self.layer_idx)
        elif cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        attended, weights = _attention_interface(self.config, attention_mask)(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.scaling,
            dropout=self.config.attention_dropout if self.training else 0.0,
            **kwargs,
        )
        return self.out_proj(attended.reshape(batch, length, -1)), weights


class CoCaCrossAttention(nn.Module):
    """Multi-head attention to image tokens, whose keys and values are shared by all rows of the same image."""

    is_causal = False

    def __init__(
        self,
        config: CoCaVisionConfig | CoCaMultimodalConfig,
        hidden_size: int,
        num_attention_heads: int,
        context_size: int,
    ):
        super().__init__()
        self.config = config
        self.head_dim = hidden_size // num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(context_size, hidden_size)
        self.v_proj = nn.Linear(context_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)

    def project_context(self, context: Tensor) -> KeyValue:
        """(images, tokens, context size) -> keys and values, each (images, heads, tokens, head size)."""
        heads = (*context.shape[:2], -1, self.head_dim)
        return self.k_proj(context).view(heads).transpose(1, 2), self.v_proj(context).view(heads).transpose(1, 2)

    def forward(
        self, hidden_states: Tensor, context: Tensor | None = None, key_value: KeyValue | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """
        (rows, length, hidden); a context (images, tokens, context size), or what `project_context` made of it
        -> (rows, length, hidden), weights (rows, heads, length, tokens) or `None`.

        Rows are the images' own, image by image: one each, or several (beams). A single row serves all images.
        """
        images = len(context) if key_value is None else len(key_value[0])
        query = self.q_proj(hidden_states)
        query = query.expand(max(images, query.shape[0]), -1, -1)
        rows, length, _ = query.shape
        # An image's rows become one longer query, so that its keys and values are read once: (images, heads, ...).
        query = query.reshape(images, rows // images * length, -1, self.head_dim).transpose(1, 2)
        if key_value is None and self._attends_unprojected(query):
            attended, weights = self._attend_unprojected(query, context)
        else:
            attended, weights = self._attend(query, *(key_value or self.project_context(context)))
        if weights is not None:
            weights = weights.unflatten(2, (rows // images, length)).transpose(1, 2).flatten(0, 1)
        return self.out_proj(attended.reshape(rows, length, -1)), weights

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor | None]:
        """(images, heads, length, head size) each -> (images, length, heads, head size), weights or `None`."""
        return _attention_interface(self.config, None)(
            self,
            query,
            key,
            value,
            None,
            scaling=self.scaling,
            dropout=self.config.attention_dropout if self.training else 0.0,
        )

    def _attends_unprojected(self, query: Tensor) -> bool:
        """
        Whether to spare the keys and values of a context that few queries see: in training, where they are made for
        one text.

        Weights are used without their layer then.
        """
        return (
            self.training
            and torch.is_grad_enabled()
            and query.shape[2] <= self.head_dim // 2
            and self.config._attn_implementation in ("eager", "sdpa")
            and _is_plain_linear(self.k_proj)
            and _is_plain_linear(self.v_proj)
        )

    def _attend_unprojected(self, query: Tensor, context: Tensor) -> tuple[Tensor, Tensor | None]:
        """
        `_attend` by attention to the context itself: q (W c) = (W' q) c, and what is attended to is projected after.

        For Q queries of H heads, T tokens of C channels and heads of D channels it multiplies 2 H Q C (T + D) times
        instead of 2 H T D (C + Q): less than a quarter with 12 tokens of text in coca_ViT-B-32.
        """
        images, heads, length, _ = query.shape
        key_weight = self.k_proj.weight.view(heads, self.head_dim, -1)
        value_weight = self.v_proj.weight.view(heads, self.head_dim, -1)
        context = context[:, None]
        attended, weights = self._attend((query @ key_weight).flatten(1, 2)[:, None], context, context)
        attended = attended.reshape(images, heads, length, -1) @ value_weight.transpose(1, 2)
        # The keys' bias adds the same to all scores of a query, which softmax ignores. Its gradient is zero, not None.
        bias = torch.add(self.v_proj.bias, self.k_proj.bias, alpha=0)
        attended = attended.transpose(1, 2) + bias.view(heads, self.head_dim)
        return attended, None if weights is None else weights.view(images, heads, length, -1)


class CoCaMLP(nn.Module):
    def __init__(self, config: CoCaVisionConfig | CoCaTextConfig | CoCaMultimodalConfig):
        super().__init__()
        self.config = config
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(batch, length, hidden) -> (batch, length, hidden)."""
        hidden_states = self.fc1(hidden_states)
        if self.training and torch.is_grad_enabled():
            # Kept for the backward pass, the activations would be a quarter of a layer's memory; they are made again.
            return checkpoint(self._activate_and_project, hidden_states, use_reentrant=False)
        return self._activate_and_project(hidden_states)

    def _activate_and_project(self, hidden_states: Tensor) -> Tensor:
        return self.fc2(self.activation_fn(hidden_states))


class CoCaLayerScale(nn.Module):
    """Learned scale of each channel of a residual branch (arXiv 2103.17239)."""

    def __init__(self, size: int, initial_value: float):
        super().__init__()
        self.initial_value = initial_value
        self.weight = nn.Parameter(torch.full((size,), float(initial_value)))

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states * self.weight


def _layer_scale(config: CoCaVisionConfig | CoCaTextConfig | CoCaMultimodalConfig) -> nn.Module:
    if config.layer_scale_init_value is None:
        return nn.Identity()
    return CoCaLayerScale(config.hidden_size, config.layer_scale_init_value)


class CoCaLayer(GradientCheckpointingLayer):
    """Self-attention and MLP, each behind a layer norm."""

    def __init__(
        self,
        config: CoCaVisionConfig | CoCaTextConfig | CoCaMultimodalConfig,
        is_causal: bool = False,
        layer_idx: int = 0,
    ):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = CoCaAttention(config, is_causal, layer_idx)
        self.layer_scale1 = _layer_scale(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = CoCaMLP(config)
        self.layer_scale2 = _layer_scale(config)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Tensor:
        """(batch, length, hidden) -> (batch, length, hidden)."""
        attended, _ = self.self_attn(self.layer_norm1(hidden_states), attention_mask, **kwargs)
        hidden_states = hidden_states + self.layer_scale1(attended)
        return hidden_states + self.layer_scale2(self.mlp(self.layer_norm2(hidden_states)))


class CoCaCrossAttentionLayer(GradientCheckpointingLayer):
    """Cross-attention to image tokens and MLP, each behind a layer norm."""

    def __init__(self, config: CoCaMultimodalConfig):
        super().__init__()
        context_size = config.cross_attention_hidden_size or config.hidden_size
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.context_norm = nn.LayerNorm(context_size, eps=config.layer_norm_eps)
        self.cross_attn = CoCaCrossAttention(config, config.hidden_size, config.num_attention_heads, context_size)
        self.layer_scale1 = _layer_scale(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = CoCaMLP(config)
        self.layer_scale2 = _layer_scale(config)

    def project_image_tokens(self, image_tokens: Tensor) -> KeyValue:
        """(images, image tokens, context size) -> keys and values, each (images, heads, image tokens, head size)."""
        return self.cross_attn.project_context(self.context_norm(image_tokens))

    def forward(
        self, hidden_states: Tensor, image_tokens: Tensor | None = None, key_value: KeyValue | None = None
    ) -> Tensor:
        """(rows, text, hidden); image tokens, or their keys and values -> (rows, text, hidden)."""
        context = None if image_tokens is None else self.context_norm(image_tokens)
        attended, _ = self.cross_attn(self.layer_norm1(hidden_states), context, key_value)
        hidden_states = hidden_states + self.layer_scale1(attended)
        return hidden_states + self.layer_scale2(self.mlp(self.layer_norm2(hidden_states)))


class CoCaAttentionPooler(nn.Module):
    """Learned queries that attend to all tokens of an image (CoCa, section 3.2)."""

    def __init__(self, config: CoCaVisionConfig, num_queries: int, size: int):
        super().__init__()
        self.query = nn.Parameter(torch.empty(num_queries, size))
        self.query_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.context_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = CoCaCrossAttention(config, size, config.num_pooler_attention_heads, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(batch, tokens, hidden) -> (batch, queries, pooler size)."""
        return self.attn(self.query_norm(self.query)[None], self.context_norm(hidden_states))[0]


class CoCaMultimodalLayer(nn.Module):
    """A causal self-attention block, then a cross-attention block; each with an MLP of its own."""

    def __init__(self, config: CoCaMultimodalConfig, layer_idx: int):
        super().__init__()
        self.self_attention_layer = CoCaLayer(config, is_causal=True, layer_idx=layer_idx)
        self.cross_attention_layer = CoCaCrossAttentionLayer(config)

    def forward(
        self,
        hidden_states: Tensor,
        image_tokens: Tensor | None = None,
        key_value: KeyValue | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Tensor:
        """(rows, text, hidden); image tokens, or their keys and values -> (rows, text, hidden)."""
        hidden_states = self.self_attention_layer(hidden_states, **kwargs)
        return self.cross_attention_layer(hidden_states, image_tokens, key_value)

    def project_image_tokens(self, image_tokens: Tensor) -> KeyValue:
        """(images, image tokens, context size) -> keys and values, each (images, heads, image tokens, head size)."""
        return self.cross_attention_layer.project_image_tokens(image_tokens)


class CoCaPreTrainedModel(CoCaModelCardMixin, PreTrainedModel):
    """Weight initialisation and loading, shared by all CoCa models."""

    config: CoCaConfig
    config_class = CoCaConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = [
        "CoCaAttentionPooler",
        "CoCaCrossAttentionLayer",
        "CoCaLayer",
        "CoCaTextEmbeddings",
        "CoCaVisionEmbeddings",
    ]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """CLIP's scheme (open_clip's `TextTransformer.init_parameters`), for every stack."""
        super()._init_weights(module)
        if isinstance(module, (CoCaAttention, CoCaMLP)):
            size, depth = module.config.hidden_size, max(1, module.config.num_hidden_layers)
            residual_std = (2 * size * depth) ** -0.5
            if isinstance(module, CoCaMLP):
                _init_linear(module.fc1, (2 * size) ** -0.5)
                _init_linear(module.fc2, residual_std)
            else:
                for projection in (module.q_proj, module.k_proj, module.v_proj):
                    _init_linear(projection, size**-0.5)
                _init_linear(module.out_proj, residual_std)
        elif isinstance(module, CoCaCrossAttention):
            for projection in (module.q_proj, module.k_proj, module.v_proj, module.out_proj):
                _init_linear(projection, projection.in_features**-0.5)
        elif isinstance(module, CoCaAttentionPooler):
            init.normal_(module.query)
        elif isinstance(module, CoCaLayerScale):
            init.constant_(module.weight, module.initial_value)
        elif isinstance(module, CoCaVisionEmbeddings):
            std = module.config.hidden_size**-0.5
            init.normal_(module.class_embedding, std=std)
            if module.config.position_embedding_type == "learned":
                init.normal_(module.position_embedding.weight, std=std)
            else:
                table = sincos_position_embedding(module.config.hidden_size, module.config.grid_size)
                init.copy_(module.position_embedding.weight, table)
        elif isinstance(module, CoCaTextEmbeddings):
            init.normal_(module.position_embedding.weight, std=0.01)
            if module.cls_embedding is not None:
                init.normal_(module.cls_embedding, std=0.01)
        elif isinstance(module, CoCaModel):
            _init_linear(module.visual_projection, module.visual_projection.in_features**-0.5)
            if isinstance(module.text_projection, nn.Linear):
                _init_linear(module.text_projection, module.text_projection.in_features**-0.5)
            init.constant_(module.logit_scale, module.config.logit_scale_init_value)
            if module.logit_bias is not None:
                init.constant_(module.logit_bias, module.config.logit_bias_init_value)
        elif isinstance(module, CoCaForCaptioning):
            _init_linear(module.lm_head, module.lm_head.in_features**-0.5)

    def _data_parallel_group(self) -> Any:
        """The processes with other parts of the batch than this one, `None` if there are none."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return None
        mesh = getattr(self, "_device_mesh", None)
        if mesh is None or "tp" not in mesh.mesh_dim_names or mesh["tp"].size() == 1:
            return torch.distributed.group.WORLD if torch.distributed.get_world_size() > 1 else None
        # Processes that share the layers, tensor-parallel, have the same batch.
        has_parts = "fsdp" in mesh.mesh_dim_names and mesh["fsdp"].size() > 1
        return mesh["fsdp"].get_group() if has_parts else None


def _init_linear(linear: nn.Linear, std: float) -> None:
    # Quantised layers have replaced their weight.
    if getattr(linear, "weight", None) is not None:
        init.normal_(linear.weight, std=std)


class CoCaVisionModel(CoCaPreTrainedModel):
    """The vision tower: a ViT, and the poolers that give the contrastive vector and the decoder's image tokens."""

    config: CoCaVisionConfig
    config_class = CoCaVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _input_embed_layer = "patch_embedding"
    _can_record_outputs = {
        "hidden_states": CoCaLayer,
        "attentions": CoCaAttention,
        "cross_attentions": OutputRecorder(CoCaCrossAttention, index=1),
    }

    def __init__(self, config: CoCaVisionConfig):
        super().__init__(config)
        self.embeddings = CoCaVisionEmbeddings(config)
        self.patch_dropout = CoCaPatchDropout(config.patch_dropout)
        self.pre_layernorm = (
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.use_pre_norm else nn.Identity()
        )
        self.layers = nn.ModuleList([CoCaLayer(config) for _ in range(config.num_hidden_layers)])
        pooling = config.attentional_pooling
        self.pooler = (
            CoCaAttentionPooler(config, config.num_pooler_queries, config.pooler_hidden_size)
            if pooling != "none"
            else None
        )
        self.contrastive_pooler = (
            CoCaAttentionPooler(config, 1, config.pooled_hidden_size)
            if pooling in ("parallel", "cascade", "separate")
            else None
        )
        # Before two poolers, behind one.
        self.post_layernorm = nn.LayerNorm(
            config.image_tokens_hidden_size if pooling == "single" else config.hidden_size, eps=config.layer_norm_eps
        )
        has_norms = pooling == "separate"
        self.pooler_norm = (
            nn.LayerNorm(config.image_tokens_hidden_size, eps=config.layer_norm_eps) if has_norms else nn.Identity()
        )
        self.contrastive_pooler_norm = (
            nn.LayerNorm(config.pooled_hidden_size, eps=config.layer_norm_eps) if has_norms else nn.Identity()
        )
        self.post_init()

    def _global_pool(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, tokens, size) -> the vector (batch, size), the image tokens (batch, tokens, size)."""
        if self.config.pool_type == "cls":
            return tokens[:, 0], tokens[:, 1:]
        if self.config.pool_type == "mean":
            return tokens[:, 1:].mean(dim=1), tokens[:, 1:]
        return tokens, tokens

    def _pool(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, 1 + patches, hidden) -> as `_global_pool` (open_clip's `VisionTransformer._pool`)."""
        if self.contrastive_pooler is not None:
            hidden_states = self.post_layernorm(hidden_states)
            image_tokens = self.pooler_norm(self.pooler(hidden_states))
            is_cascade = self.config.attentional_pooling == "cascade"
            vector = self.contrastive_pooler(image_tokens if is_cascade else hidden_states)[:, 0]
            return self.contrastive_pooler_norm(vector), image_tokens
        if self.config.final_norm_after_pool:
            pooled, image_tokens = self._global_pool(hidden_states)
            return self.post_layernorm(pooled), image_tokens
        if self.pooler is not None:
            hidden_states = self.pooler(hidden_states)
        return self._global_pool(self.post_layernorm(hidden_states))

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CoCaVisionModelOutput:
        r"""
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, channels, height, width)`): Normalised images.
            interpolate_pos_encoding (`bool`, defaults to `False`):
                Whether to accept images of another size than the config's, resizing the position embeddings.

        Raises:
            ValueError: The images are missing, or of another size than the config's.
        """
        if pixel_values is None:
            raise ValueError("pixel_values is missing: pass images, as the processor prepares them.")
        hidden_states = self.embeddings(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding)
        hidden_states = self.pre_layernorm(self.patch_dropout(hidden_states))
        for layer in self.layers:
            hidden_states = layer(hidden_states, None, **kwargs)
        pooled, image_tokens = self._pool(hidden_states)
        return CoCaVisionModelOutput(last_hidden_state=hidden_states, pooler_output=pooled, image_tokens=image_tokens)


def token_key_mask(input_ids: Tensor, attention_mask: Tensor | None, pad_token_id: int) -> Tensor:
    """
    Which keys a text tower with [CLS] lets its tokens see: (batch, text) -> bool (batch, text + 1).

    A key is seen if the token before it is one, neither masked nor `pad_token_id`: one position late, on purpose,
    since released weights were trained so (open_clip's `_build_additive_mask`). Hence the last entry, for the
    padding that follows a text; and an id equal to `pad_token_id` inside a text hides the token after it.
    """
    is_token = input_ids != pad_token_id
    if attention_mask is None:
        return F.pad(is_token, (1, 0), value=True)
    attention_mask = attention_mask.bool()
    is_first = attention_mask & (attention_mask.cumsum(dim=-1) == 1)
    return F.pad(is_token & attention_mask, (1, 0), value=False) | F.pad(is_first, (0, 1), value=False)


def _num_left_padding(attention_mask: Tensor) -> Tensor:
    """(batch, text) -> (batch, 1)."""
    return (attention_mask.cumsum(dim=-1) == 0).sum(dim=-1, keepdim=True)


def _text_position_ids(input_ids: Tensor, attention_mask: Tensor | None, past_length: int | Tensor) -> Tensor:
    """Positions counted from each row's first token: (batch, text) -> (batch or 1, text)."""
    length = input_ids.shape[1]
    position_ids = torch.arange(length, device=input_ids.device)[None] + past_length
    if attention_mask is not None and attention_mask.ndim == 2:
        position_ids = (position_ids - _num_left_padding(attention_mask)).clamp(min=0)
    return position_ids


def _key_masked_attention_mask(
    config: CoCaTextConfig, inputs_embeds: Tensor, key_mask: Tensor, cache: Cache | None
) -> Any:
    """Causality and `key_mask` (batch, keys) in the form that the attention implementation takes."""
    if not is_flash_attention_requested(config):
        return create_causal_mask(config=config, inputs_embeds=inputs_embeds, attention_mask=key_mask, cache=cache)
    # To flash kernels a masked key is padding: they would drop its query as well.
    query_length, past_length, kv_length = inputs_embeds.shape[1], 0, key_mask.shape[1]
    if cache is not None:
        # A static cache has more keys than tokens.
        past_length, (kv_length, _) = cache.get_seq_length(), cache.get_mask_sizes(query_length, 0)
    return sdpa_mask(
        batch_size=len(inputs_embeds),
        q_length=query_length,
        kv_length=kv_length,
        q_offset=past_length,
        mask_function=causal_mask_function if config.is_causal else bidirectional_mask_function,
        attention_mask=key_mask,
        allow_is_causal_skip=False,
        device=inputs_embeds.device,
    )


class CoCaTextModel(CoCaPreTrainedModel):
    """The unimodal text tower."""

    config: CoCaTextConfig
    config_class = CoCaTextConfig
    input_modalities = ("text",)
    _input_embed_layer = "token_embedding"
    _can_record_outputs = {"hidden_states": CoCaLayer, "attentions": CoCaAttention}

    def __init__(self, config: CoCaTextConfig):
        super().__init__(config)
        self.embeddings = CoCaTextEmbeddings(config)
        self.layers = nn.ModuleList(
            [CoCaLayer(config, config.is_causal, layer_idx) for layer_idx in range(config.num_hidden_layers)]
        )
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def _num_padding_to_append(self, length: int) -> int:
        """Padding that the text vector depends on, whatever the length at which a batch was trimmed."""
        if self.config.pool_type == "cls":
            return 1  # the padding after the text is seen: see `token_key_mask`
        if self.config.pool_type == "last" or not self.config.is_causal:
            return self.config.max_position_embeddings - length
        return 0

    def _pool(self, hidden_states: Tensor, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """(batch, text, hidden) -> (batch, hidden), or all of it with `pool_type="none"`."""
        if self.config.pool_type == "none":
            return hidden_states
        if self.config.pool_type in ("cls", "last"):
            return hidden_states[:, -1]
        if self.config.pool_type == "argmax":
            index = input_ids.argmax(dim=-1)
        elif self.config.pool_type == "eos":
            eos_token_id = torch.as_tensor(self.config.eos_token_id, device=input_ids.device)
            index = torch.isin(input_ids, eos_token_id).int().argmax(dim=-1)
        elif attention_mask is not None:
            index = _num_left_padding(attention_mask)[:, 0]
        else:
            return hidden_states[:, 0]
        return hidden_states[torch.arange(len(index), device=index.device), index]

    def _embed_with_suffix(
        self, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor
    ) -> tuple[Tensor, Any]:
        """
        The text followed by what its vector needs: padding, [CLS].

        (batch, text) -> embeddings (batch, text + suffix, hidden), attention mask.
        """
        has_cls, context = self.config.pool_type == "cls", self.config.max_position_embeddings
        num_padding = self._num_padding_to_append(input_ids.shape[1])
        padding_positions = position_ids[:, -1:] + torch.arange(1, num_padding + 1, device=position_ids.device)
        position_ids = torch.cat([position_ids, padding_positions.clamp(max=context - 1)], dim=1)
        padded_ids = F.pad(input_ids, (0, num_padding), value=self.config.pad_token_id or 0)
        inputs_embeds = self.embeddings(padded_ids, position_ids, append_cls=has_cls)
        if has_cls:
            key_mask = token_key_mask(input_ids, attention_mask, self.config.pad_token_id)
            # A text that fills the context has no padding after it: then [CLS] stands there, and sees itself.
            is_full = padding_positions >= context
            key_mask = torch.cat([key_mask[:, :-1], key_mask[:, -1:] & ~is_full, key_mask[:, -1:] & is_full], dim=1)
        elif attention_mask is not None:
            # Padding on the right is seen, as by open_clip's towers without [CLS].
            key_mask = torch.arange(padded_ids.shape[1], device=input_ids.device) >= _num_left_padding(attention_mask)
        else:
            key_mask = torch.ones_like(padded_ids, dtype=torch.bool)
        return inputs_embeds, _key_masked_attention_mask(self.config, inputs_embeds, key_mask, None)

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        pool: bool = True,
        key_mask: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch, text)`): Token ids, padded on either side.
            attention_mask (`torch.Tensor` of shape `(batch, text)`, *optional*):
                1 for tokens, 0 for padding, cached tokens included. Without it, ids equal to `pad_token_id` are
                padding where the tower has a [CLS], as in open_clip.
            position_ids (`torch.LongTensor` of shape `(batch, text)`, *optional*):
                Counted from each text's first token.
            cache (`Cache`, *optional*): Receives keys and values; never those of [CLS].
            pool (`bool`, defaults to `True`):
                Whether to compute the text vector. `False` where only the token states are of interest, and where
                `cache` already holds tokens.
            key_mask (`torch.BoolTensor` of shape `(batch, keys)`, *optional*):
                With `pool=False`, which keys are seen, where that is not `attention_mask`: see [`token_key_mask`].

        Returns:
            `last_hidden_state` of shape `(batch, text, hidden)` without [CLS], and not normed where there is
            a [CLS]; `pooler_output` of shape `(batch, hidden)`, or `None`.

        Raises:
            ValueError: The text is missing, or longer than the context.
        """
        if input_ids is None:
            raise ValueError("input_ids is missing: pass token ids, as the processor prepares them.")
        length, context = input_ids.shape[1], self.config.max_position_embeddings
        if length > context:
            raise ValueError(
                f"input_ids holds {length} tokens, but the context is {context} long: truncate the text, as "
                "`processor(text=..., truncation=True)` does."
            )
        if position_ids is None:
            past_length = cache.get_seq_length() if cache is not None else 0
            position_ids = _text_position_ids(input_ids, attention_mask, past_length)
        if pool:
            hidden_states, mask = self._embed_with_suffix(input_ids, attention_mask, position_ids)
        else:
            hidden_states = self.embeddings(input_ids, position_ids)
            if key_mask is None:
                mask = create_causal_mask(
                    config=self.config,
                    inputs_embeds=hidden_states,
                    attention_mask=attention_mask,
                    cache=cache,
                )
            else:
                mask = _key_masked_attention_mask(self.config, hidden_states, key_mask, cache)

        num_uncached = hidden_states.shape[1] - length
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, cache=cache, num_uncached=num_uncached, **kwargs)

        token_states, pooled = hidden_states[:, :length], None
        if self.config.pool_type != "cls":
            hidden_states = self.final_layer_norm(hidden_states)
            token_states = hidden_states[:, :length]
            if pool:
                pooled_states = token_states if self.config.pool_type == "none" else hidden_states
                pooled = self._pool(pooled_states, input_ids, attention_mask)
        elif pool:
            pooled = self.final_layer_norm(self._pool(hidden_states, input_ids, attention_mask))
        return BaseModelOutputWithPooling(last_hidden_state=token_states, pooler_output=pooled)


class CoCaMultimodalDecoder(CoCaPreTrainedModel):
    """The multimodal decoder: token states of the text tower, enriched by the image."""

    config: CoCaMultimodalConfig
    config_class = CoCaMultimodalConfig
    main_input_name = "inputs_embeds"
    _can_record_outputs = {
        "hidden_states": CoCaMultimodalLayer,
        "attentions": CoCaAttention,
        "cross_attentions": OutputRecorder(CoCaCrossAttention, index=1),
    }

    def __init__(self, config: CoCaMultimodalConfig, first_layer_idx: int = 0):
        super().__init__(config)
        self.layers = nn.ModuleList(
            [CoCaMultimodalLayer(config, first_layer_idx + idx) for idx in range(config.num_hidden_layers)]
        )
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def project_image_tokens(self, image_tokens: Tensor) -> tuple[KeyValue, ...]:
        """(images, image tokens, context size) -> each layer's keys and values."""
        # Contiguous: each is read once a token, for whole captions.
        return tuple(
            (key.contiguous(), value.contiguous())
            for key, value in (layer.project_image_tokens(image_tokens) for layer in self.layers)
        )

    @capture_outputs
    def forward(
        self,
        inputs_embeds: Tensor,
        image_tokens: Tensor | None = None,
        key_values: tuple[KeyValue, ...] | None = None,
        attention_mask: Any = None,
        cache: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        r"""
        Args:
            inputs_embeds (`torch.FloatTensor` of shape `(rows, text, hidden)`): Token states of the text tower.
            image_tokens (`torch.FloatTensor` of shape `(images, image tokens, context size)`, *optional*):
                The vision tower's; rows are a multiple of images, those of one image adjacent.
            key_values (`tuple`, *optional*): What `project_image_tokens` made of them; then they are not needed.
            attention_mask: Self-attention's mask in the form that the attention implementation takes.
            cache (`Cache`, *optional*): Self-attention's keys and values.
        """
        hidden_states = inputs_embeds
        for idx, layer in enumerate(self.layers):
            hidden_states = layer(
                hidden_states,
                image_tokens,
                key_values[idx] if key_values is not None else None,
                attention_mask=attention_mask,
                cache=cache,
                **kwargs,
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.final_layer_norm(hidden_states), cache=cache
        )


class CoCaModel(CoCaPreTrainedModel):
    """The two towers and the similarity of what they see: retrieval, zero-shot classification, embeddings."""

    # A captioner's checkpoint holds a decoder as well, which this model does without.
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^lm_head\."]

    def __init__(self, config: CoCaConfig):
        super().__init__(config)
        text_config, vision_config = config.text_config, config.vision_config
        self.vision_model = CoCaVisionModel._from_config(vision_config)
        self.text_model = CoCaTextModel._from_config(text_config)
        self.visual_projection = nn.Linear(vision_config.pooled_hidden_size, config.projection_dim, bias=False)
        self.text_projection = (
            nn.Identity()
            if text_config.projection_type == "none"
            else nn.Linear(
                text_config.hidden_size, config.projection_dim, bias=text_config.projection_type == "linear_bias"
            )
        )
        shape = (1,) if config.nonscalar_logit_scale else ()
        self.logit_scale = nn.Parameter(torch.full(shape, float(config.logit_scale_init_value)))
        has_bias = config.logit_bias_init_value is not None
        self.logit_bias = nn.Parameter(torch.full(shape, float(config.logit_bias_init_value))) if has_bias else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        r"""
        Text features: arguments as in [`CoCaTextModel`]'s `forward`.

        Returns:
            The text tower's output, with `pooler_output` of shape `(batch, projection_dim)` projected into the space
            shared with images, not normalised.
        """
        outputs = self.text_model(input_ids, attention_mask, position_ids, return_dict=True, **kwargs)
        outputs.pooler_output = self.text_projection(outputs.pooler_output)
        return outputs

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: Tensor,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CoCaVisionModelOutput:
        r"""
        Image features: arguments as in [`CoCaVisionModel`]'s `forward`.

        Returns:
            The vision tower's output, with `pooler_output` of shape `(batch, projection_dim)` projected into the space
            shared with texts, not normalised.
        """
        outputs = self.vision_model(pixel_values, interpolate_pos_encoding, return_dict=True, **kwargs)
        outputs.pooler_output = self.visual_projection(outputs.pooler_output)
        return outputs

    def similarity(self, image_embeds: Tensor, text_embeds: Tensor) -> Tensor:
        """(images, dim), (texts, dim), both L2-normalised -> scaled similarities (images, texts)."""
        logits = (
            self.logit_scale.exp().to(image_embeds.device) * image_embeds @ text_embeds.t().to(image_embeds.device)
        )
        return logits if self.logit_bias is None else logits + self.logit_bias.to(logits.device)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CoCaOutput:
        r"""
        Embeds images, texts, or both; then also compares them.

        Args:
            input_ids (`torch.LongTensor` of shape `(texts, text)`, *optional*): See [`CoCaTextModel`].
            pixel_values (`torch.FloatTensor` of shape `(images, channels, height, width)`, *optional*):
                Normalised images.
            attention_mask (`torch.Tensor` of shape `(texts, text)`, *optional*): 1 for tokens, 0 for padding.
            position_ids (`torch.LongTensor` of shape `(texts, text)`, *optional*): See [`CoCaTextModel`].
            return_loss (`bool`, *optional*): Whether to compute the contrastive loss; text i belongs to image i.
            interpolate_pos_encoding (`bool`, defaults to `False`): See [`CoCaVisionModel`].

        Raises:
            ValueError: Both images and texts are missing; or the loss is asked for and their numbers differ.

        Example:

        ```python
        >>> import coca_hf
        >>> from PIL import Image
        >>> from transformers import AutoModel, AutoProcessor

        >>> model = AutoModel.from_pretrained(coca_hf.bundled_model())
        >>> processor = AutoProcessor.from_pretrained(coca_hf.bundled_model())
        >>> texts = ["a red circle", "a blue square"]
        >>> inputs = processor(images=Image.new("RGB", (64, 64)), text=texts, return_tensors="pt", padding=True)
        >>> model(**inputs).logits_per_image.shape
        torch.Size([1, 2])
        ```"""
        if input_ids is None and pixel_values is None:
            raise ValueError("Both input_ids and pixel_values are missing: pass texts, images, or both.")
        vision_outputs = text_outputs = image_embeds = text_embeds = None
        if pixel_values is not None:
            vision_outputs = self.get_image_features(pixel_values, interpolate_pos_encoding, **kwargs)
            image_embeds = F.normalize(vision_outputs.pooler_output, dim=-1)
        if input_ids is not None:
            text_outputs = self.get_text_features(input_ids, attention_mask, position_ids, **kwargs)
            text_embeds = F.normalize(text_outputs.pooler_output, dim=-1)

        logits_per_image = loss = None
        if image_embeds is not None and text_embeds is not None and image_embeds.ndim == text_embeds.ndim == 2:
            logits_per_image = self.similarity(image_embeds, text_embeds)
        if return_loss:
            if logits_per_image is None or len(image_embeds) != len(text_embeds):
                raise ValueError("return_loss=True needs as many texts as images, and pooled vectors of both.")
            loss = image_text_contrastive_loss(
                image_embeds, text_embeds, self.logit_scale.exp(), self._data_parallel_group()
            )
        return CoCaOutput(
            loss=loss,
            logits_per_image=logits_per_image,
            logits_per_text=logits_per_image.t() if logits_per_image is not None else None,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=text_outputs,
            vision_model_output=vision_outputs,
        )


class CoCaForCaptioning(CoCaPreTrainedModel, CoCaGenerationMixin):
    """The towers and the multimodal decoder: captioning, and all that [`CoCaModel`] does, in one pass."""

    main_input_name = "pixel_values"
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: CoCaConfig):
        super().__init__(config)
        if not config.multimodal_config.num_hidden_layers:
            raise ValueError(
                "multimodal_config.num_hidden_layers=0: a model without a decoder cannot caption; use CoCaModel."
            )
        self.model = CoCaModel(config)
        self.decoder = CoCaMultimodalDecoder._from_config(
            config.multimodal_config, first_layer_idx=config.text_config.num_hidden_layers
        )
        self.loss_type = "ForCausalLM"
        self.lm_head = nn.Linear(config.multimodal_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()
        # Captions end by themselves or where the context does. The library's pipelines ask for 256 tokens otherwise.
        self.generation_config.max_length = config.text_config.max_position_embeddings

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_image_features(self, *args: Any, **kwargs: Any) -> CoCaVisionModelOutput:
        """See [`CoCaModel`]."""
        return self.model.get_image_features(*args, **kwargs)

    def get_text_features(self, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        """See [`CoCaModel`]."""
        return self.model.get_text_features(*args, **kwargs)

    def encode_images(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> CoCaEncodedImages:
        r"""
        All that decoding needs of images: pass the result to `forward` or `generate` as `encoded_images`, any number
        of times.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(images, channels, height, width)`): Normalised images.
            interpolate_pos_encoding (`bool`, defaults to `False`): See [`CoCaVisionModel`].
        """
        outputs = self.model.get_image_features(pixel_values, interpolate_pos_encoding)
        return CoCaEncodedImages(
            image_embeds=F.normalize(outputs.pooler_output, dim=-1),
            key_values=self.decoder.project_image_tokens(outputs.image_tokens),
        )

    def _prepare_cache(self, cache: Cache | None, use_cache: bool) -> Cache | None:
        """The cache of both stacks: the text tower's layers, then the decoder's."""
        if not use_cache:
            return None
        if cache is None:
            return DynamicCache()
        # Caches made from the config have the text tower's layers only.
        num_layers = self.config.text_config.num_hidden_layers + self.config.multimodal_config.num_hidden_layers
        if cache.layer_class_to_replicate is None:
            missing = num_layers - len(cache.layers)
            cache.layers.extend(copy.deepcopy(cache.layers[0]) for _ in range(missing))
        return cache

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The library's inputs of one step, and the keys that the text tower sees where ids hide some of them."""
        model_inputs = super().prepare_inputs_for_generation(
            input_ids, attention_mask=attention_mask, cache=cache, **kwargs
        )
        config = self.config.text_config
        covers_cache = attention_mask is None or attention_mask.shape[-1] == input_ids.shape[1]
        if cache is not None and config.pool_type == "cls" and covers_cache:
            is_hiding = input_ids == config.pad_token_id
            if attention_mask is not None:
                is_hiding = is_hiding & attention_mask.bool()
            if is_hiding.any():
                key_mask = token_key_mask(input_ids, attention_mask, config.pad_token_id)
                model_inputs["text_key_mask"] = key_mask[:, :-1]
        return model_inputs

    def _caption_loss(self, logits: Tensor, labels: Tensor | None, **kwargs: Any) -> Tensor:
        return self.loss_function(
            logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size, **kwargs
        )

    def _chunked_caption_loss(
        self, hidden_states: Tensor, next_tokens: Tensor, num_items_in_batch: Tensor | int | None
    ) -> Tensor:
        """
        `_caption_loss` without all logits at once, in chunks of the positions that count.

        (rows, text, hidden), (rows, text) with -100 where nothing is to be predicted -> ().
        """
        counted = (next_tokens != -100).flatten().nonzero()[:, 0]
        states, labels = hidden_states.flatten(0, 1)[counted], next_tokens.flatten()[counted]
        num_items = len(counted) if num_items_in_batch is None else num_items_in_batch
        size = max(MIN_LOGITS_AT_ONCE // self.config.text_config.vocab_size, -(-len(counted) // MAX_LOGITS_CHUNKS), 1)

        def chunk_loss(logits: Tensor, labels: Tensor) -> Tensor:
            return self._caption_loss(logits, None, shift_labels=labels, num_items_in_batch=num_items)

        device = states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.lm_head.weight.dtype
        # In float16, gradients would vanish before a scaled loss could save them.
        if torch.is_grad_enabled() and dtype != torch.float16 and _is_plain_linear(self.lm_head):
            with torch.autocast(device, enabled=False):
                return _ChunkedLoss.apply(states, self.lm_head.weight, labels, size, dtype, chunk_loss)

        def checkpointed_loss(states: Tensor, labels: Tensor) -> Tensor:
            return checkpoint(lambda: chunk_loss(self.lm_head(states), labels), use_reentrant=False)

        return sum(map(checkpointed_loss, states.split(size), labels.split(size)))

    def _contrastive_loss(
        self,
        image_embeds: Tensor,
        text_embeds: Tensor | None,
        num_items_in_batch: Tensor | int | None,
        num_items: Tensor,
    ) -> Tensor | None:
        if text_embeds is None or text_embeds.ndim != 2 or image_embeds.shape != text_embeds.shape:
            return None
        loss = image_text_contrastive_loss(
            image_embeds, text_embeds, self.model.logit_scale.exp(), self._data_parallel_group()
        )
        # Trainer adds up the losses of accumulated batches: each counts by its share of their tokens.
        return loss if num_items_in_batch is None else loss * num_items / num_items_in_batch

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        labels: Tensor | None = None,
        encoded_images: CoCaEncodedImages | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        interpolate_pos_encoding: bool = False,
        text_key_mask: Tensor | None = None,
        skip_logits: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CoCaForCaptioningOutput:
        r"""
        Scores each next token of texts about images, and embeds both.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(images, channels, height, width)`, *optional*):
                Normalised images.
            input_ids (`torch.LongTensor` of shape `(rows, text)`):
                Token ids, padded on either side; as many rows as images, or a multiple, those of an image adjacent.
            attention_mask (`torch.Tensor` of shape `(rows, text)`, *optional*):
                1 for tokens, 0 for padding, cached tokens included.
            position_ids (`torch.LongTensor` of shape `(rows, text)`, *optional*):
                Counted from each text's first token.
            cache (`Cache`, *optional*):
                Keys and values of the tokens before `input_ids`, in both text stacks.
            labels (`torch.LongTensor` of shape `(rows, text)`, *optional*):
                The same tokens as `input_ids`, which are shifted inside; -100 is ignored.
            encoded_images (`CoCaEncodedImages`, *optional*): What `encode_images` made of images, in place of them.
            use_cache (`bool`, *optional*):
                Whether to return `cache`; by default, unless in training or `labels` are given.
            logits_to_keep (`int` or `torch.Tensor`, defaults to 0):
                Compute logits for the last so many positions only, or for these indices; 0 for all.
            interpolate_pos_encoding (`bool`, defaults to `False`): See [`CoCaVisionModel`].
            text_key_mask (`torch.BoolTensor` of shape `(rows, keys)`, *optional*):
                With `cache`, which keys the text tower sees, where that is not `attention_mask`: see
                [`token_key_mask`]. `generate` passes it.
            skip_logits (`bool`, defaults to `False`):
                With `labels`, compute the loss without returning `logits`, of which no more than a small part then
                exists at a time: the same loss and gradients in less memory. The loss then has one backward pass.

        Raises:
            ValueError: Images or text are missing, rows are no multiple of images, the text exceeds the context, or
                `skip_logits` comes without `labels`.

        Example:

        ```python
        >>> import coca_hf
        >>> from PIL import Image
        >>> from transformers import AutoModelForImageTextToText, AutoProcessor

        >>> model = AutoModelForImageTextToText.from_pretrained(coca_hf.bundled_model())
        >>> processor = AutoProcessor.from_pretrained(coca_hf.bundled_model())
        >>> inputs = processor(images=Image.new("RGB", (64, 64)), text="a red circle", return_tensors="pt")
        >>> outputs = model(**inputs, labels=inputs["input_ids"])
        >>> outputs.logits.shape[:2] == inputs["input_ids"].shape
        True
        ```"""
        if input_ids is None:
            raise ValueError("input_ids is missing: pass the text to score, or call generate() for a caption.")
        if (pixel_values is None) == (encoded_images is None):
            raise ValueError("Pass either pixel_values or encoded_images, one of the two.")
        has_labels = labels is not None or kwargs.get("shift_labels") is not None
        if skip_logits and not has_labels:
            raise ValueError("skip_logits=True computes the loss alone: pass labels.")
        if use_cache is None:
            use_cache = cache is not None or not (self.training or has_labels)
        # A text's vector needs the whole text.
        pool = cache is None
        cache = self._prepare_cache(cache, use_cache)

        vision_outputs = image_tokens = key_values = None
        if encoded_images is None:
            vision_outputs = self.model.get_image_features(pixel_values, interpolate_pos_encoding, **kwargs)
            image_embeds = F.normalize(vision_outputs.pooler_output, dim=-1)
            image_tokens, num_images = vision_outputs.image_tokens, len(pixel_values)
        else:
            image_embeds, key_values = encoded_images.image_embeds, encoded_images.key_values
            num_images = len(image_embeds)
        if len(input_ids) % num_images:
            raise ValueError(f"input_ids has {len(input_ids)} rows for {num_images} images: give each image as many.")

        # Before the text tower writes to the cache, whose length the mask is made for.
        decoder_mask = create_causal_mask(
            config=self.config.multimodal_config,
            inputs_embeds=torch.empty((*input_ids.shape, 0), dtype=image_embeds.dtype, device=input_ids.device),
            attention_mask=attention_mask,
            cache=cache,
        )
        text_outputs = self.model.text_model(
            input_ids,
            attention_mask,
            position_ids,
            cache=cache,
            pool=pool,
            key_mask=text_key_mask,
            return_dict=True,
            **kwargs,
        )
        text_embeds = None
        if pool:
            text_outputs.pooler_output = self.model.text_projection(text_outputs.pooler_output)
            text_embeds = F.normalize(text_outputs.pooler_output, dim=-1)

        decoder_outputs = self.decoder(
            text_outputs.last_hidden_state,
            image_tokens,
            key_values,
            attention_mask=decoder_mask,
            cache=cache,
            return_dict=True,
            **kwargs,
        )
        hidden_states = decoder_outputs.last_hidden_state
        logits = loss = caption_loss = contrastive_loss = None
        if not skip_logits:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(hidden_states[:, kept])
        if has_labels:
            next_tokens = kwargs.get("shift_labels")
            next_tokens = F.pad(labels[:, 1:], (0, 1), value=-100) if next_tokens is None else next_tokens
            num_items_in_batch = kwargs.get("num_items_in_batch")
            if skip_logits:
                caption_loss = self._chunked_caption_loss(hidden_states, next_tokens, num_items_in_batch)
            else:
                caption_loss = self._caption_loss(logits, labels, **kwargs)
            num_items = (next_tokens != -100).sum()
            contrastive_loss = self._contrastive_loss(image_embeds, text_embeds, num_items_in_batch, num_items)
            loss = self.config.caption_loss_weight * caption_loss
            if contrastive_loss is not None:
                loss = loss + self.config.contrastive_loss_weight * contrastive_loss
        return CoCaForCaptioningOutput(
            loss=loss,
            caption_loss=caption_loss,
            contrastive_loss=contrastive_loss,
            logits=logits,
            image_embeds=image_embeds,
            text_embeds=text_embeds,
            cache=cache,
            hidden_states=decoder_outputs.hidden_states,
            attentions=decoder_outputs.attentions,
            cross_attentions=decoder_outputs.cross_attentions,
            text_model_output=text_outputs,
            image_outputs=vision_outputs,
        )


__all__ = [
    "CoCaEncodedImages",
    "CoCaForCaptioning",
    "CoCaForCaptioningOutput",
    "CoCaModel",
    "CoCaMultimodalDecoder",
    "CoCaOutput",
    "CoCaPreTrainedModel",
    "CoCaTextModel",
    "CoCaVisionModel",
    "CoCaVisionModelOutput",
]
