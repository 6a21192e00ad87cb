# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What an exported folder says of itself. Reading it needs neither torch nor a runtime."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .errors import ExportedModelError


MANIFEST = "coca_export.json"

FORMAT_VERSION = 1
"""Counted up whenever a component's inputs or outputs change, which a folder of another version has otherwise."""

CAPTIONING = ("vision", "image_memory", "decoder_step")
TOWERS = ("vision", "text")
COMPONENTS = ("vision", "text", "image_memory", "decoder_step")
"""Each is one program: `exporting.components` says what it computes."""

EXTRAS = {"onnx": "export", "openvino": "openvino", "executorch": "executorch"}
"""The extra that installs what makes and runs a format."""


@dataclass(frozen=True)
class ExportedFolder:
    """
    The manifest of an exported folder.

    Attributes:
        format: "onnx", "openvino" or "executorch".
        int8: Whether its products have weights of 8 bits.
        files: The program of each component, by the component's name.
        source: Name and fingerprint of the model that it was exported from.
        logit_scale: As the model's parameter, the logarithm of the similarity's factor.
        logit_bias: Added to similarities, None where the model has none.
        differences: The largest difference from PyTorch of each component's outputs, as it was checked at export.
        versions: Of the libraries that exported it.
        sizes: Bytes of each file of the programs, the weights beside them included.
        format_version: See `FORMAT_VERSION`.
    """

    format: str
    int8: bool
    files: Mapping[str, str]
    source: Mapping[str, str]
    logit_scale: float
    logit_bias: float | None
    differences: Mapping[str, float]
    versions: Mapping[str, str]
    sizes: Mapping[str, int] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def captions(self) -> bool:
        """Whether it can write captions; it can embed images and texts in any case."""
        return all(name in self.files for name in CAPTIONING)

    def write(self, folder: Path) -> None:
        Path(folder, MANIFEST).write_text(json.dumps(asdict(self), indent=2) + "\n", "utf-8")

    @classmethod
    def read(cls, folder: str | Path) -> "ExportedFolder":
        """Raises `ExportedModelError` where it is damaged or of another version, or a program is not whole."""
        path = Path(folder, MANIFEST)
        try:
            values = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise ExportedModelError(f"cannot read {str(path)!r}: {(error.strerror or str(error)).lower()}") from None
        except ValueError:
            raise ExportedModelError(f"{str(path)!r} is not valid JSON") from None
        version = values.get("format_version") if isinstance(values, dict) else None
        if version != FORMAT_VERSION:
            raise ExportedModelError(
                f"{str(folder)!r} was exported in version {version} of the format, and this coca-hf reads version "
                f"{FORMAT_VERSION}: export the model again"
            )
        try:
            manifest = cls(**values)
            needed = {**dict.fromkeys(manifest.files.values()), **manifest.sizes}
        except (TypeError, AttributeError):
            raise ExportedModelError(f"{str(path)!r} is not the manifest of an exported model") from None
        for file, size in needed.items():
            _check_file(Path(folder), file, size)
        return manifest


def _check_file(folder: Path, file: str, size: int | None) -> None:
    path = folder / file
    if not path.is_file():
        raise ExportedModelError(f"{str(folder)!r} is not complete: {file} is missing. Export the model again")
    if size is not None and path.stat().st_size != size:
        raise ExportedModelError(
            f"{str(folder)!r} is not complete: {file} has {path.stat().st_size:,} bytes of {size:,}. Copy it again"
        )


def is_exported(name: str | Path) -> bool:
    """Whether `name` is the folder of an exported model, of whatever version."""
    return os.path.isfile(os.path.join(name, MANIFEST))
