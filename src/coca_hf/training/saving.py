# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The end of a run: the model with all that it needs, and a card that says how it came about."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCardData
from torch import Tensor

from ..batch_inference.wording import count
from ..modeling_coca import CoCaForCaptioning
from ..optimization import undo_optimizations
from ..publishing.card import render
from .options import METRICS, TrainingOptions


_TITLES = {
    "next_token_accuracy": "next tokens that are right",
    "cider": "CIDEr of greedy captions",
    "bleu_4": "BLEU-4 of greedy captions",
    "rouge_l": "ROUGE-L of greedy captions",
    "text_to_image_recall@1": "texts that find their image first",
    "image_to_text_recall@1": "images that find their text first",
}


def save_trained(
    model: Any, processor: Any, folder: Path, options: TrainingOptions, facts: dict[str, Any], records: int
) -> None:
    """
    Writes weights, configuration, code, processor and `README.md`.

    Args:
        facts: `steps`, `samples`, `skipped`, `truncated` and the scores `before` and `after`.
        records: how many the data has.
    """
    model = undo_optimizations(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "README.md").write_text(training_card(config, options, facts, records), encoding="utf-8")


@torch.no_grad()
def with_plain_weights(model: CoCaForCaptioning) -> CoCaForCaptioning:
    """
    The same model with floats for weights, where they are quantised or have adapters beside them.

    What a linear layer multiplies by is what it makes of the identity, whichever library keeps its weight.
    """
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    state: dict[str, Tensor] = {}
    linear: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name.startswith(linear) or not hasattr(module, "in_features"):
            continue
        linear += (f"{name}.",)
        device = next(module.parameters()).device
        products = module(torch.eye(module.in_features, device=device))
        bias = getattr(module, "bias", None)
        state[f"{name}.weight"] = (products if bias is None else products - bias).t().contiguous()
        if bias is not None:
            state[f"{name}.bias"] = bias
    others = {name: value for name, value in model.state_dict().items() if not name.startswith(linear)}
    plain = type(model)(config)
    plain.load_state_dict({**others, **state})
    plain.generation_config = model.generation_config
    return plain.eval()


def training_card(config: dict[str, Any], options: TrainingOptions, facts: dict[str, Any], records: int) -> str:
    """The card: data, settings, scores before and after."""
    start = None if options.init is not None else options.model or "the bundled model"
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-to-text",
        base_model=options.model if options.model is not None and _is_hub_id(options.model) else None,
        tags=["coca", "image-captioning", "zero-shot-image-classification"],
    )
    scores = [(_TITLES[name], facts["before"][name], facts["after"][name]) for name in METRICS if facts["after"]]
    return render(
        Path(__file__).with_name("trained.md"),
        metadata,
        config,
        title="CoCa",
        start=start,
        evaluated=options.evaluate,
        scores=scores,
        training=list(_training(config, options, facts, records)),
    )


def _is_hub_id(name: str) -> bool:
    return not Path(name).exists() and name.count("/") == 1


def _training(config: dict[str, Any], options: TrainingOptions, facts: dict[str, Any], records: int) -> Any:
    yield "data", f"{', '.join(f'`{name}`' for name in options.data)}: {count(records, 'record')}"
    left_out = f", {count(facts['skipped'], 'image')} could not be read" if facts["skipped"] else ""
    cut = f", {count(facts['truncated'], 'caption')} cut at the context" if facts["truncated"] else ""
    yield "steps", f"{count(facts['steps'], 'step')}, {count(facts['samples'], 'sample')}{left_out}{cut}"
    yield "batch", f"{options.batch_size} images of a process and micro-batch, {options.accumulate} of these a step"
    yield (
        "optimizer",
        (
            f"AdamW, learning rate {options.peak_learning_rate:g}, {options.scheduler}, weight decay "
            f"{options.weight_decay:g}, betas {options.beta1:g} and {options.beta2:g}, gradients up to "
            f"{options.clip_norm:g}"
        ),
    )
    weights = config.get("caption_loss_weight"), config.get("contrastive_loss_weight")
    yield "losses", f"captions {weights[0]:g}, contrastive {weights[1]:g}"
    special = {
        "frozen": ", ".join(options.freeze),
        "LoRA": f"rank {options.lora}, merged" if options.lora else "",
        "moving average": options.ema or "",
        "average with the start": options.average_with_start or "",
        "chosen by": options.best or "",
    }
    yield from ((name, value) for name, value in special.items() if value)
    yield "augmentation", options.augment
    yield "seed", options.seed
