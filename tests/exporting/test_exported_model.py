# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""An exported folder gives what the model gives that it was exported from: token for token, and within 1e-5."""

import json
import shutil

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

import coca_hf
from coca_hf.app.models import PageModel
from coca_hf.batch_inference.errors import ModelError
from coca_hf.batch_inference.jobs import CaptionOptions
from coca_hf.batch_inference.models import ModelChoice
from coca_hf.cli import main


@pytest.fixture(scope="session")
def model(exported):
    return coca_hf.load(exported)


@pytest.fixture(scope="session")
def plain():
    return coca_hf.load(coca_hf.bundled_model(), dtype="float32")


@pytest.fixture(scope="session")
def processor(exported):
    return AutoProcessor.from_pretrained(exported)


@pytest.fixture(scope="session")
def images(processor):
    """More than one, and another number than programs are traced with."""
    pictures = [Image.open(path) for path in coca_hf.example_images()[:5]]
    return processor(images=pictures, return_tensors="pt")["pixel_values"]


PROMPTS = ["a", "two small red circles on a", "", "there are", "three yellow stars"]
WAYS = {
    "greedy": {},
    "beams": {"num_beams": 4, "num_return_sequences": 2},
    "groups of beams": {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.5},
    "sampling": {"do_sample": True, "top_p": 0.9},
    "contrast of words": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    "lookup of the prompt": {"prompt_lookup_num_tokens": 2},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("prompts", [None, PROMPTS], ids=["start token", "prompts of several lengths"])
def test_captions_are_those_of_pytorch_token_for_token(model, plain, processor, images, way, prompts):
    number = 1 if "prompt_lookup_num_tokens" in way else 5
    inputs = {"pixel_values": images[:number]}
    if prompts is not None:
        inputs |= processor(text=prompts[:number], padding=True, return_tensors="pt")
    ids = []
    for each in (model, plain):
        torch.manual_seed(0)
        ids.append(each.generate(**inputs, **way))
    assert torch.equal(*ids)


def test_an_encoded_image_is_captioned_without_its_pixels(model, plain, images):
    encoded = model.encode_images(images)
    outputs = model.generate(encoded_images=encoded, num_beams=3, return_dict_in_generate=True, output_logits=True)
    expected = plain.generate(pixel_values=images, num_beams=3, return_dict_in_generate=True, output_logits=True)
    assert torch.equal(outputs.sequences, expected.sequences)
    torch.testing.assert_close(outputs.image_embeds, expected.image_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(outputs.logits, expected.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("number", [1, 4])
def test_features_of_images_are_those_of_pytorch(model, plain, images, number):
    found, expected = (each.get_image_features(pixel_values=images[:number]) for each in (model, plain))
    for name in ("pooler_output", "image_tokens", "last_hidden_state"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masked", [True, False])
def test_features_of_texts_are_those_of_pytorch(model, plain, processor, masked):
    texts = processor(text=["a red circle", "a", "four small blue hearts"], padding=True, return_tensors="pt")
    inputs = dict(texts) if masked else {"input_ids": texts["input_ids"]}
    found, expected = (each.get_text_features(**inputs) for each in (model, plain))
    torch.testing.assert_close(found.pooler_output, expected.pooler_output, rtol=1e-5, atol=1e-5)
    embeds = torch.nn.functional.normalize(found.pooler_output, dim=-1)
    torch.testing.assert_close(model.similarity(embeds, embeds), plain.similarity(embeds, embeds))


def test_texts_are_scored_as_by_pytorch(model, plain, processor, images):
    texts = processor(text=PROMPTS, padding=True, return_tensors="pt")
    found, expected = (each(pixel_values=images, **texts, logits_to_keep=2) for each in (model, plain))
    assert found.logits.shape[1] == 2
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=2e-5)


def test_the_folder_says_what_it_is_and_from_what(exported):
    manifest = json.loads((exported / "coca_export.json").read_text())
    assert manifest["format"] == "onnx"
    assert len(manifest["source"]["fingerprint"]) == 16
    assert max(manifest["differences"].values()) <= 1e-5
    assert "coca_hf.load" in (exported / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output_attentions": True}, "output_attentions is not there in an exported model"),
        ({"pixel_values": torch.zeros(1, 3, 40, 40)}, r"channels, 80, 80\) only"),
    ],
)
def test_what_no_program_computes_is_refused(model, images, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.get_image_features(**{"pixel_values": images, **arguments})


def test_the_command_takes_an_exported_folder(exported, capsys, tmp_path):
    pictures = [str(path) for path in coca_hf.example_images()[:3]]
    lines = []
    for chosen in (["--model", str(exported)], []):
        assert main(["caption", *pictures, "--num-beams", "2", "--quiet", *chosen]) == 0
        lines.append(capsys.readouterr().out)
    assert lines[0] == lines[1]
    assert main(["classify", *pictures, "--labels", "a red circle,a star", "--model", str(exported)]) == 0
    assert main(["embed", *pictures, "-o", str(tmp_path / "all.npy"), "--model", str(exported)]) == 0
    assert "float32 by ONNX Runtime on cpu" in capsys.readouterr().err


def test_a_report_of_an_exported_model_has_captions_and_maps_are_refused(exported, capsys, tmp_path):
    picture = str(coca_hf.example_images()[0])
    report = tmp_path / "report.html"
    assert main(["caption", picture, "--report", str(report), "--quiet", "--model", str(exported)]) == 0
    assert "blue hearts" in report.read_text()
    assert main(["caption", picture, "--maps", str(tmp_path / "maps"), "--model", str(exported)]) == 2
    assert "maps need the model that it was exported from" in capsys.readouterr().err


def test_the_page_takes_an_exported_model_and_shows_no_maps(exported):
    page_model = PageModel(ModelChoice(str(exported)))
    picture = str(coca_hf.example_images()[0])
    _, captioned = page_model.captions(picture, CaptionOptions(num_beams=2), number=2)
    assert "blue hearts" in captioned[0].caption
    assert captioned[0].maps == ()
    scores = page_model.probabilities(picture, ["blue hearts", "a red circle"], ["This is a photo of {}."])
    assert scores["blue hearts"] > 0.9


def test_an_exported_model_is_searched_with_and_scored_and_not_trained(exported, capsys, tmp_path):
    pictures = [str(path) for path in coca_hf.example_images()[:3]]
    index, data = str(tmp_path / "index"), tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"image": path, "caption": "blue hearts"}) + "\n" for path in pictures))
    model = ["--model", str(exported)]
    assert main(["index", *pictures, "-o", index, "--quiet", *model]) == 0
    assert main(["search", index, "blue hearts", "--nearest", "--top", "1"]) == 0
    assert "blue-hearts" in capsys.readouterr().out
    assert main(["evaluate", str(data), "--tasks", "retrieval", *model]) == 0
    assert main(["train", str(data), "--output", str(tmp_path / "trained"), *model]) == 2
    assert "has no weights to train: give the model that it was exported from" in capsys.readouterr().err


def test_a_folder_of_another_version_is_refused_in_a_sentence(exported, tmp_path, capsys):
    shutil.copytree(exported, tmp_path / "other")
    manifest = json.loads((exported / "coca_export.json").read_text())
    (tmp_path / "other" / "coca_export.json").write_text(json.dumps(manifest | {"format_version": 99}))
    with pytest.raises(ModelError, match="exported in version 99 of the format"):
        coca_hf.load(tmp_path / "other")
    assert main(["caption", str(coca_hf.example_images()[0]), "--model", str(tmp_path / "other")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_folder_that_lacks_a_program_is_refused(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "torn")
    (tmp_path / "torn" / "text.onnx").unlink()
    with pytest.raises(ModelError, match=r"not complete: text\.onnx is missing"):
        coca_hf.load(tmp_path / "torn")


def test_a_folder_that_was_copied_by_halves_is_refused(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "half")
    weights = max((tmp_path / "half").glob("vision.onnx*"), key=lambda path: path.stat().st_size)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=rf"{weights.name} has 1,000 bytes of [\d,]+\. Copy it again"):
        coca_hf.load(tmp_path / "half")


def test_an_exported_model_runs_on_the_cpu_in_its_own_type(exported):
    with pytest.raises(ModelError, match="leave --device cuda out"):
        coca_hf.load(exported, device="cuda")
    with pytest.raises(ModelError, match="leave --dtype bfloat16 out"):
        coca_hf.load(exported, dtype="bfloat16")
