# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf convert`: a checkpoint becomes a folder that the other commands take, or one line says why not."""

from pathlib import Path

import pytest
from transformers.utils import logging

from coca_hf.conversion import export_open_clip
from coca_hf.modeling_coca import CoCaForCaptioning


@pytest.fixture(autouse=True)
def no_bars():
    """The command switches them off, but not for a whole test run."""
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.fixture
def checkpoint(folder, model) -> Path:
    """The tiny model as open_clip would have saved it, under `theirs/`."""
    captioner = CoCaForCaptioning.from_pretrained(model)
    # open_clip's decoder has no other ratio, and its image tokens no other width.
    config = captioner.config.to_dict()
    config["vision_config"]["pooler_hidden_size"] = config["text_config"]["hidden_size"]
    config["multimodal_config"]["cross_attention_hidden_size"] = config["text_config"]["hidden_size"]
    config["multimodal_config"]["intermediate_size"] = 4 * config["text_config"]["hidden_size"]
    for part in (config, config["vision_config"], config["text_config"]):
        part["projection_dim"] = config["text_config"]["hidden_size"]
    export_open_clip(CoCaForCaptioning(type(captioner.config).from_dict(config)), folder / "theirs")
    return folder / "theirs"


def test_a_converted_checkpoint_captions_images(coca, checkpoint, images, model):
    result = coca("convert", "theirs", "ours", "--tokenizer", model)
    assert (result.code, result.out) == (0, "")
    assert result.err.startswith("coca-hf convert: ")
    assert result.err.endswith(" parameters are in ours\n")
    captioned = coca("caption", "photos", "--model", "ours", "--max-new-tokens", "3", "--quiet")
    assert captioned.code == 0
    assert len(captioned.out.splitlines()) == 3


def test_quiet_says_nothing(coca, checkpoint, model):
    result = coca("convert", "theirs", "ours", "--tokenizer", model, "--quiet")
    assert (result.code, result.out, result.err) == (0, "", "")


@pytest.mark.parametrize(("size", "pixels"), [("24", (24, 24)), ("8x32", (8, 32))])
def test_a_checkpoint_is_converted_for_another_image_size(coca, checkpoint, images, model, size, pixels):
    assert coca("convert", "theirs", "ours", "--tokenizer", model, "--image-size", size).code == 0
    config = CoCaForCaptioning.from_pretrained("ours").config.vision_config
    assert config.grid_size == (pixels[0] // config.patch_size, pixels[1] // config.patch_size)
    assert coca("caption", "photos", "--model", "ours", "--max-new-tokens", "3", "--quiet").code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["theirs", "ours", "--image-size", "big"], "image-size big is not allowed: give 336, or 336x448"),
        (["theirs", "ours", "--image-size", "0x8"], "image-size 0x8 is not allowed"),
        (["nowhere", "ours"], "Nothing at 'nowhere'"),
        (["theirs", "photos"], "'photos' is there already"),
        (["theirs", "ours", "--config", "coca"], "No configuration 'coca'"),
        (["theirs", "ours", "--tokenizer", "none such"], "No tokenizer at 'none such'"),
        (["theirs"], "OUTPUT"),
    ],
)
def test_a_usage_error_is_one_line_before_anything_is_read(coca, checkpoint, images, monkeypatch, arguments, says):
    monkeypatch.setattr("coca_hf.conversion.convert.convert_open_clip", lambda *_: pytest.fail("it was read"))
    result = coca("convert", *arguments)
    assert result.code == 2
    assert says in result.err
    assert len(result.err.splitlines()) == 1
    assert not Path("ours").exists()


def test_a_broken_checkpoint_is_one_line_and_leaves_nothing(coca, checkpoint, model):
    (checkpoint / "open_clip_model.safetensors").write_bytes(b"")
    result = coca("convert", "theirs", "ours", "--tokenizer", model)
    assert result.code == 1
    assert result.err.startswith(
        "coca-hf convert: 'theirs/open_clip_model.safetensors' is no readable safetensors file"
    )
    assert len(result.err.splitlines()) == 1
    assert [path.name for path in Path().iterdir()] == ["theirs"]
