# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Weights of 8 bits, by the exporters' own quantizers: no images are needed for it."""

from typing import Any


def quantizer(format_name: str) -> Any:
    """The library's quantizer of exported programs of a format."""
    if format_name == "onnx":
        from onnxruntime.quantization import QuantType
        from transformers.exporters import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer

        # Each column of a matrix has a scale of its own; activations are rounded as they come. Unsigned, because
        # processors with AVX2 and without VNNI add pairs of signed products in 16 bits, which overflow. The patch
        # embedding stays in float32: it is a convolution, which takes longer in int8. So do embeddings, of which a
        # step reads a row for each token.
        return OnnxRuntimeQuantizer(
            OnnxRuntimeDynamicConfig(op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QUInt8)
        )
    import nncf
    from transformers.exporters import NNCFOpenVINOQuantizer, NNCFWeightCompressionConfig

    return NNCFOpenVINOQuantizer(NNCFWeightCompressionConfig(mode=nncf.CompressWeightsMode.INT8_SYM))
