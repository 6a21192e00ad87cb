# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints with Apple's file names and without a tokenizer: from a folder, a file, and the Hub."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoProcessor

from coca_hf.conversion import ConversionError, convert_open_clip, open_clip_config
from coca_hf.conversion.weights import entries
from coca_hf.modeling_coca import CoCaForCaptioning
from coca_hf.tokenization_coca import read_merges, vocabulary_from_merges
from fixtures.open_clip import recipe
from hub_server import serve_hub


CLIP_MERGES = Path(recipe.__file__).parents[1] / "processing" / "clip_merges.txt.gz"
APPLE = "apple/mobileclip2_coca_dfn2b_s13b_docci_s12m_context128"
CLIP = "openai/clip-vit-large-patch14"
CONFIG = recipe.variant(
    text={"vocab_size": 49408, "context_length": 20}, multimodal={"vocab_size": 49408, "context_length": 20}
)


def write_apple_repository(folder: Path) -> Path:
    """A training checkpoint beside a `config.json` that is a bare model_cfg."""
    folder.mkdir()
    config = open_clip_config(CONFIG)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in CoCaForCaptioning(config).state_dict().items()}
    weights = recipe.state_dict({entry.theirs: entry.their_shape(shapes) for entry in entries(config)})
    torch.save(weights, folder / "mobileclip2_coca.pt")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def write_clip_repository(folder: Path) -> Path:
    folder.mkdir()
    merges = read_merges(CLIP_MERGES)
    vocabulary = vocabulary_from_merges(merges, ["<|startoftext|>", "<|endoftext|>"])
    model = {"type": "BPE", "vocab": vocabulary, "merges": [" ".join(pair) for pair in merges]}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model}))
    return folder


@pytest.mark.parametrize("name", ["", "mobileclip2_coca.pt"], ids=["folder", "file"])
def test_a_download_of_apples_is_converted(tmp_path, name):
    folder = write_apple_repository(tmp_path / "theirs")
    model = convert_open_clip(folder / name, tmp_path / "ours", tokenizer=CLIP_MERGES)
    processor = AutoProcessor.from_pretrained(tmp_path / "ours")
    assert processor.tokenizer.model_max_length == model.config.text_config.max_position_embeddings == 20
    assert list(processor.image_processor.image_mean) == pytest.approx([0.48145466, 0.4578275, 0.40821073])


def test_a_config_of_transformers_is_not_taken_for_a_model_cfg(tmp_path):
    folder = write_apple_repository(tmp_path / "theirs")
    (folder / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ConversionError, match="Say which model it is"):
        convert_open_clip(folder, tmp_path / "ours", tokenizer=CLIP_MERGES)


def test_without_network_a_tokenizer_is_asked_for(tmp_path):
    folder = write_apple_repository(tmp_path / "theirs")
    with pytest.raises(ConversionError, match=r"CLIP's cannot be had from the Hub. Give one: the vocabulary file"):
        convert_open_clip(folder, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    "asked",
    [{"tokenizer_kwargs": {"clean": "canonicalize"}}, {"tokenizer_mode": "clips"}],
    ids=lambda asked: next(iter(asked)),
)
def test_a_tokenizer_that_treats_texts_otherwise_is_refused(tmp_path, asked):
    folder = write_apple_repository(tmp_path / "theirs")
    config = recipe.variant(CONFIG, text=asked)
    with pytest.raises(ConversionError, match=f"text_cfg.{next(iter(asked))}=.* asks for other tokens"):
        convert_open_clip(folder, tmp_path / "ours", config, CLIP_MERGES)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def command(folder: Path, endpoint: str, *arguments: str) -> Any:
    """`coca-hf convert` in a process of its own, with that Hub."""
    environment = {**os.environ, "HF_HOME": str(folder / "home"), "HF_ENDPOINT": endpoint}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    program = [sys.executable, "-c", "import coca_hf_command; coca_hf_command.main()", "convert", *arguments]
    return subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", ["mobileclip2_coca.pt", f"{APPLE.partition('/')[2]}.pt"])
def test_apples_repository_is_converted_from_the_hub_with_clips_tokenizer_and_its_license(tmp_path, name):
    folder = write_apple_repository(tmp_path / "apple")
    (folder / "mobileclip2_coca.pt").rename(folder / name)
    with serve_hub() as hub:
        hub.add(APPLE, contents(folder))
        hub.add(CLIP, contents(write_clip_repository(tmp_path / "clip")))
        result = command(tmp_path, hub.endpoint, APPLE, "ours")
    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    assert lines[0] == f"coca-hf convert: The tokenizer is CLIP's, from {CLIP} on the Hub."
    assert len(lines) == 2
    assert AutoProcessor.from_pretrained(tmp_path / "ours").tokenizer("cat").input_ids == [49406, 2368, 49407]
    card = ModelCard.load(tmp_path / "ours" / "README.md")
    assert (card.data.license, card.data.base_model) == ("apple-amlr", APPLE)
    assert "For research only" in card.text
