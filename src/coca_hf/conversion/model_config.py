# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""open_clip's model_cfg, in and out.

`CLIPVisionCfg`, `CLIPTextCfg` and `MultimodalCfg` have the fields and defaults of open_clip 3.3.0's dataclasses of
these names, so a model_cfg means here what it means there, fields that it leaves out included.
"""

import dataclasses
import math
from collections.abc import Mapping
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from ..configuration_coca import CoCaConfig
from .errors import ConversionError, refuse_unknown
from .presets import PRESETS
from .wording import config_in_their_words


CLIP_VOCABULARY = 49408
# The final norms and blocks take their epsilon from norm_kwargs upstream, the poolers always have this one.
DEFAULT_NORM_EPS = 1e-5


@dataclasses.dataclass
class CLIPVisionCfg:
    layers: tuple[int, int, int, int] | int = 12
    width: int = 768
    head_width: int = 64
    mlp_ratio: float = 4.0
    patch_size: tuple[int, int] | int = 16
    image_size: tuple[int, int] | int = 224
    ls_init_value: float | None = None
    patch_dropout: float = 0.0
    attentional_pool: bool | str = False
    attn_pooler_queries: int = 256
    attn_pooler_heads: int = 8
    no_ln_pre: bool = False
    pos_embed_type: str = "learnable"
    final_ln_after_pool: bool = False
    pool_type: str = "tok"
    output_tokens: bool = False
    act_kwargs: dict[str, Any] | None = None
    norm_kwargs: dict[str, Any] | None = None
    block_type: str | None = None
    qk_norm: bool = False
    scaled_cosine_attn: bool = False
    scale_heads: bool = False
    scale_attn_inner: bool = False
    scale_attn: bool = False
    scale_fc: bool = False
    timm_model_name: str | None = None
    timm_model_pretrained: bool = False
    timm_pool: str = "avg"
    timm_proj: str = "linear"
    timm_proj_bias: bool = False
    timm_drop: float = 0.0
    timm_drop_path: float | None = None


@dataclasses.dataclass
class CLIPTextCfg:
    context_length: int = 77
    vocab_size: int = 49408
    hf_tokenizer_name: str | None = None
    tokenizer_mode: str | None = None
    tokenizer_kwargs: dict[str, Any] | None = None
    width: int = 512
    heads: int = 8
    layers: int = 12
    mlp_ratio: float = 4.0
    ls_init_value: float | None = None
    embed_cls: bool = False
    pad_id: int = 0
    eos_id: int = 2
    no_causal_mask: bool = False
    final_ln_after_pool: bool = False
    pool_type: str = "argmax"
    proj_bias: bool = False
    proj_type: str = "linear"
    output_tokens: bool = False
    act_kwargs: dict[str, Any] | None = None
    norm_kwargs: dict[str, Any] | None = None
    block_type: str | None = None
    qk_norm: bool = False
    scaled_cosine_attn: bool = False
    scale_heads: bool = False
    scale_attn_inner: bool = False
    scale_attn: bool = False
    scale_fc: bool = False
    hf_model_name: str | None = None
    hf_model_pretrained: bool = True
    hf_proj_type: str = "mlp"
    hf_pooler_type: str = "mean_pooler"


@dataclasses.dataclass
class MultimodalCfg(CLIPTextCfg):
    """Of these fields open_clip reads context_length, width, heads, layers and ls_init_value, and so do we."""

    mlp_ratio: int = 4
    dim_head: int = 64
    heads: int = 8
    n_queries: int = 256
    attn_pooler_heads: int = 8


# The arguments of open_clip's CoCa that a model_cfg may hold, with their defaults, and what its factory reads besides.
_MODEL_DEFAULTS: dict[str, Any] = {
    "embed_dim": None,
    "multimodal_cfg": None,
    "text_cfg": None,
    "vision_cfg": None,
    "quick_gelu": False,
    "init_logit_scale": math.log(1 / 0.07),
    "init_logit_bias": None,
    "nonscalar_logit_scale": False,
    "cast_dtype": None,
    "pad_id": None,
    "custom_text": True,
    "output_dict": None,
}

_UNSUPPORTED: dict[str, str] = {
    "timm_model_name": "a timm vision tower",
    "hf_model_name": "a Hugging Face text tower",
    "qk_norm": "an experimental attention block",
    "scaled_cosine_attn": "an experimental attention block",
    "scale_heads": "an experimental attention block",
    "scale_attn_inner": "an experimental attention block",
    "scale_attn": "an experimental attention block",
    "scale_fc": "an experimental attention block",
}

# Our fields in the words of a model_cfg, for errors.
_WORDS = {
    "projection_dim": "embed_dim",
    "logit_scale_init_value": "init_logit_scale",
    "logit_bias_init_value": "init_logit_bias",
    "nonscalar_logit_scale": "nonscalar_logit_scale",
    "vision_config.hidden_size": "vision_cfg.width",
    "vision_config.intermediate_size": "(vision_cfg.width * vision_cfg.mlp_ratio)",
    "vision_config.num_hidden_layers": "vision_cfg.layers",
    "vision_config.num_attention_heads": "(vision_cfg.width // vision_cfg.head_width)",
    "vision_config.image_size": "vision_cfg.image_size",
    "vision_config.patch_size": "vision_cfg.patch_size",
    "vision_config.hidden_act": "vision_cfg.act_kwargs",
    "vision_config.layer_norm_eps": "vision_cfg.norm_kwargs.eps",
    "vision_config.layer_scale_init_value": "vision_cfg.ls_init_value",
    "vision_config.patch_dropout": "vision_cfg.patch_dropout",
    "vision_config.position_embedding_type": "vision_cfg.pos_embed_type",
    "vision_config.use_pre_norm": "vision_cfg.no_ln_pre",
    "vision_config.attentional_pooling": "vision_cfg.attentional_pool",
    "vision_config.pooler_hidden_size": "embed_dim",
    "vision_config.num_pooler_queries": "vision_cfg.attn_pooler_queries",
    "vision_config.num_pooler_attention_heads": "vision_cfg.attn_pooler_heads",
    "vision_config.pool_type": "vision_cfg.pool_type",
    "vision_config.final_norm_after_pool": "vision_cfg.final_ln_after_pool",
    "text_config.vocab_size": "text_cfg.vocab_size",
    "text_config.hidden_size": "text_cfg.width",
    "text_config.intermediate_size": "(text_cfg.width * text_cfg.mlp_ratio)",
    "text_config.num_hidden_layers": "text_cfg.layers",
    "text_config.num_attention_heads": "text_cfg.heads",
    "text_config.max_position_embeddings": "text_cfg.context_length",
    "text_config.hidden_act": "text_cfg.act_kwargs",
    "text_config.layer_norm_eps": "text_cfg.norm_kwargs.eps",
    "text_config.layer_scale_init_value": "text_cfg.ls_init_value",
    "text_config.pool_type": "text_cfg.pool_type",
    "text_config.projection_type": "text_cfg.proj_type",
    "text_config.is_causal": "text_cfg.no_causal_mask",
    "text_config.pad_token_id": "text_cfg.pad_id",
    "text_config.eos_token_id": "text_cfg.eos_id",
    "multimodal_config.hidden_size": "multimodal_cfg.width",
    "multimodal_config.intermediate_size": "(4 * multimodal_cfg.width)",
    "multimodal_config.num_hidden_layers": "multimodal_cfg.layers",
    "multimodal_config.num_attention_heads": "multimodal_cfg.heads",
    "multimodal_config.layer_scale_init_value": "multimodal_cfg.ls_init_value",
}

_POOLINGS = {True: "single", False: "none", None: "none", "parallel": "parallel", "cascade": "cascade"}
_VISION_POOL_TYPES = {"tok": "cls", "avg": "mean", "none": "none"}
_TEXT_POOL_TYPES = ("first", "last", "argmax", "eos", "none")
_POSITIONS = {"learnable": "learned", "sin_cos_2d": "sincos"}
_VALUES: dict[str, dict[str, Any]] = {
    "vision_config.attentional_pooling": {ours: their for their, ours in _POOLINGS.items() if their is not None},
    "vision_config.pool_type": {ours: their for their, ours in _VISION_POOL_TYPES.items()},
    "vision_config.position_embedding_type": {ours: their for their, ours in _POSITIONS.items()},
}


def open_clip_config(model_cfg: Mapping[str, Any] | str) -> CoCaConfig:
    """The configuration of the model that open_clip builds from `model_cfg`.

    Args:
        model_cfg: open_clip's dictionary (the whole of an `open_clip_config.json` too), or the name of one of its
            models: "coca_ViT-B-32", "coca_ViT-L-14", "coca_base".

    Raises:
        ConversionError: An unknown name or field, a value open_clip does not know, or a feature that this package does
            not have; the message names the field.
    """
    cfg = read_model_cfg(model_cfg)
    vision = parse_part(CLIPVisionCfg, cfg["vision_cfg"], "vision_cfg")
    text = parse_part(CLIPTextCfg, cfg["text_cfg"], "text_cfg")
    multimodal = parse_part(MultimodalCfg, cfg["multimodal_cfg"], "multimodal_cfg")
    return config_of_parts(
        cfg["embed_dim"],
        multimodal,
        text,
        vision,
        quick_gelu=cfg["quick_gelu"],
        init_logit_scale=cfg["init_logit_scale"],
        init_logit_bias=cfg["init_logit_bias"],
        nonscalar_logit_scale=cfg["nonscalar_logit_scale"],
        pad_id=cfg["pad_id"],
    )


def read_model_cfg(model_cfg: Mapping[str, Any] | str) -> dict[str, Any]:
    """A model_cfg with every field of the top level set; a name is looked up among the presets."""
    if isinstance(model_cfg, str) and model_cfg not in PRESETS:
        raise ConversionError(f"No model is called {model_cfg!r}; there are {', '.join(sorted(PRESETS))}.")
    cfg: Mapping[str, Any] = PRESETS[model_cfg] if isinstance(model_cfg, str) else model_cfg
    cfg = cfg.get("model_cfg", cfg)
    refuse_unknown(cfg, _MODEL_DEFAULTS, "model_cfg")
    for name in ("embed_dim", "vision_cfg", "text_cfg", "multimodal_cfg"):
        if cfg.get(name) is None:
            hint = " Without one it describes a CLIP model, not a CoCa model." if name == "multimodal_cfg" else ""
            raise ConversionError(f"model_cfg has no {name}.{hint}")
    return {**_MODEL_DEFAULTS, **cfg}


def parse_part(kind: type, values: Any, where: str) -> Any:
    """One of the three dataclasses from the dictionary in a model_cfg."""
    if isinstance(values, kind):
        return values
    if not isinstance(values, Mapping):
        raise ConversionError(f"model_cfg.{where} must be a dictionary, not {values!r}.")
    hints = get_type_hints(kind)
    refuse_unknown(values, hints, f"model_cfg.{where}")
    for name, value in values.items():
        if not _is_of(value, hints[name]):
            raise ConversionError(f"model_cfg.{where}.{name}={value!r} has the wrong type.")
    return kind(**values)


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value from JSON fits an annotation: lists stand for tuples, whole numbers for floats."""
    if isinstance(hint, UnionType):
        return any(_is_of(value, option) for option in get_args(hint))
    kind = get_origin(hint) or hint
    accepted: dict[Any, tuple[type, ...]] = {tuple: (tuple, list), float: (float, int)}
    return isinstance(value, accepted.get(kind, kind)) and (kind is bool or not isinstance(value, bool))


def config_of_parts(
    embed_dim: int,
    multimodal: MultimodalCfg,
    text: CLIPTextCfg,
    vision: CLIPVisionCfg,
    *,
    quick_gelu: bool = False,
    init_logit_scale: float = math.log(1 / 0.07),
    init_logit_bias: float | None = None,
    nonscalar_logit_scale: bool = False,
    pad_id: int | None = None,
) -> CoCaConfig:
    """The configuration for the arguments of open_clip's `CoCa` constructor.

    Raises:
        ConversionError: As `open_clip_config`.
    """
    for where, part in (("vision_cfg", vision), ("text_cfg", text), ("multimodal_cfg", multimodal)):
        _refuse_unsupported(part, where)
    if pad_id is not None and pad_id != text.pad_id:
        raise ConversionError(
            f"pad_id={pad_id} and text_cfg.pad_id={text.pad_id} differ, but a model here has one padding id."
        )
    if multimodal.context_length < text.context_length:
        raise ConversionError(
            f"multimodal_cfg.context_length={multimodal.context_length} is shorter than "
            f"text_cfg.context_length={text.context_length}; the decoder would refuse what the text tower takes."
        )
    _require_positive(vision, "vision_cfg", ("width", "head_width", "mlp_ratio"))
    _require_positive(text, "text_cfg", ("width", "mlp_ratio"))
    fields = {
        "vision_config": _vision_fields(vision, embed_dim, quick_gelu),
        "text_config": _text_fields(text, quick_gelu),
        "multimodal_config": _multimodal_fields(multimodal, quick_gelu),
        "projection_dim": embed_dim,
        "logit_scale_init_value": float(init_logit_scale),
        "logit_bias_init_value": init_logit_bias,
        "nonscalar_logit_scale": nonscalar_logit_scale,
    }
    return config_in_their_words(fields, _WORDS, _VALUES)


def _require_positive(part: CLIPVisionCfg | CLIPTextCfg, where: str, names: tuple[str, ...]) -> None:
    """Of the fields that our sizes are computed from, so that the one to blame is named."""
    for name in names:
        if getattr(part, name) <= 0:
            raise ConversionError(f"{where}.{name}={getattr(part, name)!r} must be positive.")


def _refuse_unsupported(part: CLIPVisionCfg | CLIPTextCfg, where: str) -> None:
    if isinstance(part, MultimodalCfg):
        if part.layers == 0:
            raise ConversionError("multimodal_cfg.layers=0 gives a decoder without layers, which is not supported.")
        return  # of the decoder's fields, open_clip reads none of the unsupported ones
    for name, feature in _UNSUPPORTED.items():
        if getattr(part, name, None):
            raise ConversionError(
                f"{where}.{name}={getattr(part, name)!r} asks for {feature}, which is not supported."
            )
    if part.block_type not in (None, "default"):
        raise ConversionError(
            f"{where}.block_type={part.block_type!r} asks for an experimental attention block, which is not supported."
        )
    if isinstance(part, CLIPVisionCfg) and not isinstance(part.layers, int):
        raise ConversionError(
            f"{where}.layers={part.layers!r} asks for a ResNet vision tower, which is not supported."
        )
    unknown_norm = set(part.norm_kwargs or {}) - {"eps"}
    if unknown_norm:
        raise ConversionError(f"{where}.norm_kwargs.{min(unknown_norm)} is not supported; of norm_kwargs only eps is.")
    pooled = isinstance(part, CLIPVisionCfg) and part.attentional_pool
    if pooled and _norm_eps(part) != DEFAULT_NORM_EPS:
        raise ConversionError(
            f"{where}.norm_kwargs.eps={_norm_eps(part)} together with an attentional pooler, whose norms keep "
            f"{DEFAULT_NORM_EPS}, is not supported."
        )


def _norm_eps(part: CLIPVisionCfg | CLIPTextCfg) -> float:
    return float((part.norm_kwargs or {}).get("eps", DEFAULT_NORM_EPS))


def _activation(part: CLIPVisionCfg | CLIPTextCfg, where: str, quick_gelu: bool) -> str:
    arguments = part.act_kwargs or {}
    if arguments and (quick_gelu or arguments not in ({"approximate": "none"}, {"approximate": "tanh"})):
        raise ConversionError(f"{where}.act_kwargs={arguments!r} is not supported with quick_gelu={quick_gelu}.")
    if arguments.get("approximate") == "tanh":
        return "gelu_pytorch_tanh"
    return "quick_gelu" if quick_gelu else "gelu"


def _choice(where: str, value: Any, allowed: Mapping[Any, str] | tuple[str, ...]) -> str:
    if value not in allowed:
        names = ", ".join(repr(one) for one in allowed if one is not None)
        raise ConversionError(f"{where}={value!r} is not a value that open_clip knows; use one of {names}.")
    return allowed[value] if isinstance(allowed, Mapping) else value


def _vision_fields(cfg: CLIPVisionCfg, embed_dim: int, quick_gelu: bool) -> dict[str, Any]:
    pooling = _choice("vision_cfg.attentional_pool", cfg.attentional_pool, _POOLINGS)
    pool_type = _choice("vision_cfg.pool_type", cfg.pool_type, _VISION_POOL_TYPES)
    fields = {
        "hidden_size": cfg.width,
        "intermediate_size": int(cfg.width * cfg.mlp_ratio),
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.width // cfg.head_width,
        "image_size": cfg.image_size,
        "patch_size": cfg.patch_size,
        "hidden_act": _activation(cfg, "vision_cfg", quick_gelu),
        "layer_norm_eps": _norm_eps(cfg),
        "layer_scale_init_value": cfg.ls_init_value,
        "patch_dropout": cfg.patch_dropout,
        "position_embedding_type": _choice("vision_cfg.pos_embed_type", cfg.pos_embed_type, _POSITIONS),
        "use_pre_norm": not cfg.no_ln_pre,
        "attentional_pooling": pooling,
    }
    if pooling == "none":
        return {**fields, "pool_type": pool_type, "final_norm_after_pool": cfg.final_ln_after_pool}
    fields["pooler_hidden_size"] = embed_dim
    fields["num_pooler_queries"] = cfg.attn_pooler_queries
    fields["num_pooler_attention_heads"] = cfg.attn_pooler_heads
    if pooling == "single":  # the other kinds have a pooler of their own for the vector, whatever pool_type says
        fields["pool_type"] = pool_type
    return fields


def _text_fields(cfg: CLIPTextCfg, quick_gelu: bool) -> dict[str, Any]:
    pool_type = "cls" if cfg.embed_cls else _choice("text_cfg.pool_type", cfg.pool_type, _TEXT_POOL_TYPES)
    projection = _choice("text_cfg.proj_type", cfg.proj_type, ("linear", "none"))
    # open_clip's vocabularies end in the start and the end token, and CLIP's may be a part of a larger one.
    size = CLIP_VOCABULARY if cfg.vocab_size >= CLIP_VOCABULARY else cfg.vocab_size
    return {
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.width,
        "intermediate_size": int(cfg.width * cfg.mlp_ratio),
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "max_position_embeddings": cfg.context_length,
        "hidden_act": _activation(cfg, "text_cfg", quick_gelu),
        "layer_norm_eps": _norm_eps(cfg),
        "layer_scale_init_value": cfg.ls_init_value,
        "pool_type": pool_type,
        "projection_type": "linear_bias" if projection == "linear" and cfg.proj_bias else projection,
        "is_causal": not cfg.no_causal_mask,
        "pad_token_id": cfg.pad_id,
        "bos_token_id": size - 2,
        "eos_token_id": cfg.eos_id if pool_type == "eos" else size - 1,
    }


def _multimodal_fields(cfg: MultimodalCfg, quick_gelu: bool) -> dict[str, Any]:
    return {
        "hidden_size": cfg.width,
        "intermediate_size": 4 * cfg.width,
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "hidden_act": "quick_gelu" if quick_gelu else "gelu",
        "layer_scale_init_value": cfg.ls_init_value,
    }


def open_clip_model_cfg(config: CoCaConfig) -> dict[str, Any]:
    """The model_cfg from which open_clip builds the model of `config`: what `open_clip_config` undoes.

    Raises:
        ConversionError: `config` has something that open_clip's CoCa has not; the message names the field.
    """
    quick_gelu = config.text_config.hidden_act == "quick_gelu"
    if config.vision_config.attentional_pooling not in _POOLINGS.values():
        raise ConversionError(
            "open_clip's CoCa cannot have "
            f"vision_config.attentional_pooling={config.vision_config.attentional_pooling!r}."
        )
    cfg: dict[str, Any] = {
        "embed_dim": config.projection_dim,
        "vision_cfg": _vision_cfg(config.vision_config),
        "text_cfg": _text_cfg(config.text_config),
        "multimodal_cfg": _multimodal_cfg(config),
        "custom_text": True,
    }
    if quick_gelu:
        cfg["quick_gelu"] = True
    if config.logit_scale_init_value != CoCaConfig().logit_scale_init_value:
        cfg["init_logit_scale"] = config.logit_scale_init_value
    if config.logit_bias_init_value is not None:
        cfg["init_logit_bias"] = config.logit_bias_init_value
    if config.nonscalar_logit_scale:
        cfg["nonscalar_logit_scale"] = True
    _require_representable(config, cfg)
    return cfg


def _require_representable(config: CoCaConfig, cfg: dict[str, Any]) -> None:
    """Raises unless open_clip would build from `cfg` the very model of `config`."""
    rebuilt = open_clip_config(cfg)
    irrelevant = {"bos_token_id", "eos_token_id"} if config.text_config.pool_type != "eos" else {"bos_token_id"}
    irrelevant |= {"attention_dropout", "initializer_range"}
    if config.vision_config.attentional_pooling == "none":
        irrelevant |= {"pooler_hidden_size", "num_pooler_queries", "num_pooler_attention_heads"}
    for part in ("vision_config", "text_config", "multimodal_config"):
        ours, theirs = getattr(config, part), getattr(rebuilt, part)
        for field in dataclasses.fields(ours):
            value, other = getattr(ours, field.name), getattr(theirs, field.name)
            if (
                field.name in type(ours).__annotations__
                and field.name not in irrelevant
                and _plain(value) != _plain(other)
            ):
                raise ConversionError(
                    f"open_clip's CoCa cannot have {part}.{field.name}={value!r}; it would be {other!r} there."
                )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _ratio(intermediate_size: int, width: int) -> int | float:
    """The MLP ratio from which `int(width * ratio)` gives back `intermediate_size`."""
    if intermediate_size % width == 0:
        return intermediate_size // width
    ratio = intermediate_size / width
    return ratio if int(width * ratio) == intermediate_size else math.nextafter(ratio, math.inf)


def _differing(values: dict[str, Any], kind: type, always: tuple[str, ...]) -> dict[str, Any]:
    """Those of `values` that are not open_clip's default, and the ones its own files always state."""
    default = kind()
    return {name: value for name, value in values.items() if name in always or value != getattr(default, name)}


def _extras(config: Any) -> dict[str, Any]:
    """norm_kwargs and act_kwargs of a tower."""
    return {
        "norm_kwargs": None if config.layer_norm_eps == DEFAULT_NORM_EPS else {"eps": config.layer_norm_eps},
        "act_kwargs": {"approximate": "tanh"} if config.hidden_act == "gelu_pytorch_tanh" else None,
    }


def _vision_cfg(config: Any) -> dict[str, Any]:
    pooled = config.attentional_pooling != "none"
    values = {
        "image_size": _plain(config.image_size),
        "patch_size": _plain(config.patch_size),
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "head_width": config.hidden_size // config.num_attention_heads,
        "mlp_ratio": _ratio(config.intermediate_size, config.hidden_size),
        "ls_init_value": config.layer_scale_init_value,
        "patch_dropout": config.patch_dropout,
        "attentional_pool": {ours: theirs for theirs, ours in _POOLINGS.items() if theirs is not None}[
            config.attentional_pooling
        ],
        "no_ln_pre": not config.use_pre_norm,
        "pos_embed_type": {ours: theirs for theirs, ours in _POSITIONS.items()}[config.position_embedding_type],
        "final_ln_after_pool": config.final_norm_after_pool,
        "pool_type": {ours: theirs for theirs, ours in _VISION_POOL_TYPES.items()}[config.pool_type],
        "output_tokens": True,
        **_extras(config),
    }
    if pooled:
        values["attn_pooler_queries"] = config.num_pooler_queries
        values["attn_pooler_heads"] = config.num_pooler_attention_heads
    return _differing(values, CLIPVisionCfg, ("image_size", "patch_size", "layers", "width"))


def _text_cfg(config: Any) -> dict[str, Any]:
    embed_cls = config.pool_type == "cls"
    values = {
        "context_length": config.max_position_embeddings,
        "vocab_size": config.vocab_size,
        "width": config.hidden_size,
        "heads": config.num_attention_heads,
        "layers": config.num_hidden_layers,
        "mlp_ratio": _ratio(config.intermediate_size, config.hidden_size),
        "ls_init_value": config.layer_scale_init_value,
        "embed_cls": embed_cls,
        "pad_id": config.pad_token_id,
        "no_causal_mask": not config.is_causal,
        "proj_bias": config.projection_type == "linear_bias",
        "proj_type": "none" if config.projection_type == "none" else "linear",
        "output_tokens": True,
        **_extras(config),
    }
    if not embed_cls:
        values["pool_type"] = config.pool_type
    if config.pool_type == "eos":
        values["eos_id"] = config.eos_token_id
    return _differing(values, CLIPTextCfg, ("context_length", "vocab_size", "width", "heads", "layers"))


def _multimodal_cfg(config: CoCaConfig) -> dict[str, Any]:
    decoder, text = config.multimodal_config, config.text_config
    values = {
        "context_length": text.max_position_embeddings,
        "vocab_size": text.vocab_size,
        "width": decoder.hidden_size,
        "heads": decoder.num_attention_heads,
        "layers": decoder.num_hidden_layers,
        "ls_init_value": decoder.layer_scale_init_value,
    }
    return _differing(values, MultimodalCfg, ("context_length", "vocab_size", "width", "heads", "layers"))
