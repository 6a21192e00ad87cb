# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""
The programs that a model is cut into, each a module of named tensors in and named tensors out:

    vision        pixel_values -> pooler_output, image_tokens, last_hidden_state
    text          input_ids, attention_mask -> pooler_output, last_hidden_state
    image_memory  image_tokens -> keys and values of the image tokens in each layer of the decoder
    decoder_step  ids, masks and the cache so far -> logits and the cache with the new tokens

Any number of images, of rows, of tokens, and of tokens in the cache.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from ..cache_coca import CoCaImageLayer
from ..modeling_coca import CoCaForCaptioning, CoCaModel


Inputs = dict[str, Any]


class VisionProgram(nn.Module):
    """(images, channels, height, width) -> what `get_image_features` returns."""

    def __init__(self, towers: CoCaModel):
        super().__init__()
        self.towers = towers

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        outputs = self.towers.get_image_features(pixel_values, return_dict=True)
        names = ("pooler_output", "image_tokens", "last_hidden_state")
        return {name: outputs[name] for name in names}


class TextProgram(nn.Module):
    """Ids and mask, both (texts, text) -> what `get_text_features` returns."""

    def __init__(self, towers: CoCaModel):
        super().__init__()
        self.towers = towers

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        outputs = self.towers.get_text_features(input_ids, attention_mask, return_dict=True)
        return {name: outputs[name] for name in ("pooler_output", "last_hidden_state")}


class ImageMemoryProgram(nn.Module):
    """(images, image tokens, size) -> keys and values of each layer, (images, heads, image tokens, head size)."""

    def __init__(self, captioner: CoCaForCaptioning):
        super().__init__()
        self.layers = captioner.decoder.layers

    def forward(self, image_tokens: Tensor) -> dict[str, list[Tensor]]:
        memory: dict[str, list[Tensor]] = {"image_keys": [], "image_values": []}
        for layer in self.layers:
            block = layer.cross_attention_layer
            attention, context = block.cross_attn, block.context_norm(image_tokens)
            heads = (*context.shape[:2], -1, attention.head_dim)
            memory["image_keys"].append(attention.k_proj(context).view(heads).transpose(1, 2))
            memory["image_values"].append(attention.v_proj(context).view(heads).transpose(1, 2))
        return memory


class DecoderStepProgram(nn.Module):
    """
    Both text stacks on (rows, text) new tokens behind a cache of so many `past` ones.

    `attention_mask` and `text_key_mask`, (rows, past + text), say which tokens the decoder and the text tower see;
    rows of an image are adjacent, and as many for each. Logits are those of `logit_positions`, (kept,).
    """

    def __init__(self, captioner: CoCaForCaptioning):
        super().__init__()
        self.captioner = captioner

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor,
        text_key_mask: Tensor,
        logit_positions: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
        image_keys: list[Tensor],
        image_values: list[Tensor],
    ) -> dict[str, Any]:
        cache = DynamicCache()
        _fill(cache, DynamicLayer, keys, values)
        _fill(cache, CoCaImageLayer, image_keys, image_values)
        length, num_keys = input_ids.shape[1], attention_mask.shape[1]
        is_past = torch.arange(num_keys)[None] <= torch.arange(length)[:, None] + (num_keys - length)
        text_mask, mask = ((is_past & is_seen.bool()[:, None])[:, None] for is_seen in (text_key_mask, attention_mask))
        outputs = self.captioner.model.text_model(input_ids, text_mask, position_ids, cache=cache, return_dict=True)
        hidden_states = self.captioner.decoder(
            outputs.last_hidden_state, None, attention_mask=mask, cache=cache, return_dict=True
        ).last_hidden_state
        layers = cache.layers[: len(keys)]
        return {
            "logits": self.captioner.lm_head(hidden_states[:, logit_positions]),
            "new_keys": [layer.keys for layer in layers],
            "new_values": [layer.values for layer in layers],
        }


def _fill(cache: Cache, layer_class: Any, keys: list[Tensor], values: list[Tensor]) -> None:
    for key, value in zip(keys, values, strict=True):
        layer = layer_class()
        layer.lazy_initialization(key, value)
        layer.keys, layer.values = key, value
        cache.layers.append(layer)


def named(values: Inputs) -> dict[str, Tensor]:
    """Tensors by the names that they have in a program: those of a list are numbered."""
    return {
        f"{name}.{index}" if isinstance(value, list) else name: tensor
        for name, value in values.items()
        for index, tensor in enumerate(value if isinstance(value, list) else [value])
    }


@dataclass(frozen=True)
class Component:
    """
    A program to export.

    Attributes:
        module: What it computes.
        make_inputs: Inputs for numbers of images, of rows an image, of new tokens and of tokens before them.
        dynamic_shapes: Which sizes of them vary, as `torch.export` takes it.
    """

    module: nn.Module
    make_inputs: Callable[[int, int, int, int], Inputs]
    dynamic_shapes: dict[str, Any]


def components(model: CoCaModel | CoCaForCaptioning) -> dict[str, Component]:
    """Those of the towers, and those of the decoder where there is one that can generate."""
    towers = model.model if isinstance(model, CoCaForCaptioning) else model
    found = {"vision": _vision(towers), "text": _text(towers)}
    if isinstance(model, CoCaForCaptioning) and model.config.text_config.is_causal:
        found |= {"image_memory": _image_memory(model), "decoder_step": _decoder_step(model)}
    return found


def _vision(towers: CoCaModel) -> Component:
    config = towers.config.vision_config
    size = config.image_size if not isinstance(config.image_size, int) else (config.image_size,) * 2

    def make_inputs(images: int, beams: int, length: int, past: int) -> Inputs:
        return {"pixel_values": torch.randn(images, config.num_channels, *size, generator=_random(images))}

    return Component(VisionProgram(towers), make_inputs, {"pixel_values": {0: Dim("images")}})


def _text(towers: CoCaModel) -> Component:
    def make_inputs(images: int, beams: int, length: int, past: int) -> Inputs:
        input_ids = _ids(towers, images * beams, length)
        attention_mask = torch.ones_like(input_ids)
        attention_mask[0, 1:] = 0
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    shape = {0: Dim("texts"), 1: Dim("text", max=towers.config.text_config.max_position_embeddings)}
    return Component(TextProgram(towers), make_inputs, {"input_ids": shape, "attention_mask": shape})


def _image_memory(model: CoCaForCaptioning) -> Component:
    config = model.config.vision_config
    num_tokens = _num_image_tokens(model)

    def make_inputs(images: int, beams: int, length: int, past: int) -> Inputs:
        shape = (images, num_tokens, config.image_tokens_hidden_size)
        return {"image_tokens": torch.randn(shape, generator=_random(images))}

    return Component(ImageMemoryProgram(model), make_inputs, {"image_tokens": {0: Dim("images")}})


def _decoder_step(model: CoCaForCaptioning) -> Component:
    text, multimodal = model.config.text_config, model.config.multimodal_config
    num_tokens = _num_image_tokens(model)
    stacks = [text] * text.num_hidden_layers + [multimodal] * multimodal.num_hidden_layers

    def make_inputs(images: int, beams: int, length: int, past: int) -> Inputs:
        rows, generator = images * beams, _random(images)

        def cached(part: Any, rows: int, tokens: int) -> Tensor:
            heads = part.num_attention_heads
            return torch.randn(rows, heads, tokens, part.hidden_size // heads, generator=generator)

        attention_mask = torch.ones(rows, past + length, dtype=torch.long)
        # A prompt that is shorter than the others.
        attention_mask[0, : (past + length) // 2] = 0
        return {
            "input_ids": _ids(model.model, rows, length),
            "position_ids": torch.arange(past, past + length).repeat(rows, 1),
            "attention_mask": attention_mask,
            "text_key_mask": attention_mask.bool(),
            "logit_positions": torch.arange(length),
            "keys": [cached(part, rows, past) for part in stacks],
            "values": [cached(part, rows, past) for part in stacks],
            "image_keys": [cached(multimodal, images, num_tokens) for _ in range(multimodal.num_hidden_layers)],
            "image_values": [cached(multimodal, images, num_tokens) for _ in range(multimodal.num_hidden_layers)],
        }

    rows, length, past, images = Dim("rows"), Dim("text"), Dim("past"), Dim("images")
    # Its length is the sum of two others, which torch.export finds by itself and has no notation for.
    mask = {0: rows, 1: Dim.AUTO}
    texts = [{0: rows, 2: past}] * len(stacks)
    memory = [{0: images}] * multimodal.num_hidden_layers
    shapes = {
        "input_ids": {0: rows, 1: length},
        "position_ids": {0: rows, 1: length},
        "attention_mask": mask,
        "text_key_mask": mask,
        "logit_positions": {0: Dim("kept")},
        "keys": texts,
        "values": texts,
        "image_keys": memory,
        "image_values": memory,
    }
    return Component(DecoderStepProgram(model), make_inputs, shapes)


def _num_image_tokens(model: CoCaForCaptioning) -> int:
    """As the vision tower gives them, whichever way it pools."""
    pixel_values = _vision(model.model).make_inputs(1, 1, 1, 0)["pixel_values"]
    with torch.no_grad():
        return model.model.get_image_features(pixel_values, return_dict=True).image_tokens.shape[1]


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _ids(towers: CoCaModel, rows: int, length: int) -> Tensor:
    """Random ids, of which the last ends the text: some towers look for it."""
    config = towers.config.text_config
    end = config.eos_token_id if isinstance(config.eos_token_id, int) else config.vocab_size - 1
    ids = torch.randint(1, config.vocab_size - 1, (rows, length), generator=_random(rows))
    ids[:, -1] = end
    return ids
