# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Packed weights give what the weights gave, up to rounding, and refuse what they cannot do."""

import pytest
import torch
from PIL import Image

import coca_hf
from coca_hf import pack_weights
from coca_hf.packing import PackedLinear
from tiny import START, tiny_captioner


IDS = torch.tensor([[START, 5, 9, 13], [START, 7, 2, 98]])
PIXELS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


needs_bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bfloat16 products"
)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), pytest.param(torch.bfloat16, 5e-2, marks=needs_bfloat16)]
)
def test_packed_weights_change_outputs_by_rounding_only(dtype, tolerance, activation):
    parts = ("vision_config", "text_config", "multimodal_config")
    model = tiny_captioner(**{part: {"hidden_act": activation} for part in parts}).to(dtype)
    with torch.inference_mode():
        expected = model(PIXELS.to(dtype), IDS)
        found = pack_weights(model)(PIXELS.to(dtype), IDS)
    for name in ("logits", "image_embeds", "text_embeds"):
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=tolerance * scale, msg=name)


def test_a_model_with_packed_weights_writes_the_same_captions():
    model = coca_hf.CoCaForCaptioning.from_pretrained(coca_hf.bundled_model())
    processor = coca_hf.CoCaProcessor.from_pretrained(coca_hf.bundled_model())
    images = [Image.open(path) for path in coca_hf.example_images()[:4]]
    inputs = processor(images=images, return_tensors="pt")
    expected = model.generate(**inputs, num_beams=3, max_new_tokens=16)
    assert pack_weights(model).generate(**inputs, num_beams=3, max_new_tokens=16).tolist() == expected.tolist()


def test_towers_without_a_decoder_can_be_packed():
    towers = tiny_captioner().model
    expected = towers(IDS, PIXELS).logits_per_image
    torch.testing.assert_close(pack_weights(towers)(IDS, PIXELS).logits_per_image, expected, rtol=1e-4, atol=1e-5)


def test_every_linear_layer_is_packed_and_the_model_is_left_in_evaluation_mode():
    model = pack_weights(tiny_captioner().train())
    assert [name for name, module in model.named_modules() if type(module) is torch.nn.Linear] == []
    assert sum(isinstance(module, PackedLinear) for module in model.modules()) > 0
    assert not model.training


def test_a_packed_model_refuses_to_be_saved(tmp_path):
    with pytest.raises(RuntimeError, match=r"save the model before pack_weights"):
        pack_weights(tiny_captioner()).save_pretrained(tmp_path)


def test_a_type_that_cannot_be_packed_is_refused_by_name_before_anything_changes():
    model = tiny_captioner()
    model.lm_head.half()
    with pytest.raises(ValueError, match=r"lm_head\.weight is torch\.float16 on cpu"):
        pack_weights(model)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())


def test_bfloat16_is_refused_on_a_processor_without_it(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(ValueError, match=r"torch\.bfloat16, which this processor has no products for: load the model"):
        pack_weights(tiny_captioner().to(torch.bfloat16))
