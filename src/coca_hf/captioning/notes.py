# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What an output was made with, remembered beside it, so that only the same run continues it."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import OutputError
from .models import ModelChoice
from .sources import error_text


_FORMAT = 1

# Of large files as many places are looked at, each of so many bytes: a checkpoint of gigabytes takes no time.
_PLACES = 64
_PLACE_SIZE = 1 << 14

MadeWith = dict[str, Any]
"""Everything that decides what a record holds, by the name of the choice."""


def made_with(command: str, choice: ModelChoice, options: Mapping[str, Any]) -> MadeWith:
    """Of a model in a folder its content counts, not the place; of one on the Hub its name."""
    model = _fingerprint(Path(choice.name)) if os.path.isdir(choice.name) else choice.name
    return {"command": command, "model": model, "dtype": choice.dtype, **options}


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".txt") and path.is_file():
            digest.update(path.name.encode())
            _add_file(digest, path)
    return digest.hexdigest()[:16]


def _add_file(digest: Any, path: Path) -> None:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(str(size).encode())
        step = max((size - _PLACE_SIZE) // _PLACES, _PLACE_SIZE)
        for offset in range(0, size, step):
            file.seek(offset)
            digest.update(file.read(_PLACE_SIZE))


class Note:
    """The file `.NAME.run.json` beside the output `NAME`.

    `state` is "running", "finishing" while complete files are put into their places, and "finished"; `facts` are what
    a finished run leaves.
    """

    def __init__(self, output: str):
        target = os.path.realpath(output)
        self.path = os.path.join(os.path.dirname(target), f".{os.path.basename(target)}.run.json")
        self.made_with: MadeWith | None = None
        self.state = "none"
        self.facts: dict[str, Any] = {}
        self._read()

    def _read(self) -> None:
        try:
            with open(self.path, encoding="utf-8") as file:
                content = json.load(file)
        except (OSError, ValueError):
            return
        if (
            isinstance(content, dict)
            and content.get("format") == _FORMAT
            and isinstance(content.get("made_with"), dict)
        ):
            self.made_with = content["made_with"]
            self.state = str(content.get("state"))
            self.facts = dict(content.get("facts") or {})

    def write(self, made_with: MadeWith, state: str, facts: Mapping[str, Any] | None = None) -> None:
        """Raises `OutputError`."""
        self.made_with, self.state, self.facts = made_with, state, dict(facts or {})
        content = {"format": _FORMAT, "state": state, "made_with": made_with, "facts": self.facts}
        aside = f"{self.path}.{os.getpid()}"
        try:
            with open(aside, "w", encoding="utf-8") as file:
                json.dump(content, file)
            os.replace(aside, self.path)
        except OSError as error:
            Path(aside).unlink(missing_ok=True)
            raise OutputError(f"cannot write to {self.path!r}: {error_text(error)}") from None

    def remove(self) -> None:
        Path(self.path).unlink(missing_ok=True)

    def check(self, output: str, made_with: MadeWith) -> None:
        """Raises `OutputError` where the output was made with other choices, naming them."""
        other = self.made_with or {}
        names = [name for name in {**other, **made_with} if other.get(name) != made_with.get(name)]
        if names:
            raise OutputError(
                f"{output!r} was made with another {' and '.join(_spoken(name) for name in names)}. "
                "Name another file, or remove it first"
            )


def _spoken(name: str) -> str:
    return name.replace("_", "-")
