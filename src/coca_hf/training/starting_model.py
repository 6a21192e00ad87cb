# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a run begins with: a model to fine-tune, or one from nothing, and which parts of it are trained."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel

from ..batch_inference.errors import ModelError
from ..batch_inference.models import ModelChoice, load_processor
from ..configuration_coca import CoCaConfig
from ..conversion.errors import ConversionError
from ..conversion.model_config import open_clip_config
from ..conversion.preprocessing import image_processor_for, tokenizer_of
from ..modeling_coca import CoCaForCaptioning
from ..optimization import optimize_for_training
from ..processing_coca import CoCaProcessor
from .errors import TrainingError, TrainingOptionError
from .options import TrainingOptions


# Linear layers of the stacks; heads and embeddings stay.
_ADAPTED = r".*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"

# Names of transformers' CLIP and SigLIP in ours, behind the tower's own name.
_RENAMED = (
    (r"^encoder\.layers\.", "layers."),
    (r"^pre_layrnorm\.", "pre_layernorm."),
    (r"^embeddings\.position_embedding\.", "embeddings.position_embedding."),
)
_POSITIONS = "embeddings.position_embedding.weight"


def starting_model(options: TrainingOptions) -> tuple[CoCaForCaptioning, CoCaProcessor]:
    """
    In float32, on the CPU, with the loss weights that the options ask for.

    Raises:
        TrainingOptionError: There is no such model, or it cannot be made.
    """
    try:
        model, processor = _loaded(options) if options.init is None else _made(options)
    except (ModelError, ConversionError) as error:
        raise TrainingOptionError(str(error).rstrip(".")) from None
    if len(processor.tokenizer) > model.config.text_config.vocab_size:
        raise TrainingOptionError(
            f"the tokenizer has {len(processor.tokenizer):,} entries, the model only "
            f"{model.config.text_config.vocab_size:,}: give the one that belongs to it"
        )
    if options.caption_weight is not None:
        model.config.caption_loss_weight = options.caption_weight
    if options.contrastive_weight is not None:
        model.config.contrastive_loss_weight = options.contrastive_weight
    return model, processor


def is_quantized(model: CoCaForCaptioning) -> bool:
    """Whether a library keeps the weights in fewer bits."""
    return getattr(model.config, "quantization_config", None) is not None


def _loaded(options: TrainingOptions) -> tuple[CoCaForCaptioning, CoCaProcessor]:
    name = options.starting_model
    processor = load_processor(ModelChoice(name))
    try:
        model = AutoModelForImageTextToText.from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"cannot load the model {name!r}: {' '.join(str(error).split())}") from error
    if is_quantized(model) and options.lora is None:
        raise ModelError(
            f"{name!r} has quantised weights, beside which only adapters can be trained: give --lora RANK"
        )
    return model, processor


def _made(options: TrainingOptions) -> tuple[CoCaForCaptioning, CoCaProcessor]:
    config, folder = _configuration(str(options.init))
    if folder is not None and options.tokenizer is None and (folder / "processor_config.json").exists():
        processor = AutoProcessor.from_pretrained(str(folder))
    else:
        source = options.tokenizer or options.text_from
        beside = folder / "tokenizer.json" if folder is not None else None
        tokenizer = tokenizer_of(source, beside if beside is not None and beside.exists() else None, config)
        processor = CoCaProcessor(image_processor_for({}, config.vision_config.image_size), tokenizer)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(config.text_config, name, getattr(tokenizer, name))
    sources = {"vision": options.vision_from, "text": options.text_from}
    towers = {kind: (source, _other_tower(source, kind)) for kind, source in sources.items() if source is not None}
    for kind, (_, other) in towers.items():
        # Weights work with the activation that they were trained with.
        for name in ("hidden_act", "layer_norm_eps"):
            setattr(getattr(config, f"{kind}_config"), name, getattr(other.config, name))
    torch.manual_seed(options.seed)
    model = CoCaForCaptioning(config)
    for kind, (source, other) in towers.items():
        _take_tower(getattr(model.model, f"{kind}_model"), other, source, kind)
    return model, processor


def _configuration(init: str) -> tuple[CoCaConfig, Path | None]:
    """open_clip's by name, or of a file in its words or ours, and then the folder it is in."""
    if not os.path.exists(init):
        return open_clip_config(init), None
    path = Path(init, "config.json") if os.path.isdir(init) else Path(init)
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the configuration {str(path)!r}: {error}") from None
    if isinstance(content, dict) and content.get("model_type") == "coca":
        return CoCaConfig.from_dict(content), path.parent
    return open_clip_config(content), path.parent


def _other_tower(source: str, kind: str) -> PreTrainedModel:
    """The image or text tower of a CLIP, a SigLIP or a CoCa. Raises `ModelError`."""
    try:
        other = AutoModel.from_pretrained(source, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load {source!r}: {' '.join(str(error).split())}") from None
    tower = getattr(other, f"{kind}_model", other)
    if not {"hidden_act", "layer_norm_eps"} <= set(tower.config.to_dict()):
        raise ModelError(f"{source!r} has no {kind} tower of CLIP's kind: it is a {other.config.model_type} model")
    return tower


def _take_tower(tower: nn.Module, other: nn.Module, source: str, kind: str) -> None:
    """
    Copies what a tower of a CLIP or SigLIP has under the same meaning and shape. What only ours has stays as made.

    Raises `ModelError` where the layers do not fit.
    """
    theirs = {_renamed(name.removeprefix(f"{kind}_model.")): value for name, value in other.state_dict().items()}
    ours = tower.state_dict()
    if _POSITIONS in theirs.keys() & ours.keys():
        theirs[_POSITIONS] = _positions(ours[_POSITIONS], theirs[_POSITIONS], kind)
    fitting = {name: value for name, value in theirs.items() if name in ours and ours[name].shape == value.shape}
    layers = {name for name in ours if name.startswith("layers.") and "layer_scale" not in name}
    missing = sorted((layers | (theirs.keys() & ours.keys() & {_POSITIONS})) - fitting.keys())
    if missing:
        name = missing[0]
        shape = tuple(theirs[name].shape) if name in theirs else "nothing"
        raise ModelError(
            f"the {kind} tower of {source!r} does not fit: {name} is {tuple(ours[name].shape)} here, there {shape}"
        )
    tower.load_state_dict(fitting, strict=False)


def _positions(ours: Tensor, theirs: Tensor, kind: str) -> Tensor:
    """Those of [CLS] stay ours where there are none: in front of SigLIP's patches, behind the tokens of a text."""
    if ours.shape[1] != theirs.shape[1]:
        return theirs
    if kind == "vision":
        return torch.cat([ours[:1], theirs]) if len(ours) == len(theirs) + 1 else theirs
    return torch.cat([theirs, ours[len(theirs) :]])[: len(ours)]


def _renamed(name: str) -> str:
    for pattern, ours in _RENAMED:
        name = re.sub(pattern, ours, name)
    return name


def prepare_for_training(model: CoCaForCaptioning, options: TrainingOptions) -> Any:
    """
    Freezes what is to stay, puts adapters in, and makes it fast: the model, or a PEFT model around it.

    Raises:
        TrainingError: The library for adapters is missing.
    """
    frozen: Mapping[str, tuple[nn.Module | None, ...]] = {
        "vision": (model.model.vision_model, model.model.visual_projection),
        "text": (model.model.text_model, model.model.text_projection),
        "decoder": (model.decoder, model.lm_head),
    }
    parts = [part for name in options.freeze for part in frozen[name] if isinstance(part, nn.Module)]
    for part in parts:
        part.requires_grad_(False)
    prepared: Any = model
    if options.lora is not None:
        prepared = _adapted(model, options.lora, parts)
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return optimize_for_training(prepared)


def _adapted(model: CoCaForCaptioning, rank: int, frozen: list[nn.Module]) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise TrainingError("--lora needs PEFT: pip install 'coca-hf[train]'") from None
    # Frozen parts get no adapters either.
    stays = {id(module) for part in frozen for module in part.modules()}
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and re.fullmatch(_ADAPTED, name) and id(module) not in stays
    ]
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names))
