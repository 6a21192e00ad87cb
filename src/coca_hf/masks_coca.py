# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Where a text begins, and which of its tokens see which."""

# This comes first: it refuses an older transformers in words.
from .configuration_coca import CoCaTextConfig


# isort: split
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache
from transformers.masking_utils import (
    bidirectional_mask_function,
    causal_mask_function,
    create_causal_mask,
    sdpa_mask,
)
from transformers.utils.generic import is_flash_attention_requested


def token_key_mask(input_ids: Tensor | None, attention_mask: Tensor | None, pad_token_id: int) -> Tensor:
    """
    Which keys a text tower with [CLS] lets its tokens see: (batch, text) -> bool (batch, text + 1).

    A key is seen if the token before it is one, neither masked nor `pad_token_id`. This is one position late on
    purpose, since released weights were trained so (open_clip's `_build_additive_mask`). Hence the last entry, for the
    padding that follows a text; and an id equal to `pad_token_id` inside a text hides the token after it. Of
    embeddings without ids only `attention_mask` is known.
    """
    is_token = attention_mask.bool() if input_ids is None else input_ids != pad_token_id
    if attention_mask is None:
        return F.pad(is_token, (1, 0), value=True)
    attention_mask = attention_mask.bool()
    is_first = attention_mask & (attention_mask.cumsum(dim=-1) == 1)
    return F.pad(is_token & attention_mask, (1, 0), value=False) | F.pad(is_first, (0, 1), value=False)


def num_left_padding(attention_mask: Tensor) -> Tensor:
    """(batch, text) -> (batch, 1)."""
    return (attention_mask.cumsum(dim=-1) == 0).sum(dim=-1, keepdim=True)


def text_position_ids(length: int, attention_mask: Tensor | None, past_length: int | Tensor, device: Any) -> Tensor:
    """Positions of `length` tokens behind `past_length`, counted from each row's first one: -> (batch or 1, text)."""
    position_ids = torch.arange(length, device=device)[None] + past_length
    if attention_mask is not None and attention_mask.ndim == 2:
        position_ids = (position_ids - num_left_padding(attention_mask)).clamp(min=0)
    return position_ids


def text_key_mask(
    config: CoCaTextConfig, input_ids: Tensor | None, attention_mask: Tensor | None, position_ids: Tensor, length: int
) -> Tensor | None:
    """
    Which keys are seen of a text of `length` tokens with the padding and the [CLS] that the tower puts behind it.

    (batch, text), (batch, text), (batch or 1, text + padding) -> bool (batch, keys), `None` for all.
    """
    if config.pool_type != "cls":
        if attention_mask is None:
            return None
        # Padding on the right is seen, as by open_clip's towers without [CLS].
        keys = torch.arange(position_ids.shape[1], device=attention_mask.device)
        return keys >= num_left_padding(attention_mask)
    assert config.pad_token_id is not None  # the config of a tower with [CLS] has one
    key_mask = token_key_mask(input_ids, attention_mask, config.pad_token_id)
    is_full = _is_full(config, position_ids, length)
    return torch.cat([key_mask[:, :-1], key_mask[:, -1:] & ~is_full, key_mask[:, -1:] & is_full], dim=1)


def _is_full(config: CoCaTextConfig, position_ids: Tensor, length: int) -> Tensor:
    """
    Whether a text fills the context: (batch or 1, text + padding) -> (batch or 1, padding).

    Then there is no padding after it: [CLS] stands there, and sees itself.
    """
    return position_ids[:, length:] >= config.max_position_embeddings


def extended_attention_mask(config: CoCaTextConfig, attention_mask: Tensor, position_ids: Tensor) -> Tensor:
    """
    A prepared mask (batch, heads, text, text), bool or added to scores, with rows and columns for what follows the
    text, whose rows see what the last token sees.

    `position_ids` are those of the text and its padding.
    """
    length = attention_mask.shape[-1]
    num_padding, dtype, device = position_ids.shape[1] - length, attention_mask.dtype, attention_mask.device
    is_seen = torch.ones(num_padding, num_padding, dtype=torch.bool, device=device).tril()[None]
    if config.pool_type == "cls":
        # As in `text_key_mask`: the padding after the text or, where there is no room for it, [CLS].
        is_full = _is_full(config, position_ids, length)
        is_seen = torch.cat([~is_full, is_full], dim=1)[:, None].expand(-1, 2, -1)
    hidden: float = 0 if dtype == torch.bool else torch.finfo(dtype).min
    seen = is_seen if dtype == torch.bool else torch.zeros(is_seen.shape, device=device).masked_fill(~is_seen, hidden)
    rows = [
        attention_mask[:, :, -1:].expand(-1, -1, seen.shape[-1], -1),
        seen.to(dtype)[:, None].expand(*attention_mask.shape[:2], -1, -1),
    ]
    columns = F.pad(attention_mask, (0, seen.shape[-1]), value=hidden)
    return torch.cat([columns, torch.cat(rows, dim=-1)], dim=2)


def text_attention_mask(
    config: CoCaTextConfig,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    key_mask: Tensor | None,
    cache: Cache | None,
) -> Any:
    """Causality and `key_mask`, bool (batch, keys), in the form that the attention implementation takes."""
    if key_mask is None or not is_flash_attention_requested(config):
        visible = attention_mask if key_mask is None else key_mask
        return create_causal_mask(config=config, inputs_embeds=inputs_embeds, attention_mask=visible, cache=cache)
    # To flash kernels a masked key is padding: they would drop its query as well.
    query_length, past_length, num_keys = inputs_embeds.shape[1], 0, key_mask.shape[1]
    if cache is not None:
        # A static cache has more keys than tokens.
        past_length, (num_keys, _) = cache.get_seq_length(), cache.get_mask_sizes(query_length, 0)
    return sdpa_mask(
        batch_size=inputs_embeds.shape[0],
        q_length=query_length,
        kv_length=num_keys,
        q_offset=past_length,
        mask_function=causal_mask_function if config.is_causal else bidirectional_mask_function,
        attention_mask=key_mask,
        allow_is_causal_skip=False,
        device=inputs_embeds.device,
    )


__all__ = [
    "extended_attention_mask",
    "num_left_padding",
    "text_attention_mask",
    "text_key_mask",
    "text_position_ids",
    "token_key_mask",
]
