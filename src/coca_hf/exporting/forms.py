# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How a program is made into each format, made int8 and saved. Int8 needs no images."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.export import Dim

from ..runtimes.programs import LARGEST, NAMES
from .components import Component, named


class Form(Protocol):
    suffix: str
    # Images, rows of each, new tokens and tokens before them, of the inputs that a program is traced with.
    traced: tuple[int, int, int, int]

    def made(self, component: Component, inputs: Any) -> Any:
        """A component as a program of this format."""

    def int8(self, program: Any, inputs: Any) -> Any:
        """The same with weights of 8 bits; whatever the quantiser raises."""

    def save(self, program: Any, path: Path) -> None:
        """Its files, the first of which is `path`."""


class Onnx:
    suffix = ".onnx"
    traced = (2, 3, 3, 5)

    def made(self, component: Component, inputs: Any) -> Any:
        from transformers.exporters import OnnxConfig, OnnxExporter

        config = OnnxConfig(
            dynamic_shapes=component.dynamic_shapes,
            # Rows are a multiple of images, which has no notation: it is checked when the program runs.
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        return OnnxExporter().export(component.module.eval(), inputs, config).program

    def int8(self, program: Any, inputs: Any) -> Any:
        from onnxruntime.quantization import QuantType
        from transformers.exporters import ExportFormat, OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer

        # Each column of a matrix has a scale of its own; activations are rounded as they come. Unsigned, because
        # processors with AVX2 and without VNNI add pairs of signed products in 16 bits, which overflow. The patch
        # embedding stays in float32: it is a convolution, which takes longer in int8. So do embeddings, of which a
        # step reads a row for each token.
        config = OnnxRuntimeDynamicConfig(
            op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QUInt8
        )
        return OnnxRuntimeQuantizer(config).quantize(program, inputs, ExportFormat.ONNX)

    def save(self, program: Any, path: Path) -> None:
        from transformers.exporters import OnnxExporter

        OnnxExporter.save_program(program, path)


class OpenVINO:
    """From the ONNX program: the library's own exporter gives a decoder that computes something else."""

    suffix = ".xml"
    traced = Onnx.traced

    def made(self, component: Component, inputs: Any) -> Any:
        import openvino

        with tempfile.TemporaryDirectory() as folder:
            Onnx().save(Onnx().made(component, inputs), Path(folder, "program.onnx"))
            return openvino.convert_model(str(Path(folder, "program.onnx")))

    def int8(self, program: Any, inputs: Any) -> Any:
        import nncf

        return nncf.compress_weights(program, mode=nncf.CompressWeightsMode.INT8_SYM)

    def save(self, program: Any, path: Path) -> None:
        import openvino

        openvino.save_model(program, str(path), compress_to_fp16=False)


@dataclass(frozen=True)
class _Lowered:
    """A program of ExecuTorch, which knows its inputs and outputs by their places only, and their names."""

    program: Any
    names: dict[str, list[str]]


class Executorch:
    """By XNNPACK, on a CPU. Memory is planned for the largest sizes, so that each has a limit: `LARGEST`."""

    suffix = ".pte"
    # Images are as many as rows: ExecuTorch refuses what checks at run time that one is a multiple of the other.
    traced = (6, 1, 3, 5)

    def made(self, component: Component, inputs: Any) -> Any:
        from transformers.exporters import ExecutorchConfig, ExecutorchExporter

        with torch.no_grad():
            names = {"inputs": list(named(inputs)), "outputs": list(named(component.module(**inputs)))}
        config = ExecutorchConfig(dynamic_shapes=_limited(component.dynamic_shapes))
        return _Lowered(ExecutorchExporter().export(component.module.eval(), inputs, config).program, names)

    def int8(self, program: Any, inputs: Any) -> Any:
        raise NotImplementedError("int8 is for onnx, openvino and web")

    def save(self, program: Any, path: Path) -> None:
        from transformers.exporters import ExecutorchExporter

        ExecutorchExporter.save_program(program.program, path)
        path.with_suffix(NAMES).write_text(json.dumps(program.names) + "\n", "utf-8")


def _limited(shapes: Any) -> Any:
    """The same sizes, each with its largest value, and images under the name of rows."""
    if isinstance(shapes, (dict, list)):
        pairs = shapes.items() if isinstance(shapes, dict) else enumerate(shapes)
        made = {key: _limited(value) for key, value in pairs}
        return made if isinstance(shapes, dict) else list(made.values())
    if shapes is Dim.AUTO:
        return shapes
    name = "rows" if shapes.__name__ == "images" else shapes.__name__
    largest = LARGEST.get(name, LARGEST["rows"])
    return Dim(name, min=0 if name == "past" else 1, max=min(largest, shapes.max))


FORMS: dict[str, Form] = {"onnx": Onnx(), "openvino": OpenVINO(), "executorch": Executorch()}
