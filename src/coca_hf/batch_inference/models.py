# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Saved models: what can be said about one without torch, and loading it."""

import hashlib
import json
import logging
import os
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..runtimes.errors import ExportedModelError
from ..runtimes.folder import ExportedFolder, is_exported
from .errors import ModelError
from .files import error_text
from .wording import one_line


DTYPES = ("auto", "float32", "bfloat16", "float16")
"""What `ModelChoice.dtype` may be; "auto" is the fastest whose results differ from those of the stored weights by
rounding, "float32" the exact one."""

# Endings of what a model is made of: its settings, weights and vocabulary, and the programs of an exported one.
_MODEL_FILES = (".json", ".safetensors", ".txt", ".bin", ".onnx", ".data", ".xml", ".pte")

# Of large files as many places are looked at, each of so many bytes: a checkpoint of gigabytes takes no time.
_PLACES = 64
_PLACE_SIZE = 1 << 14

_DEVICE = re.compile(r"auto|cpu|mps|(cuda|xpu)(:\d+)?")
# The Hub's rule: two parts of letters, digits, "-", "_" and ".", none of them beginning with punctuation.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class ModelChoice:
    """Which model, where and how.

    `name` is a saved folder or a Hub id, `device` as torch writes it or "auto", `dtype` one of `DTYPES`.
    """

    name: str
    device: str = "auto"
    dtype: str = "auto"

    @property
    def is_exact(self) -> bool:
        """Whether nothing is done for speed that changes a result by rounding."""
        return self.dtype == "float32"


def fingerprint(name: str) -> str:
    """What tells models apart: of a folder its content, not its place; of one on the Hub its name.

    Raises `ModelError` where a file cannot be read.
    """
    if not os.path.isdir(name):
        return name
    digest = hashlib.sha256()
    path = Path(name)
    try:
        for path in sorted(Path(name).iterdir()):
            if path.suffix in _MODEL_FILES and path.is_file():
                digest.update(path.name.encode())
                _add_file(digest, path)
    except OSError as error:
        raise ModelError(f"cannot read {str(path)!r}: {error_text(error)}") from None
    return digest.hexdigest()[:16]


def _add_file(digest: Any, path: Path) -> None:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(str(size).encode())
        step = max((size - _PLACE_SIZE) // _PLACES, _PLACE_SIZE)
        for offset in range(0, size, step):
            file.seek(offset)
            digest.update(file.read(_PLACE_SIZE))


def check_device(device: str) -> None:
    """Raises `ModelError` unless `device` reads like one; whether it is there, only torch can tell."""
    if not _DEVICE.fullmatch(device):
        raise ModelError(f"no such device: {device!r}. Give auto, cpu, cuda, cuda:1 or the like, mps or xpu")


def check_model(name: str, *, captions: bool, maps: bool = False, training: bool = False) -> None:
    """Raises `ModelError` unless `name` can be a CoCa model, one with a decoder where it is to write `captions`, one
    with attention to show where `maps` of words are wanted, and one with weights to change where it is to be trained.

    Of a folder, its configuration is read; a Hub id is believed, for asking the Hub takes a network.
    """
    if not os.path.lexists(name):
        if not _HUB_ID.fullmatch(name):
            raise ModelError(f"no model at {name!r}. Give a saved model's folder or a Hub id such as owner/name")
        return
    config = _read_config(name)
    if config.get("model_type") != "coca":
        raise ModelError(f"{name!r} holds a model of type {config.get('model_type')!r}, not 'coca'")
    if is_exported(name):
        _check_exported(name)
    layers = (config.get("multimodal_config") or {}).get("num_hidden_layers")
    if captions and (layers == 0 or config.get("architectures") == ["CoCaModel"]):
        raise ModelError(f"the model in {name!r} has no decoder, so it cannot write captions")
    if captions and (config.get("text_config") or {}).get("is_causal") is False:
        raise ModelError(f"the model in {name!r} reads text in both directions, so it cannot write captions")
    if maps and (config.get("vision_config") or {}).get("attentional_pooling") == "none":
        raise ModelError(f"the model in {name!r} has no attentional pooler, so it has no attention to show in maps")
    if maps and is_exported(name):
        raise ModelError(f"{name!r} is exported and shows no attention: maps need the model that it was exported from")
    if training and is_exported(name):
        raise ModelError(f"{name!r} is exported and has no weights to train: give the model that it was exported from")


def _check_exported(name: str) -> None:
    try:
        ExportedFolder.read(name)
    except ExportedModelError as error:
        raise ModelError(str(error)) from error


def _read_config(folder: str) -> dict[str, Any]:
    path = Path(folder, "config.json")
    try:
        config = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(_no_config(folder)) from None
    except OSError as error:
        raise ModelError(f"cannot read {str(path)!r}: {error_text(error)}") from None
    except ValueError:
        raise ModelError(f"{str(path)!r} is not valid JSON") from None
    if not isinstance(config, dict):
        raise ModelError(f"{str(path)!r} is not a model's configuration")
    return config


def _no_config(folder: str) -> str:
    if not os.path.isdir(folder):
        return f"{folder!r} is a file, not a saved model's folder"
    if Path(folder, "open_clip_config.json").exists():
        return f"{folder!r} holds an open_clip checkpoint: convert it with coca-hf convert first"
    if Path(folder, "adapter_config.json").exists():
        return f"{folder!r} holds an adapter: merge it into its model (merge_and_unload of PEFT) and save that"
    return f"{folder!r} has no config.json, so it is not a saved model's folder"


def silence_libraries() -> None:
    """A command says itself what its user needs to know; loading bars and advice to programmers are not that."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # It logs errors that it also raises.
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def load_config(choice: ModelChoice) -> Any:
    """Raises `ModelError` where there is none that is valid."""
    from transformers import AutoConfig

    config = _loaded(choice, AutoConfig)
    if config.model_type != "coca":
        raise ModelError(f"{choice.name!r} holds a model of type {config.model_type!r}, not 'coca'")
    return config


def load_processor(choice: ModelChoice) -> Any:
    """Raises `ModelError`."""
    from transformers import AutoProcessor

    _check_tokenizer(choice.name)
    return _loaded(choice, AutoProcessor)


def _check_tokenizer(name: str) -> None:
    """The library makes up a vocabulary where a folder has none, and raises whatever comes over a damaged one."""
    from tokenizers import Tokenizer

    if not os.path.isdir(name):
        return
    path = Path(name, "tokenizer.json")
    if not path.exists():
        raise ModelError(f"{name!r} has no tokenizer.json, so it is not a complete model")
    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # the library has no narrower class
        raise ModelError(f"{str(path)!r} is not a valid tokenizer: {one_line(error)}") from error


def load_model(choice: ModelChoice, kind: Literal["towers", "captioner"]) -> Any:
    """`CoCaModel` or `CoCaForCaptioning` on its device, ready to infer, in the fastest way that keeps the results but
    for rounding, unless the choice is exact. Of an exported folder, what runs it in their place. Raises `ModelError`.
    """
    if is_exported(choice.name):
        return _load_exported(choice)
    from transformers import AutoModel, AutoModelForImageTextToText

    device = _available(choice.device)
    auto_class = AutoModel if kind == "towers" else AutoModelForImageTextToText
    options = {"dtype": choice.dtype, "ignore_mismatched_sizes": True, "output_loading_info": True}
    model, info = _loaded(choice, auto_class, **options)
    # The library fills both with random numbers.
    for problem, names in (("are not there", info["missing_keys"]), ("have another size", info["mismatched_keys"])):
        if names:
            raise ModelError(
                f"the weights in {choice.name!r} do not fit its config.json: {problem}: {_some_of(names)}"
            )
    return _made_fast(model.to(device).eval(), choice)


def can_caption(choice: ModelChoice) -> bool:
    """Whether the model has a decoder that can generate. Raises `ModelError`."""
    config = load_config(choice)
    return bool(config.multimodal_config.num_hidden_layers and config.text_config.is_causal)


def _load_exported(choice: ModelChoice) -> Any:
    from ..registration import register
    from ..runtimes.model import load_exported

    register()
    if choice.device not in ("auto", "cpu"):
        raise ModelError(f"{choice.name!r} is exported for the CPU: leave --device {choice.device} out")
    try:
        model = load_exported(choice.name)
    except ExportedModelError as error:
        raise ModelError(str(error)) from error
    if choice.dtype not in ("auto", "float32") or (choice.is_exact and model.manifest.int8):
        held = "int8 weights" if model.manifest.int8 else "float32 weights"
        raise ModelError(f"{choice.name!r} holds {held}: leave --dtype {choice.dtype} out")
    return model


def _made_fast(model: Any, choice: ModelChoice) -> Any:
    """The one place where the command's models are made fast. `model.inference_words` says how, for the summary."""
    import torch

    from ..optimization import optimize_for_inference

    words = ""
    if not choice.is_exact:
        is_card = model.device.type == "cuda" and choice.dtype == "auto" and torch.cuda.is_bf16_supported()
        # Refused where this PyTorch or processor has nothing faster.
        with suppress(ValueError):
            model = optimize_for_inference(model, dtype=torch.bfloat16 if is_card else None)
            words = " with packed weights" if model.device.type == "cpu" else ""
    model.inference_words = f"{str(model.dtype).removeprefix('torch.')}{words} on {model.device}"
    return model


def _some_of(keys: Iterable[Any]) -> str:
    """The first of the parameter names, which come alone or in front of their sizes."""
    names = sorted(key if isinstance(key, str) else key[0] for key in keys)
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _loaded(choice: ModelChoice, auto_class: Any, **options: Any) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    from ..registration import register

    # The command has not done it when it started, for its help to be quick.
    register()
    try:
        return auto_class.from_pretrained(choice.name, **options)
    except SafetensorError as error:
        # It says what is wrong with a file, but not with which.
        raise ModelError(f"the weights in {_damaged_file(choice.name)!r} are damaged: {one_line(error)}") from error
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"the weights in {choice.name!r} are a pickle that holds more than weights, which could run code: it is "
            "not loaded. Convert it to safetensors where you trust it"
        ) from error
    except (OSError, StrictDataclassError) as error:
        raise ModelError(f"cannot load the model {choice.name!r}: {one_line(error)}") from error


def _damaged_file(name: str) -> str:
    """The file of weights that cannot be opened, or the model's name."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(Path(name).glob("*.safetensors")) if os.path.isdir(name) else []:
        try:
            with safe_open(str(path), framework="np"):
                pass
        except SafetensorError:
            return str(path)
    return name


def _available(device: str) -> Any:
    import torch

    found: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "xpu": torch.xpu.is_available,
    }
    if device == "auto":
        name = next((name for name, is_available in found.items() if is_available()), "cpu")
        rank = os.environ.get("LOCAL_RANK", "")
        if name not in ("cuda", "xpu") or not rank.isdigit():
            return torch.device(name)
        # Launchers of several processes on a machine give each a number. Some show every process all cards, others
        # one card each, which is then number 0.
        return torch.device(name, int(rank) % max(torch.get_device_module(name).device_count(), 1))
    chosen = torch.device(device)
    if chosen.type != "cpu" and not found[chosen.type]():
        raise ModelError(f"there is no {chosen.type} device here. Leave --device out, or give cpu")
    number = torch.get_device_module(chosen).device_count() if chosen.index is not None else 0
    if chosen.index is not None and chosen.index >= number:
        raise ModelError(f"there is no device {device}: {chosen.type} has {number} here, counted from 0")
    return chosen
