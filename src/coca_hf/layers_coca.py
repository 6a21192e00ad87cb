# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The layers of the towers and of the decoder: attention to a text or an image itself, and to image tokens."""

# This comes first: it refuses an older transformers in words.
from .configuration_coca import CoCaMultimodalConfig, CoCaTextConfig, CoCaVisionConfig


# isort: split
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import is_flash_attention_requested


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
    # Flash kernels take no mask per query, which [CLS] needs: see `text_attention_mask`.
    if attention_mask is not None and is_flash_attention_requested(config) and attention_mask.ndim == 4:
        implementation = "sdpa"
    return ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)


class CoCaAttention(nn.Module):
    """Multi-head self-attention."""

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
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def _project(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, length, hidden) -> query, key and value, each (batch, heads, length, head size)."""
        heads = (*hidden_states.shape[:2], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(heads).transpose(1, 2)
        key = self.k_proj(hidden_states).view(heads).transpose(1, 2)
        value = self.v_proj(hidden_states).view(heads).transpose(1, 2)
        return query, key, value

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[Tensor, Tensor | None]:
        """(batch, length, hidden) -> (batch, length, hidden), weights (batch, heads, length, keys) or `None`."""
        query, key, value = self._project(hidden_states)
        if cache is not None:
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
        return self.out_proj(attended.flatten(2)), weights


class CoCaCrossAttention(nn.Module):
    """Multi-head attention to image tokens, whose keys and values are shared by all rows of the same image."""

    is_causal = False

    def __init__(
        self,
        config: CoCaVisionConfig | CoCaMultimodalConfig,
        hidden_size: int,
        num_attention_heads: int,
        context_size: int,
        layer_idx: int = 0,
    ):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = hidden_size // num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(context_size, hidden_size)
        self.v_proj = nn.Linear(context_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)

    def _keys_and_values(self, context: Tensor | None, cache: Cache | None) -> tuple[Tensor, Tensor]:
        """(images, tokens, context size), or what `cache` holds of it -> (images, heads, tokens, head size) each."""
        if context is None:
            layer = cache.layers[self.layer_idx]
            return layer.keys, layer.values
        heads = (*context.shape[:2], -1, self.head_dim)
        key = self.k_proj(context).view(heads).transpose(1, 2)
        value = self.v_proj(context).view(heads).transpose(1, 2)
        return (key, value) if cache is None else cache.layers[self.layer_idx].update(key, value)

    def forward(
        self, hidden_states: Tensor, context: Tensor | None = None, cache: Cache | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """
        (rows, length, hidden), (images, tokens, context size)
        -> (rows, length, hidden), weights (rows, heads, length, tokens) or `None`.

        Rows are the images' own, image by image: one each, or several (beams). A single row serves all images. Without
        `context`, its keys and values are those in `cache`, which keeps them.
        """
        key, value = self._keys_and_values(context, cache)
        query = self.q_proj(hidden_states)
        if query.shape[0] == 1:
            query = query.expand(key.shape[0], -1, -1)
        rows, length, _ = query.shape
        # An image's rows become one longer query, so that its keys and values are read once: (images, heads, ...).
        query = query.reshape(key.shape[0], -1, query.shape[-1]).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        attended, weights = _attention_interface(self.config, None)(
            self,
            query,
            key,
            value,
            None,
            scaling=self.scaling,
            dropout=self.config.attention_dropout if self.training else 0.0,
        )
        if weights is not None:
            weights = weights.unflatten(2, (-1, length)).transpose(1, 2).flatten(0, 1)
        return self.out_proj(attended.reshape(rows, length, -1)), weights


class CoCaMLP(nn.Module):
    def __init__(self, config: CoCaVisionConfig | CoCaTextConfig | CoCaMultimodalConfig):
        super().__init__()
        self.config = config
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(batch, length, hidden) -> (batch, length, hidden)."""
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


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

    def __init__(self, config: CoCaMultimodalConfig, layer_idx: int):
        super().__init__()
        context_size = config.cross_attention_hidden_size or config.hidden_size
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.context_norm = nn.LayerNorm(context_size, eps=config.layer_norm_eps)
        self.cross_attn = CoCaCrossAttention(
            config, config.hidden_size, config.num_attention_heads, context_size, layer_idx
        )
        self.layer_scale1 = _layer_scale(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = CoCaMLP(config)
        self.layer_scale2 = _layer_scale(config)

    def forward(self, hidden_states: Tensor, image_tokens: Tensor | None, cache: Cache | None = None) -> Tensor:
        """(rows, text, hidden), (images, image tokens, context size) unless `cache` knows them -> as the first."""
        context = None if image_tokens is None else self.context_norm(image_tokens)
        attended, _ = self.cross_attn(self.layer_norm1(hidden_states), context, cache)
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

    def __init__(self, config: CoCaMultimodalConfig, layer_idx: int, image_layer_idx: int):
        super().__init__()
        self.self_attention_layer = CoCaLayer(config, is_causal=True, layer_idx=layer_idx)
        self.cross_attention_layer = CoCaCrossAttentionLayer(config, layer_idx=image_layer_idx)

    def forward(
        self,
        hidden_states: Tensor,
        image_tokens: Tensor | None,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Tensor:
        """(rows, text, hidden), (images, image tokens, context size) unless `cache` knows them -> as the first."""
        hidden_states = self.self_attention_layer(hidden_states, attention_mask, cache=cache, **kwargs)
        return self.cross_attention_layer(hidden_states, image_tokens, cache=cache)


__all__ = [
    "CoCaAttention",
    "CoCaAttentionPooler",
    "CoCaCrossAttention",
    "CoCaCrossAttentionLayer",
    "CoCaLayer",
    "CoCaLayerScale",
    "CoCaMLP",
    "CoCaMultimodalLayer",
]
