# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Records what open_clip 3.3.0's functions around `CoCa` give, for tests/test_open_clip_library.py.

Run it in the environment that record_open_clip_fixtures.py describes, with torchvision:

    python scripts/record_open_clip_library_fixtures.py

Arguments come from tests/fixtures/open_clip_library/cases.py, models from tests/fixtures/open_clip/recipe.py; only
outputs are stored, with the script, versions and seed that made them.
"""

import contextlib
import inspect
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any


with contextlib.suppress(ImportError):
    import oracle_shim  # noqa: F401  lets open_clip import beside a torchvision that has no operators
import open_clip
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torchvision
from open_clip.coca_model import CoCa
from open_clip.loss import ClipLoss, CoCaLoss
from open_clip.transform import image_transform
from safetensors.torch import save_file


TESTS = Path(__file__).resolve().parent.parent / "tests" / "fixtures"
FIXTURES = TESTS / "open_clip_library"
sys.path[:0] = [str(TESTS / "open_clip"), str(FIXTURES)]
import cases  # noqa: E402
import recipe  # noqa: E402


FUNCTIONS = (
    "build_zero_shot_classifier",
    "create_model",
    "create_model_and_transforms",
    "create_model_from_pretrained",
    "decode",
    "get_model_config",
    "get_tokenizer",
    "image_transform",
    "list_models",
    "load_checkpoint",
    "tokenize",
)
METHODS = {
    "ClipLoss.__init__": ClipLoss.__init__,
    "ClipLoss.forward": ClipLoss.forward,
    "CoCa.forward_intermediates": CoCa.forward_intermediates,
    "CoCaLoss.__init__": CoCaLoss.__init__,
    "CoCaLoss.forward": CoCaLoss.forward,
    "SimpleTokenizer.__call__": open_clip.SimpleTokenizer.__call__,
}


def provenance() -> dict[str, str | int]:
    return {
        "script": "scripts/record_open_clip_library_fixtures.py",
        "seed": recipe.SEED,
        "open_clip": open_clip.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
    }


def build(config: dict[str, Any]) -> CoCa:
    """open_clip's model with the recipe's weights, in evaluation mode."""
    model = CoCa(**{name: value for name, value in config.items() if name != "custom_text"})
    model.load_state_dict(recipe.state_dict({n: list(t.shape) for n, t in model.state_dict().items()}))
    return model.eval()


def flattened(prefix: str, output: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Tensors, and lists of them, by name."""
    result = {}
    for key, value in output.items():
        for name, tensor in (
            [(key, value)]
            if isinstance(value, torch.Tensor)
            else [(f"{key}/{index}", one) for index, one in enumerate(value)]
        ):
            result[f"{prefix}/{name}"] = tensor.detach().clone().contiguous()
    return result


def intermediates() -> dict[str, torch.Tensor]:
    results: dict[str, torch.Tensor] = {}
    called = [(name, case) for name in cases.INTERMEDIATE_CONFIGS for case in cases.INTERMEDIATE_CASES.items()]
    normalized = ("normalized", {"normalize_intermediates": True, "image_indices": 1, "text_indices": 1})
    called += [(name, normalized) for name in cases.NORMALIZED_INTERMEDIATE_CONFIGS]
    for name, (case, arguments) in called:
        with torch.no_grad():
            output = build(recipe.CONFIGS[name]).forward_intermediates(
                recipe.images(2, 24, 24), recipe.captions("padded", 12)[:2], **arguments
            )
        results |= flattened(f"intermediates/{name}/{case}", output)
    return results


def trainable(model: CoCa) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def locks() -> dict[str, list[str]]:
    results = {}
    for name in cases.LOCK_CONFIGS:
        for number in cases.UNLOCKED:
            model = build(recipe.CONFIGS[name])
            model.visual.lock(unlocked_groups=number)
            model.text.lock(unlocked_layers=number)
            results[f"{name}/{number}"] = trainable(model)
    return results


def with_gradients(prefix: str, losses: tuple[torch.Tensor, ...], inputs: dict[str, torch.Tensor]) -> dict[str, Any]:
    sum(losses).backward()
    results = {f"{prefix}/{index}": loss.detach().clone() for index, loss in enumerate(losses)}
    gradients = {name: tensor.grad for name, tensor in inputs.items() if tensor.grad is not None}
    return results | {f"{prefix}/grad/{name}": gradient for name, gradient in gradients.items()}


def losses() -> dict[str, torch.Tensor]:
    results: dict[str, torch.Tensor] = {}
    for name, arguments in cases.LOSS_CASES.items():
        inputs = cases.loss_inputs(name)
        results |= with_gradients(f"loss/{name}", CoCaLoss(**arguments)(**inputs), inputs)
    inputs = cases.loss_inputs("clip")
    del inputs["logits"], inputs["labels"]
    bias = torch.tensor(-2.0)
    return results | with_gradients("loss/clip", (ClipLoss()(**inputs, logit_bias=bias),), inputs)


def one_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    results: dict[str, torch.Tensor] = {}
    for index, arguments in enumerate(cases.DISTRIBUTED_LOSS_CASES):
        inputs = cases.loss_inputs(f"rank{rank}")
        loss = CoCaLoss(2.0, 1.0, rank=rank, world_size=2, **arguments)
        results |= with_gradients(f"distributed/{index}/rank{rank}", loss(**inputs), inputs)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def distributed_losses() -> dict[str, torch.Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(one_rank, (folder,), nprocs=2)
        return torch.load(f"{folder}/0.pt") | torch.load(f"{folder}/1.pt")


def zero_shot() -> dict[str, torch.Tensor]:
    model = build(recipe.BASE_CONFIG)
    arguments = (model, cases.small_tokenizer, cases.CLASSNAMES, cases.TEMPLATES)
    return {
        "zero_shot/batched": open_clip.build_zero_shot_classifier(*arguments, num_classes_per_batch=2),
        "zero_shot/at_once": open_clip.build_zero_shot_classifier(*arguments, num_classes_per_batch=None),
    }


def transforms() -> dict[str, torch.Tensor]:
    results = {}
    for height, width in cases.PICTURE_SIZES:
        picture = cases.picture(height, width)
        for name, arguments in cases.TRANSFORM_CASES.items():
            results[f"transform/{name}/{height}x{width}"] = image_transform(is_train=False, **arguments)(picture)
        for name, arguments in cases.TRAIN_TRANSFORM_CASES.items():
            torch.manual_seed(cases.TRAIN_SEED)
            transform = image_transform(is_train=True, **arguments)
            results[f"train_transform/{name}/{height}x{width}"] = torch.stack([transform(picture) for _ in range(2)])
    return results


def resized() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Models made for another image size and another context length than their checkpoint."""
    results: dict[str, torch.Tensor] = {}
    preprocessing: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "tiny.json").write_text(json.dumps(recipe.BASE_CONFIG))
        open_clip.add_model_config(folder)
        weights = f"{folder}/weights.pt"
        torch.save(
            {"state_dict": {f"module.{n}": t for n, t in build(recipe.BASE_CONFIG).state_dict().items()}}, weights
        )
        for name, size in cases.IMAGE_SIZES.items():
            model, _, _ = open_clip.create_model_and_transforms(
                "tiny", pretrained=weights, force_image_size=size, image_mean=(0.5, 0.4, 0.3)
            )
            height, width = (size, size) if isinstance(size, int) else size
            with torch.no_grad():
                features = model.eval().encode_image(recipe.images(2, height, width))
            results |= {f"resized/{name}/positions": model.visual.positional_embedding.detach().clone()}
            results |= {f"resized/{name}/image_features": features}
            preprocessing[name] = model.visual.preprocess_cfg
        model = open_clip.create_model("tiny", pretrained=weights, force_context_length=cases.CONTEXT_LENGTH).eval()
        ids = recipe.captions("padded", cases.CONTEXT_LENGTH)
        with torch.no_grad():
            results["resized/context/text_features"] = model.encode_text(ids)
        results["resized/context/positions"] = model.text.positional_embedding.detach().clone()
    return results, preprocessing


def tokens() -> dict[str, Any]:
    ids = {str(length): open_clip.tokenize(list(cases.TEXTS), length).tolist() for length in cases.CONTEXT_LENGTHS}
    return {"ids": ids, "decoded": [open_clip.decode(torch.tensor(row)) for row in ids["77"]]}


def plain(default: Any) -> Any:
    """A default as JSON has it; "required" where there is none; its type's name where JSON has no such value."""
    if default is inspect.Parameter.empty:
        return "required"
    return default if isinstance(default, (int, float, str, type(None))) else type(default).__name__


def signatures() -> dict[str, dict[str, Any]]:
    described = {name: getattr(open_clip, name) for name in FUNCTIONS} | METHODS
    return {
        name: {p.name: plain(p.default) for p in inspect.signature(function).parameters.values()}
        for name, function in described.items()
    }


def main() -> None:
    torch.set_num_threads(1)
    resized_tensors, preprocessing = resized()
    tensors = {
        **intermediates(),
        **losses(),
        **distributed_losses(),
        **zero_shot(),
        **transforms(),
        **resized_tensors,
    }
    facts = {
        "provenance": provenance(),
        "signatures": signatures(),
        "trainable": locks(),
        "tokens": tokens(),
        "preprocess_cfg": preprocessing,
    }
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, FIXTURES / "library.safetensors")
    (FIXTURES / "library.json").write_text(json.dumps(facts, separators=(",", ":"), ensure_ascii=False) + "\n")
    for path in FIXTURES.glob("library.*"):
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
