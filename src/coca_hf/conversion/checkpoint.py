# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Finding and reading foreign checkpoints: a file, a folder or a Hub repository, without running what is in them."""

import contextlib
import dataclasses
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from .errors import ConversionError
from .model_config import load_model_cfg


CONFIG_NAME = "open_clip_config.json"
# The first that is there is taken, as in open_clip; "pytorch_model.bin" is also what CONCH's repository has.
WEIGHTS_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
TOKENIZER_NAMES = ("bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt", "tokenizer.json")
_WEIGHTS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_REPOSITORY_ID = re.compile(r"[\w.-]+/[\w.-]+")
# What DistributedDataParallel and torch.compile put in front of every name.
_WRAPPER_PREFIXES = ("module.", "_orig_mod.")


@dataclasses.dataclass(frozen=True)
class Source:
    """The files of one checkpoint; `config` is the content of its `open_clip_config.json`."""

    weights: Path
    config: dict[str, Any] | None = None
    tokenizer: Path | None = None


def locate(source: str | Path) -> Source:
    """The files of the checkpoint at `source`: a file, a folder, or a Hub id with or without "hf-hub:" before it.

    Raises:
        ConversionError: There is nothing at `source`, or no weights, or several files that might be them.
    """
    path = Path(source)
    if path.is_file():
        return Source(path, _config_beside(path.parent), _tokenizer_beside(path.parent))
    if path.is_dir():
        return Source(_weights_in(path), _config_beside(path), _tokenizer_beside(path))
    repository = str(source).removeprefix("hf-hub:").rstrip("/")
    if not _REPOSITORY_ID.fullmatch(repository):
        raise ConversionError(
            f"Nothing at '{source}'. Give a weights file, a folder with one, or a Hub repository such as "
            "laion/CoCa-ViT-B-32-laion2B-s13B-b90k."
        )
    weights = fetch_first(repository, WEIGHTS_NAMES)
    if weights is None:
        raise ConversionError(
            f"No weights in the Hub repository '{repository}': none of {', '.join(WEIGHTS_NAMES)} is there."
        )
    config = fetch_first(repository, (CONFIG_NAME,))
    tokenizer = fetch_first(repository, TOKENIZER_NAMES)
    return Source(weights, None if config is None else load_model_cfg(config), tokenizer)


def fetch_first(repository: str, names: tuple[str, ...]) -> Path | None:
    """The first of `names` that the Hub repository has, downloaded or from the cache; None if it has none.

    Raises:
        ConversionError: The repository cannot be reached, or does not exist or needs a login.
    """
    unreachable: LocalEntryNotFoundError | None = None
    for name in names:
        try:
            return Path(hf_hub_download(repository, name))
        except LocalEntryNotFoundError as error:  # before its base class: the network may be missing, not the file
            unreachable = error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, HFValidationError) as error:
            raise ConversionError(
                f"Cannot read the Hub repository '{repository}': {str(error).strip().splitlines()[-1]} If it is "
                "private or gated, run `hf auth login` first."
            ) from error
    if unreachable is not None:
        raise ConversionError(
            f"The Hub cannot be reached and the cache holds no {' or '.join(names[:2])} of '{repository}'. "
            "Connect, or give a local folder."
        ) from unreachable
    return None


def _config_beside(folder: Path) -> dict[str, Any] | None:
    path = folder / CONFIG_NAME
    return load_model_cfg(path) if path.is_file() else None


def _tokenizer_beside(folder: Path) -> Path | None:
    return next((folder / name for name in TOKENIZER_NAMES if (folder / name).is_file()), None)


def _weights_in(folder: Path) -> Path:
    for name in WEIGHTS_NAMES:
        if (folder / name).is_file():
            return folder / name
    candidates = sorted(path.name for path in folder.iterdir() if path.suffix in _WEIGHTS_SUFFIXES and path.is_file())
    if len(candidates) == 1:
        return folder / candidates[0]
    if candidates:
        raise ConversionError(
            f"Several weights files in '{folder}': {', '.join(candidates)}. Give the one to convert."
        )
    raise ConversionError(f"No weights in '{folder}': no file there ends in {', '.join(_WEIGHTS_SUFFIXES)}.")


class Tensors(Mapping[str, torch.Tensor]):
    """A checkpoint's tensors by name, each read from the disk when asked for."""

    def __init__(
        self, names: Mapping[str, str], read: Callable[[str], torch.Tensor], shapes: Callable[[str], list[int]]
    ):
        self._names = names  # cleaned name -> name in the file
        self._read = read
        self._shapes = shapes

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._read(self._names[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return tuple(self._shapes(self._names[name]))


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[Tensors]:
    """The tensors of a `.safetensors` file, or of a state dict or training checkpoint that torch.save wrote.

    Nothing in the file is executed: pickles are read with `weights_only`. Wrappers' prefixes are taken off the names.

    Raises:
        ConversionError: The file cannot be read so, or holds something that is no tensor.
    """
    if path.suffix == ".safetensors":
        with _open_safetensors(path) as tensors:
            yield tensors
        return
    content = _load_pickle(path)
    state_dict = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state_dict, dict) or not state_dict:
        raise ConversionError(f"'{path}' holds no state dict: it is a {type(content).__name__}.")
    for name, value in state_dict.items():
        if not isinstance(value, torch.Tensor):
            raise ConversionError(f"'{path}' holds no state dict: its entry {name!r} is a {type(value).__name__}.")
    yield Tensors(_without_prefixes(state_dict), state_dict.__getitem__, lambda name: list(state_dict[name].shape))


@contextlib.contextmanager
def _open_safetensors(path: Path) -> Iterator[Tensors]:
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ConversionError(f"'{path}' is no readable safetensors file ({error}). Fetch it again.") from error
    with file as opened:
        names = _without_prefixes(dict.fromkeys(opened.keys()))
        yield Tensors(names, opened.get_tensor, lambda name: opened.get_slice(name).get_shape())


def _load_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError as error:
        raise ConversionError(
            f"'{path}' holds more than tensors, or is no checkpoint. Reading it could run code hidden in it, so it is "
            "refused. If you trust it, load it yourself and save its state dict alone."
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        reason = str(error).strip().splitlines()
        raise ConversionError(
            f"'{path}' is no readable PyTorch checkpoint ({reason[0] if reason else type(error).__name__})."
        ) from error


def _is_zip(path: Path) -> bool:
    """Whether torch.save wrote its current format, whose tensors can stay on the disk until they are used."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _without_prefixes(names: Mapping[str, Any]) -> dict[str, str]:
    """Names without the prefixes that all of them share -> names as they are."""
    cleaned = {name: name for name in names}
    stripped = True
    while stripped:
        stripped = False
        for prefix in _WRAPPER_PREFIXES:
            if cleaned and all(name.startswith(prefix) for name in cleaned):
                cleaned = {name.removeprefix(prefix): original for name, original in cleaned.items()}
                stripped = True
    return cleaned
