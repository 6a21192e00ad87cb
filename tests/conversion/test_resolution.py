# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint becomes a model for images of another size, with open_clip's positions."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from coca_hf import CoCaForCaptioning
from coca_hf.conversion import ConversionError, change_image_size, convert_open_clip, open_clip_config
from coca_hf.conversion.weights import entries
from fixtures.open_clip import recipe
from fixtures.open_clip_library import cases
from tiny import tiny_captioner
from tiny_folder import save_tiny_folder, tiny_processor


RECORDED = load_file(Path(cases.__file__).parent / "library.safetensors")
IMAGE = Image.new("RGB", (50, 70), "red")


def theirs(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The recipe's weights in open_clip's names, for `config`."""
    ours = open_clip_config(config)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in CoCaForCaptioning(ours).state_dict().items()}
    return recipe.state_dict({entry.theirs: entry.their_shape(shapes) for entry in entries(ours)})


@pytest.fixture
def checkpoint(tmp_path) -> dict[str, Any]:
    """Arguments that convert the recipe's base model, with a tokenizer, whatever fits its vocabulary."""
    sizes = {"vocab_size": 560}
    config = recipe.variant(text=sizes, multimodal=sizes)
    (tmp_path / "theirs").mkdir()
    save_file(theirs(config), tmp_path / "theirs" / "open_clip_model.safetensors")
    (tmp_path / "theirs" / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    tiny_processor().tokenizer.save_pretrained(tmp_path / "tokenizer")
    return {"source": tmp_path / "theirs", "output_dir": tmp_path / "ours", "tokenizer": tmp_path / "tokenizer"}


@pytest.mark.parametrize("name", cases.IMAGE_SIZES)
def test_converting_for_another_image_size_gives_open_clips_model(checkpoint, name):
    size = cases.IMAGE_SIZES[name]
    convert_open_clip(**checkpoint, image_size=size)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint["output_dir"])
    processor = AutoProcessor.from_pretrained(checkpoint["output_dir"])
    height, width = (size, size) if isinstance(size, int) else size
    positions = model.model.vision_model.embeddings.position_embedding.weight
    torch.testing.assert_close(positions, RECORDED[f"resized/{name}/positions"], rtol=0, atol=1e-5)
    with torch.no_grad():
        features = model.get_image_features(recipe.images(2, height, width)).pooler_output
    features = torch.nn.functional.normalize(features, dim=-1)
    torch.testing.assert_close(features, RECORDED[f"resized/{name}/image_features"], rtol=0, atol=1e-5)
    assert processor(images=IMAGE, return_tensors="pt")["pixel_values"].shape[-2:] == (height, width)


@pytest.mark.parametrize("name", cases.IMAGE_SIZES)
def test_a_loaded_model_is_changed_as_a_converted_one_is(checkpoint, tmp_path, name):
    size = cases.IMAGE_SIZES[name]
    model = convert_open_clip(**checkpoint)
    processor = AutoProcessor.from_pretrained(checkpoint["output_dir"])
    change_image_size(model, size, processor)
    model.save_pretrained(tmp_path / "changed")
    again = CoCaForCaptioning.from_pretrained(tmp_path / "changed")
    height, width = (size, size) if isinstance(size, int) else size
    pixels = processor(images=IMAGE, return_tensors="pt")["pixel_values"]
    assert pixels.shape[-2:] == (height, width)
    torch.testing.assert_close(
        again.model.vision_model.embeddings.position_embedding.weight,
        RECORDED[f"resized/{name}/positions"],
        rtol=0,
        atol=1e-5,
    )
    assert again.generate(pixel_values=pixels, max_new_tokens=3).shape[0] == 1


def test_a_change_there_and_back_keeps_sizes_and_gradients(tmp_path):
    model = tiny_captioner()
    change_image_size(model, 24)
    change_image_size(model, (16, 16))
    assert model.get_image_features(torch.zeros(1, 3, 16, 16)).pooler_output.requires_grad
    assert model.model.vision_model.embeddings.position_embedding.weight.requires_grad


def test_a_folder_keeps_its_tokenizer_and_resizing_when_its_size_changes(tmp_path):
    folder = save_tiny_folder(tmp_path / "model")
    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor.resize_mode = "squash"
    change_image_size(CoCaForCaptioning.from_pretrained(folder), (8, 32), processor)
    processor.save_pretrained(tmp_path / "changed")
    again = AutoProcessor.from_pretrained(tmp_path / "changed")
    assert again.image_processor.resize_mode == "squash"
    assert again(images=IMAGE, return_tensors="pt")["pixel_values"].shape[-2:] == (8, 32)


def test_an_image_smaller_than_a_patch_is_refused_and_nothing_changes():
    model = tiny_captioner()
    with pytest.raises(ConversionError, match="image_size=3 is not possible"):
        change_image_size(model, 3)
    assert model.config.vision_config.image_size == 16
    assert model.get_image_features(torch.zeros(1, 3, 16, 16)).pooler_output.shape == (1, 12)


@pytest.mark.parametrize("size", [4, [24, 0], [24, 24, 24]])
def test_a_size_that_cannot_be_had_is_refused_in_the_words_of_the_file(checkpoint, size):
    with pytest.raises(ConversionError, match=r"vision_cfg.image_size"):
        convert_open_clip(**checkpoint, image_size=size)
    assert not checkpoint["output_dir"].exists()


def test_fixed_positions_are_not_resized(checkpoint):
    config = json.loads((checkpoint["source"] / "open_clip_config.json").read_text())["model_cfg"]
    fixed = recipe.variant(config, vision={"pos_embed_type": "sin_cos_2d"})
    with pytest.raises(ConversionError, match="fixed sine-cosine positions cannot be changed"):
        convert_open_clip(**checkpoint, config=fixed, image_size=40)
    with pytest.raises(ConversionError, match="fixed sine-cosine positions cannot be changed"):
        change_image_size(CoCaForCaptioning(open_clip_config(fixed)), 40)
