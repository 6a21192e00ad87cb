# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One exported program, loaded by its runtime: tensors by name in, tensors by name out, on the CPU."""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .errors import ExportedModelError
from .folder import EXTRAS


RUNTIMES = {
    "onnx": ("onnxruntime", "ONNX Runtime"),
    "openvino": ("openvino", "OpenVINO"),
    "executorch": ("executorch.runtime", "ExecuTorch"),
}
"""What runs a format: the module, and its name in a sentence."""

NAMES = ".names.json"
"""Ending of the file beside a program of ExecuTorch that says what its inputs and outputs are called."""

LARGEST = {"rows": 32, "text": 128, "past": 128, "kept": 128}
"""Sizes that programs of ExecuTorch have memory for. More rows go through in pieces."""


class Program(Protocol):
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inputs that the program does not know are left out."""


def check_runtime(format_name: str) -> None:
    """Raises `ExportedModelError` where the format is unknown, or what runs it is not installed."""
    _runtime(format_name)


def load_program(path: Path, format_name: str) -> Program:
    """Raises `ExportedModelError` where the runtime is not installed, or cannot read the file."""
    runtime = _runtime(format_name)
    programs: dict[str, Any] = {"onnx": OnnxProgram, "openvino": OpenVINOProgram, "executorch": ExecutorchProgram}
    try:
        return programs[format_name](path, runtime)
    except Exception as error:  # the runtimes raise classes of their own, which have no public base
        reason = " ".join(str(error).split()).rstrip(".")
        raise ExportedModelError(f"{RUNTIMES[format_name][1]} cannot load {str(path)!r}: {reason}") from error


def _runtime(format_name: str) -> Any:
    if format_name not in RUNTIMES:
        raise ExportedModelError(f"nothing here runs the format {format_name!r}: these are {', '.join(RUNTIMES)}")
    module, name = RUNTIMES[format_name]
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ExportedModelError(f"{name} is not installed: pip install 'coca-hf[{EXTRAS[format_name]}]'") from None


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


class ExecutorchProgram:
    """By ExecuTorch: as many images as rows, and `LARGEST` rows at a time."""

    def __init__(self, path: Path, runtime: Any):
        names = json.loads(path.with_suffix(NAMES).read_text("utf-8"))
        self.inputs, self.outputs = names["inputs"], names["outputs"]
        self.program = runtime.Runtime.get().load_program(path)
        self.method = self.program.load_method("forward")

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        given = [inputs[name] for name in self.inputs]
        rows = given[0].shape[0]
        # Positions are those of every row; keys and values of an image are for all of its rows.
        is_shared = [name == "logit_positions" for name in self.inputs]
        given = [
            each if shared or each.shape[0] == rows else each.repeat_interleave(rows // each.shape[0], dim=0)
            for each, shared in zip(given, is_shared, strict=True)
        ]
        pieces = []
        for start in range(0, rows, LARGEST["rows"]):
            piece = slice(start, start + LARGEST["rows"])
            chosen = [each if shared else each[piece] for each, shared in zip(given, is_shared, strict=True)]
            # Outputs lie in memory that the next call uses again.
            pieces.append([each.clone() for each in self.method.execute([each.contiguous() for each in chosen])])
        return {name: torch.cat(each) for name, each in zip(self.outputs, zip(*pieces, strict=True), strict=True)}
