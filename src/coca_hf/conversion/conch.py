# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""CONCH's CoCa (github.com/mahmoodlab/CONCH): its configuration and its weights.

It is open_clip's text tower and decoder beside another image tower: timm's ViT, whose final norm comes before two
poolers, one with a single query for the contrastive vector and one for the image tokens, each with a norm behind it.
The public weights have no decoder.

Three things are not kept as they are, but folded into neighbouring weights, which leaves every output the same:

- timm's patch embedding has a bias: it goes into the positions of the patches.
- timm's norms have an epsilon of 1e-6, those of the poolers 1e-5, and a tower here has one. A norm with epsilon e of x
  is a norm with epsilon a^2 e of a x; so what a pooler's norm reads is made smaller by a = sqrt(1e-6 / 1e-5).
- Positions for another grid of patches are resized as CONCH's loader does it.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from ..configuration_coca import CoCaConfig
from .errors import ConversionError, refuse_unknown
from .model_config import parse_part
from .weights import Entry, attention_entries, decoder_entries, same_entries, text_entries, text_projection_entries
from .wording import config_in_their_words


TRUNK_EPS = 1e-6  # of timm's VisionTransformer
POOLER_EPS = 1e-5  # of torch's LayerNorm
POOLER_SCALE = math.sqrt(TRUNK_EPS / POOLER_EPS)
# CONCH's builder never passes on what vision_cfg.attn_pooler_heads says.
POOLER_HEADS = 8
START_TOKEN_ID, END_TOKEN_ID = 1, 2

PATCH_BIAS = "visual.trunk.patch_embed.proj.bias"
POSITIONS = "visual.trunk.pos_embed"


@dataclasses.dataclass
class ConchVisionCfg:
    layers: int = 12
    width: int = 768
    num_heads: int = 12
    mlp_ratio: float = 4
    patch_size: int = 16
    image_size: tuple[int, int] | int = 224
    attentional_pool_contrast: bool = False
    attentional_pool_caption: bool = False
    n_queries_contrast: int = 1
    n_queries_caption: int = 256
    attn_pooler_heads: int = 8
    output_tokens: bool = False


@dataclasses.dataclass
class ConchTextCfg:
    context_length: int = 77
    vocab_size: int = 49408
    width: int = 512
    heads: int = 8
    layers: int = 12
    ls_init_value: float | None = None
    proj: str = "mlp"
    pooler_type: str = "mean_pooler"
    embed_cls: bool = False
    pad_id: int = 0
    output_tokens: bool = False


# Our fields in the words of CONCH's model_cfg, for errors.
_WORDS = {
    "projection_dim": "embed_dim",
    "vision_config.hidden_size": "vision_cfg.width",
    "vision_config.intermediate_size": "(vision_cfg.width * vision_cfg.mlp_ratio)",
    "vision_config.num_hidden_layers": "vision_cfg.layers",
    "vision_config.num_attention_heads": "vision_cfg.num_heads",
    "vision_config.image_size": "vision_cfg.image_size",
    "vision_config.patch_size": "vision_cfg.patch_size",
    "vision_config.pooler_hidden_size": "embed_dim_caption",
    "vision_config.contrastive_pooler_hidden_size": "embed_dim",
    "vision_config.num_pooler_queries": "vision_cfg.n_queries_caption",
    "vision_config.num_pooler_attention_heads": "the poolers' number of heads",
    "text_config.vocab_size": "text_cfg.vocab_size",
    "text_config.hidden_size": "text_cfg.width",
    "text_config.intermediate_size": "(4 * text_cfg.width)",
    "text_config.num_hidden_layers": "text_cfg.layers",
    "text_config.num_attention_heads": "text_cfg.heads",
    "text_config.max_position_embeddings": "(text_cfg.context_length - 1)",
    "text_config.layer_scale_init_value": "text_cfg.ls_init_value",
    "text_config.pad_token_id": "text_cfg.pad_id",
    "multimodal_config.hidden_size": "multimodal_cfg.width",
    "multimodal_config.intermediate_size": "(4 * multimodal_cfg.width)",
    "multimodal_config.num_hidden_layers": "multimodal_cfg.layers",
    "multimodal_config.num_attention_heads": "multimodal_cfg.heads",
    "multimodal_config.layer_scale_init_value": "multimodal_cfg.ls_init_value",
}

_MODEL_FIELDS = ("embed_dim", "embed_dim_caption", "vision_cfg", "text_cfg", "multimodal_cfg")


def is_conch(model_cfg: Mapping[str, Any]) -> bool:
    """Whether a model_cfg is CONCH's rather than open_clip's."""
    return "embed_dim_caption" in model_cfg


def conch_config(model_cfg: Mapping[str, Any]) -> CoCaConfig:
    """The configuration of the model that CONCH's code builds from `model_cfg`, decoder included.

    Raises:
        ConversionError: As `open_clip_config`.
    """
    refuse_unknown(model_cfg, (*_MODEL_FIELDS, "pad_id", "custom_text"), "model_cfg")
    for name in _MODEL_FIELDS:
        if model_cfg.get(name) is None:
            raise ConversionError(f"model_cfg has no {name}.")
    vision = parse_part(ConchVisionCfg, model_cfg["vision_cfg"], "vision_cfg")
    text = parse_part(ConchTextCfg, model_cfg["text_cfg"], "text_cfg")
    decoder = parse_part(ConchTextCfg, model_cfg["multimodal_cfg"], "multimodal_cfg")
    for where, given, needed in (
        ("vision_cfg.attentional_pool_contrast", vision.attentional_pool_contrast, True),
        ("vision_cfg.attentional_pool_caption", vision.attentional_pool_caption, True),
        ("vision_cfg.n_queries_contrast", vision.n_queries_contrast, 1),
        ("text_cfg.embed_cls", text.embed_cls, True),
    ):
        if given != needed:
            raise ConversionError(f"{where}={given!r} is not supported; released weights have {needed!r}.")
    fields = {
        "vision_config": {
            "hidden_size": vision.width,
            "intermediate_size": int(vision.width * vision.mlp_ratio),
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.num_heads,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "layer_norm_eps": TRUNK_EPS,
            "use_pre_norm": False,
            "attentional_pooling": "separate",
            "pooler_hidden_size": model_cfg["embed_dim_caption"],
            "contrastive_pooler_hidden_size": model_cfg["embed_dim"],
            "num_pooler_queries": vision.n_queries_caption,
            "num_pooler_attention_heads": POOLER_HEADS,
        },
        "text_config": {
            "vocab_size": text.vocab_size,
            "hidden_size": text.width,
            "intermediate_size": 4 * text.width,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            # Its context counts [CLS], which takes the last position.
            "max_position_embeddings": text.context_length - 1,
            "layer_scale_init_value": text.ls_init_value,
            "pad_token_id": text.pad_id,
            "bos_token_id": START_TOKEN_ID,
            "eos_token_id": END_TOKEN_ID,
        },
        "multimodal_config": {
            "hidden_size": decoder.width,
            "intermediate_size": 4 * decoder.width,
            "num_hidden_layers": decoder.layers,
            "num_attention_heads": decoder.heads,
            "layer_scale_init_value": decoder.ls_init_value,
        },
        "projection_dim": model_cfg["embed_dim"],
    }
    return config_in_their_words(fields, _WORDS)


@dataclasses.dataclass(frozen=True)
class AdjustedEntry(Entry):
    """A tensor that has `leading` axes of length one too many, and is scaled on the way."""

    leading: int = 0
    scale: float = 1.0

    def to_ours(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        tensor = tensor.reshape(tensor.shape[self.leading :])
        return super().to_ours(tensor if self.scale == 1 else tensor * self.scale)

    def their_shape(self, shapes: Mapping[str, torch.Size]) -> tuple[int, ...]:
        return (1,) * self.leading + super().their_shape(shapes)


def conch_entries(config: CoCaConfig) -> list[Entry]:
    """Every tensor of the model of `config` but the patch embedding's bias; the decoder's if it has one."""
    text: Any = config.text_config
    decoder: Any = config.multimodal_config
    table = [
        *text_entries(text),
        *text_projection_entries(text),
        *_vision(config.vision_config),
        Entry("visual.proj_contrast", ("model.visual_projection.weight",), transposed=True),
        Entry("logit_scale", ("model.logit_scale",), is_scalar=True),
    ]
    return [*table, *decoder_entries(decoder)] if decoder.num_hidden_layers else table


def _vision(config: Any) -> Iterator[Entry]:
    trunk, ours = "visual.trunk", "model.vision_model"
    yield AdjustedEntry(f"{trunk}.cls_token", (f"{ours}.embeddings.class_embedding",), leading=2)
    yield AdjustedEntry(POSITIONS, (f"{ours}.embeddings.position_embedding.weight",), leading=1)
    yield from same_entries(f"{trunk}.patch_embed.proj", f"{ours}.embeddings.patch_embedding", "weight")
    for index in range(config.num_hidden_layers):
        yield from _block(f"{trunk}.blocks.{index}", f"{ours}.layers.{index}")
    yield from _scaled(f"{trunk}.norm", f"{ours}.post_layernorm")
    widths = {"caption": config.pooler_hidden_size, "contrast": config.contrastive_hidden_size}
    for kind, name in (("caption", "pooler"), ("contrast", "contrastive_pooler")):
        yield from _pooler(f"visual.attn_pool_{kind}", f"{ours}.{name}", widths[kind] == config.hidden_size)
        yield from same_entries(f"visual.ln_{kind}", f"{ours}.{name}_norm")


def _block(theirs: str, ours: str) -> Iterator[Entry]:
    """timm's block; it stacks query, key and value as torch does."""
    yield from same_entries(f"{theirs}.norm1", f"{ours}.layer_norm1")
    for parameter in ("weight", "bias"):
        parts = tuple(f"{ours}.self_attn.{letter}_proj.{parameter}" for letter in "qkv")
        yield Entry(f"{theirs}.attn.qkv.{parameter}", parts)
    yield from same_entries(f"{theirs}.attn.proj", f"{ours}.self_attn.out_proj")
    yield from same_entries(f"{theirs}.norm2", f"{ours}.layer_norm2")
    yield from same_entries(f"{theirs}.mlp.fc1", f"{ours}.mlp.fc1")
    yield from same_entries(f"{theirs}.mlp.fc2", f"{ours}.mlp.fc2")


def _scaled(theirs: str, ours: str) -> Iterator[Entry]:
    for parameter in ("weight", "bias"):
        yield AdjustedEntry(f"{theirs}.{parameter}", (f"{ours}.{parameter}",), scale=POOLER_SCALE)


def _pooler(theirs: str, ours: str, joint: bool) -> Iterator[Entry]:
    yield AdjustedEntry(f"{theirs}.query", (f"{ours}.query",), scale=POOLER_SCALE)
    for entry in attention_entries(f"{theirs}.attn", f"{ours}.attn", joint):
        is_output = ".out_proj." in entry.theirs
        yield AdjustedEntry(entry.theirs, entry.ours, scale=POOLER_SCALE) if is_output else entry
    yield from same_entries(f"{theirs}.ln_q", f"{ours}.query_norm")
    yield from same_entries(f"{theirs}.ln_k", f"{ours}.context_norm")


def positions_with_bias(positions: torch.Tensor, bias: torch.Tensor, grid_size: tuple[int, int]) -> torch.Tensor:
    """(1, 1 + patches, hidden), (hidden,) -> (1, 1 + patches, hidden): for `grid_size`, the patches' bias added."""
    class_position, patches = positions[:, :1], positions[:, 1:]
    if patches.shape[1] != math.prod(grid_size):
        patches = _resized(patches, grid_size)
    return torch.cat([class_position, patches + bias], dim=1)


def _resized(patches: torch.Tensor, grid_size: tuple[int, int]) -> torch.Tensor:
    """(1, patches of a square grid, hidden) -> (1, patches, hidden): bilinear, as CONCH's `resize_pos_embed`."""
    side = math.isqrt(patches.shape[1])
    grid = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2).float()
    grid = F.interpolate(grid, size=grid_size, mode="bilinear", antialias=False)
    return grid.permute(0, 2, 3, 1).flatten(1, 2).to(patches.dtype)
