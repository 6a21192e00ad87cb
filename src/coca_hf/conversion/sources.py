# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Where a conversion reads from and writes to. Nothing here needs torch, so a command can check first."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import ConversionError
from .presets import ALL_PRESETS


CONFIG_NAME = "open_clip_config.json"
# Apple's CoCa repositories have a model_cfg by this name; in transformers' own folders it is something else.
BARE_CONFIG_NAME = "config.json"
_MODEL_CFG_FIELDS = {"embed_dim", "vision_cfg", "text_cfg"}
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
    "mobileclip2_coca.pt",
)
TOKENIZER_NAMES = ("bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt", "tokenizer.json")
_WEIGHTS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_REPOSITORY_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclasses.dataclass(frozen=True)
class Source:
    """The files of one checkpoint; `config` is the content of its `open_clip_config.json`, or its bare model_cfg."""

    weights: Path
    config: dict[str, Any] | None = None
    tokenizer: Path | None = None


def locate(source: str | Path, cache_dir: str | Path | None = None) -> Source:
    """The files of the checkpoint at `source`, which `check_arguments` has accepted.

    Raises:
        ConversionError: There are no weights, or several files that might be them.
    """
    path = Path(source)
    config, tokenizer = find_config(source, cache_dir), find_tokenizer(source, cache_dir)
    if path.exists():
        return Source(path if path.is_file() else _weights_in(path), config, tokenizer)
    repository = repository_of(source)
    # Apple's first uploads are named as their repositories are.
    names = (*WEIGHTS_NAMES, repository.rpartition("/")[2] + ".pt")
    weights = fetch_first(repository, names, cache_dir)
    if weights is None:
        raise ConversionError(f"No weights in the Hub repository '{repository}': none of {', '.join(names)} is there.")
    return Source(weights, config, tokenizer)


def find_config(source: str | Path, cache_dir: str | Path | None = None) -> dict[str, Any] | None:
    """The configuration of the checkpoint at `source`, or beside it: a whole one, or a bare model_cfg."""
    path = find_beside(source, (CONFIG_NAME,), cache_dir)
    if path is not None:
        return load_model_cfg(path)
    path = find_beside(source, (BARE_CONFIG_NAME,), cache_dir)
    content = {} if path is None else load_model_cfg(path)
    return content if content.keys() >= _MODEL_CFG_FIELDS else None


def find_tokenizer(source: str | Path, cache_dir: str | Path | None = None) -> Path | None:
    """The vocabulary or tokenizer of the checkpoint at `source`, or beside it."""
    return find_beside(source, TOKENIZER_NAMES, cache_dir)


def find_beside(source: str | Path, names: tuple[str, ...], cache_dir: str | Path | None = None) -> Path | None:
    """The first of `names` in a folder, beside a file, or in a Hub repository; None if there is none."""
    path = Path(source)
    if not path.exists():
        return fetch_first(repository_of(source), names, cache_dir)
    folder = path.parent if path.is_file() else path
    return next((folder / name for name in names if (folder / name).is_file()), None)


def fetch_first(repository: str, names: tuple[str, ...], cache_dir: str | Path | None = None) -> Path | None:
    """The first of `names` that the Hub repository has, downloaded or from the cache; None if it has none.

    Raises:
        ConversionError: The repository cannot be reached, or does not exist or needs a login.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    unreachable: LocalEntryNotFoundError | None = None
    for name in names:
        try:
            # The client tries again for half a minute before it gives a network up: once is enough.
            offline = unreachable is not None
            return Path(hf_hub_download(repository, name, cache_dir=cache_dir, local_files_only=offline))
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


def check_arguments(
    source: str | Path,
    output_dir: str | Path,
    config: Mapping[str, Any] | str | Path | None,
    tokenizer: str | Path | None,
) -> None:
    """Raises `ConversionError` for what the arguments of `convert_open_clip` tell without reading weights."""
    check_output(output_dir)
    if not Path(source).exists() and not _REPOSITORY_ID.fullmatch(repository_of(source)):
        raise ConversionError(
            f"Nothing at '{source}'. Give a weights file, a folder with one, or a Hub repository such as "
            "laion/CoCa-ViT-B-32-laion2B-s13B-b90k."
        )
    if isinstance(config, (str, Path)) and str(config) not in ALL_PRESETS and not Path(config).is_file():
        raise ConversionError(
            f"No configuration '{config}': it is neither a file nor one of {', '.join(ALL_PRESETS)}."
        )
    if tokenizer is not None and not Path(tokenizer).exists() and not _REPOSITORY_ID.fullmatch(str(tokenizer)):
        raise ConversionError(f"No tokenizer at '{tokenizer}': it is neither a file, a folder nor a Hub repository.")


def check_output(output_dir: str | Path) -> None:
    """Raises `ConversionError` unless a folder can be made there."""
    output = Path(output_dir)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConversionError(f"'{output}' is there already. Give a folder that is not, or an empty one.")


def repository_of(source: str | Path) -> str:
    """A Hub id without open_clip's "hf-hub:" before it."""
    return str(source).removeprefix("hf-hub:").rstrip("/")


def load_model_cfg(path: Path) -> dict[str, Any]:
    """The JSON file of a model_cfg or of a whole `open_clip_config.json`.

    Raises:
        ConversionError: The file cannot be read as a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConversionError(f"Cannot read the configuration {path}: {error}") from error
    if not isinstance(content, dict):
        raise ConversionError(f"The configuration {path} holds no JSON object.")
    return content
