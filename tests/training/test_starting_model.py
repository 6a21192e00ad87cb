# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a run begins with: towers of transformers' CLIP and SigLIP compute in CoCa what they compute there."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    SiglipConfig,
    SiglipModel,
)

from coca_hf.training import TrainingOptions
from coca_hf.training.errors import TrainingOptionError
from coca_hf.training.saving import with_plain_weights
from coca_hf.training.starting_model import starting_model
from tiny import TINY
from tiny_folder import CONTEXT_LENGTH, save_tiny_folder


SMALL = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny_folder(tmp_path_factory.mktemp("start") / "model")


def shapes(folder: Path) -> dict:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    vision, text = ({name: TINY[kind][name] for name in names} for kind in ("vision_config", "text_config"))
    vision |= {name: TINY["vision_config"][name] for name in ("image_size", "patch_size")}
    _, processor = starting_model(TrainingOptions(model=str(folder)))
    tokens = {name: getattr(processor.tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text |= {"vocab_size": len(processor.tokenizer), "max_position_embeddings": CONTEXT_LENGTH, **tokens}
    return {"vision_config": vision, "text_config": text}


def loud(model: torch.nn.Module) -> torch.nn.Module:
    """With weights large enough for an activation to matter."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def test_the_towers_of_a_clip_compute_what_they_computed_there(folder, tmp_path):
    clip = loud(CLIPModel(CLIPConfig(**shapes(folder))))
    clip.save_pretrained(tmp_path / "clip")
    source = str(tmp_path / "clip")
    options = TrainingOptions(init=str(folder), vision_from=source, text_from=source)
    model, _ = starting_model(options)
    model.eval()
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(1, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = clip.vision_model(pixels).last_hidden_state
        torch.testing.assert_close(model.model.vision_model(pixels).last_hidden_state, theirs, rtol=1e-5, atol=1e-5)
        theirs = clip.text_model(ids).last_hidden_state
        # CoCa's norm is for [CLS], the text's vector.
        ours = model.model.text_model.final_layer_norm(model.model.text_model(ids).last_hidden_state)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert model.config.vision_config.hidden_act == "quick_gelu"
    # The seed decides the rest, whatever was loaded.
    again, _ = starting_model(TrainingOptions(init=str(folder)))
    torch.testing.assert_close(model.lm_head.weight, again.lm_head.weight)


def test_the_layers_of_a_siglip_are_taken_with_their_activation(folder, tmp_path):
    siglip = SiglipModel(SiglipConfig(vision_config=shapes(folder)["vision_config"], text_config=SMALL))
    siglip.save_pretrained(tmp_path / "siglip")
    model, _ = starting_model(TrainingOptions(init=str(folder), vision_from=str(tmp_path / "siglip")))
    theirs = siglip.vision_model.state_dict()
    for name, value in model.model.vision_model.layers.state_dict().items():
        torch.testing.assert_close(value, theirs[f"encoder.layers.{name}"], rtol=0, atol=0)
    positions = model.model.vision_model.embeddings.position_embedding.weight
    torch.testing.assert_close(positions[1:], theirs["embeddings.position_embedding.weight"], rtol=0, atol=0)
    assert model.config.vision_config.hidden_act == "gelu_pytorch_tanh"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: CLIPModel(CLIPConfig(vision_config=SMALL, text_config=SMALL)),
            "does not fit: embeddings.position_embedding.weight is (17, 32) here, there (50, 8)",
        ),
        (
            lambda: BertModel(BertConfig(vocab_size=9, **SMALL)),
            "does not fit: layers.0.layer_norm1.bias is (32,) here, there nothing",
        ),
    ],
    ids=["another size", "another kind"],
)
def test_a_tower_that_does_not_fit_is_refused_in_words(folder, tmp_path, make, message):
    make().save_pretrained(tmp_path / "other")
    with pytest.raises(TrainingOptionError) as caught:
        starting_model(TrainingOptions(init=str(folder), vision_from=str(tmp_path / "other")))
    assert message in str(caught.value)


class Int8Linear(torch.nn.Module):
    """As libraries keep a layer's weight in eight bits."""

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scale = torch.nn.Parameter(linear.weight.detach().abs().amax(1, keepdim=True) / 127, requires_grad=False)
        rounded = (linear.weight.detach() / self.scale).round().to(torch.int8)
        self.weight = torch.nn.Parameter(rounded, requires_grad=False)
        self.bias = linear.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(inputs, self.weight.float() * self.scale, self.bias)


def test_quantised_weights_are_trained_by_adapters_only_and_saved_as_floats(folder, monkeypatch):
    model, _ = starting_model(TrainingOptions(model=str(folder)))
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and "layers" in name:
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, Int8Linear(module))
    model.config.quantization_config = {"quant_method": "any"}
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    plain = with_plain_weights(model.eval())
    assert not hasattr(plain.config, "quantization_config")
    assert {parameter.dtype for parameter in plain.parameters()} == {torch.float32}
    with torch.no_grad():
        expected, found = (each.model.get_image_features(pixels).pooler_output for each in (model, plain))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", lambda *args, **kwargs: model)
    with pytest.raises(TrainingOptionError, match="only adapters can be trained: give --lora RANK"):
        starting_model(TrainingOptions(model=str(folder)))
