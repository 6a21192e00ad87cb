# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What can be said of an export before torch and the model are loaded."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..batch_inference.errors import ModelError
from ..batch_inference.models import check_model
from ..runtimes.errors import ExportedModelError
from ..runtimes.folder import EXTRAS, ExportedFolder, is_exported
from .errors import ExportError


FORMATS = ("onnx", "openvino", "executorch", "web")

# What makes a format and what runs it, and the extra that brings them.
_NEEDED = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino", "nncf"),
    "executorch": ("executorch",),
    "web": ("onnx", "onnxscript", "onnxruntime"),
}
_EXTRAS = {**EXTRAS, "web": EXTRAS["onnx"]}


def check_arguments(model: Any, folder: Path, format_name: str, *, int8: bool = False) -> None:
    """Raises `ExportError` for all that can be known before the model is loaded."""
    if format_name not in FORMATS:
        raise ExportError(f"no such format: {format_name!r}. Give {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    for module in _NEEDED[format_name]:
        if importlib.util.find_spec(module) is None:
            raise ExportError(
                f"the format {format_name} needs {module}, which is not installed: "
                f"pip install 'coca-hf[{_EXTRAS[format_name]}]'"
            )
    if int8 and format_name == "executorch":
        raise ExportError(
            "weights of 8 bits are made for onnx, openvino and web: leave --int8 out, or name one of them"
        )
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise ExportError(f"{str(folder)!r} is there already: give a folder that is not")
    if isinstance(model, (str, os.PathLike)):
        with as_export_error():
            check_model(str(model), captions=False)
        if is_exported(str(model)):
            _check_exported(Path(model), format_name, int8)


def _check_exported(model: Path, format_name: str, int8: bool) -> None:
    """Of an exported model, a page can still be made."""
    if format_name != "web" or ExportedFolder.read(model).format != "onnx":
        raise ExportError(
            f"{str(model)!r} is an exported model: give the one that it was exported from (a page takes one in onnx)"
        )
    if int8:
        raise ExportError(f"{str(model)!r} is exported already: --int8 is for the model that it was exported from")


@contextmanager
def as_export_error() -> Iterator[None]:
    """A model or a program that cannot be loaded is why there is no export."""
    try:
        yield
    except (ModelError, ExportedModelError) as error:
        raise ExportError(str(error)) from error
