# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Parameter names of open_clip's CoCa and of ours: one table, read in both directions.

open_clip stacks query, key and value projections in one tensor, and applies its last projections from the right, so
that they are the transposes of ours. All else is a matter of names.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from ..configuration_coca import CoCaConfig, CoCaMultimodalConfig, CoCaTextConfig, CoCaVisionConfig


TowerConfig = CoCaVisionConfig | CoCaTextConfig | CoCaMultimodalConfig


@dataclasses.dataclass(frozen=True)
class Entry:
    """
    One tensor of open_clip's and what it is here: the same, its transpose, several stacked along the rows, or, of a
    scalar, a vector of one.
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False
    is_scalar: bool = False

    def to_ours(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """Views of `tensor` where possible, so that nothing is held twice."""
        if self.transposed:
            return {self.ours[0]: tensor.t().contiguous()}
        if self.is_scalar:
            return {self.ours[0]: tensor.reshape(1)}
        if len(self.ours) == 1:
            return {self.ours[0]: tensor}
        return dict(zip(self.ours, tensor.chunk(len(self.ours)), strict=True))

    def to_theirs(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if len(self.ours) > 1:
            return torch.cat([tensors[name] for name in self.ours])
        tensor = tensors[self.ours[0]]
        if self.is_scalar:
            return tensor.reshape(())
        return tensor.t().contiguous() if self.transposed else tensor

    def their_shape(self, shapes: Mapping[str, torch.Size]) -> tuple[int, ...]:
        """Shape of open_clip's tensor, from the shapes of ours."""
        shape = tuple(shapes[self.ours[0]])
        if self.is_scalar:
            return ()
        if self.transposed:
            return shape[::-1]
        return shape if len(self.ours) == 1 else (len(self.ours) * shape[0], *shape[1:])


def entries(config: CoCaConfig) -> list[Entry]:
    """Every tensor of the model of `config`, for `CoCaForCaptioning`'s names; in open_clip's order of modules."""
    vision: Any = config.vision_config
    text: Any = config.text_config
    decoder: Any = config.multimodal_config
    table = [
        *text_entries(text),
        *_vision(vision),
        Entry("visual.proj", ("model.visual_projection.weight",), transposed=True),
        *text_projection_entries(text),
        Entry("logit_scale", ("model.logit_scale",), is_scalar=not config.nonscalar_logit_scale),
    ]
    if config.logit_bias_init_value is not None:
        table.append(Entry("logit_bias", ("model.logit_bias",), is_scalar=not config.nonscalar_logit_scale))
    return [*table, *decoder_entries(decoder)]


def same_entries(theirs: str, ours: str, *parameters: str) -> Iterator[Entry]:
    for parameter in parameters or ("weight", "bias"):
        yield Entry(f"{theirs}.{parameter}", (f"{ours}.{parameter}",))


def attention_entries(theirs: str, ours: str, joint: bool = True) -> Iterator[Entry]:
    """torch's MultiheadAttention; `joint` unless keys and values have another width than the queries."""
    projections = [f"{ours}.{letter}_proj" for letter in "qkv"]
    if joint:
        yield Entry(f"{theirs}.in_proj_weight", tuple(f"{name}.weight" for name in projections))
    else:
        for letter, name in zip("qkv", projections, strict=True):
            yield Entry(f"{theirs}.{letter}_proj_weight", (f"{name}.weight",))
    yield Entry(f"{theirs}.in_proj_bias", tuple(f"{name}.bias" for name in projections))
    yield from same_entries(f"{theirs}.out_proj", f"{ours}.out_proj")


def _block(
    theirs: str,
    ours: str,
    config: CoCaVisionConfig | CoCaTextConfig | CoCaMultimodalConfig,
    attention: Iterable[Entry],
) -> Iterator[Entry]:
    """What a residual block has around its attention."""
    yield from same_entries(f"{theirs}.ln_1", f"{ours}.layer_norm1")
    yield from attention
    yield from same_entries(f"{theirs}.ln_2", f"{ours}.layer_norm2")
    yield from same_entries(f"{theirs}.mlp.c_fc", f"{ours}.mlp.fc1")
    yield from same_entries(f"{theirs}.mlp.c_proj", f"{ours}.mlp.fc2")
    if config.layer_scale_init_value is not None:
        for index in (1, 2):
            yield Entry(f"{theirs}.ls_{index}.gamma", (f"{ours}.layer_scale{index}.weight",))


def _self_attention_block(theirs: str, ours: str, config: TowerConfig) -> Iterator[Entry]:
    return _block(theirs, ours, config, attention_entries(f"{theirs}.attn", f"{ours}.self_attn"))


def text_entries(config: CoCaTextConfig) -> Iterator[Entry]:
    ours = "model.text_model"
    if config.pool_type == "cls":
        yield Entry("text.cls_emb", (f"{ours}.embeddings.cls_embedding",))
    yield Entry("text.positional_embedding", (f"{ours}.embeddings.position_embedding.weight",))
    yield from same_entries("text.token_embedding", f"{ours}.embeddings.token_embedding", "weight")
    for index in range(config.num_hidden_layers):
        yield from _self_attention_block(f"text.transformer.resblocks.{index}", f"{ours}.layers.{index}", config)
    yield from same_entries("text.ln_final", f"{ours}.final_layer_norm")


def text_projection_entries(config: CoCaTextConfig) -> Iterator[Entry]:
    if config.projection_type == "linear":
        yield Entry("text.text_projection", ("model.text_projection.weight",), transposed=True)
    elif config.projection_type == "linear_bias":
        yield from same_entries("text.text_projection", "model.text_projection")


def _vision(config: CoCaVisionConfig) -> Iterator[Entry]:
    ours = "model.vision_model"
    yield Entry("visual.class_embedding", (f"{ours}.embeddings.class_embedding",))
    yield Entry("visual.positional_embedding", (f"{ours}.embeddings.position_embedding.weight",))
    yield from same_entries("visual.conv1", f"{ours}.embeddings.patch_embedding", "weight")
    if config.use_pre_norm:
        yield from same_entries("visual.ln_pre", f"{ours}.pre_layernorm")
    for index in range(config.num_hidden_layers):
        yield from _self_attention_block(f"visual.transformer.resblocks.{index}", f"{ours}.layers.{index}", config)
    if config.attentional_pooling != "none":
        yield from _pooler("visual.attn_pool", f"{ours}.pooler", config)
    if config.attentional_pooling in ("parallel", "cascade"):
        yield from _pooler("visual.attn_pool_contrastive", f"{ours}.contrastive_pooler", config)
    yield from same_entries("visual.ln_post", f"{ours}.post_layernorm")


def _pooler(theirs: str, ours: str, config: CoCaVisionConfig) -> Iterator[Entry]:
    yield Entry(f"{theirs}.query", (f"{ours}.query",))
    joint = config.pooler_hidden_size == config.hidden_size
    yield from attention_entries(f"{theirs}.attn", f"{ours}.attn", joint)
    yield from same_entries(f"{theirs}.ln_q", f"{ours}.query_norm")
    yield from same_entries(f"{theirs}.ln_k", f"{ours}.context_norm")


def decoder_entries(config: CoCaMultimodalConfig) -> Iterator[Entry]:
    # open_clip has no decoder whose image tokens have another width than its own; ours follows torch's naming there.
    joint = config.cross_attention_hidden_size == config.hidden_size
    for index in range(config.num_hidden_layers):
        ours = f"decoder.layers.{index}.self_attention_layer"
        yield from _self_attention_block(f"text_decoder.resblocks.{index}", ours, config)
    for index in range(config.num_hidden_layers):
        theirs, ours = f"text_decoder.cross_attn.{index}", f"decoder.layers.{index}.cross_attention_layer"
        yield from _block(theirs, ours, config, attention_entries(f"{theirs}.attn", f"{ours}.cross_attn", joint))
        yield from same_entries(f"{theirs}.ln_1_kv", f"{ours}.context_norm")
    yield from same_entries("text_decoder.ln_final", "decoder.final_layer_norm")
    yield Entry("text_decoder.text_projection", ("lm_head.weight",), transposed=True)


def to_open_clip(table: Iterable[Entry], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """open_clip's state dict from ours."""
    return {entry.theirs: entry.to_theirs(tensors) for entry in table}


def from_open_clip(table: Iterable[Entry], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our state dict from open_clip's, whose names and shapes have been checked."""
    return {name: tensor for entry in table for name, tensor in entry.to_ours(tensors[entry.theirs]).items()}
