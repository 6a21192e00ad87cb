# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A model that cannot be used is refused in one line, most of the time before torch is imported."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from coca_hf import CoCaModel
from coca_hf.batch_inference.errors import ModelError
from coca_hf.batch_inference.models import (
    ModelChoice,
    check_device,
    check_model,
    fingerprint,
    load_config,
    load_model,
    load_processor,
)
from tiny_folder import save_tiny_folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save_tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def change_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name, change in changes.items():
        config[name] = {**config[name], **change} if isinstance(change, dict) else change
    path.write_text(json.dumps(config))


def test_a_saved_folder_is_a_model(saved):
    check_model(str(saved), captions=True)


@pytest.mark.parametrize("name", ["owner/name", "laion/CoCa-ViT-B-32-laion2B-s13B-b90k"])
def test_a_hub_id_is_believed(name):
    check_model(name, captions=True)


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "/no/where", "a/b/c", "a/b c", "", "../model"])
def test_a_name_that_is_neither_a_folder_nor_a_hub_id_is_refused(name):
    with pytest.raises(ModelError, match="no model at"):
        check_model(name, captions=False)


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model").touch()
    with pytest.raises(ModelError, match="is a file"):
        check_model(str(tmp_path / "model"), captions=False)


def test_a_folder_without_configuration_is_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"has no config.json"):
        check_model(str(tmp_path), captions=False)


def test_an_open_clip_checkpoint_is_told_from_others(tmp_path):
    (tmp_path / "open_clip_config.json").touch()
    with pytest.raises(ModelError, match="convert it"):
        check_model(str(tmp_path), captions=False)


@pytest.mark.parametrize(
    ("text", "reason"), [("{", "is not valid JSON"), ("[]", "is not a model's configuration"), ("{}", "of type None")]
)
def test_a_configuration_that_cannot_be_read_is_refused(folder, text, reason):
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=reason):
        check_model(str(folder), captions=False)


def test_another_kind_of_model_is_refused(folder):
    change_config(folder, model_type="clip")
    with pytest.raises(ModelError, match="of type 'clip', not 'coca'"):
        check_model(str(folder), captions=False)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"multimodal_config": {"num_hidden_layers": 0}}, "has no decoder"),
        ({"architectures": ["CoCaModel"]}, "has no decoder"),
        ({"text_config": {"is_causal": False}}, "reads text in both directions"),
    ],
)
def test_towers_alone_are_refused_for_captions_only(folder, changes, reason):
    change_config(folder, **changes)
    check_model(str(folder), captions=False)
    with pytest.raises(ModelError, match=reason):
        check_model(str(folder), captions=True)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12", "mps", "xpu:1"])
def test_devices_by_their_names(device):
    check_device(device)


@pytest.mark.parametrize("device", ["gpu", "", "cuda:", "cuda:x", "cpu:1", "cuda:0,1"])
def test_other_words_are_no_devices(device):
    with pytest.raises(ModelError, match="no such device"):
        check_device(device)


@pytest.mark.parametrize("device", ["cuda", "mps", "xpu", "cuda:7"])
def test_a_device_that_is_not_there_is_refused_before_the_weights_are_read(tmp_path, monkeypatch, device):
    for module in (torch.cuda, torch.backends.mps, torch.xpu):
        monkeypatch.setattr(module, "is_available", lambda: False)
    with pytest.raises(ModelError, match=f"there is no {device.split(':')[0]} device here"):
        load_model(ModelChoice(str(tmp_path), device), "towers")


def test_a_device_number_beyond_the_last_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ModelError, match="there is no device cuda:2: cuda has 2 here"):
        load_model(ModelChoice(str(tmp_path), "cuda:2"), "towers")


def test_the_first_accelerator_that_is_there_is_taken(monkeypatch):
    from coca_hf.batch_inference.models import _available

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert _available("auto") == torch.device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert _available("auto") == torch.device("cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["towers", "captioner"])
def test_a_model_is_loaded_in_the_type_asked_for(saved, kind, dtype):
    model = load_model(ModelChoice(str(saved), "cpu", dtype), kind)
    assert model.dtype == getattr(torch, dtype)
    assert not model.training


def test_damaged_weights_are_named(folder):
    (folder / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(ModelError, match=f"^the weights in '{folder}/model.safetensors' are damaged"):
        load_model(ModelChoice(str(folder), "cpu"), "towers")


def test_weights_that_may_not_be_read_are_one_line(folder, monkeypatch):
    def refuse(path, *arguments, **options):
        if str(path).endswith(".safetensors"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    opened = open
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ModelError, match=r"^cannot read '\S+model.safetensors': permission denied$"):
        fingerprint(str(folder))


class Code:
    def __reduce__(self):
        return print, ("this was run",)


def test_a_pickle_with_code_in_it_is_refused_in_one_sentence_and_not_run(folder, capsys):
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Code()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"^the weights in '\S+' are a pickle that holds more than weights[^\n]+$"):
        load_model(ModelChoice(str(folder), "cpu"), "towers")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("cards", "rank", "device"), [(8, "3", "cuda:3"), (1, "3", "cuda:0"), (2, "", "cuda")])
def test_a_process_of_several_takes_a_card_that_it_sees(monkeypatch, cards, rank, device):
    from coca_hf.batch_inference.models import _available

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert _available("auto") == torch.device(device)


def test_the_exact_way_is_that_of_the_model_as_it_is(saved):
    exact = load_model(ModelChoice(str(saved), "cpu", "float32"), "towers")
    fast = load_model(ModelChoice(str(saved), "cpu"), "towers")
    assert exact.inference_words == "float32 on cpu"
    assert fast.inference_words == "float32 with packed weights on cpu"
    pixel_values = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        pooled = [model.get_image_features(pixel_values=pixel_values).pooler_output for model in (exact, fast)]
    torch.testing.assert_close(*pooled, rtol=0, atol=1e-5)


def test_missing_weights_are_named(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_model(ModelChoice(str(folder), "cpu"), "towers")


def test_an_invalid_configuration_is_named_with_its_reason(folder):
    change_config(folder, projection_dim=-1)
    with pytest.raises(ModelError, match="projection_dim"):
        load_config(ModelChoice(str(folder)))


def test_a_hub_id_that_is_nowhere_is_one_line():
    with pytest.raises(ModelError, match=r"^cannot load the model 'nobody/nothing': [^\n]+$"):
        load_config(ModelChoice("nobody/nothing"))


def test_weights_without_a_decoder_are_not_filled_up_with_random_numbers(folder, tmp_path):
    CoCaModel.from_pretrained(folder).save_pretrained(tmp_path / "towers")
    choice = ModelChoice(str(tmp_path / "towers"), "cpu")
    load_model(choice, "towers")
    with pytest.raises(ModelError, match=r"do not fit its config.json: are not there: decoder\.\S+ and \d+ more$"):
        load_model(choice, "captioner")


def test_weights_of_another_size_are_not_replaced_by_random_numbers(folder):
    width = {"projection_dim": 10}
    change_config(folder, **width, vision_config=width, text_config=width)
    with pytest.raises(ModelError, match=r"have another size: \S*projection"):
        load_model(ModelChoice(str(folder), "cpu"), "towers")


def test_a_folder_without_a_vocabulary_is_incomplete(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer.json"):
        load_processor(ModelChoice(str(folder)))


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"model": {"type": "BPE"}}'])
def test_a_damaged_vocabulary_is_named(folder, text):
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(ModelError, match=r"^'\S+/tokenizer.json' is not a valid tokenizer: [^\n]+$"):
        load_processor(ModelChoice(str(folder)))
