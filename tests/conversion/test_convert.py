# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""An open_clip checkpoint becomes a saved folder, and comes back bit for bit."""

import errno
import json
import os
import pickle
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

import coca_hf
from coca_hf.conversion import ConversionError, convert_open_clip, export_open_clip, open_clip_config
from coca_hf.conversion.weights import entries, to_open_clip
from coca_hf.modeling_coca import CoCaForCaptioning, CoCaModel, CoCaVisionModel
from coca_hf.tokenization_coca import read_merges, vocabulary_from_merges
from fixtures.open_clip import recipe
from fixtures.open_clip.recording import Recording
from hub_server import serve_repository
from tiny_folder import tiny_processor


VOCABULARY = 560
CONFIG = recipe.variant(
    text={"vocab_size": VOCABULARY, "context_length": 24}, multimodal={"vocab_size": VOCABULARY, "context_length": 24}
)
PREPROCESS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear", "resize_mode": "longest"}


def shapes_of(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """open_clip's parameters and their shapes, by our own table, which the parity tests hold to recorded names."""
    ours = open_clip_config(config)
    with torch.device("meta"):
        model = CoCaForCaptioning(ours)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    return {entry.theirs: entry.their_shape(shapes) for entry in entries(ours)}


def weights_of(config: dict[str, Any], dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {name: tensor.to(dtype) for name, tensor in recipe.state_dict(shapes_of(config)).items()}


def configuration(config: dict[str, Any] = CONFIG) -> dict[str, Any]:
    """The content of an open_clip_config.json."""
    return {"model_cfg": config, "preprocess_cfg": PREPROCESS}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory) -> Path:
    """A folder with a tokenizer.json of the tiny vocabulary."""
    folder = tmp_path_factory.mktemp("vocabulary")
    tiny_processor().tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(tmp_path, vocabulary) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", vocabulary)


def write_checkpoint(folder: Path, vocabulary: Path) -> Path:
    """A folder as open_clip pushes it to the Hub."""
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(configuration()))
    (folder / "tokenizer.json").write_bytes((vocabulary / "tokenizer.json").read_bytes())
    save_file(weights_of(CONFIG), folder / "open_clip_model.safetensors")
    return folder


def assert_has_the_weights(model: CoCaForCaptioning, weights: dict[str, torch.Tensor]) -> None:
    theirs = to_open_clip(entries(model.config), model.state_dict())
    assert theirs.keys() == weights.keys()
    assert all(torch.equal(theirs[name], weights[name]) for name in weights)


def assert_nothing_was_left(output: Path) -> None:
    assert not output.exists()
    assert [path.name for path in output.parent.iterdir() if path.name.startswith(f".{output.name}")] == []


def nested(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """A training checkpoint: open_clip_train saves such."""
    state = {f"module.{name}": tensor for name, tensor in weights.items()}
    return {"epoch": 3, "name": "run", "state_dict": state, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]}}


def save_with_module_name(content: Any, path: Path, old: str, new: str) -> None:
    """torch.save, with another name of a module in the pickle: numpy 1's for numpy 2's, or the other way round."""
    stored = BytesIO()
    torch.save(content, stored)
    with zipfile.ZipFile(stored) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(name, data.replace(old.encode(), new.encode()) if name.endswith("data.pkl") else data)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("open_clip_pytorch_model.bin", torch.save),
        ("epoch_3.pt", lambda weights, path: torch.save(nested(weights), path)),
        ("old.pth", lambda weights, path: torch.save(weights, path, _use_new_zipfile_serialization=False)),
        ("compiled.pt", lambda weights, path: torch.save({f"_orig_mod.{n}": t for n, t in weights.items()}, path)),
        (
            "both.safetensors",
            lambda weights, path: save_file({f"module._orig_mod.{n}": t for n, t in weights.items()}, path),
        ),
    ],
)
@pytest.mark.parametrize("as_folder", [True, False], ids=["folder", "file"])
def test_every_form_of_a_checkpoint_gives_its_weights(checkpoint, tmp_path, name, save, as_folder):
    weights = load_file(checkpoint / "open_clip_model.safetensors")
    (checkpoint / "open_clip_model.safetensors").unlink()
    save(weights, checkpoint / name)
    model = convert_open_clip(checkpoint if as_folder else checkpoint / name, tmp_path / "out")
    assert_has_the_weights(model, weights)


@pytest.mark.parametrize("number", [np.float64(1e-5), np.float32(1e-5), np.int64(3), np.bool_(True)], ids=repr)
@pytest.mark.parametrize("written_by_numpy", ["numpy.core", "numpy._core"])
def test_a_training_checkpoint_with_numpy_numbers_in_its_optimizer_is_read(
    checkpoint, tmp_path, number, written_by_numpy
):
    weights = load_file(checkpoint / "open_clip_model.safetensors")
    (checkpoint / "open_clip_model.safetensors").unlink()
    content = nested(weights) | {"scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 0}}
    content["optimizer"]["param_groups"][0]["lr"] = number
    save_with_module_name(
        content, checkpoint / "epoch_3.pt", "numpy._core.multiarray", f"{written_by_numpy}.multiarray"
    )
    assert_has_the_weights(convert_open_clip(checkpoint, tmp_path / "out"), weights)


def test_numpy_objects_that_are_no_numbers_are_refused(checkpoint, tmp_path):
    (checkpoint / "open_clip_model.safetensors").unlink()
    content = {"state_dict": {}, "optimizer": np.array([Malice(tmp_path / "executed")], dtype=object)}
    torch.save(content, checkpoint / "weights.pt")
    with pytest.raises(ConversionError, match="could run code hidden in it"):
        convert_open_clip(checkpoint, tmp_path / "out")
    assert not (tmp_path / "executed").exists()


CONVERT = """
import json, sys
from coca_hf.cli import main
print(json.dumps({name: main(["convert", name, f"out {number}"]) for number, name in enumerate(sys.argv[1:])}))
"""
ON_THE_HUB, NOT_THERE = ["someone/coca", "hf-hub:someone/coca"], "someone/else"


@dataclass(frozen=True)
class Conversions:
    folder: Path
    codes: dict[str, int]
    err: str


@pytest.fixture(scope="module")
def conversions(tmp_path_factory, vocabulary) -> Conversions:
    """Of all names in one process, but not in this one: huggingface_hub reads its settings when it is imported."""
    folder = tmp_path_factory.mktemp("hub")
    environment = {**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    with serve_repository("someone/coca", write_checkpoint(folder / "checkpoint", vocabulary)) as endpoint:
        command = [sys.executable, "-c", CONVERT, *ON_THE_HUB, NOT_THERE]
        environment["HF_ENDPOINT"] = endpoint
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return Conversions(folder, json.loads(done.stdout), done.stderr)


@pytest.mark.parametrize("name", ON_THE_HUB)
def test_a_hub_repository_is_fetched_and_converted(conversions, name):
    assert conversions.codes[name] == 0, conversions.err
    model = CoCaForCaptioning.from_pretrained(conversions.folder / f"out {ON_THE_HUB.index(name)}")
    assert_has_the_weights(model, weights_of(CONFIG))


def test_a_repository_that_the_hub_does_not_have_is_named(conversions):
    assert conversions.codes[NOT_THERE] == 1
    assert f"Cannot read the Hub repository '{NOT_THERE}'" in conversions.err
    assert "Traceback" not in conversions.err
    assert not (conversions.folder / "out 2").exists()


def test_a_hub_that_cannot_be_reached_is_said_to_be(tmp_path):
    with pytest.raises(ConversionError, match="someone/coca") as refusal:
        convert_open_clip("someone/coca", tmp_path / "out")
    assert "The Hub cannot be reached" in str(refusal.value)


@pytest.mark.parametrize("form", ["model_cfg", "configuration", "file", "file of a model_cfg"])
def test_weights_alone_are_converted_with_a_configuration_given(checkpoint, tmp_path, form):
    (checkpoint / "open_clip_config.json").unlink()
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG if form == "file of a model_cfg" else configuration()))
    given = {"model_cfg": CONFIG, "configuration": configuration()}.get(form, path)
    assert_has_the_weights(convert_open_clip(checkpoint, tmp_path / "out", config=given), weights_of(CONFIG))


def test_the_folder_is_complete_and_loads_by_every_auto_class(checkpoint, tmp_path):
    output = tmp_path / "out"
    convert_open_clip(checkpoint, output)
    names = {path.name for path in output.iterdir()}
    assert names >= {"config.json", "generation_config.json", "model.safetensors", "README.md"}
    assert names >= {"processor_config.json", "tokenizer.json", "tokenizer_config.json", "modeling_coca.py"}
    assert isinstance(AutoModelForImageTextToText.from_pretrained(output), CoCaForCaptioning)
    assert isinstance(AutoModel.from_pretrained(output), CoCaModel)
    processor = AutoProcessor.from_pretrained(output)
    assert processor.tokenizer("a photo").input_ids == tiny_processor().tokenizer("a photo").input_ids


def test_the_folder_captions_an_image_through_the_pipeline(checkpoint, tmp_path):
    convert_open_clip(checkpoint, tmp_path / "out")
    captioner = coca_hf.pipeline("image-to-text", model=tmp_path / "out", device="cpu")
    result = captioner(Image.new("RGB", (40, 30), "red"), generate_kwargs={"max_new_tokens": 5})
    assert isinstance(result[0]["generated_text"], str)


def test_captions_start_and_end_with_the_tokenizers_tokens(checkpoint, tmp_path):
    model, tokenizer = convert_open_clip(checkpoint, tmp_path / "out"), tiny_processor().tokenizer
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert (model.generation_config.bos_token_id, model.generation_config.eos_token_id) == ids[:2]
    assert model.generation_config.pad_token_id == ids[2]


def test_preprocessing_is_what_the_configuration_says(checkpoint, tmp_path):
    convert_open_clip(checkpoint, tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out").image_processor
    assert list(processor.image_mean) == PREPROCESS["mean"]
    assert list(processor.image_std) == PREPROCESS["std"]
    assert processor.resize_mode == "longest"
    assert processor.resample == Image.Resampling.BILINEAR
    assert dict(processor.size) == {"height": 24, "width": 24}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"meann": [0, 0, 0]}, "preprocess_cfg has no field 'meann'; the nearest is 'mean'"),
        ({"interpolation": "random"}, "preprocess_cfg.interpolation='random' is not one of 'bicubic', 'bilinear'"),
        ({"resize_mode": "crop"}, "preprocess_cfg.resize_mode='crop'"),
        ({"mode": "L"}, "preprocess_cfg.mode='L'"),
    ],
)
def test_preprocessing_that_cannot_be_had_is_refused(checkpoint, tmp_path, change, says):
    content = configuration() | {"preprocess_cfg": change}
    with pytest.raises(ConversionError, match=says):
        convert_open_clip(checkpoint, tmp_path / "out", config=content)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "name", ["base", "unpooled", "pooler_joint_projection", "proj_bias", "layer_scale", "mixture"]
)
def test_the_way_back_is_bit_for_bit(tmp_path, vocabulary, name, dtype):
    sizes = {"vocab_size": VOCABULARY}
    config = recipe.variant(recipe.CONFIGS[name], text=sizes, multimodal=sizes)
    weights = weights_of(config, dtype)
    save_file(weights, tmp_path / "weights.safetensors")
    model = convert_open_clip(tmp_path / "weights.safetensors", tmp_path / "out", configuration(config), vocabulary)
    export_open_clip(model, tmp_path / "back")
    back = load_file(tmp_path / "back" / "open_clip_model.safetensors")
    assert back.keys() == weights.keys()
    for key, tensor in weights.items():
        assert back[key].dtype == tensor.dtype
        assert torch.equal(back[key], tensor)
    content = json.loads((tmp_path / "back" / "open_clip_config.json").read_text())
    assert content["preprocess_cfg"] == PREPROCESS
    assert open_clip_config(content).to_dict() == open_clip_config(config).to_dict()


@pytest.mark.parametrize("shape", [(), (1,)], ids=["scalar", "one_element"])
def test_the_scale_goes_back_in_the_checkpoints_shape(checkpoint, tmp_path, shape):
    weights = weights_of(CONFIG)
    weights["logit_scale"] = weights["logit_scale"].reshape(shape)
    save_file(weights, checkpoint / "open_clip_model.safetensors")
    model = convert_open_clip(checkpoint, tmp_path / "out")
    assert model.model.logit_scale.shape == (1,)
    export_open_clip(model, tmp_path / "back")
    assert torch.equal(
        load_file(tmp_path / "back" / "open_clip_model.safetensors")["logit_scale"], weights["logit_scale"]
    )


def test_tensors_of_different_types_are_loaded_in_the_widest(checkpoint, tmp_path):
    weights = {
        n: t.half() if t.ndim > 1 else t for n, t in weights_of(CONFIG).items()
    }  # as open_clip's precision="fp16"
    save_file(weights, checkpoint / "open_clip_model.safetensors")
    model = convert_open_clip(checkpoint, tmp_path / "out")
    assert_has_the_weights(model, {name: tensor.float() for name, tensor in weights.items()})


def changed(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """The weights with some replaced, added or, where None, taken away; "__" stands for "."."""
    named = {name.replace("__", "."): tensor for name, tensor in changes.items()}
    return {name: tensor for name, tensor in (weights_of(CONFIG) | named).items() if tensor is not None}


class Malice:
    """Leaves a trace when its pickle is executed."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


BROKEN = {
    "a tensor is missing": (changed(text__cls_emb=None), "lacks text.cls_emb"),
    "several are missing": (
        {name: t for name, t in weights_of(CONFIG).items() if not name.startswith("text_decoder.")},
        r"lacks text_decoder.resblocks.0.ln_1.weight, .* and \d+ more",
    ),
    "a tensor is left over": (changed(visual__extra=torch.zeros(3)), "has, beyond what .* describes, visual.extra"),
    "a tensor has another shape": (
        changed(visual__proj=torch.zeros(32, 31)),
        r"has in another shape visual.proj \(32, 31\), expected \(32, 32\)",
    ),
    "a bias is there that the configuration does not have": (changed(logit_bias=torch.zeros(())), "logit_bias"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_weights_that_do_not_fit_stop_the_conversion_by_name(checkpoint, tmp_path, case):
    weights, says = BROKEN[case]
    save_file(weights, checkpoint / "open_clip_model.safetensors")
    with pytest.raises(ConversionError, match=says) as caught:
        convert_open_clip(checkpoint, tmp_path / "out")
    assert "open_clip_model.safetensors" in str(caught.value)
    assert_nothing_was_left(tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("weights.safetensors", b"", "is no readable safetensors file"),
        ("weights.safetensors", b"\x10\0\0\0\0\0\0\0{ not json      ", "is no readable safetensors file"),
        ("weights.bin", b"", "is no readable PyTorch checkpoint"),
        ("weights.bin", b"PK\x03\x04 cut off", "is no readable PyTorch checkpoint"),
        ("weights.pt", b"no pickle at all", "holds more than tensors and numbers, or is no checkpoint"),
        ("weights.pt", pickle.dumps([1, 2], protocol=2), "is no readable PyTorch checkpoint|more than tensors"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(checkpoint, tmp_path, name, content, says):
    (checkpoint / "open_clip_model.safetensors").unlink()
    (checkpoint / name).write_bytes(content)
    with pytest.raises(ConversionError, match=says) as caught:
        convert_open_clip(checkpoint, tmp_path / "out")
    assert name in str(caught.value)
    assert_nothing_was_left(tmp_path / "out")


@pytest.mark.parametrize("nest", [lambda x: x, lambda x: {"state_dict": {"visual.proj": x}}], ids=["bare", "nested"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(checkpoint, tmp_path, nest):
    trace = tmp_path / "executed"
    (checkpoint / "open_clip_model.safetensors").unlink()
    torch.save(nest(Malice(trace)), checkpoint / "weights.pt")
    with pytest.raises(ConversionError, match="could run code hidden in it, so it is refused"):
        convert_open_clip(checkpoint, tmp_path / "out")
    assert not trace.exists()
    assert_nothing_was_left(tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"state_dict": {"visual.proj": 3}}, "its entry 'visual.proj' is a int"),
        ({"epoch": 1}, "its entry 'epoch' is a int"),
        ([torch.zeros(1)], "it is a list"),
        ({}, "it is a dict"),
    ],
)
def test_a_checkpoint_of_something_else_is_told_apart(checkpoint, tmp_path, content, says):
    (checkpoint / "open_clip_model.safetensors").unlink()
    torch.save(content, checkpoint / "weights.pt")
    with pytest.raises(ConversionError, match=says):
        convert_open_clip(checkpoint, tmp_path / "out")


def test_sine_cosine_positions_of_another_make_are_refused(tmp_path, vocabulary):
    config = recipe.variant(CONFIG, vision={"pos_embed_type": "sin_cos_2d"})
    save_file(weights_of(config), tmp_path / "weights.safetensors")
    with pytest.raises(ConversionError, match=r"another visual.positional_embedding than the sine-cosine table"):
        convert_open_clip(tmp_path / "weights.safetensors", tmp_path / "out", config, vocabulary)


def test_recorded_sine_cosine_positions_are_accepted(tmp_path, vocabulary):
    sizes = {"vocab_size": VOCABULARY}
    config = recipe.variant(recipe.CONFIGS["sin_cos"], text=sizes, multimodal=sizes)
    recording = Recording(Path(recipe.__file__).parent / "models" / "sin_cos.safetensors")
    weights = weights_of(config) | {"visual.positional_embedding": recording["frozen.visual.positional_embedding"]}
    save_file(weights, tmp_path / "weights.safetensors")
    model = convert_open_clip(tmp_path / "weights.safetensors", tmp_path / "out", config, vocabulary)
    assert_has_the_weights(model, weights)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"source": "nowhere"}, "Nothing at 'nowhere'"),
        ({"config": "coca_ViT-B-23"}, "No configuration 'coca_ViT-B-23': .* coca_ViT-B-32, coca_ViT-L-14, coca_base"),
        ({"tokenizer": "no tokenizer"}, "No tokenizer at 'no tokenizer'"),
    ],
)
def test_wrong_arguments_are_refused(checkpoint, tmp_path, arguments, says):
    with pytest.raises(ConversionError, match=says):
        convert_open_clip(**{"source": checkpoint, "output_dir": tmp_path / "out", **arguments})
    assert_nothing_was_left(tmp_path / "out")


def test_weights_without_configuration_ask_for_one(checkpoint, tmp_path):
    (checkpoint / "open_clip_config.json").unlink()
    with pytest.raises(ConversionError, match=r"has no open_clip_config.json. Say which model it is: coca_ViT-B-32"):
        convert_open_clip(checkpoint, tmp_path / "out")


def test_weights_without_tokenizer_ask_for_one(checkpoint, tmp_path):
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(ConversionError, match=r"No tokenizer beside the weights. Give one"):
        convert_open_clip(checkpoint, tmp_path / "out")


def test_a_folder_without_weights_is_named(tmp_path):
    with pytest.raises(ConversionError, match="No weights in"):
        convert_open_clip(tmp_path, tmp_path / "out")


def test_a_folder_with_several_unknown_weights_asks_which(tmp_path):
    for name in ("epoch_1.pt", "epoch_2.pt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ConversionError, match=r"Several weights files in .*: epoch_1.pt, epoch_2.pt"):
        convert_open_clip(tmp_path, tmp_path / "out")


def test_a_tokenizer_larger_than_the_models_vocabulary_is_refused(tmp_path, vocabulary):
    save_file(weights_of(recipe.BASE_CONFIG), tmp_path / "weights.safetensors")
    clip = Path(recipe.__file__).parents[1] / "processing" / "clip_merges.txt.gz"
    with pytest.raises(ConversionError, match="has ids up to 49407, but the model's vocabulary ends at 63"):
        convert_open_clip(tmp_path / "weights.safetensors", tmp_path / "out", recipe.BASE_CONFIG, clip)


CLIP_MERGES = Path(recipe.__file__).parents[1] / "processing" / "clip_merges.txt.gz"
CLIP_SIZED = recipe.variant(text={"vocab_size": 49408}, multimodal={"vocab_size": 49408})


def as_vocabulary_file(folder: Path) -> dict[str, Any]:
    return {"tokenizer": CLIP_MERGES}


def as_clip_repository(folder: Path) -> dict[str, Any]:
    """A tokenizer.json of OpenAI's repositories: the same merges, other names of the special tokens."""
    merges = read_merges(CLIP_MERGES)
    vocabulary = vocabulary_from_merges(merges, ["<|startoftext|>", "<|endoftext|>"])
    model = {"type": "BPE", "vocab": vocabulary, "merges": [" ".join(pair) for pair in merges]}
    (folder / "clip").mkdir()
    (folder / "clip" / "tokenizer.json").write_text(json.dumps({"model": model}))
    return {"tokenizer": folder / "clip"}


def as_file_beside_the_weights(folder: Path) -> dict[str, Any]:
    (folder / "bpe_simple_vocab_16e6.txt.gz").write_bytes(CLIP_MERGES.read_bytes())
    return {}


@pytest.mark.parametrize("place", [as_vocabulary_file, as_clip_repository, as_file_beside_the_weights])
def test_clips_vocabulary_is_taken_wherever_it_lies(tmp_path, place):
    save_file(weights_of(CLIP_SIZED), tmp_path / "weights.safetensors")
    model = convert_open_clip(tmp_path / "weights.safetensors", tmp_path / "out", CLIP_SIZED, **place(tmp_path))
    tokenizer = AutoProcessor.from_pretrained(tmp_path / "out").tokenizer
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer.model_max_length == 12
    assert (model.generation_config.bos_token_id, model.generation_config.eos_token_id) == (49406, 49407)


def test_the_vocabulary_of_an_installed_open_clip_is_the_last_resort(tmp_path, monkeypatch):
    as_file_beside_the_weights(tmp_path)
    installed = ModuleSpec("open_clip", None, is_package=True)
    installed.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: installed)
    (tmp_path / "weights").mkdir()
    save_file(weights_of(CLIP_SIZED), tmp_path / "weights" / "weights.safetensors")
    convert_open_clip(tmp_path / "weights", tmp_path / "out", CLIP_SIZED)
    assert AutoProcessor.from_pretrained(tmp_path / "out").tokenizer("cat").input_ids == [49406, 2368, 49407]


@pytest.mark.parametrize("content", ["{", "{}", '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": 3}}'])
def test_a_tokenizer_that_cannot_be_read_is_named(checkpoint, tmp_path, content):
    (checkpoint / "tokenizer.json").write_text(content)
    with pytest.raises(ConversionError, match=r"Cannot read the tokenizer '.*tokenizer.json'"):
        convert_open_clip(checkpoint, tmp_path / "out")


def test_a_vocabulary_file_of_something_else_is_named(checkpoint, tmp_path):
    (tmp_path / "vocab.txt").write_text("a b\n")
    with pytest.raises(
        ConversionError, match=r"Cannot read the tokenizer '.*vocab.txt': .* is not open_clip's vocabulary"
    ):
        convert_open_clip(checkpoint, tmp_path / "out", tokenizer=tmp_path / "vocab.txt")


def test_an_output_folder_with_something_in_it_is_left_alone(checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ConversionError, match="is there already"):
        convert_open_clip(checkpoint, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_an_empty_output_folder_is_filled(checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    convert_open_clip(checkpoint, tmp_path / "out")
    assert (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ConversionError("Cannot write '.*out': .*No space left")),
        (SafetensorError("I/O error: No space left"), ConversionError("Cannot write '.*out': .*No space left")),
        (KeyboardInterrupt("now"), KeyboardInterrupt("now")),
        (ZeroDivisionError("a mistake of ours"), ZeroDivisionError("a mistake of ours")),
    ],
)
def test_a_conversion_that_fails_while_writing_leaves_nothing(checkpoint, tmp_path, failure, raised):
    with (
        mock.patch("coca_hf.conversion.convert.write_card", side_effect=failure),
        pytest.raises(type(raised), match=str(raised)),
    ):
        convert_open_clip(checkpoint, tmp_path / "out")
    assert_nothing_was_left(tmp_path / "out")


def test_the_checkpoint_may_go_once_it_is_converted(checkpoint, tmp_path):
    model = convert_open_clip(checkpoint, tmp_path / "out")
    weights = checkpoint / "open_clip_model.safetensors"
    weights.write_bytes(b"\0" * weights.stat().st_size)
    assert_has_the_weights(model, weights_of(CONFIG))


PEAK = """
import sys
from pathlib import Path
import torch
from coca_hf.conversion import convert, convert_open_clip  # what importing costs is not the conversion's

def peak_bytes():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

torch.set_num_threads(1)
source, output, tokenizer = sys.argv[1:]
before = peak_bytes()
convert_open_clip(source, output, tokenizer=tokenizer)
print(peak_bytes() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "epoch_1.pt"])
def test_memory_stays_below_twice_the_checkpoint(tmp_path, vocabulary, name):
    # Most of it in the vocabulary's two matrices, one of which has to be transposed: the worst case.
    large = {"vocab_size": 1_000_000}
    config = recipe.variant(CONFIG, text=large, multimodal=large)
    weights = {n: torch.zeros(shape, dtype=torch.float32) for n, shape in shapes_of(config).items()}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    torch.save(nested(weights), tmp_path / name) if name.endswith(".pt") else save_file(weights, tmp_path / name)
    size = sum(tensor.numel() * 4 for tensor in weights.values())
    command = [sys.executable, "-c", PEAK, str(tmp_path / name), str(tmp_path / "out"), str(vocabulary)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(finished.stdout) < 2 * size


def test_a_model_without_decoder_has_no_way_back(tmp_path):
    towers = CoCaModel(open_clip_config(recipe.BASE_CONFIG))
    with pytest.raises(ConversionError, match="A CoCaModel has no decoder"):
        export_open_clip(towers, tmp_path / "back")


def test_a_model_that_was_not_loaded_goes_back_with_open_clips_preprocessing(tmp_path):
    export_open_clip(CoCaForCaptioning(open_clip_config(recipe.BASE_CONFIG)), tmp_path / "back")
    content = json.loads((tmp_path / "back" / "open_clip_config.json").read_text())
    assert content["preprocess_cfg"]["mean"] == pytest.approx([0.48145466, 0.4578275, 0.40821073])
    assert content["preprocess_cfg"]["interpolation"] == "bicubic"


def test_preprocessing_that_open_clip_does_not_have_stops_the_way_back(checkpoint, tmp_path):
    model = convert_open_clip(checkpoint, tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out").image_processor
    processor.do_normalize = False
    with pytest.raises(ConversionError, match="do_normalize=False"):
        export_open_clip(model, tmp_path / "back", processor)
    assert_nothing_was_left(tmp_path / "back")


@pytest.mark.parametrize("model_class", [CoCaModel, CoCaForCaptioning, CoCaVisionModel])
def test_loading_an_open_clip_folder_directly_says_which_command_to_run(checkpoint, model_class):
    with pytest.raises(OSError, match=f"coca-hf convert {checkpoint} FOLDER"):
        model_class.from_pretrained(checkpoint)
