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
from coca_hf.batch_inference.errors import ModelError
from coca_hf.batch_inference.jobs import CaptionOptions, Result
from coca_hf.batch_inference.models import ModelChoice
from coca_hf.batch_inference.sampling import RandomChoice
from coca_hf.batch_inference.tasks import CaptionTask, ClassifyTask, EmbedTask
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


def results(task, images: list[Image.Image]) -> list[Result]:
    places = [(number, 0) for number in range(len(images))]
    return task.process([task.prepare(image) for image in images], places)


def captions_of(task, images: list[Image.Image]) -> list[str]:
    return [result.fields["caption"] for result in results(task, images)]


def embeddings_of(task, images: list[Image.Image]) -> list[np.ndarray]:
    return [result.embedding for result in results(task, images)]


def scores_of(task, images: list[Image.Image]) -> list[dict[str, float]]:
    return [result.fields["scores"] for result in results(task, images)]


def by_hand(model, processor, images, **arguments) -> list[str]:
    pixel_values = processor(images=images, return_tensors="pt")["pixel_values"]
    ids = model.generate(pixel_values=pixel_values, **arguments)
    return [" ".join(caption.split()) for caption in processor.batch_decode(ids, skip_special_tokens=True)]


@pytest.mark.parametrize(
    "choices", [{"max_new_tokens": 6}, {"max_new_tokens": 6, "num_beams": 3}, {"num_beams": 4, "num_beam_groups": 2}]
)
def test_captions_are_those_of_generate(choice, model, processor, images, choices):
    captions = captions_of(CaptionTask(choice, CaptionOptions(**choices)), images)
    assert captions == by_hand(model, processor, images, **{"max_new_tokens": CONTEXT_LENGTH - 1, **choices})


def test_captions_may_fill_the_context_where_nothing_limits_them(choice, model, processor, images):
    captions = captions_of(CaptionTask(choice, CaptionOptions()), images)
    assert captions == by_hand(model, processor, images, max_new_tokens=CONTEXT_LENGTH - 1)


def test_the_models_own_settings_hold_where_nothing_is_chosen(folder, tmp_path, model, processor, images):
    own = Path(shutil.copytree(folder, tmp_path / "model"))
    GenerationConfig.from_pretrained(own, max_new_tokens=3, num_beams=2).save_pretrained(own)
    captions = captions_of(CaptionTask(ModelChoice(str(own), "cpu"), CaptionOptions()), images)
    assert captions == by_hand(model, processor, images, max_new_tokens=3, num_beams=2)


def test_every_caption_begins_with_the_prompt(choice, images):
    captions = captions_of(CaptionTask(choice, CaptionOptions(prompt="A photo of", max_new_tokens=4)), images)
    assert all(caption.startswith("a photo of ") for caption in captions)


def test_an_empty_prompt_is_none(choice, images):
    options = {"max_new_tokens": 6}
    without = captions_of(CaptionTask(choice, CaptionOptions(**options)), images)
    assert captions_of(CaptionTask(choice, CaptionOptions(prompt="", **options)), images) == without


def test_batches_do_not_change_captions(choice, images):
    task = CaptionTask(choice, CaptionOptions(max_new_tokens=6))
    assert captions_of(task, images) == [caption for image in images for caption in captions_of(task, [image])]


def sampled(choice, images, places, **options) -> list[str]:
    task = CaptionTask(choice, CaptionOptions(**{"temperature": 3.0, "seed": 1, **options}))
    prepared = [task.prepare(image) for image in images]
    return [result.fields["caption"] for result in task.process(prepared, places)]


def test_a_seed_makes_samples_repeatable(choice, images):
    places = [(number, 0) for number in range(5)]
    assert sampled(choice, images, places) == sampled(choice, images, places)
    assert sampled(choice, images, places, seed=1) != sampled(choice, images, places, seed=2)


def test_without_a_seed_samples_differ(choice, images):
    places = [(number, 0) for number in range(5)]
    assert sampled(choice, images, places, seed=None) != sampled(choice, images, places, seed=None)


@pytest.mark.parametrize("beams", [None, 2])
def test_a_sampled_caption_depends_on_the_place_of_its_image_not_on_its_batch(choice, images, beams):
    places = [(7, 0), (0, 3), (1, 0), (0, 1), (2**33, 0)]
    together = sampled(choice, images, places, num_beams=beams)
    assert together == [
        sampled(choice, [image], [place], num_beams=beams)[0] for image, place in zip(images, places, strict=True)
    ]
    order = [3, 0, 4, 2, 1]
    shuffled = sampled(choice, [images[n] for n in order], [places[n] for n in order], num_beams=beams)
    assert shuffled == [together[n] for n in order]


def test_the_same_image_in_other_places_is_sampled_otherwise(choice, images):
    captions = sampled(choice, images[:1] * 12, [(number, 0) for number in range(12)])
    assert len(set(captions)) == 12
    in_a_shard = sampled(choice, images[:1] * 12, [(0, number) for number in range(12)])
    # Only the first is at the same place.
    assert set(captions) & set(in_a_shard) == {captions[0]}


@pytest.mark.parametrize(
    "options",
    [{"top_k": 3}, {"top_p": 0.5}, {"temperature": 0.3}, {"temperature": 2.0, "top_k": 5, "top_p": 0.9}],
    ids=str,
)
def test_tokens_are_chosen_with_the_probabilities_of_the_librarys_sampling(model, processor, images, options):
    """The first token of a caption, drawn 4,000 times by the library and by us."""
    number = 4000
    pixel_values = processor(images=images[:1], return_tensors="pt")["pixel_values"]
    embeds = {"pixel_values": pixel_values.expand(number, -1, -1, -1), "max_new_tokens": 1}
    torch.manual_seed(0)
    theirs = model.generate(**embeds, do_sample=True, **options)[:, -1]
    places = [(place, 0) for place in range(number)]
    choose = RandomChoice(model.generation_config, CaptionOptions(**options), 0, places)
    ours = model.generate(**embeds, do_sample=False, logits_processor=[choose])[:, -1]
    counts = torch.stack(
        [torch.bincount(tokens, minlength=model.config.text_config.vocab_size) for tokens in (theirs, ours)]
    )
    counts = counts[:, counts.sum(dim=0) > 0].double()
    # Two samples of one distribution: chi-square with a degree of freedom less than there are tokens. The bound is
    # six standard deviations above its mean.
    statistic = ((counts[0] - counts[1]) ** 2 / counts.sum(dim=0)).sum()
    degrees = counts.shape[1] - 1
    assert statistic < degrees + 6 * (2 * degrees) ** 0.5 + 6


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
    assert len(captions_of(CaptionTask(choice, options), images)) == len(images)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_images_of_every_mode_are_taken(choice, mode):
    image = Image.new(mode, (20, 10))
    assert EmbedTask(choice).prepare(image).shape == (3, 16, 16)


def test_embeddings_are_the_models_at_length_one(choice, model, processor, images):
    embeddings = np.stack(embeddings_of(EmbedTask(choice), images))
    pixel_values = processor(images=images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model.get_image_features(pixel_values=pixel_values).pooler_output
    expected = torch.nn.functional.normalize(expected, dim=-1)
    np.testing.assert_allclose(embeddings, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=0, atol=1e-6)
    assert embeddings.dtype == np.float32


def test_embeddings_of_a_model_in_bfloat16_are_float32(folder, images):
    (embedding,) = embeddings_of(EmbedTask(ModelChoice(str(folder), "cpu", "bfloat16")), images[:1])
    assert embedding.dtype == np.float32


def test_labels_are_ranked_by_the_probability_that_the_model_gives(choice, model, processor, images):
    labels = ["red cube", "blue ball", "three green rings on a table"]
    scores = scores_of(ClassifyTask(choice, labels, "a photo of {}"), images)
    inputs = processor(
        images=images, text=[f"a photo of {label}" for label in labels], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = model.model(**inputs).logits_per_image.softmax(dim=-1)
    np.testing.assert_allclose([[score[label] for label in labels] for score in scores], expected, rtol=0, atol=1e-6)
    assert all(list(score.values()) == sorted(score.values(), reverse=True) for score in scores)


def test_braces_in_a_label_are_text(choice, images):
    (scores,) = scores_of(ClassifyTask(choice, ["{}", "{0}"], "a {}"), images[:1])
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
    monkeypatch.setattr("coca_hf.batch_inference.tasks._TEXTS_AT_ONCE", 4)
    labels = [f"red cube number {number} " + "and another " * number for number in range(30)]
    (many,) = scores_of(ClassifyTask(choice, labels, "{}"), images[:1])
    monkeypatch.setattr("coca_hf.batch_inference.tasks._TEXTS_AT_ONCE", 256)
    (at_once,) = scores_of(ClassifyTask(choice, labels, "{}"), images[:1])
    assert many == pytest.approx(at_once, abs=1e-6)
