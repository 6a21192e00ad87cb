# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The weights that ship inside the package, on fresh scenes: the promises of the model card, on smaller samples."""

import random
import re

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from transformers import AutoModelForImageTextToText

import coca_hf
import make_example_images
import scene_metrics
import scenes
import train_bundled_model
from coca_hf.image_text_data import open_image_text_data
from scene_metrics import SceneModel
from tiny_folder import save_tiny_folder


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


def training_examples(count: int, split: scenes.Split = "train") -> list[train_bundled_model.Example]:
    return [
        train_bundled_model.Example(
            np.asarray(scenes.render(scene)), scene.facts, train_bundled_model.patch_labels(scene)
        )
        for scene in scenes.scenes(split, count)
    ]


def test_a_partial_text_is_no_target_of_the_decoder_and_gaps_are_in_whole_captions(model):
    rng = random.Random(0)
    facts = [scene.facts for scene in scenes.scenes("train", 64)]
    is_whole = torch.tensor([number % 4 > 0 for number in range(64)])
    make = {True: scenes.caption, False: scenes.partial_caption}
    texts = [make[whole](fact, rng) for whole, fact in zip(is_whole.tolist(), facts, strict=True)]
    tokenizer = model.processor.tokenizer
    given = tokenizer(texts, padding=True, return_tensors="pt")
    labels = given["input_ids"].masked_fill(given["attention_mask"] == 0, -100)
    teach = train_bundled_model.TeachWords(tokenizer)
    batch = teach({**given, "labels": labels}, np.random.default_rng(0))
    torch.testing.assert_close((batch["labels"] != -100).any(1), is_whole)
    torch.testing.assert_close(batch["labels"][is_whole], labels[is_whole])
    (gap,) = tokenizer.encode("?", add_special_tokens=False)
    has_gaps = (batch["input_ids"] == gap).any(1)
    assert not has_gaps[~is_whole].any()
    assert 0.25 < has_gaps[is_whole].float().mean() < 0.75
    ends = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert all((batch["input_ids"] == end).equal(given["input_ids"] == end) for end in ends)


def test_a_shard_has_the_scenes_with_captions_that_are_true(tmp_path):
    train_bundled_model.write_shard(tmp_path / "captions.tar", 3)
    for record, scene in zip(open_image_text_data(tmp_path / "captions.tar"), scenes.scenes("train", 3), strict=True):
        np.testing.assert_array_equal(np.asarray(record.open_image()), np.asarray(scenes.render(scene)))
        *whole, partial = map(scenes.parse_caption, record.captions)
        assert whole == [scene.facts] * train_bundled_model.WHOLE_CAPTIONS
        assert partial is None


def test_grey_pictures_have_no_colour_and_no_label_for_it(model):
    examples = training_examples(16, "single")
    collator = train_bundled_model.FactCollator(model.processor, random.Random(0), num_patches=100, grey_share=1.0)
    batch = collator(examples)
    picture = batch["pixel_values"] * torch.tensor(model.processor.image_processor.image_std)[:, None, None]
    picture = picture + torch.tensor(model.processor.image_processor.image_mean)[:, None, None]
    torch.testing.assert_close(picture, picture[:, :1].expand_as(picture))
    background, _relation, _count, _size, colour, shape, *_second = batch["labels"].t().tolist()
    assert set(background) == set(colour) == {-100}
    assert [scenes.SHAPES[index] for index in shape] == [example.facts.groups[0].shape for example in examples]
    assert set(batch["patch_labels"][:, :, train_bundled_model.PATCH_COLOUR].flatten().tolist()) == {-100}


def test_the_labels_of_patches_say_where_which_shapes_are():
    for scene in scenes.scenes("train", 50):
        size, colour, shape, is_centre = train_bundled_model.patch_labels(scene).T
        assert is_centre.sum() == sum(group.count for group in scene.facts.groups)
        shown = shape < len(scenes.SHAPES)
        assert shown[is_centre == 1].all()
        assert set(size[~shown]) == set(colour[~shown]) == {-100}
        named = {
            (list(scenes.SIZES)[s], list(scenes.COLOURS)[c], scenes.SHAPES[k])
            for s, c, k in zip(size[shown], colour[shown], shape[shown], strict=True)
        }
        assert named == {(group.size, group.colour, group.shape) for group in scene.facts.groups}


def test_a_patch_labelled_with_a_colour_shows_it():
    # Shades of white, gray and black have little saturation, and those of shapes much.
    scene = next(s for s in scenes.scenes("train", 50) if s.facts.background == "white" and not s.noise)
    picture = np.asarray(scenes.render(scene)).astype(int).reshape(10, 8, 10, 8, 3)
    saturation = (picture.max(-1) - picture.min(-1)).max((1, 3)).reshape(-1)
    is_centre = train_bundled_model.patch_labels(scene)[:, -1] == 1
    assert saturation[is_centre].min() > 60


def test_a_mirrored_example_is_labelled_as_its_picture_shows(model):
    for example in training_examples(20):
        mirrored = example.mirrored()
        np.testing.assert_array_equal(mirrored.picture, example.picture[:, ::-1])
        assert mirrored.facts == scenes.mirrored(example.facts)
        grid = (10, 10, -1)
        labels, flipped = example.patch_labels.reshape(grid), mirrored.patch_labels.reshape(grid)
        np.testing.assert_array_equal(flipped, labels[:, ::-1])


def test_where_patches_are_left_out_those_with_shapes_stay_and_none_is_counted(model):
    collator = train_bundled_model.FactCollator(model.processor, random.Random(0), num_patches=48, grey_share=0.0)
    examples = training_examples(32)
    batch = collator(examples)
    assert (batch["labels"][:, train_bundled_model.IS_COUNT] == -100).all()
    empty = len(scenes.SHAPES)
    for example, labels, kept in zip(examples, batch["patch_labels"], batch["kept_patches"], strict=True):
        shown = int((example.patch_labels[:, train_bundled_model.PATCH_SHAPE] < empty).sum())
        assert len(set(kept.tolist())) == 48
        assert int((labels[:, train_bundled_model.PATCH_SHAPE] < empty).sum()) == min(shown, 48)


def test_the_vision_tower_sees_the_chosen_patches_only(model):
    tower = model.model.model.vision_model
    classifier = train_bundled_model.FactClassifier(tower)
    collator = train_bundled_model.FactCollator(model.processor, random.Random(0), num_patches=30, grey_share=0.0)
    batch = collator(training_examples(2))
    seen = torch.zeros(2, 100, dtype=torch.bool).scatter_(1, batch["kept_patches"], True)
    hidden = batch["pixel_values"].clone()
    is_seen = seen.view(2, 1, 10, 1, 10, 1).expand(-1, 3, -1, 8, -1, 8).reshape(2, 3, 80, 80)
    hidden[~is_seen] = 0
    with torch.no_grad():
        torch.testing.assert_close(
            classifier(**batch)["logits"], classifier(**{**batch, "pixel_values": hidden})["logits"]
        )
        assert tower(hidden).last_hidden_state.shape[1] == 101


def test_the_layers_optimizer_is_torchs_muon_in_another_precision(monkeypatch):
    # Where both sides round to three digits, twice as much may differ.
    monkeypatch.setattr(train_bundled_model, "HAS_BFLOAT16", False)
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


def test_the_folder_holds_no_code_and_promises_none():
    assert list(FOLDER.rglob("*.py")) == []
    said = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json"))
    assert "auto_map" not in said
    assert "custom_pipelines" not in said


def test_training_leaves_the_code_out(tmp_path):
    save_tiny_folder(tmp_path)
    train_bundled_model.leave_code_out(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    assert [path.name for path in tmp_path.glob("*.json") if "_coca" in path.read_text(encoding="utf-8")] == []
    assert type(AutoModelForImageTextToText.from_pretrained(tmp_path)) is coca_hf.CoCaForCaptioning
