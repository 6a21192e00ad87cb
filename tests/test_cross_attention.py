# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Attention to image tokens: in training, few queries attend to them without keys and values; nothing else changes."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear as LoraLinear

from coca_hf.configuration_coca import CoCaMultimodalConfig
from coca_hf.modeling_coca import CoCaCrossAttention
from tiny import tiny_captioner


IMAGES, TOKENS, CONTEXT, HIDDEN, HEADS = 3, 7, 48, 64, 2
HEAD_DIM = HIDDEN // HEADS


def make_attention(implementation: str) -> CoCaCrossAttention:
    config = CoCaMultimodalConfig(hidden_size=HIDDEN, num_attention_heads=HEADS)
    config._attn_implementation = implementation
    torch.manual_seed(0)
    return CoCaCrossAttention(config, HIDDEN, HEADS, CONTEXT)


def attend(attention, rows: int, length: int):
    """-> outputs, weights, gradients of inputs and parameters."""
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(rows, length, HIDDEN, generator=generator, requires_grad=True)
    context = torch.randn(IMAGES, TOKENS, CONTEXT, generator=generator, requires_grad=True)
    outputs, weights = attention(states, context)
    inputs = [states, context, *attention.parameters()]
    gradients = torch.autograd.grad((outputs * torch.linspace(-1, 1, HIDDEN)).square().sum(), inputs)
    return outputs, weights, gradients


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize(("rows", "length"), [(3, 5), (6, 4), (3, HEAD_DIM // 2), (3, HEAD_DIM), (1, 5)])
def test_training_computes_what_evaluation_does(implementation, rows, length):
    attention = make_attention(implementation)
    trained, evaluated = attend(attention.train(), rows, length), attend(attention.eval(), rows, length)
    torch.testing.assert_close(trained, evaluated, rtol=1e-4, atol=1e-5)
    assert (trained[1] is not None) == (implementation == "eager")


def test_few_queries_need_no_keys_and_values_in_training(monkeypatch):
    attention = make_attention("sdpa").train()
    monkeypatch.setattr(attention, "project_context", None)
    attend(attention, IMAGES, 5)
    with pytest.raises(TypeError):
        attend(attention, IMAGES, HEAD_DIM)


def test_hooks_of_the_layers_run():
    attention = make_attention("sdpa").train()
    seen = []
    attention.v_proj.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].shape))
    attend(attention, IMAGES, 5)
    assert seen == [(IMAGES, TOKENS, CONTEXT)]


def test_adapters_of_the_projections_train():
    model = tiny_captioner()
    config = LoraConfig(r=2, target_modules=[r"k_proj", r"v_proj"], init_lora_weights=False, lora_dropout=0.0)
    tuned = get_peft_model(model, config).train()
    ids = torch.tensor([[1, 5]])
    loss = tuned(pixel_values=torch.randn(1, 3, 16, 16), input_ids=ids, labels=ids).caption_loss
    loss.backward()
    adapters = [module for name, module in tuned.named_modules() if isinstance(module, LoraLinear) and "cross" in name]
    assert adapters
    assert all(adapter.lora_B["default"].weight.grad.abs().sum() > 0 for adapter in adapters)
