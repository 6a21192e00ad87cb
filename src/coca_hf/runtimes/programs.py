# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One exported program, loaded by its runtime: tensors by name in, tensors by name out, on the CPU."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .errors import ExportedModelError


RUNTIMES = {"onnx": ("onnxruntime", "ONNX Runtime"), "openvino": ("openvino", "OpenVINO")}
"""What runs a format: the module, and its name in a sentence."""


class Program(Protocol):
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inputs that the program does not know are left out."""


def check_runtime(format_name: str) -> None:
    """Raises `ExportedModelError` where the format is unknown, or what runs it is not installed."""
    _runtime(format_name)


def load_program(path: Path, format_name: str) -> Program:
    """Raises `ExportedModelError` where the runtime is not installed, or cannot read the file."""
    runtime = _runtime(format_name)
    program = OnnxProgram if format_name == "onnx" else OpenVINOProgram
    try:
        return program(path, runtime)
    except Exception as error:  # the runtimes raise classes of their own, which have no public base
        reason = " ".join(str(error).split()).rstrip(".")
        raise ExportedModelError(f"{RUNTIMES[format_name][1]} cannot load {str(path)!r}: {reason}") from error


def _runtime(format_name: str) -> Any:
    if format_name not in RUNTIMES:
        raise ExportedModelError(f"nothing here runs the format {format_name!r}: these are {' and '.join(RUNTIMES)}")
    module, name = RUNTIMES[format_name]
    try:
        return importlib.import_module(module)
    except ImportError:
        extra = "export" if format_name == "onnx" else "openvino"
        raise ExportedModelError(f"{name} is not installed: pip install 'coca-hf[{extra}]'") from None


class OnnxProgram:
    """By ONNX Runtime, on as many threads as PyTorch has."""

    def __init__(self, path: Path, onnxruntime: Any):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = [each.name for each in self.session.get_inputs()]
        self.outputs = [each.name for each in self.session.get_outputs()]
        self._value = onnxruntime.OrtValue.ortvalue_from_numpy

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # Arrays share the tensors' memory both ways; `session.run` would copy each output.
        arrays = {name: inputs[name].contiguous().numpy() for name in self.inputs}
        values = {name: self._value(array) for name, array in arrays.items()}
        outputs = self.session.run_with_ort_values(self.outputs, values)
        return {name: _tensor(value) for name, value in zip(self.outputs, outputs, strict=True)}


def _tensor(value: Any) -> Tensor:
    return torch.from_dlpack(value) if hasattr(value, "__dlpack__") else torch.from_numpy(value.numpy())


class OpenVINOProgram:
    """By OpenVINO, in float32: by itself it computes in bfloat16 where the processor can."""

    def __init__(self, path: Path, openvino: Any):
        properties = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        compiled = openvino.Core().compile_model(str(path), "CPU", properties)
        self.inputs = [port.any_name for port in compiled.inputs]
        self.outputs = [port.any_name for port in compiled.outputs]
        self.request = compiled.create_infer_request()

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = {name: inputs[name].contiguous().numpy() for name in self.inputs}
        outputs = self.request.infer(arrays, share_inputs=True, share_outputs=False)
        return {name: torch.from_numpy(outputs[index]) for index, name in enumerate(self.outputs)}
