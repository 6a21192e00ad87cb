# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What of a folder is published. Nothing here needs torch or a network, so a command can check first."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from ..serving import HANDLER_FILES
from .errors import PublishingError


CARD = "README.md"
PLACEHOLDER = "OWNER/NAME"
"""Stands in a card for the repository that it will be in."""

CODE = tuple(sorted(path.name for path in Path(__file__).parents[1].glob("*_coca.py")))
NEEDED = ("config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json")
# The last four are what other tokenizers' save_pretrained writes.
OPTIONAL = (
    "generation_config.json",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
TEXTS = ("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE")
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Where an adapter lies beside a model, from_pretrained loads both.
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_CODE = re.compile(r"\w+_coca\.py")
_NAME = r"\w([\w.-]{0,94}\w)?"
_REPOSITORY_ID = re.compile(f"{_NAME}/{_NAME}", re.ASCII)
_BRANCH = re.compile(r"\w([\w./-]*\w)?", re.ASCII)
_PICTURE = re.compile(r"!\[[^]]*]\(([^)\s]+)|<img[^>]*\ssrc=[\"']([^\"']+)", re.IGNORECASE)
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg")


@dataclass(frozen=True)
class Publication:
    """A folder as it will be in the repository `repo_id`.

    `paths` gives each file's place on disk by its name there, the card excepted, whose text is `card`, and `texts`
    those that are on no disk. `left_out` are the names in the folder that stay behind.
    """

    folder: Path
    repo_id: str
    card: str
    paths: Mapping[str, Path]
    left_out: tuple[str, ...]
    kind: Literal["model", "space"] = "model"
    texts: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file by its name, sorted."""
        sizes = {name: path.stat().st_size for name, path in self.paths.items()}
        texts = {name: len(text.encode()) for name, text in {**self.texts, CARD: self.card}.items()}
        return dict(sorted({**sizes, **texts}.items()))


def plan_publication(folder: str | Path, repo_id: str) -> Publication:
    """
    Chooses the files of a saved folder that belong into its repository: model, processor, code, card, its pictures.

    A folder without a card gets one made of its configuration; in a card, "OWNER/NAME" becomes `repo_id`.

    Raises:
        PublishingError: The folder is not complete, not of this release, or its card cannot be read; or `repo_id` is
            not of the form owner/name.
    """
    check_repository_id(repo_id)
    folder = Path(folder)
    if not folder.is_dir():
        raise PublishingError(f"There is no folder '{folder}'. Give a saved model's folder.")
    config = _config(folder)
    names = [*NEEDED, *_weights(folder), *CODE]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise PublishingError(
            f"'{folder}' is not a complete saved model: it has no {', '.join(missing)}. Save the model and its "
            "processor there with save_pretrained."
        )
    _check_code(folder)
    card = _card(folder, config)
    names += [name for name in (*OPTIONAL, *TEXTS) if (folder / name).is_file()]
    names += _pictures(folder, card)
    here = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    taken = {CARD, *names, *(f"{name.split('/')[0]}/" for name in names if "/" in name)}
    return Publication(
        folder=folder,
        repo_id=repo_id,
        card=card.replace(PLACEHOLDER, repo_id),
        paths={name: folder / name for name in names},
        left_out=tuple(name for name in here if name not in taken),
    )


def with_endpoint(publication: Publication) -> Publication:
    """The same with what Inference Endpoints runs beside the model: handler.py and its requirements.txt."""
    return replace(publication, paths={**publication.paths, **HANDLER_FILES})


def check_repository_id(repo_id: str) -> None:
    """Raises `PublishingError` unless it is of the form owner/name, by the Hub's rules."""
    unusual = "--" in repo_id or ".." in repo_id or repo_id.endswith((".git", ".ipynb"))
    if unusual or not _REPOSITORY_ID.fullmatch(repo_id):
        raise PublishingError(
            f"'{repo_id}' is no repository's name. Give owner/name, such as someone/coca-photos: either is at most 96 "
            "letters, digits, '-', '_' and '.', begins and ends with none of the last two, and has no '--' or '..'."
        )


def check_branch(revision: str | None) -> None:
    """Raises `PublishingError` unless it can be a branch's name; None is the main one."""
    if revision is not None and (".." in revision or "//" in revision or not _BRANCH.fullmatch(revision)):
        raise PublishingError(f"'{revision}' is no branch's name. Give one such as v2, or leave it out for main.")


def is_stale(name: str, publication: Publication) -> bool:
    """Whether a file in the repository is a part of an earlier model that would be taken for one of this model."""
    if publication.kind == "space":
        return name.startswith("model/") and name not in publication.sizes
    part = name in (WEIGHTS, INDEX, *OPTIONAL, *_ADAPTER) or _SHARD.fullmatch(name) or _CODE.fullmatch(name)
    return bool(part) and name not in publication.paths


def _config(folder: Path) -> dict[str, Any]:
    config = _json(folder / "config.json", f"'{folder}' is not a saved model's folder")
    if config.get("model_type") != "coca":
        raise PublishingError(f"'{folder}' holds a model of type {config.get('model_type')!r}, not 'coca'.")
    return config


def _json(path: Path, otherwise: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PublishingError(f"{otherwise}: it has no {path.name}.") from None
    except (OSError, ValueError) as error:
        raise PublishingError(f"Cannot read '{path}': {error}.") from error
    if not isinstance(content, dict):
        raise PublishingError(f"'{path}' holds no JSON object.")
    return content


def _weights(folder: Path) -> list[str]:
    """The one file of weights, or the index and the shards that it names."""
    whole, index = (folder / WEIGHTS).is_file(), folder / INDEX
    if whole and index.is_file():
        raise PublishingError(f"'{folder}' holds both {WEIGHTS} and {INDEX}. Remove what is not the model.")
    if index.is_file():
        return [INDEX, *_shards(index)]
    if not whole:
        raise PublishingError(
            f"'{folder}' has no weights: neither {WEIGHTS} nor {INDEX} is there. Other formats, which can run code "
            "when they are loaded, are not published: save the model with save_pretrained."
        )
    return [WEIGHTS]


def _shards(index: Path) -> list[str]:
    """The files that an index of weights names. What else it may name, a pickle or a file elsewhere, stays here."""
    places = _json(index, "").get("weight_map")
    names = sorted(set(map(str, places.values()))) if isinstance(places, dict) else []
    if not names or not all(map(_SHARD.fullmatch, names)):
        raise PublishingError(f"'{index}' does not name shards, such as model-00001-of-00002.safetensors.")
    return names


def _check_code(folder: Path) -> None:
    package = Path(__file__).parents[1]
    other = [name for name in CODE if (folder / name).read_bytes() != (package / name).read_bytes()]
    if other:
        raise PublishingError(
            f"{', '.join(other)} in '{folder}' is not the code of this release of coca_hf, which is what gets checked "
            "and published. Load the model and its processor here and save them again."
        )


def _card(folder: Path, config: dict[str, Any]) -> str:
    from huggingface_hub import ModelCard

    from .card import folder_card

    path = folder / CARD
    if not path.is_file():
        return folder_card(config)
    try:
        text = path.read_text(encoding="utf-8")
        ModelCard(text)
    # The parser of YAML has errors of its own, which huggingface_hub lets through.
    except Exception as error:
        raise PublishingError(f"Cannot read the card '{path}': {' '.join(str(error).split())}") from error
    return text


def _pictures(folder: Path, card: str) -> list[str]:
    """The pictures in the folder that its card shows, in its text or as examples of the widget."""
    names = sorted(set(_relative_pictures(card)))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise PublishingError(f"The card in '{folder}' shows {', '.join(missing)}, which is not there.")
    return names


def _relative_pictures(card: str) -> Iterator[str]:
    from huggingface_hub import ModelCard

    parsed = ModelCard(card)
    widgets = parsed.data.get("widget") or []
    sources = [str(widget["src"]) for widget in widgets if isinstance(widget, dict) and "src" in widget]
    for name in (*sources, *(first or second for first, second in _PICTURE.findall(parsed.text))):
        name = unquote(name)
        inside = not name.startswith("/") and ".." not in name.split("/")
        if "://" not in name and inside and name.lower().endswith(_PICTURE_SUFFIXES):
            yield name.removeprefix("./")
