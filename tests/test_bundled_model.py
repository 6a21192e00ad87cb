# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The weights that ship inside the package, on fresh scenes: the promises of the model card, on smaller samples."""

import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image


sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import coca_hf
import make_example_images
import scene_metrics
import scenes
import train_bundled_model
from scene_metrics import SceneModel


FOLDER = coca_hf.bundled_model()
EXAMPLES = FOLDER.parent / "examples"
EXAMPLE_FACTS = {name: facts for name, facts, _, _ in make_example_images.EXAMPLES}


@pytest.fixture(scope="module")
def model() -> SceneModel:
    return SceneModel.load(str(FOLDER))


def test_the_weights_fit_in_ten_megabytes():
    assert (FOLDER / "model.safetensors").stat().st_size <= 10_000_000


@pytest.fixture(scope="module")
def card_figures() -> dict[str, float]:
    """The model card's own figures, as shares from 0 to 1."""
    results = ModelCard.load(FOLDER / "README.md").data.eval_results
    return {result.metric_name: result.metric_value / 100 for result in results}


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("Captions with every fact right", "captions"),
        ("Captions with every fact right on held-out combinations", "captions_held_out"),
        ("Text to image R@1", "text_to_image"),
        ("Image to text R@1", "image_to_text"),
        ("Accuracy, mean of the three sets of labels", "zero_shot"),
    ],
)
def test_the_model_is_good_enough_to_ship(card_figures, name, figure):
    assert card_figures[name] >= train_bundled_model.REQUIRED[figure]


@pytest.mark.parametrize(
    ("split", "name"),
    [
        ("test", "Captions with every fact right"),
        ("held_out", "Captions with every fact right on held-out combinations"),
    ],
)
def test_captions_are_as_right_as_the_card_says(model, card_figures, split, name):
    # Three standard deviations of a sample of 200.
    margin = 3 * (card_figures[name] * (1 - card_figures[name]) / 200) ** 0.5
    assert scene_metrics.caption_accuracy(model, split, 200) >= card_figures[name] - margin


def test_captions_and_pictures_find_each_other_among_a_hundred(model):
    recall = scene_metrics.retrieval_recall(model, num_sets=1)
    assert min(recall.values()) >= 0.90


@pytest.mark.parametrize("kind", scenes.LABEL_KINDS)
def test_zero_shot_labels_name_what_is_shown(model, kind):
    assert scene_metrics.zero_shot_accuracy(model, 200)[kind] >= 0.95


@pytest.mark.parametrize("name", sorted(EXAMPLE_FACTS))
def test_the_caption_of_each_example_image_is_a_whole_statement_with_the_right_background(model, name):
    (caption,) = model.captions([str(EXAMPLES / name)])
    assert scenes.parse_caption(caption).background == EXAMPLE_FACTS[name].background


def test_the_example_images_are_those_that_the_script_writes():
    assert {path.name for path in EXAMPLES.iterdir()} == set(EXAMPLE_FACTS)
    assert len({Image.open(path).format for path in EXAMPLES.iterdir()}) >= 5


def test_every_word_of_the_captions_is_one_token(model):
    rng = random.Random(0)
    text = " ".join(scenes.caption(scene.facts, rng) for scene in scenes.scenes("test", 300))
    words = sorted(set(re.findall(r"\w+", text)))
    lengths = {word: len(model.processor.tokenizer.encode(word, add_special_tokens=False)) for word in words}
    assert set(lengths.values()) == {1}


def test_training_sees_the_pixels_that_the_processor_gives(model):
    picture = scenes.render(scenes.make_scene("train", 0), train_bundled_model.IMAGE_SIZE)
    expected = model.processor(images=picture, return_tensors="pt")["pixel_values"]
    pixel_values = train_bundled_model.as_pixel_values(np.asarray(picture)[None], model.processor.image_processor)
    torch.testing.assert_close(pixel_values, expected, rtol=0, atol=1e-5)


def test_a_partial_text_is_no_target_of_the_decoder(model):
    examples = [(np.zeros((80, 80, 3), np.uint8), scene.facts) for scene in scenes.scenes("train", 64)]
    batch = train_bundled_model.CaptionCollator(model.processor, random.Random(0), with_facts=False)(examples)
    decode = model.processor.tokenizer.batch_decode
    is_target = (batch["labels"] != -100).any(1)
    targets = decode(batch["labels"].masked_fill(batch["labels"] == -100, 0), skip_special_tokens=True)
    parsed = [scenes.parse_caption(text) for text in targets]
    assert [fact is not None for fact in parsed] == is_target.tolist()
    assert 0.6 < is_target.float().mean() < 0.95


def test_grey_pictures_have_no_colour_and_no_label_for_it(model):
    examples = [(np.asarray(scenes.render(scene, 40)), scene.facts) for scene in scenes.scenes("close_up", 16)]
    batch = train_bundled_model.FactCollator(model.processor, random.Random(0), grey_share=1.0)(examples)
    picture = batch["pixel_values"] * torch.tensor(model.processor.image_processor.image_std)[:, None, None]
    picture = picture + torch.tensor(model.processor.image_processor.image_mean)[:, None, None]
    torch.testing.assert_close(picture, picture[:, :1].expand_as(picture))
    background, _relation, _count, _size, colour, shape, *_second = batch["labels"].t().tolist()
    assert set(background) == set(colour) == {-100}
    assert [scenes.SHAPES[index] for index in shape] == [facts.groups[0].shape for _, facts in examples]


def test_the_layers_optimizer_is_torchs_muon_in_another_precision():
    torch.manual_seed(0)
    shapes = [(8, 8), (8, 8), (16, 4), (4, 16)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(weight.detach().clone()) for weight in ours]
    optimizers = (
        train_bundled_model.Muon(ours, lr=0.02, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1),
    )
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-3)  # bfloat16 has three digits, of an lr of 0.02


def test_a_mirror_swaps_left_and_right_only():
    facts = next(s.facts for s in scenes.scenes("train", 100) if s.facts.relation == "left of")
    assert scenes.mirrored(facts).groups == facts.groups[::-1]
    above = next(s.facts for s in scenes.scenes("train", 100) if s.facts.relation == "above")
    assert scenes.mirrored(above) == above


def test_the_folder_holds_the_packages_present_code():
    package = Path(coca_hf.__file__).parent
    copies = sorted(path.name for path in FOLDER.glob("*.py"))
    assert copies == sorted(path.name for path in package.glob("*_coca.py"))
    assert [name for name in copies if (FOLDER / name).read_bytes() != (package / name).read_bytes()] == []
