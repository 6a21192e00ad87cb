# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""open_clip's functions that make models, transforms and tokenizers, for its CoCa models."""

import copy
import dataclasses
import inspect
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..conversion.model_config import open_clip_config
from ..conversion.preprocessing import PREPROCESS_DEFAULTS, preprocess_cfg_of, refuse_other_cleaning, tokenizer_of
from ..conversion.presets import PRESETS
from ..conversion.resolution import change_image_size, resized_text_positions
from ..conversion.sources import find_beside, find_config, find_tokenizer, load_model_cfg, locate
from ..conversion.tensors import open_tensors
from ..image_processing_coca import CoCaImageProcessor
from ..modeling_coca import CoCaForCaptioning
from ..positions_coca import resize_positions
from ..tokenization_coca import CoCaTokenizer
from .model import CoCa
from .tokenizer import DEFAULT_CONTEXT_LENGTH, SimpleTokenizer
from .transform import AugmentationCfg, PreprocessCfg, Transform, image_transform_v2


# Released weights: model -> tag -> Hub repository.
PRETRAINED = {
    model: {
        "laion2b_s13b_b90k": f"laion/{name}-laion2B-s13B-b90k",
        "mscoco_finetuned_laion2b_s13b_b90k": f"laion/mscoco_finetuned_{name}-laion2B-s13B-b90k",
    }
    for model, name in (("coca_ViT-B-32", "CoCa-ViT-B-32"), ("coca_ViT-L-14", "CoCa-ViT-L-14"))
}
_SCHEMAS = ("local-dir:", "hf-hub:")
_DTYPES = {
    **dict.fromkeys(("fp32", "amp", "amp_bf16", "amp_bfloat16")),
    **dict.fromkeys(("fp16", "pure_fp16"), torch.float16),
    **dict.fromkeys(("bf16", "pure_bf16"), torch.bfloat16),
}
_MODEL_ARGUMENTS = tuple(inspect.signature(CoCa.__init__).parameters)[1:]
# Models that `add_model_config` has added.
_added: dict[str, dict[str, Any]] = {}


def list_models() -> list[str]:
    """Names that `create_model` knows: open_clip's CoCa models, and those added."""
    return sorted(PRESETS | _added, key=str.lower)


def list_pretrained(as_str: bool = False) -> list[Any]:
    """Released weights, as pairs of a model and a tag, or as "model:tag"."""
    pairs = [(model, tag) for model, tags in PRETRAINED.items() for tag in tags]
    return [":".join(pair) for pair in pairs] if as_str else pairs


def add_model_config(path: str | Path) -> None:
    """
    Adds the model_cfg in a JSON file, or those in a folder, under the files' names without their suffix.

    Raises:
        ConversionError: A file cannot be read.
        FileNotFoundError: There is nothing at `path`.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"No model configuration at '{path}'.")
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        content = load_model_cfg(file)
        if {"embed_dim", "vision_cfg", "text_cfg"} <= content.keys():
            _added[file.stem] = content


def get_model_config(model_name: str) -> dict[str, Any] | None:
    """The model_cfg of a name, of "local-dir:" and a folder, or of "hf-hub:" and a repository; None if unknown."""
    source = _source_of(model_name)
    if source is not None:
        content = find_config(source)
        return None if content is None else content.get("model_cfg", content)
    return copy.deepcopy((PRESETS | _added).get(model_name.replace("/", "-")))


def _source_of(model_name: str) -> str | None:
    """Folder or repository of a name with a schema. Raises `FileNotFoundError` for a folder that is not there."""
    for schema in _SCHEMAS:
        if model_name.startswith(schema):
            source = model_name.removeprefix(schema)
            if schema == "local-dir:" and not Path(source).is_dir():
                raise FileNotFoundError(f"No folder at '{source}', which 'local-dir:' names.")
            return source
    return None


@dataclasses.dataclass(frozen=True)
class _Found:
    """What a name stands for."""

    model_cfg: dict[str, Any]
    preprocess_cfg: Mapping[str, Any]
    weights: Path | None


def _find(model_name: str, pretrained: str | None, cache_dir: str | Path | None) -> _Found:
    """Raises `RuntimeError` for names that mean nothing here, in open_clip's way."""
    source = _source_of(model_name)
    if source is None:
        model_cfg = get_model_config(model_name)
        if model_cfg is None:
            raise RuntimeError(
                f"Model config for '{model_name}' not found. coca_hf.open_clip has CoCa models: {list_models()}; "
                "'local-dir:FOLDER' and 'hf-hub:OWNER/NAME' name others."
            )
        if not pretrained:
            return _Found(model_cfg, {}, None)
        tags = PRETRAINED.get(model_name.replace("/", "-"), {})
        if pretrained not in tags:
            if not Path(pretrained).is_file():
                raise RuntimeError(
                    f"pretrained='{pretrained}' is neither a file nor a tag of '{model_name}', which has {list(tags)}."
                )
            return _Found(model_cfg, {}, Path(pretrained))
        return _Found(model_cfg, {}, locate(tags[pretrained], cache_dir).weights)
    found = locate(source, cache_dir)
    if found.config is None:
        raise RuntimeError(f"'{source}' has no open_clip_config.json, which says what model it is.")
    model_cfg = found.config.get("model_cfg", found.config)
    return _Found(model_cfg, found.config.get("preprocess_cfg") or {}, found.weights)


def _is_saved_folder(source: str | None, cache_dir: str | Path | None) -> bool:
    """Whether a folder or repository is one that this package has saved."""
    path = None if source is None else find_beside(source, ("config.json",), cache_dir)
    return path is not None and json.loads(path.read_text(encoding="utf-8")).get("model_type") == "coca"


def create_model(
    model_name: str,
    pretrained: str | None = None,
    load_weights: bool = True,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    jit: bool = False,
    force_quick_gelu: bool = False,
    force_custom_text: bool = False,
    force_patch_dropout: float | None = None,
    force_image_size: int | tuple[int, int] | None = None,
    force_preprocess_cfg: dict[str, Any] | None = None,
    force_context_length: int | None = None,
    pretrained_image: bool = False,
    pretrained_text: bool = True,
    pretrained_image_path: str | None = None,
    pretrained_text_path: str | None = None,
    cache_dir: str | None = None,
    output_dict: bool | None = None,
    require_pretrained: bool = False,
    weights_only: bool = True,
    **model_kwargs: Any,
) -> CoCa:
    """
    A [`CoCa`] by its name.

    Args:
        model_name: One of `list_models()`; "local-dir:" and a folder, or "hf-hub:" and a repository, of open_clip's
            layout or saved by this package.
        pretrained: Weights of a named model: a tag of `list_pretrained()`, or a file.
        load_weights: Whether to load weights; without, they are random.
        precision: "fp32"; "fp16" or "bf16", which convert all parameters, as their "pure_" forms do; the "amp" forms
            leave parameters as they are.
        device: Where the model goes.
        jit: Must be False.
        force_quick_gelu: Whether activations are QuickGELU whatever the configuration says.
        force_custom_text: Without effect: CoCa's text tower is always one.
        force_patch_dropout: Patch dropout in place of the configuration's.
        force_image_size: Pixels of images in place of the configuration's; positions are resized.
        force_preprocess_cfg: Fields of the preprocessing in place of the configuration's.
        force_context_length: Length of texts in place of the configuration's; positions are resized.
        pretrained_image, pretrained_text: Without effect: they are about timm's and transformers' towers.
        pretrained_image_path, pretrained_text_path: Files with weights of one tower, loaded last.
        cache_dir: Where downloads go.
        output_dict: Without effect: CoCa always returns dictionaries.
        require_pretrained: Whether a model without weights is an error.
        weights_only: Without effect: nothing in a file is ever executed.
        model_kwargs: Arguments of [`CoCa`] in place of the configuration's.

    Raises:
        RuntimeError: Name or weights are unknown.
        ConversionError: A configuration or file cannot be used.
        ValueError, TypeError: An argument is not supported.
    """
    _check(precision, jit, model_kwargs)
    forced: dict[str, Any] = {"quick_gelu": force_quick_gelu or None, "patch_dropout": force_patch_dropout}
    forced |= {"image_size": force_image_size, "context_length": force_context_length}
    source = _source_of(model_name)
    preprocess_cfg: Mapping[str, Any]
    if source is not None and pretrained:
        warnings.warn(f"pretrained={pretrained!r} is ignored: '{model_name}' has its own weights.", stacklevel=2)
    if _is_saved_folder(source, cache_dir):
        model, preprocess_cfg = _saved_model(str(source), forced, model_kwargs, cache_dir)
        has_weights = True
    else:
        found = _find(model_name, pretrained, cache_dir)
        model, preprocess_cfg = CoCa(**_arguments(found.model_cfg, forced, model_kwargs)), found.preprocess_cfg
        has_weights = load_weights and found.weights is not None
        if has_weights:
            load_checkpoint(model, str(found.weights))
    if require_pretrained and not has_weights:
        raise RuntimeError(f"No pretrained weights for model_name='{model_name}', pretrained={pretrained!r}.")
    for path, tower in ((pretrained_image_path, model.visual), (pretrained_text_path, model.text)):
        if path:
            _load_tower(model, path, tower.prefix)
    _set_preprocess_cfg(model, PREPROCESS_DEFAULTS, preprocess_cfg, {"size": model.visual.image_size})
    _set_preprocess_cfg(model, model.visual.preprocess_cfg, force_preprocess_cfg or {})
    return model.to(device=device, dtype=_DTYPES[precision])


def _check(precision: str, jit: bool, model_kwargs: dict[str, Any]) -> None:
    if jit:
        raise ValueError("jit=True is not supported: use torch.compile(model).")
    if precision not in _DTYPES:
        raise ValueError(f"precision={precision!r} is not one of {', '.join(_DTYPES)}.")
    model_kwargs.pop("pretrained_hf", None)  # the old name of pretrained_text
    for name in model_kwargs:
        if name not in _MODEL_ARGUMENTS:
            raise TypeError(f"{name} is an argument neither of create_model nor of CoCa.")


def _arguments(model_cfg: dict[str, Any], forced: dict[str, Any], model_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of [`CoCa`] from a model_cfg, which is checked."""
    cfg = copy.deepcopy(model_cfg)
    for name, part in (("image_size", "vision_cfg"), ("patch_dropout", "vision_cfg"), ("context_length", "text_cfg")):
        if forced[name] is not None:
            cfg[part][name] = forced[name]
    if forced["quick_gelu"]:
        cfg["quick_gelu"] = True
    open_clip_config(cfg)  # refuses what it does not know, by its name
    return {name: value for name, value in cfg.items() if name in _MODEL_ARGUMENTS} | model_kwargs


def _saved_model(
    source: str, forced: dict[str, Any], model_kwargs: dict[str, Any], cache_dir: str | None
) -> tuple[CoCa, dict[str, Any]]:
    """A model that this package has saved, and open_clip's words for how its images are prepared."""
    refused = [name for name, value in forced.items() if value is not None and name != "image_size"]
    for name in [*(f"force_{name}" for name in refused), *model_kwargs]:
        raise ValueError(f"{name} is not supported for a folder saved by coca_hf, '{source}'.")
    captioner = CoCaForCaptioning.from_pretrained(source, cache_dir=cache_dir)
    if forced["image_size"] is not None:
        change_image_size(captioner, forced["image_size"])
    processor = CoCaImageProcessor.from_pretrained(source, cache_dir=cache_dir)
    return CoCa.from_captioner(captioner), preprocess_cfg_of(processor)


def _set_preprocess_cfg(model: CoCa, *cfgs: Mapping[str, Any]) -> None:
    """Of several values of a field the last one that is not None counts."""
    known = {field.name for field in dataclasses.fields(PreprocessCfg)}
    merged: dict[str, Any] = {}
    for cfg in cfgs:
        merged |= {name: value for name, value in cfg.items() if name in known and value is not None}
    model.visual.image_mean, model.visual.image_std = merged["mean"], merged["std"]
    model.visual.preprocess_cfg = merged


def load_checkpoint(
    model: CoCa, checkpoint_path: str, strict: bool = True, weights_only: bool = True, device: str = "cpu"
) -> Any:
    """
    Loads a file of weights of open_clip's, with positions resized where the model's images or texts have another size.

    Args:
        model: What to load into.
        checkpoint_path: A `.safetensors` file, or what torch.save wrote: a state dict or a training checkpoint.
        strict: Whether names that are missing or left over are an error.
        weights_only: Without effect: nothing in a file is ever executed.
        device: Without effect: the file is read on the processor.

    Returns:
        What `load_state_dict` returns: missing and unexpected names.

    Raises:
        ConversionError: The file cannot be read.
        RuntimeError: It does not fit.
    """
    with open_tensors(Path(checkpoint_path)) as tensors:
        state = dict(tensors)
    for name, ours in (("logit_scale", model.logit_scale), ("logit_bias", model.logit_bias)):
        if name in state and ours is not None:
            state[name] = model._shaped(state[name].reshape(1))
    if model.logit_bias is not None:
        state.setdefault("logit_bias", torch.zeros_like(model.logit_bias))
    _resize_positions(state, model)
    return model.load_state_dict(state, strict=strict)


def _resize_positions(state: dict[str, torch.Tensor], model: CoCa) -> None:
    image, text = "visual.positional_embedding", "text.positional_embedding"
    new_grid = model.visual.grid_size
    if image in state and len(state[image]) != 1 + new_grid[0] * new_grid[1]:
        # The file does not say of what shape its grid was: a square, as open_clip takes it.
        side = round((len(state[image]) - 1) ** 0.5)
        if 1 + side * side != len(state[image]):
            raise RuntimeError(
                f"{image} has {len(state[image])} rows, which are no square grid and cannot be resized."
            )
        state[image] = resize_positions(state[image], (side, side), new_grid)
    if text in state:
        has_cls = model.captioner.config.text_config.pool_type == "cls"
        state[text] = resized_text_positions(state[text], model.text.context_length + has_cls)


def _load_tower(model: CoCa, path: str, prefix: str) -> None:
    """Loads a file with the weights of one tower, whose names may have the tower's in front."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"No weights at '{path}'.")
    with open_tensors(Path(path)) as tensors:
        state = {prefix + name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    known = {name: tensor for name, tensor in state.items() if name in model.state_dict()}
    if not known:
        raise RuntimeError(f"'{path}' has no weights of '{prefix.rstrip('.')}'.")
    model.load_state_dict(known, strict=False)


def create_model_and_transforms(
    model_name: str,
    pretrained: str | None = None,
    load_weights: bool = True,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    jit: bool = False,
    force_quick_gelu: bool = False,
    force_custom_text: bool = False,
    force_patch_dropout: float | None = None,
    force_image_size: int | tuple[int, int] | None = None,
    force_context_length: int | None = None,
    image_mean: tuple[float, ...] | None = None,
    image_std: tuple[float, ...] | None = None,
    image_interpolation: str | None = None,
    image_resize_mode: str | None = None,
    aug_cfg: dict[str, Any] | AugmentationCfg | None = None,
    pretrained_image: bool = False,
    pretrained_text: bool = True,
    pretrained_image_path: str | None = None,
    pretrained_text_path: str | None = None,
    cache_dir: str | None = None,
    output_dict: bool | None = None,
    weights_only: bool = True,
    **model_kwargs: Any,
) -> tuple[CoCa, Transform, Transform]:
    """
    A model, the transform of its training images, and the transform of all others.

    Args:
        image_mean, image_std, image_interpolation, image_resize_mode: Preprocessing in place of the configuration's.
        aug_cfg: How training images are varied: see [`AugmentationCfg`].
        model_name, pretrained, load_weights, precision, device, jit, force_quick_gelu, force_custom_text,
            force_patch_dropout, force_image_size, force_context_length, pretrained_image, pretrained_text,
            pretrained_image_path, pretrained_text_path, cache_dir, output_dict, weights_only, model_kwargs: See
            [`create_model`].

    Raises:
        RuntimeError, ValueError, TypeError: As [`create_model`].
    """
    model = create_model(
        model_name,
        pretrained,
        load_weights=load_weights,
        precision=precision,
        device=device,
        jit=jit,
        force_quick_gelu=force_quick_gelu,
        force_custom_text=force_custom_text,
        force_patch_dropout=force_patch_dropout,
        force_image_size=force_image_size,
        force_preprocess_cfg=_preprocessing(image_mean, image_std, image_interpolation, image_resize_mode),
        force_context_length=force_context_length,
        pretrained_image_path=pretrained_image_path,
        pretrained_text_path=pretrained_text_path,
        cache_dir=cache_dir,
        **model_kwargs,
    )
    cfg = PreprocessCfg(**model.visual.preprocess_cfg)
    return model, image_transform_v2(cfg, is_train=True, aug_cfg=aug_cfg), image_transform_v2(cfg, is_train=False)


def create_model_from_pretrained(
    model_name: str,
    pretrained: str | None = None,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    jit: bool = False,
    force_quick_gelu: bool = False,
    force_custom_text: bool = False,
    force_image_size: int | tuple[int, int] | None = None,
    force_context_length: int | None = None,
    image_mean: tuple[float, ...] | None = None,
    image_std: tuple[float, ...] | None = None,
    image_interpolation: str | None = None,
    image_resize_mode: str | None = None,
    return_transform: bool = True,
    cache_dir: str | None = None,
    weights_only: bool = True,
    **model_kwargs: Any,
) -> CoCa | tuple[CoCa, Transform]:
    """
    A model with pretrained weights, and the transform of its images unless `return_transform=False`.

    Arguments as those of [`create_model_and_transforms`].

    Raises:
        RuntimeError: There are no weights, or as [`create_model`].
        ValueError, TypeError: As [`create_model`].
    """
    model = create_model(
        model_name,
        pretrained,
        precision=precision,
        device=device,
        jit=jit,
        force_quick_gelu=force_quick_gelu,
        force_custom_text=force_custom_text,
        force_image_size=force_image_size,
        force_preprocess_cfg=_preprocessing(image_mean, image_std, image_interpolation, image_resize_mode),
        force_context_length=force_context_length,
        cache_dir=cache_dir,
        require_pretrained=True,
        **model_kwargs,
    )
    if not return_transform:
        return model
    return model, image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)


def _preprocessing(mean: Any, std: Any, interpolation: str | None, resize_mode: str | None) -> dict[str, Any]:
    return {"mean": mean, "std": std, "interpolation": interpolation, "resize_mode": resize_mode}


def get_tokenizer(
    model_name: str = "", context_length: int | None = None, cache_dir: str | None = None, **kwargs: Any
) -> SimpleTokenizer:
    """
    The tokenizer of a model, called as `tokenizer(texts)`.

    Args:
        model_name: As for [`create_model`]. A name that is not known has CLIP's vocabulary and a context of 77.
        context_length: Length of the ids in place of the model's.
        cache_dir: Where downloads go.
        kwargs: Arguments of [`SimpleTokenizer`].

    Raises:
        ValueError: The tokenizer is not supported.
        ConversionError: There is no vocabulary, or it cannot be read.
    """
    source = _source_of(model_name)
    if _is_saved_folder(source, cache_dir):
        tokenizer = CoCaTokenizer.from_pretrained(source, cache_dir=cache_dir)
        return SimpleTokenizer.from_tokenizer(tokenizer, context_length or tokenizer.model_max_length)
    model_cfg = get_model_config(model_name) or {}
    text_cfg = model_cfg.get("text_cfg", {})
    refuse_other_cleaning(text_cfg)
    context_length = context_length or text_cfg.get("context_length", DEFAULT_CONTEXT_LENGTH)
    beside = None if source is None else find_tokenizer(source, cache_dir)
    named = text_cfg.get("hf_tokenizer_name") or None
    if kwargs or not model_cfg or (beside is None and named is None):
        return SimpleTokenizer(context_length=context_length, **kwargs)
    tokenizer = tokenizer_of(None if beside else named, beside, open_clip_config(model_cfg))
    return SimpleTokenizer.from_tokenizer(tokenizer, context_length)
