# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A whole exported folder: each program checked against PyTorch, all written aside, and moved when complete."""

import io
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..batch_inference.files import folder_aside
from ..batch_inference.models import (
    ModelChoice,
    can_caption,
    fingerprint,
    load_config,
    load_model,
    load_processor,
)
from ..batch_inference.wording import one_line
from ..modeling_coca import CoCaForCaptioning, CoCaModel
from ..runtimes.folder import ExportedFolder, is_exported
from ..runtimes.programs import load_program
from .arguments import as_export_error, check_arguments
from .card import card
from .components import Component, components, named
from .errors import ExportError
from .forms import FORMS


TOLERANCE = 1e-5
"""How far a float32 program may be from PyTorch, in units of the largest value of the output or of 1."""

# Images, rows of each, new tokens, tokens before them: others than a program is traced with.
_CHECKED = ((1, 1, 4, 0), (3, 2, 1, 7))

Say = Callable[[str], None]


def export(
    model: Any,
    folder: str | Path,
    format: str = "onnx",
    *,
    int8: bool = False,
    processor: Any = None,
    say: Say | None = None,
) -> Path:
    """
    Writes a complete folder that `coca_hf.load` and the command run by another runtime, or a page for a browser.

    Args:
        model: A saved folder or Hub id; or a [`CoCaForCaptioning`] or [`CoCaModel`], on the CPU in float32, with its
            `processor`. For "web" also a folder that was exported to "onnx".
        folder: To be made; it must not be there, or be empty.
        format: "onnx" for ONNX Runtime, "openvino" for OpenVINO, "executorch" for ExecuTorch, "web" for a page with
            everything that it needs.
        int8: Weights of 8 bits: a quarter of the bytes, and captions of which a few differ.
        processor: The [`CoCaProcessor`] of a model that is given as an object.
        say: Is told what is being done, a sentence at a time.

    Returns:
        The folder.

    Raises:
        ExportError: What was asked for is not possible, or a program does not compute what PyTorch does. Nothing is
            left behind.
    """
    target = Path(folder)
    check_arguments(model, target, format, int8=int8)
    say = say or (lambda message: None)
    with _aside(target) as aside:
        if isinstance(model, (str, os.PathLike)) and is_exported(str(model)):
            _write_page(Path(model), aside)
        elif format == "web":
            with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as exported:
                write_folder(*_source(model, processor), Path(exported), "onnx", int8=int8, say=say)
                _write_page(Path(exported), aside)
        else:
            write_folder(*_source(model, processor), aside, format, int8=int8, say=say)
    return target


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A folder beside `target`, which becomes it when all went well. Raises `ExportError` where that cannot be."""
    try:
        with folder_aside(target, 0o777 & ~_umask()) as aside:
            yield aside
    except OSError as error:
        raise ExportError(f"cannot write {str(target)!r}: {(error.strerror or str(error)).lower()}") from error


def _write_page(exported: Path, folder: Path) -> None:
    from .web import write_page

    choice = ModelChoice(str(exported))
    with as_export_error():
        write_page(exported, load_config(choice), load_processor(choice), folder)


def _source(model: Any, processor: Any) -> tuple[Any, Any, dict[str, str]]:
    """The model in float32, its processor, and what it is exported from, in words for the manifest."""
    if not isinstance(model, (str, os.PathLike)):
        if not isinstance(model, (CoCaForCaptioning, CoCaModel)):
            raise ExportError(f"a {type(model).__name__} is not a CoCaForCaptioning or CoCaModel")
        if processor is None:
            raise ExportError("processor is missing: an exported folder holds the model's")
        if model.dtype != torch.float32 or model.device.type != "cpu":
            raise ExportError(f"the model is {model.dtype} on {model.device}: load it in float32 on the CPU")
        return model.eval(), processor, {"name": str(model.name_or_path or ""), "fingerprint": ""}
    choice = ModelChoice(str(model), "cpu", "float32")
    with as_export_error():
        loaded = load_model(choice, "captioner" if can_caption(choice) else "towers")
        for part in ("vision", "text"):
            if getattr(load_config(choice), f"{part}_config").pool_type == "none":
                raise ExportError(f"the model {choice.name!r} gives no single vector: its {part} pool_type is 'none'")
        source = {"name": Path(choice.name).name if os.path.isdir(choice.name) else choice.name}
        return loaded, processor or load_processor(choice), source | {"fingerprint": fingerprint(choice.name)}


def write_folder(
    model: CoCaModel | CoCaForCaptioning,
    processor: Any,
    source: Mapping[str, str],
    folder: Path,
    format_name: str,
    *,
    int8: bool,
    say: Say,
) -> ExportedFolder:
    """All files of an exported folder. Raises `ExportError`."""
    parts = components(model)
    files: dict[str, str] = {}
    differences = {}
    for number, (name, component) in enumerate(parts.items(), 1):
        say(f"exporting {name.replace('_', ' ')}, {number} of {len(parts)}")
        files[name], differences[name] = _write_program(component, folder, name, format_name, int8=int8)
    towers = model.model if isinstance(model, CoCaForCaptioning) else model
    manifest = ExportedFolder(
        format=format_name,
        int8=int8,
        files=files,
        source=dict(source),
        logit_scale=towers.logit_scale.item(),
        logit_bias=None if towers.logit_bias is None else towers.logit_bias.item(),
        differences=differences,
        versions=_versions(),
        sizes={path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    )
    _write_settings(model, processor, folder)
    Path(folder, "README.md").write_text(card(manifest), "utf-8")
    manifest.write(folder)
    return manifest


def _write_program(
    component: Component, folder: Path, name: str, format_name: str, *, int8: bool
) -> tuple[str, float]:
    """-> the program's file, and how far its outputs are from PyTorch's. Raises `ExportError`."""
    form = FORMS[format_name]
    path = folder / f"{name}{form.suffix}"
    inputs = component.make_inputs(*form.traced)
    words = name.replace("_", " ")
    with _quietly(), _refused(f"{words} cannot be made into {format_name}"):
        program = form.made(component, inputs)
        form.save(program, path)
    difference = _difference(component, path, format_name)
    if not difference <= TOLERANCE:
        raise ExportError(
            f"{words} in {format_name} differs from PyTorch by {difference:.1e}, which is more than "
            f"{TOLERANCE:.0e}: this model is not exported"
        )
    if int8:
        with _quietly(), _refused(f"{words} cannot be made int8"):
            program = form.int8(program, inputs)
            for file in folder.glob(f"{name}.*"):
                file.unlink()
            form.save(program, path)
        difference = _difference(component, path, format_name)
    return path.name, difference


@contextmanager
def _quietly() -> Iterator[None]:
    """Exporters print and warn of what concerns their authors."""
    level = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)


@contextmanager
def _refused(what: str) -> Iterator[None]:
    """Exporters and quantizers raise whatever they meet; what the disk says stays what it is."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise ExportError(f"{what}: {one_line(error)}") from error


def _difference(component: Component, path: Path, format_name: str) -> float:
    """The largest of the outputs' from PyTorch's, with other batches and lengths than it was traced with."""
    with as_export_error():
        program = load_program(path, format_name)
    largest = 0.0
    for sizes in _CHECKED:
        inputs = component.make_inputs(*sizes)
        with torch.no_grad():
            expected = named(component.module(**inputs))
        found = program(named(inputs))
        for name, tensor in expected.items():
            if found[name].shape != tensor.shape:
                return float("inf")
            scale = max(1.0, tensor.abs().max().item()) if tensor.numel() else 1.0
            if tensor.numel():
                largest = max(largest, (found[name] - tensor).abs().max().item() / scale)
    return largest


def _write_settings(model: Any, processor: Any, folder: Path) -> None:
    config = type(model.config).from_dict(model.config.to_dict())
    # There are no weights for the model's own code to load.
    config.auto_map, config.custom_pipelines = None, None
    config.save_pretrained(folder)
    if isinstance(model, CoCaForCaptioning):
        model.generation_config.save_pretrained(folder)
    processor.save_pretrained(folder)


def _versions() -> dict[str, str]:
    found = {}
    for name in (
        "coca-hf",
        "torch",
        "transformers",
        "onnx",
        "onnxscript",
        "onnxruntime",
        "openvino",
        "nncf",
        "executorch",
    ):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
