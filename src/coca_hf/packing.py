# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Weights in the layout that the processor's matrix products read fastest, for inference on a CPU."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn


Model = TypeVar("Model", bound=nn.Module)

DTYPES = (torch.float32, torch.bfloat16)
# Rows that a layout is made for. One made for few rows is slow for many, but not the other way round.
NUM_ROWS = 1024


class PackedLinear(nn.Module):
    """`nn.Linear` for inference, its weight in oneDNN's own layout; with `activation="gelu"`, GELU (erf) follows."""

    def __init__(self, linear: nn.Linear, activation: str = "none"):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.activation = activation
        # Neither are parameters: nothing but this layer's product can read the layout.
        self.packed_weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), NUM_ROWS)
        self.packed_bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., in features) -> (..., out features)."""
        return torch.ops.mkldnn._linear_pointwise(
            hidden_states, self.packed_weight, self.packed_bias, self.activation, [], "none"
        )

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, activation={self.activation}"

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("The weights are packed for inference: save the model before pack_weights().")


def _joined(*layers: nn.Linear) -> nn.Linear:
    """One layer that gives the outputs of all, one behind the other."""
    joined = nn.Linear(layers[0].in_features, sum(layer.out_features for layer in layers), device="meta")
    joined.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]))
    joined.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]))
    return joined


def pack_weights(model: Model) -> Model:
    """
    Repacks the weights of all linear layers for inference on this CPU, in place: the same numbers, in half the time.

    PyTorch's float32 products go through MKL, which on some processors uses half of them; oneDNN with packed weights
    does not, and saves bfloat16 the repacking at every call. Results differ by rounding. The memory needed stays the
    same. Afterwards the model can be neither trained, saved, moved nor converted to another type.

    Returns:
        `model`, in evaluation mode.

    Raises:
        ValueError: The model is not on a CPU, or its type is neither float32 nor bfloat16; it is bfloat16, which this
            processor has no products for; or PyTorch was built without oneDNN.

    Example:

    ```python
    >>> import coca_hf
    >>> from transformers import AutoModelForImageTextToText

    >>> model = coca_hf.pack_weights(AutoModelForImageTextToText.from_pretrained(coca_hf.bundled_model()))
    ```"""
    if not torch.backends.mkldnn.is_available():
        raise ValueError("pack_weights() needs oneDNN, which this build of PyTorch lacks: do without.")
    for name, parameter in model.named_parameters():
        if parameter.device.type != "cpu" or parameter.dtype not in DTYPES:
            raise ValueError(
                f"{name} is {parameter.dtype} on {parameter.device}: pack_weights() takes models of float32 or "
                "bfloat16 on a CPU."
            )
        if parameter.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise ValueError(
                f"{name} is torch.bfloat16, which this processor has no products for: load the model with "
                "dtype=torch.float32, which is faster here."
            )
    for module in list(model.modules()):
        if hasattr(module, "qkv_proj"):
            module.qkv_proj = _joined(module.q_proj, module.k_proj, module.v_proj)
            del module.q_proj, module.k_proj, module.v_proj
        if getattr(getattr(module, "config", None), "hidden_act", None) == "gelu" and hasattr(module, "activation_fn"):
            module.fc1, module.activation_fn = PackedLinear(module.fc1, "gelu"), nn.Identity()
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, PackedLinear(child))
    return model.eval()


__all__ = ["PackedLinear", "pack_weights"]
