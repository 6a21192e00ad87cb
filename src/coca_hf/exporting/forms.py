# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How a program is made into each format, made int8 and saved. Int8 needs no images."""

import tempfile
from pathlib import Path
from typing import Any, Protocol


class Form(Protocol):
    suffix: str

    def made(self, program: Any) -> Any:
        """An ONNX program as one of this format."""

    def int8(self, program: Any, inputs: Any) -> Any:
        """The same with weights of 8 bits; whatever the quantiser raises."""

    def save(self, program: Any, path: Path) -> None:
        """Its files, the first of which is `path`."""


class Onnx:
    suffix = ".onnx"

    def made(self, program: Any) -> Any:
        return program

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
    suffix = ".xml"

    def made(self, program: Any) -> Any:
        import openvino

        with tempfile.TemporaryDirectory() as folder:
            Onnx().save(program, Path(folder, "program.onnx"))
            return openvino.convert_model(str(Path(folder, "program.onnx")))

    def int8(self, program: Any, inputs: Any) -> Any:
        import nncf

        return nncf.compress_weights(program, mode=nncf.CompressWeightsMode.INT8_SYM)

    def save(self, program: Any, path: Path) -> None:
        import openvino

        openvino.save_model(program, str(path), compress_to_fp16=False)


FORMS: dict[str, Form] = {"onnx": Onnx(), "openvino": OpenVINO()}
