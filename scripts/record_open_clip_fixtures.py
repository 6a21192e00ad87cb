# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Records what open_clip 3.3.0 itself computes, for tests/test_open_clip_parity.py and tests/test_open_clip_api.py.

Run it in an environment of its own: torch, open_clip_torch==3.3.0, and transformers==4.55.4 (the last line of releases
that has the BeamSearchScorer which open_clip's generate() imports):

    python scripts/record_open_clip_fixtures.py [--only models|full_size|generation|api] [--config NAME]

Models and inputs come from tests/fixtures/open_clip/recipe.py; only outputs are stored, each file with the script,
versions and seed that made it.
"""

import argparse
import contextlib
import dataclasses
import inspect
import json
import platform
import sys
from pathlib import Path
from typing import Any
from unittest import mock


with contextlib.suppress(ImportError):
    import oracle_shim  # noqa: F401  lets open_clip import beside a torchvision that has no operators
import numpy as np
import open_clip
import torch
import transformers
from open_clip.coca_model import CoCa, MultimodalCfg
from open_clip.loss import ClipLoss, CoCaLoss
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import save_file


FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "open_clip"
sys.path.insert(0, str(FIXTURES))
import recipe  # noqa: E402


CAPTION_LOSS_WEIGHT = 2.0
CONTRASTIVE_LOSS_WEIGHT = 1.0


def provenance(seed: int) -> dict[str, str | int]:
    return {
        "script": "scripts/record_open_clip_fixtures.py",
        "seed": seed,
        "open_clip": open_clip.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def build(config: dict[str, Any], seed: int) -> CoCa:
    """open_clip's model with the recipe's weights, in evaluation mode."""
    arguments = {name: value for name, value in config.items() if name != "custom_text"}
    model = CoCa(**arguments)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    state = model.state_dict()
    weights = recipe.state_dict({n: list(t.shape) for n, t in state.items() if n not in frozen}, seed)
    model.load_state_dict({**state, **weights}, strict=True)
    return model.eval()


def save_recording(results: dict[str, torch.Tensor], path: Path, **facts: Any) -> None:
    """Writes tensors and facts; the same ones give the same bytes, which several metadata keys would not."""
    facts = {"provenance": provenance(recipe.SEED), **facts}
    path.parent.mkdir(exist_ok=True)
    tensors = {name: tensor.detach().contiguous() for name, tensor in results.items()}
    save_file(tensors, path, {"recording": json.dumps(facts)})
    print(f"{path.relative_to(FIXTURES)}: {path.stat().st_size} bytes")


def image_size(config: dict[str, Any]) -> tuple[int, int]:
    size = config["vision_cfg"]["image_size"]
    return (size, size) if isinstance(size, int) else tuple(size)


def flat(features: torch.Tensor) -> torch.Tensor:
    """Drops the length-one axis of the parallel and cascade kinds, which the contrastive loss cannot take."""
    return features.squeeze(1) if features.ndim == 3 and features.shape[1] == 1 else features


def contrastive_outputs(model: CoCa, config: dict[str, Any], out: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Losses and similarity of one forward pass; with pool type "none" there is no vector to compare."""
    image, text = flat(out["image_features"]), out["text_features"]
    comparable = image.ndim == text.ndim == 2
    loss = CoCaLoss(
        caption_loss_weight=CAPTION_LOSS_WEIGHT,
        clip_loss_weight=CONTRASTIVE_LOSS_WEIGHT if comparable else 0,
        pad_id=config["text_cfg"].get("pad_id", 0),
    )
    contrastive, caption = loss(image, text, out["logits"], out["labels"], out["logit_scale"])
    results = {"caption_loss": caption}
    if comparable:
        bias = out.get("logit_bias")
        scale = out["logit_scale"]
        results["contrastive_loss"] = contrastive
        results["logits_per_image"] = ClipLoss().get_logits(image, text, scale, logit_bias=bias)[0]
    return results


def record_model(name: str, config: dict[str, Any]) -> None:
    model = build(config, recipe.SEED)
    text_cfg = config["text_cfg"]
    pixel_values = recipe.images(len(recipe.CAPTION_LENGTHS), *image_size(config))
    results: dict[str, torch.Tensor] = {}

    with torch.no_grad():
        results["image_features"] = model.encode_image(pixel_values)
        results["image_features_raw"] = model.encode_image(pixel_values, normalize=False)
        results["image_tokens"] = model._encode_image(pixel_values)[1]
        results["logit_scale_exp"] = model.logit_scale.exp()
        for kind in recipe.CAPTION_KINDS:
            ids = recipe.captions(kind, text_cfg["context_length"], text_cfg["vocab_size"], text_cfg.get("pad_id", 0))
            results[f"{kind}.input_ids"] = ids
            results[f"{kind}.text_features"] = model.encode_text(ids)
            results[f"{kind}.text_features_raw"], results[f"{kind}.text_tokens"] = model._encode_text(ids, False)
            results[f"{kind}.logits"] = model(pixel_values, ids, output_labels=False)["logits"]
            out = model(pixel_values, ids)
            assert torch.equal(out["labels"], ids[:, 1:])
            torch.testing.assert_close(out["logits"], results[f"{kind}.logits"][:, :-1], rtol=0, atol=1e-5)
            results |= {f"{kind}.{k}": v for k, v in contrastive_outputs(model, config, out).items()}
        if text_cfg.get("embed_cls"):  # open_clip fails on short texts without
            # Fewer tokens than the context: open_clip's [CLS] then sits elsewhere, and the features are others.
            ids = ids[:, :-3]
            results["short.text_features"] = model.encode_text(ids)
            results["short.logits"] = model(pixel_values, ids, output_labels=False)["logits"]

    out = model(pixel_values, results["padded.input_ids"])
    losses = contrastive_outputs(model, config, out)
    (losses["caption_loss"] + losses.get("contrastive_loss", 0.0)).backward()
    parameters = dict(model.named_parameters())
    frozen = [n for n, parameter in parameters.items() if not parameter.requires_grad]
    shapes = {n: list(t.shape) for n, t in model.state_dict().items() if n not in frozen}
    # A row a parameter, in the order of the shapes in the metadata.
    results["padded.gradients"] = torch.stack([recipe.gradient_summary(n, parameters[n].grad) for n in shapes])
    results |= {f"frozen.{n}": parameters[n] for n in frozen}
    save_recording(
        results,
        FIXTURES / "models" / f"{name}.safetensors",
        config=config,
        shapes=shapes,
        loss_weights={"caption": CAPTION_LOSS_WEIGHT, "contrastive": CONTRASTIVE_LOSS_WEIGHT},
    )


def record_full_size() -> None:
    """coca_ViT-B-32: whole features, the logits that matter, and captions."""
    config = recipe.FULL_SIZE_CONFIG
    model = build(config, recipe.SEED)
    pixel_values = recipe.images(2, 224, 224)
    ids = recipe.captions("padded", 76, 49408)[:2]
    with torch.no_grad():
        out = model(pixel_values, ids, output_labels=False)
        image_tokens = model._encode_image(pixel_values)[1]
        loss = CoCaLoss(CAPTION_LOSS_WEIGHT, CONTRASTIVE_LOSS_WEIGHT)
        contrastive, caption = loss(
            out["image_features"], out["text_features"], out["logits"][:, :-1], ids[:, 1:], out["logit_scale"]
        )
        results = {
            "input_ids": ids,
            "image_features": out["image_features"],
            "image_features_raw": model.encode_image(pixel_values, normalize=False),
            "text_features": out["text_features"],
            "text_features_raw": model.encode_text(ids, normalize=False),
            "image_tokens": image_tokens[:, ::32, ::4],
            "logits": out["logits"][:, ::15, ::97],
            "contrastive_loss": contrastive,
            "caption_loss": caption,
            "greedy_ids": model.generate(pixel_values, generation_type="top_k", top_k=1, seq_len=12),
            "beam_ids": model.generate(pixel_values, seq_len=12),
        }
    shapes = {n: list(t.shape) for n, t in model.state_dict().items()}
    save_recording(results, FIXTURES / "full_size.safetensors", config=config, shapes=shapes)


def call_generate(model: CoCa, case: dict[str, Any]) -> list[Any]:
    config = recipe.GENERATION_CONFIGS[case["model"]]
    pixel_values = recipe.images(case["images"], *image_size(config), seed=case["seed"])
    prompt = None if case["prompt"] is None else torch.tensor(case["prompt"])
    return model.generate(pixel_values, prompt, **case["arguments"]).tolist()


def record_generation() -> None:
    models: dict[tuple[str, int], CoCa] = {}

    def model_of(case: dict[str, Any]) -> CoCa:
        which = (case["model"], case["seed"])
        if which not in models:
            models[which] = build(recipe.GENERATION_CONFIGS[case["model"]], case["seed"])
        return models[which]

    ids = {recipe.key(case): call_generate(model_of(case), case) for case in recipe.GENERATION_CASES}
    sampled = {}
    for case in recipe.sampling_cases():
        distributions: list[list[list[float]]] = []

        def choose(probabilities: torch.Tensor, count: int, seen: list[Any] = distributions) -> torch.Tensor:
            seen.append([[round(value, 8) for value in row] for row in probabilities.tolist()])
            return recipe.draw(probabilities, len(seen))

        with mock.patch("torch.multinomial", choose):
            sampled[recipe.key(case)] = {"ids": call_generate(model_of(case), case), "distributions": distributions}
    shapes = {
        name: {n: list(t.shape) for n, t in build(config, recipe.SEED).state_dict().items()}
        for name, config in recipe.GENERATION_CONFIGS.items()
    }
    recording = {"provenance": provenance(recipe.SEED), "shapes": shapes, "ids": ids, "sampled": sampled}
    text = json.dumps(recording, separators=(",", ":"))
    # A line an entry, so that a change shows in a diff.
    (FIXTURES / "generation.json").write_text(text.replace('],"', '],\n"').replace('},"', '},\n"') + "\n")
    lengths = sorted({len(row) for rows in ids.values() for row in rows if isinstance(row, list)})
    print(f"generation: {len(ids)} calls, {len(sampled)} sampled, widths {lengths}")


def plain(default: Any) -> Any:
    """A default as JSON has it; "required" where there is none."""
    if default in (inspect.Parameter.empty, dataclasses.MISSING):
        return "required"
    return float(default) if isinstance(default, np.floating) else default


def record_api() -> None:
    """Signatures of CoCa's public methods, and fields of its configuration objects, with their defaults."""
    methods = ("__init__", "encode_image", "encode_text", "forward", "generate", "set_grad_checkpointing")
    signatures = {
        name: {p.name: plain(p.default) for p in inspect.signature(getattr(CoCa, name)).parameters.values()}
        for name in methods
    }
    fields = {
        kind.__name__: {field.name: plain(field.default) for field in dataclasses.fields(kind)}
        for kind in (CLIPVisionCfg, CLIPTextCfg, MultimodalCfg)
    }
    recording = {"provenance": provenance(recipe.SEED), "signatures": signatures, "fields": fields}
    (FIXTURES / "api.json").write_text(json.dumps(recording, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("models", "full_size", "generation", "api"))
    parser.add_argument("--config", help="one of the recipe's configurations instead of all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.only in (None, "models"):
        chosen = recipe.CONFIGS if arguments.config is None else {arguments.config: recipe.CONFIGS[arguments.config]}
        for name, config in chosen.items():
            record_model(name, config)
    if arguments.only in (None, "generation") and arguments.config is None:
        record_generation()
    if arguments.only in (None, "api") and arguments.config is None:
        record_api()
    if arguments.only in (None, "full_size") and arguments.config is None:
        record_full_size()


if __name__ == "__main__":
    main()
