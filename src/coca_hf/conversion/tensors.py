# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Reading foreign weights without running what is in them, and without holding more than is asked for."""

import contextlib
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from .errors import ConversionError


# What DistributedDataParallel and torch.compile put in front of every name.
_WRAPPER_PREFIXES = ("module.", "_orig_mod.")


def _numpy_number_constructors() -> list[Any]:
    """What a pickled numpy number names: constructors of numbers and of their types, which run no code of the file.

    The optimizer states of open_clip 2.16 to 2.29 hold their learning rates as such numbers.
    """
    scalar = np.float64(0).__reduce__()[0]
    # numpy 1 and numpy 2 write one function under two names.
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    number_types = [type(np.dtype(code)) for code in "?bhilqBHILQefd"]
    return [*((scalar, name) for name in names), np.dtype, *dict.fromkeys(number_types)]


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
        with torch.serialization.safe_globals(_numpy_number_constructors()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError as error:
        raise ConversionError(
            f"'{path}' holds more than tensors and numbers, or is no checkpoint, and reading it could run code hidden "
            "in it, so it is refused: if you trust it, load it yourself and save its state dict alone."
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
