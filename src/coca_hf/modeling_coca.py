# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""CoCa: Contrastive Captioners are Image-Text Foundation Models (arXiv 2205.01917), in open_clip's variant."""

# This comes first: it refuses an older transformers in words.
from .configuration_coca import CoCaConfig, CoCaMultimodalConfig, CoCaTextConfig, CoCaVisionConfig


# isort: split
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.modeling_utils import PreTrainedModel, slice_logits_to_keep
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.deprecation import deprecate_kwarg
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .cache_coca import add_layers, holds_images
from .generation_coca import CoCaGenerationMixin
from .layers_coca import (
    CoCaAttention,
    CoCaAttentionPooler,
    CoCaCrossAttention,
    CoCaLayer,
    CoCaLayerScale,
    CoCaMLP,
    CoCaMultimodalLayer,
)
from .loading_coca import register_conversions
from .losses_coca import contrastive_loss
from .masks_coca import (
    extended_attention_mask,
    num_left_padding,
    text_attention_mask,
    text_key_mask,
    text_position_ids,
)
from .model_card_coca import CoCaModelCardMixin
from .outputs_coca import (
    CoCaEncodedImages,
    CoCaForCaptioningOutput,
    CoCaOutput,
    CoCaTextModelOutput,
    CoCaVisionModelOutput,
)
from .positions_coca import CoCaFixedPositions, resize_positions, sincos_positions


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
        height, width = config.grid_size
        is_fixed = config.position_embedding_type == "sincos"
        self.position_embedding = (CoCaFixedPositions if is_fixed else nn.Embedding)(
            1 + height * width, config.hidden_size
        )

    def _positions(self) -> Tensor:
        """-> (1 + patches, hidden)."""
        height, width = self.config.grid_size
        # Through the module, whose weight may be on a disk until it is called.
        return self.position_embedding(torch.arange(1 + height * width, device=self.class_embedding.device))

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
        positions = self._positions()
        if given != expected:
            positions = resize_positions(positions, self.config.grid_size, tuple(patches.shape[-2:]))
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

    def forward(
        self,
        input_ids: Tensor | None,
        position_ids: Tensor,
        inputs_embeds: Tensor | None = None,
        num_padding: int = 0,
        append_cls: bool = False,
    ) -> Tensor:
        """
        (batch, text) ids or (batch, text, hidden) embeddings, with `num_padding` tokens of padding and [CLS] behind
        them -> (batch, text + padding + [CLS], hidden).

        `position_ids` has the shape (batch or 1, text + padding).
        """
        padding_id = self.config.pad_token_id or 0
        if inputs_embeds is None:
            # Text and padding at once, since each look-up has a gradient as large as the table.
            hidden_states = self.token_embedding(F.pad(input_ids, (0, num_padding), value=padding_id))
        else:
            padding = torch.full_like(position_ids[:1, :num_padding], padding_id)
            padding = self.token_embedding(padding).expand(inputs_embeds.shape[0], -1, -1)
            hidden_states = torch.cat([inputs_embeds, padding], dim=1)
        hidden_states = hidden_states + self.position_embedding(position_ids)
        if append_cls:
            cls_position = torch.full_like(position_ids[:1, :1], self.config.max_position_embeddings)
            cls_token = self.cls_embedding + self.position_embedding(cls_position)  # (1, 1, hidden)
            hidden_states = torch.cat([hidden_states, cls_token.expand(hidden_states.shape[0], -1, -1)], dim=1)
        return hidden_states


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
        # Not the text's: accelerate shards the input embedding, which is part of them, by itself.
        "CoCaVisionEmbeddings",
    ]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    # Processes whose batches the contrastive loss joins. Where it is not given, the model finds those of its loading.
    data_parallel_group: Any = None

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """CLIP's scheme (open_clip's `TextTransformer.init_parameters`), for every stack."""
        super()._init_weights(module)
        if isinstance(module, (CoCaAttention, CoCaMLP)):
            _init_block(module)
        elif isinstance(module, CoCaAttentionPooler):
            init.normal_(module.query)
        elif isinstance(module, CoCaLayerScale):
            init.constant_(module.weight, module.initial_value)
        elif isinstance(module, CoCaVisionEmbeddings):
            std = module.config.hidden_size**-0.5
            init.normal_(module.class_embedding, std=std)
            if isinstance(module.position_embedding, CoCaFixedPositions):
                table = sincos_positions(module.config.hidden_size, module.config.grid_size)
                init.copy_(module.position_embedding.weight, table)
            else:
                init.normal_(module.position_embedding.weight, std=std)
        elif isinstance(module, CoCaTextEmbeddings):
            init.normal_(module.position_embedding.weight, std=0.01)
            if module.cls_embedding is not None:
                init.normal_(module.cls_embedding, std=0.01)
        elif isinstance(
            module,
            (
                CoCaCrossAttention,
                CoCaVisionModelWithProjection,
                CoCaTextModelWithProjection,
                CoCaModel,
                CoCaForCaptioning,
            ),
        ):
            for projection in module.children():
                if isinstance(projection, nn.Linear):
                    _init_linear(projection, projection.in_features**-0.5)
        if isinstance(module, CoCaModel):
            init.constant_(module.logit_scale, module.config.logit_scale_init_value)
            if module.logit_bias is not None:
                init.constant_(module.logit_bias, module.config.logit_bias_init_value)

    def _data_parallel_group(self) -> Any:
        """The processes that hold other parts of a training batch, `None` if there are none."""
        if not (self.training and self.config.contrastive_loss_weight and torch.distributed.is_available()):
            return None
        if not torch.distributed.is_initialized() or self.data_parallel_group is not None:
            return self.data_parallel_group
        mesh = getattr(self, "_device_mesh", None)
        if mesh is None or "tp" not in mesh.mesh_dim_names or mesh["tp"].size() == 1:
            return torch.distributed.group.WORLD if torch.distributed.get_world_size() > 1 else None
        # Processes that share the layers, tensor-parallel, have the same batch.
        has_parts = "fsdp" in mesh.mesh_dim_names and mesh["fsdp"].size() > 1
        return mesh["fsdp"].get_group() if has_parts else None


def _init_block(block: CoCaAttention | CoCaMLP) -> None:
    size, depth = block.config.hidden_size, max(1, block.config.num_hidden_layers)
    residual_std = (2 * size * depth) ** -0.5
    if isinstance(block, CoCaMLP):
        _init_linear(block.fc1, (2 * size) ** -0.5)
        _init_linear(block.fc2, residual_std)
        return
    for projection in (block.q_proj, block.k_proj, block.v_proj):
        _init_linear(projection, size**-0.5)
    _init_linear(block.out_proj, residual_std)


def _init_linear(linear: nn.Linear, std: float) -> None:
    # Quantised layers have replaced their weight.
    if getattr(linear, "weight", None) is not None:
        init.normal_(linear.weight, std=std)


class CoCaVisionModel(CoCaPreTrainedModel):
    """The vision tower: a ViT, and the poolers that give the contrastive vector and the decoder's image tokens."""

    _keys_to_ignore_on_load_unexpected = [r"^(text_model|decoder|lm_head)\.", r"_projection\.", r"^logit_"]
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
            CoCaAttentionPooler(config, 1, config.contrastive_hidden_size)
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
            nn.LayerNorm(config.contrastive_hidden_size, eps=config.layer_norm_eps) if has_norms else nn.Identity()
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


class CoCaVisionModelWithProjection(CoCaPreTrainedModel):
    """The vision tower and its projection into the space shared with texts."""

    _keys_to_ignore_on_load_unexpected = [r"^(text_model|decoder|lm_head|text_projection)\.", r"^logit_"]
    config: CoCaVisionConfig
    config_class = CoCaVisionConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: CoCaVisionConfig):
        super().__init__(config)
        if config.projection_dim is None:
            raise ValueError("projection_dim is missing from the vision config: give the width of the shared space.")
        self.vision_model = CoCaVisionModel._from_config(config)
        self.visual_projection = nn.Linear(config.contrastive_hidden_size, config.projection_dim, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CoCaVisionModelOutput:
        """Arguments as in [`CoCaVisionModel`]; `image_embeds` is projected, not normalised."""
        outputs = self.vision_model(pixel_values, interpolate_pos_encoding, return_dict=True, **kwargs)
        outputs.image_embeds = self.visual_projection(outputs.pooler_output)
        return outputs


class CoCaTextModel(CoCaPreTrainedModel):
    """
    The unimodal text tower.

    Flash attention has no mask for each query, which [CLS] needs. Where one is needed, the tower uses SDPA instead.
    """

    _keys_to_ignore_on_load_unexpected = [r"^(vision_model|decoder|lm_head)\.", r"_projection\.", r"^logit_"]
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

    def _num_padding(self, length: int) -> int:
        """Padding behind a text that its vector depends on, whatever the length at which a batch was trimmed."""
        if self.config.pool_type == "cls":
            return 1  # the padding after the text is seen: see `token_key_mask`
        if self.config.pool_type == "last" or not self.config.is_causal:
            return max(self.config.max_position_embeddings - length, 0)
        return 0

    def _pool(
        self, hidden_states: Tensor, input_ids: Tensor | None, attention_mask: Tensor | None, length: int
    ) -> Tensor:
        """(batch, keys, hidden) -> (batch, hidden), or (batch, text, hidden) with `pool_type="none"`."""
        if self.config.pool_type == "none":
            return hidden_states[:, :length]
        if self.config.pool_type == "cls":
            return self.final_layer_norm(hidden_states[:, -1])
        if self.config.pool_type == "last":
            return hidden_states[:, -1]
        if self.config.pool_type == "first":
            if attention_mask is None or attention_mask.ndim == 4:
                return hidden_states[:, 0]
            index = num_left_padding(attention_mask)[:, 0]
        elif input_ids is None:
            raise ValueError(f"inputs_embeds has no ids, which pool_type={self.config.pool_type!r} looks for.")
        elif self.config.pool_type == "argmax":
            index = input_ids.argmax(dim=-1)
        else:
            eos_token_id = torch.as_tensor(self.config.eos_token_id, device=input_ids.device)
            index = torch.isin(input_ids, eos_token_id).int().argmax(dim=-1)
        return hidden_states[torch.arange(index.shape[0], device=index.device), index]

    def _check_length(self, position_ids: Tensor, longest: int | Tensor) -> None:
        """Refuses positions beyond the context. It reads them only where a text could be too long."""
        context = self.config.max_position_embeddings
        if isinstance(longest, int) and longest > context and int(position_ids.max()) >= context:
            raise ValueError(
                f"The text has {int(position_ids.max()) + 1} tokens, but the context is {context} long: truncate it, "
                "as `processor(text=..., truncation=True)` does."
            )

    @capture_outputs(tie_last_hidden_states=False)
    def _run_layers(
        self, hidden_states: Tensor, attention_mask: Any, cache: Cache | None, **kwargs: Any
    ) -> CoCaTextModelOutput:
        """(batch, keys, hidden) -> states of all of them, of [CLS] too."""
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask, cache=cache, **kwargs)
        if self.config.pool_type != "cls":
            hidden_states = self.final_layer_norm(hidden_states)
        return CoCaTextModelOutput(last_hidden_state=hidden_states, cache=cache)

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        key_mask: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CoCaTextModelOutput:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch, text)`, *optional*): Token ids, padded on either side.
            attention_mask (`torch.Tensor` of shape `(batch, text)`, *optional*):
                1 for tokens, 0 for padding, cached tokens included. Without it, ids equal to `pad_token_id` are
                padding where the tower has a [CLS], as in open_clip.
            position_ids (`torch.LongTensor` of shape `(batch, text)`, *optional*):
                Counted from each text's first token.
            cache (`Cache`, *optional*):
                Receives keys and values, of the text alone. The text may go on behind it, so it has no vector yet.
            inputs_embeds (`torch.FloatTensor` of shape `(batch, text, hidden)`, *optional*):
                Token embeddings in place of `input_ids`, without positions.
            key_mask (`torch.BoolTensor` of shape `(batch, keys)`, *optional*):
                With `cache`, which keys are seen, where that is not `attention_mask`: see [`token_key_mask`].
            use_cache (`bool`, *optional*): Whether to return a new `cache` where none is given.

        Raises:
            ValueError: The text is missing, given twice, or longer than the context.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass the text as input_ids or as inputs_embeds, one of the two.")
        text = input_ids if inputs_embeds is None else inputs_embeds
        length, past_length = text.shape[1], 0 if cache is None else cache.get_seq_length()
        if position_ids is None:
            position_ids = text_position_ids(length, attention_mask, past_length, text.device)
        self._check_length(position_ids, past_length + length)
        # One that may go on has no vector yet.
        is_whole, num_padding, mask = cache is None, 0, attention_mask
        if is_whole:
            num_padding = self._num_padding(length)
            padding_positions = position_ids[:, -1:] + torch.arange(1, num_padding + 1, device=text.device)
            position_ids = torch.cat([position_ids, padding_positions], dim=1)
            mask, key_mask = self._extended_masks(input_ids, text, attention_mask, position_ids)
            cache = DynamicCache() if use_cache else None
        hidden_states = self.embeddings(
            input_ids,
            position_ids.clamp(max=self.config.max_position_embeddings - 1),
            inputs_embeds,
            num_padding=num_padding,
            append_cls=is_whole and self.config.pool_type == "cls",
        )
        mask = text_attention_mask(self.config, hidden_states, mask, key_mask, cache)
        outputs = self._run_layers(hidden_states, mask, cache, return_dict=True, **kwargs)
        if not is_whole:
            return outputs
        pooled = self._pool(outputs.last_hidden_state, input_ids, attention_mask, length)
        return self._cut_to_text(outputs, pooled, length)

    def _extended_masks(
        self, input_ids: Tensor | None, text: Tensor, attention_mask: Tensor | None, position_ids: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """The attention mask, if it is a prepared one, and else the key mask, of a text and what follows it."""
        if attention_mask is not None and attention_mask.ndim == 4:
            return extended_attention_mask(self.config, attention_mask, position_ids), None
        if input_ids is None and attention_mask is None:
            attention_mask = torch.ones(text.shape[:2], dtype=torch.long, device=text.device)
        return attention_mask, text_key_mask(self.config, input_ids, attention_mask, position_ids, text.shape[1])

    def _cut_to_text(self, outputs: CoCaTextModelOutput, pooled: Tensor, length: int) -> CoCaTextModelOutput:
        """`outputs` with the text's vector, without padding and [CLS], which are inside the tower only."""
        hidden_states, attentions, cache = outputs.hidden_states, outputs.attentions, outputs.cache
        if hidden_states is not None:
            # Where only some were asked for, the others are None.
            hidden_states = tuple(None if states is None else states[:, :length] for states in hidden_states)
        if attentions is not None:
            attentions = tuple(weights[:, :, :length, :length] for weights in attentions)
        if cache is not None and cache.get_seq_length() > length:
            cache.crop(length - cache.get_seq_length())
        return CoCaTextModelOutput(
            last_hidden_state=outputs.last_hidden_state[:, :length],
            pooler_output=pooled,
            hidden_states=hidden_states,
            cache=cache,
            attentions=attentions,
        )


class CoCaTextModelWithProjection(CoCaPreTrainedModel):
    """The text tower and its projection into the space shared with images."""

    _keys_to_ignore_on_load_unexpected = [r"^(vision_model|decoder|lm_head|visual_projection)\.", r"^logit_"]
    config: CoCaTextConfig
    config_class = CoCaTextConfig
    base_model_prefix = "text_model"
    input_modalities = ("text",)

    def __init__(self, config: CoCaTextConfig):
        super().__init__(config)
        self.text_model = CoCaTextModel._from_config(config)
        self.text_projection = _text_projection(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CoCaTextModelOutput:
        """Arguments as in [`CoCaTextModel`]; `text_embeds` is projected, not normalised."""
        outputs = self.text_model(input_ids, attention_mask, position_ids, return_dict=True, **kwargs)
        if outputs.pooler_output is not None:
            outputs.text_embeds = self.text_projection(outputs.pooler_output)
        return outputs


def _text_projection(config: CoCaTextConfig) -> nn.Module:
    if config.projection_type == "none":
        return nn.Identity()
    if config.projection_dim is None:
        raise ValueError("projection_dim is missing from the text config: give the width of the shared space.")
    return nn.Linear(config.hidden_size, config.projection_dim, bias=config.projection_type == "linear_bias")


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
        self.first_layer_idx = first_layer_idx
        self.first_image_layer_idx = first_layer_idx + config.num_hidden_layers
        self.layers = nn.ModuleList(
            [
                CoCaMultimodalLayer(config, first_layer_idx + idx, self.first_image_layer_idx + idx)
                for idx in range(config.num_hidden_layers)
            ]
        )
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def complete(self, cache: Cache) -> None:
        """Adds the decoder's layers to a cache that has those of the text tower only."""
        add_layers(cache, self.first_image_layer_idx, self.config.num_hidden_layers)

    def knows_images(self, cache: Cache | None) -> bool:
        """Whether the keys and values of image tokens are in `cache`."""
        return holds_images(cache, self.first_image_layer_idx)

    @capture_outputs
    def forward(
        self,
        inputs_embeds: Tensor,
        image_tokens: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        r"""
        Args:
            inputs_embeds (`torch.FloatTensor` of shape `(rows, text, hidden)`): Token states of the text tower.
            image_tokens (`torch.FloatTensor` of shape `(images, image tokens, image_tokens_hidden_size)`, *optional*):
                The vision tower's. Rows are a multiple of images, those of one image adjacent. Not needed where
                `cache` knows them.
            attention_mask (`torch.Tensor` of shape `(rows, text)`, *optional*):
                1 for tokens, 0 for padding, cached tokens included; or a prepared mask of four dimensions.
            cache (`Cache`, *optional*): Keys and values of the tokens so far and of the image tokens.
        """
        if cache is not None:
            self.complete(cache)
        if self.knows_images(cache):
            image_tokens = None
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            cache=cache,
            # The text tower's layers have taken in the new tokens already.
            layer_idx=self.first_layer_idx,
        )
        hidden_states = inputs_embeds
        for layer in self.layers:
            hidden_states = layer(hidden_states, image_tokens, attention_mask=mask, cache=cache, **kwargs)
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
        self.visual_projection = nn.Linear(vision_config.contrastive_hidden_size, config.projection_dim, bias=False)
        self.text_projection = _text_projection(text_config)
        # Not scalars, which FSDP cannot shard.
        self.logit_scale = nn.Parameter(torch.full((1,), float(config.logit_scale_init_value)))
        has_bias = config.logit_bias_init_value is not None
        self.logit_bias = nn.Parameter(torch.full((1,), float(config.logit_bias_init_value))) if has_bias else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    @torch.no_grad()
    def clamp_logit_scale(self, maximum: float = math.log(100)) -> None:
        """Limits the logarithm of the similarity's scale, in place: after each training step, as open_clip does."""
        self.logit_scale.clamp_(max=maximum)

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CoCaTextModelOutput:
        r"""
        Text features: arguments as in [`CoCaTextModel`]'s `forward`.

        Returns:
            The text tower's output, with `pooler_output` of shape `(batch, projection_dim)` projected into the space
            shared with images, not normalised.
        """
        outputs = self.text_model(input_ids, attention_mask, position_ids, return_dict=True, **kwargs)
        if outputs.pooler_output is not None:
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
        device = image_embeds.device
        logits = self.logit_scale.exp().to(device) * image_embeds @ text_embeds.t().to(device)
        return logits if self.logit_bias is None else logits + self.logit_bias.to(device)

    def contrastive_loss(
        self, image_embeds: Tensor | None, text_embeds: Tensor | None, group: Any = "data-parallel"
    ) -> Tensor:
        """
        [`contrastive_loss`] with the scale and the bias of this model, without its weight.

        Args:
            image_embeds: (images, dim), L2-normalised.
            text_embeds: (texts, dim), L2-normalised; as many for each image, those of an image adjacent.
            group: As `loss_group` of `forward`.

        Raises:
            ValueError: There are no pooled vectors, or texts are no multiple of images.
        """
        group = self._data_parallel_group() if isinstance(group, str) else group
        if image_embeds is None or text_embeds is None or image_embeds.ndim != 2 or text_embeds.ndim != 2:
            raise ValueError("The contrastive loss needs images and texts, and pooled vectors of both.")
        _check_rows(text_embeds.shape[0], image_embeds.shape[0])
        return contrastive_loss(image_embeds, text_embeds, self.logit_scale.exp(), self.logit_bias, group)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        inputs_embeds: Tensor | None = None,
        image_embeds: Tensor | None = None,
        loss_group: Any = "data-parallel",
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
            return_loss (`bool`, *optional*):
                Whether to compute the contrastive loss. Texts are as many as images, or a multiple, those of an image
                adjacent; see [`contrastive_loss`].
            interpolate_pos_encoding (`bool`, defaults to `False`): See [`CoCaVisionModel`].
            inputs_embeds (`torch.FloatTensor` of shape `(texts, text, hidden)`, *optional*): See [`CoCaTextModel`].
            image_embeds (`torch.FloatTensor` of shape `(images, projection_dim)`, *optional*):
                L2-normalised vectors of images that are known already, in place of `pixel_values`.
            loss_group (`torch.distributed.ProcessGroup`, *optional*):
                Processes whose batches the loss joins into one, `None` for none. By default those that hold other
                parts of the batch, in training.
            kwargs: `cache`, `key_mask` and `use_cache` of [`CoCaTextModel`], and what both towers take.

        Raises:
            ValueError: Both images and texts are missing; or the loss is asked for and cannot be computed of them.

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
        has_text = input_ids is not None or inputs_embeds is not None
        if not has_text and pixel_values is None:
            raise ValueError("Both input_ids and pixel_values are missing: pass texts, images, or both.")
        text_only = {name: kwargs.pop(name) for name in ("cache", "key_mask", "use_cache") if name in kwargs}
        vision_outputs = text_outputs = text_embeds = logits_per_image = None
        if pixel_values is not None:
            vision_outputs = self.get_image_features(
                pixel_values, interpolate_pos_encoding, return_dict=True, **kwargs
            )
            image_embeds = F.normalize(vision_outputs.pooler_output, dim=-1)
        if has_text:
            text_outputs = self.get_text_features(
                input_ids,
                attention_mask,
                position_ids,
                inputs_embeds=inputs_embeds,
                return_dict=True,
                **text_only,
                **kwargs,
            )
            if text_outputs.pooler_output is not None:
                text_embeds = F.normalize(text_outputs.pooler_output, dim=-1)
        if image_embeds is not None and text_embeds is not None and image_embeds.ndim == text_embeds.ndim == 2:
            logits_per_image = self.similarity(image_embeds, text_embeds)
        loss = None
        if return_loss:
            loss = self.contrastive_loss(image_embeds, text_embeds, loss_group)
        return CoCaOutput(
            loss=loss,
            logits_per_image=logits_per_image,
            logits_per_text=logits_per_image.t() if logits_per_image is not None else None,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=text_outputs,
            vision_model_output=vision_outputs,
        )


def _check_rows(num_rows: int, num_images: int) -> None:
    if num_rows % num_images:
        raise ValueError(f"There are {num_rows} texts for {num_images} images: give each image as many.")


class CoCaForCaptioning(CoCaPreTrainedModel, CoCaGenerationMixin):
    """The towers and the multimodal decoder: captioning, and all that [`CoCaModel`] does, in one pass."""

    main_input_name = "pixel_values"
    gradient_checkpointing = False
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

    def get_text_features(self, *args: Any, **kwargs: Any) -> CoCaTextModelOutput:
        """See [`CoCaModel`]."""
        return self.model.get_text_features(*args, **kwargs)

    def similarity(self, image_embeds: Tensor, text_embeds: Tensor) -> Tensor:
        """See [`CoCaModel`]."""
        return self.model.similarity(image_embeds, text_embeds)

    def contrastive_loss(
        self, image_embeds: Tensor | None, text_embeds: Tensor | None, group: Any = "data-parallel"
    ) -> Tensor:
        """See [`CoCaModel`]."""
        group = self._data_parallel_group() if isinstance(group, str) else group
        return self.model.contrastive_loss(image_embeds, text_embeds, group)

    def clamp_logit_scale(self, maximum: float = math.log(100)) -> None:
        """See [`CoCaModel`]."""
        self.model.clamp_logit_scale(maximum)

    def encode_images(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> CoCaEncodedImages:
        r"""
        All that decoding needs of images: pass the result to `forward` or `generate` as `encoded_images`, any number
        of times.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(images, channels, height, width)`): Normalised images.
            interpolate_pos_encoding (`bool`, defaults to `False`): See [`CoCaVisionModel`].
        """
        # By the model's own call, whose hooks bring in weights that are sharded or offloaded.
        outputs = self(pixel_values=pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, return_dict=True)
        return CoCaEncodedImages(image_embeds=outputs.image_embeds, image_tokens=outputs.image_outputs.image_tokens)

    def score(
        self, hidden_states: Tensor, labels: Tensor | None, logits_to_keep: int | Tensor = 0, **kwargs: Any
    ) -> tuple[Tensor | None, Tensor | None]:
        """
        Scores of each next token and, with `labels`, their cross-entropy.

        (rows, text, hidden), (rows, text) -> logits (rows, text, vocabulary), loss ().
        """
        logits = self.lm_head(slice_logits_to_keep(hidden_states, logits_to_keep))
        if labels is None and kwargs.get("shift_labels") is None:
            return logits, None
        vocab_size = self.config.text_config.vocab_size
        return logits, self.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **kwargs)

    def _has_vectors(self) -> bool:
        """Whether images and texts have a vector each, which a tower with `pool_type="none"` does not give."""
        return "none" not in (self.config.vision_config.pool_type, self.config.text_config.pool_type)

    def _losses(
        self,
        caption_loss: Tensor | None,
        contrastive_loss: Tensor | None,
        labels: Tensor | None,
        shift_labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        ignore_index: int = -100,
        **kwargs: Any,
    ) -> dict[str, Tensor | None]:
        """Both losses and their weighted sum, all (), as the output names them."""
        loss = None if caption_loss is None else self.config.caption_loss_weight * caption_loss
        if contrastive_loss is not None:
            if num_items_in_batch is not None:
                # Trainer adds up the losses of accumulated batches. Each counts by its share of their tokens.
                predicted = labels[:, 1:] if shift_labels is None else shift_labels
                share = (predicted != ignore_index).sum() / num_items_in_batch
                contrastive_loss = contrastive_loss * share.to(contrastive_loss.device)
            loss = loss + self.config.contrastive_loss_weight * contrastive_loss.to(loss.device)
        return {"loss": loss, "caption_loss": caption_loss, "contrastive_loss": contrastive_loss}

    def _text_of_labels(self, labels: Tensor, ignore_index: int = -100) -> tuple[Tensor, Tensor]:
        """Ids and attention mask, both (rows, text), of labels that come without."""
        is_token = labels != ignore_index
        return labels.masked_fill(~is_token, self.config.text_config.pad_token_id or 0), is_token.long()

    def _check_images(self, pixel_values: Tensor | None, encoded_images: Any, cache: Cache | None) -> None:
        if pixel_values is not None and encoded_images is not None:
            raise ValueError("Pass the images as pixel_values or as encoded_images, not both.")
        if pixel_values is None and encoded_images is None and not self.decoder.knows_images(cache):
            raise ValueError("Images are missing: pass pixel_values, as the processor prepares them.")

    def _check_labels(
        self, targets: Tensor | None, text: Tensor | None, logits_to_keep: int | Tensor, num_items_in_batch: Any
    ) -> None:
        """`targets` are the labels, shifted already or not; `text` is ids or embeddings."""
        if targets is None and num_items_in_batch is not None:
            raise ValueError(
                "labels are missing in training. Trainer takes them away for label_smoothing_factor and "
                "compute_loss_func, which know nothing of CoCa's two losses: leave these out, or pass shift_labels."
            )
        if targets is None or text is None:
            return
        length = text.shape[1]
        kept = min(logits_to_keep or length, length) if isinstance(logits_to_keep, int) else len(logits_to_keep)
        if targets.shape[1] != kept:
            raise ValueError(
                f"labels have {targets.shape[1]} positions, and there are logits of {kept}: give a label for each "
                "token, -100 for one that does not count, and leave logits_to_keep at 0."
            )

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    @merge_with_config_defaults
    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        encoded_images: CoCaEncodedImages | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        interpolate_pos_encoding: bool = False,
        text_key_mask: Tensor | None = None,
        return_loss: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CoCaForCaptioningOutput:
        r"""
        Scores each next token of texts about images, and embeds both. Without text it embeds the images alone.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(images, channels, height, width)`, *optional*):
                Normalised images.
            input_ids (`torch.LongTensor` of shape `(rows, text)`, *optional*):
                Token ids, padded on either side; as many rows as images, or a multiple, those of an image adjacent.
                With `labels` alone, the text is that of the labels.
            attention_mask (`torch.Tensor` of shape `(rows, text)`, *optional*):
                1 for tokens, 0 for padding, cached tokens included; or a prepared mask of four dimensions.
            position_ids (`torch.LongTensor` of shape `(rows, text)`, *optional*):
                Counted from each text's first token.
            cache (`Cache`, *optional*):
                Keys and values of the tokens before `input_ids` in both text stacks, and of the image tokens, which
                are then not needed.
            inputs_embeds (`torch.FloatTensor` of shape `(rows, text, hidden)`, *optional*):
                Token embeddings in place of `input_ids`, without positions.
            labels (`torch.LongTensor` of shape `(rows, text)`, *optional*):
                The same tokens as `input_ids`, which are shifted inside; -100 is ignored.
            encoded_images (`CoCaEncodedImages`, *optional*): What `encode_images` made of images, in place of them.
            use_cache (`bool`, *optional*): Whether to return a `cache`; by default as the config says.
            logits_to_keep (`int` or `torch.Tensor`, defaults to 0):
                Compute logits for the last so many positions only, or for these indices; 0 for all.
            interpolate_pos_encoding (`bool`, defaults to `False`): See [`CoCaVisionModel`].
            text_key_mask (`torch.BoolTensor` of shape `(rows, keys)`, *optional*):
                With `cache`, which keys the text tower sees, where that is not `attention_mask`: see
                [`token_key_mask`]. `generate` passes it.
            return_loss (`bool`, *optional*):
                Whether to compute the contrastive loss, as in [`CoCaModel`]; by default with `labels`. Without it,
                `loss` is the caption loss, weighted.

        Raises:
            ValueError: Images are missing, rows are no multiple of images, the text exceeds the context, or a training
                loop took the labels away.

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
        self._check_images(pixel_values, encoded_images, cache)
        if input_ids is None and inputs_embeds is None and labels is not None:
            input_ids, attention_mask = self._text_of_labels(labels, kwargs.get("ignore_index", -100))
        text = input_ids if inputs_embeds is None else inputs_embeds
        targets = labels if kwargs.get("shift_labels") is None else kwargs["shift_labels"]
        self._check_labels(targets, text, logits_to_keep, kwargs.get("num_items_in_batch"))
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            image_embeds=None if encoded_images is None else encoded_images.image_embeds,
            return_loss=targets is not None and cache is None and self._has_vectors() and return_loss is not False,
            loss_group=self._data_parallel_group(),
            interpolate_pos_encoding=interpolate_pos_encoding,
            cache=cache,
            key_mask=text_key_mask,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        image_outputs, text_outputs = outputs.vision_model_output, outputs.text_model_output
        if text_outputs is None:
            return CoCaForCaptioningOutput(image_embeds=outputs.image_embeds, image_outputs=image_outputs)
        images = image_outputs if encoded_images is None else encoded_images
        decoded = self.decoder(
            text_outputs.last_hidden_state,
            None if images is None else images.image_tokens,
            attention_mask=attention_mask,
            cache=text_outputs.cache,
            return_dict=True,
            **kwargs,
        )
        logits, caption_loss = self.score(decoded.last_hidden_state, labels, logits_to_keep, **kwargs)
        return CoCaForCaptioningOutput(
            **self._losses(caption_loss, outputs.loss, labels, **kwargs),
            logits=logits,
            image_embeds=outputs.image_embeds,
            text_embeds=outputs.text_embeds,
            logits_per_image=outputs.logits_per_image,
            cache=decoded.cache,
            hidden_states=decoded.hidden_states,
            attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
            text_model_output=text_outputs,
            image_outputs=image_outputs,
        )


register_conversions()


__all__ = [
    "CoCaEncodedImages",
    "CoCaForCaptioning",
    "CoCaForCaptioningOutput",
    "CoCaModel",
    "CoCaMultimodalDecoder",
    "CoCaOutput",
    "CoCaPreTrainedModel",
    "CoCaTextModel",
    "CoCaTextModelOutput",
    "CoCaTextModelWithProjection",
    "CoCaVisionModel",
    "CoCaVisionModelOutput",
    "CoCaVisionModelWithProjection",
]
