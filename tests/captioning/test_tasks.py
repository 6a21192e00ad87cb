# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Captions, embeddings and labels are those that the model gives when it is called by hand."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import GenerationConfig

from coca_hf import CoCaForCaptioning, CoCaProcessor
from coca_hf.captioning.decoding import CaptionOptions
from coca_hf.captioning.errors import ModelError
from coca_hf.captioning.models import ModelChoice
from coca_hf.captioning.tasks import CaptionTask, ClassifyTask, EmbedTask
from tiny_folder import CONTEXT_LENGTH, save_tiny_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def choice(folder) -> ModelChoice:
    return ModelChoice(str(folder), "cpu")


@pytest.fixture(scope="module")
def model(folder) -> CoCaForCaptioning:
    return CoCaForCaptioning.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def processor(folder) -> CoCaProcessor:
    return CoCaProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    values = np.random.default_rng(0)
    return [Image.fromarray(values.integers(0, 256, (20 + n, 30, 3), dtype=np.uint8)) for n in range(5)]


def results(task, images: list[Image.Image]) -> list:
    return task.process([task.prepare(image) for image in images])


def by_hand(model, processor, images, **arguments) -> list[str]:
    pixel_values = processor(images=images, return_tensors="pt")["pixel_values"]
    ids = model.generate(pixel_values=pixel_values, **arguments)
    return [" ".join(caption.split()) for caption in processor.batch_decode(ids, skip_special_tokens=True)]


@pytest.mark.parametrize(
    "choices", [{"max_new_tokens": 6}, {"max_new_tokens": 6, "num_beams": 3}, {"num_beams": 4, "num_beam_groups": 2}]
)
def test_captions_are_those_of_generate(choice, model, processor, images, choices):
    captions = results(CaptionTask(choice, CaptionOptions(**choices)), images)
    assert captions == by_hand(model, processor, images, **{"max_new_tokens": CONTEXT_LENGTH - 1, **choices})


def test_captions_may_fill_the_context_where_nothing_limits_them(choice, model, processor, images):
    captions = results(CaptionTask(choice, CaptionOptions()), images)
    assert captions == by_hand(model, processor, images, max_new_tokens=CONTEXT_LENGTH - 1)


def test_the_models_own_settings_hold_where_nothing_is_chosen(folder, tmp_path, model, processor, images):
    own = Path(shutil.copytree(folder, tmp_path / "model"))
    GenerationConfig.from_pretrained(own, max_new_tokens=3, num_beams=2).save_pretrained(own)
    captions = results(CaptionTask(ModelChoice(str(own), "cpu"), CaptionOptions()), images)
    assert captions == by_hand(model, processor, images, max_new_tokens=3, num_beams=2)


def test_every_caption_begins_with_the_prompt(choice, images):
    captions = results(CaptionTask(choice, CaptionOptions(prompt="A photo of", max_new_tokens=4)), images)
    assert all(caption.startswith("a photo of ") for caption in captions)


def test_an_empty_prompt_is_none(choice, images):
    options = {"max_new_tokens": 6}
    without = results(CaptionTask(choice, CaptionOptions(**options)), images)
    assert results(CaptionTask(choice, CaptionOptions(prompt="", **options)), images) == without


def test_batches_do_not_change_captions(choice, images):
    task = CaptionTask(choice, CaptionOptions(max_new_tokens=6))
    assert results(task, images) == [caption for image in images for caption in results(task, [image])]


def test_a_seed_makes_samples_repeatable(choice, images):
    def sample(seed: int) -> list[str]:
        return results(CaptionTask(choice, CaptionOptions(temperature=2.0, seed=seed)), images)

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        ({"max_new_tokens": CONTEXT_LENGTH}, f"max-new-tokens {CONTEXT_LENGTH} does not fit: "),
        (
            {"prompt": "a photo of one red cube", "max_new_tokens": 20},
            "max-new-tokens 20 does not fit behind a prompt",
        ),
        ({"prompt": "a photo of one red cube " * 9}, "a caption does not fit behind a prompt of"),
    ],
)
def test_what_does_not_fit_the_context_is_refused_before_the_weights_are_read(folder, tmp_path, choices, reason):
    weightless = Path(shutil.copytree(folder, tmp_path / "model"))
    (weightless / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=f"^{reason}"):
        CaptionTask(ModelChoice(str(weightless), "cpu"), CaptionOptions(**choices))


def test_the_longest_request_that_fits_is_met(choice, processor, images):
    length = len(processor(text="a photo of").input_ids) - 1
    options = CaptionOptions(prompt="a photo of", max_new_tokens=CONTEXT_LENGTH - length)
    assert len(results(CaptionTask(choice, options), images)) == len(images)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_images_of_every_mode_are_taken(choice, mode):
    image = Image.new(mode, (20, 10))
    assert EmbedTask(choice).prepare(image).shape == (3, 16, 16)


def test_embeddings_are_the_models_at_length_one(choice, model, processor, images):
    embeddings = np.stack(results(EmbedTask(choice), images))
    pixel_values = processor(images=images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model.get_image_features(pixel_values=pixel_values).pooler_output
    expected = torch.nn.functional.normalize(expected, dim=-1)
    np.testing.assert_allclose(embeddings, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=0, atol=1e-6)
    assert embeddings.dtype == np.float32


def test_embeddings_of_a_model_in_bfloat16_are_float32(folder, images):
    (embedding,) = results(EmbedTask(ModelChoice(str(folder), "cpu", "bfloat16")), images[:1])
    assert embedding.dtype == np.float32


def test_labels_are_ranked_by_the_probability_that_the_model_gives(choice, model, processor, images):
    labels = ["red cube", "blue ball", "three green rings on a table"]
    scores = results(ClassifyTask(choice, labels, "a photo of {}"), images)
    inputs = processor(
        images=images, text=[f"a photo of {label}" for label in labels], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = model.model(**inputs).logits_per_image.softmax(dim=-1)
    np.testing.assert_allclose([[score[label] for label in labels] for score in scores], expected, rtol=0, atol=1e-6)
    assert all(list(score.values()) == sorted(score.values(), reverse=True) for score in scores)


def test_braces_in_a_label_are_text(choice, images):
    (scores,) = results(ClassifyTask(choice, ["{}", "{0}"], "a {}"), images[:1])
    assert set(scores) == {"{}", "{0}"}


@pytest.mark.parametrize("part", ["vision", "text"])
def test_a_model_without_a_pooled_vector_cannot_embed(tmp_path, part):
    from tiny import tiny_config

    tiny_config(**{f"{part}_config": {"pool_type": "none"}}).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"its {part} pool_type is 'none'"):
        EmbedTask(ModelChoice(str(tmp_path)))


def test_too_little_memory_on_the_device_is_advice(choice, images, monkeypatch):
    task = EmbedTask(choice)

    def too_much(**inputs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(task.model, "get_image_features", too_much)
    with pytest.raises(ModelError, match="not enough memory for 5 images at once; give a smaller --batch-size"):
        results(task, images)
    with pytest.raises(ModelError, match="not enough memory for one image"):
        results(task, images[:1])


def test_thousands_of_labels_and_long_ones_are_taken(choice, images, monkeypatch):
    monkeypatch.setattr("coca_hf.captioning.tasks._TEXTS_AT_ONCE", 4)
    labels = [f"red cube number {number} " + "and another " * number for number in range(30)]
    (many,) = results(ClassifyTask(choice, labels, "{}"), images[:1])
    monkeypatch.setattr("coca_hf.captioning.tasks._TEXTS_AT_ONCE", 256)
    (at_once,) = results(ClassifyTask(choice, labels, "{}"), images[:1])
    assert many == pytest.approx(at_once, abs=1e-6)
