# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Model cards say what is known and where from, the Hub can read them, and their examples run."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from transformers import Trainer, TrainingArguments

import coca_hf
import scene_card
from coca_hf.conversion import open_clip_config
from coca_hf.publishing import plan_publication
from coca_hf.publishing.card import checkpoint_card, folder_card
from coca_hf.publishing.laion import CHECKPOINTS, known_checkpoint
from tiny_folder import save_tiny_folder, tiny_model, tiny_processor


CARDS = Path(__file__).parents[1] / "model_cards"
B32 = "CoCa-ViT-B-32-laion2B-s13B-b90k"
L14 = "CoCa-ViT-L-14-laion2B-s13B-b90k"
TUNED_B32, TUNED_L14 = f"mscoco_finetuned_{B32}", f"mscoco_finetuned_{L14}"

# As open_clip and LAION publish them: top-1 on ImageNet, then R@1 of text to image and image to text on Flickr30k and
# on MSCOCO.
PUBLISHED = {
    B32: [63.3, 63.4, 81.6, 36.2, 54.6],
    L14: [75.6, 74.3, 88.4, 45.7, 62.9],
    TUNED_B32: [0.8, 0.7, 1.1, 0.3, 0.9],
    # Then BLEU-4, METEOR, CIDEr and SPICE on MSCOCO and on NoCaps.
    TUNED_L14: [72.0, 78.5, 89.0, 53.7, 66.8, 35.6, 29.8, 125.3, 23.4, 39.9, 29.1, 106.5, 14.7],
}

every_checkpoint = pytest.mark.parametrize("name", PUBLISHED)


def card_of(name: str) -> ModelCard:
    return ModelCard.load(CARDS / f"{name}.md")


def examples(card: str) -> str:
    """The card's Python, from top to bottom."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE))


def test_there_is_a_card_for_each_of_laions_checkpoints():
    assert {checkpoint.name for checkpoint in CHECKPOINTS} == set(PUBLISHED)
    assert set(PUBLISHED) <= {path.stem for path in CARDS.glob("*.md")}


@every_checkpoint
def test_the_cards_in_the_repository_are_what_the_data_give(name):
    checkpoint = known_checkpoint(f"laion/{name}")
    config = open_clip_config(checkpoint.architecture.preset).to_dict()
    assert (CARDS / f"{name}.md").read_text(encoding="utf-8") == checkpoint_card(checkpoint, config)


@every_checkpoint
def test_the_metadata_say_what_the_hub_wants_to_know(name):
    data = card_of(name).data
    assert (data.license, data.library_name, data.pipeline_tag, data.language) == (
        "mit",
        "transformers",
        "image-to-text",
        "en",
    )
    assert data.base_model == f"laion/{name}"
    assert "laion/laion2B-en" in data.datasets
    assert {"coca", "image-captioning", "open_clip"} <= set(data.tags)
    assert all(example["src"].startswith("https://") and example["example_title"] for example in data.widget)
    assert len(data.widget) >= 3


@every_checkpoint
def test_the_published_figures_are_given_as_reported_upstream(name):
    results = card_of(name).data.eval_results
    assert [result.metric_value for result in results] == PUBLISHED[name]
    assert all(result.source_name.startswith("reported upstream: ") for result in results)
    assert all(result.source_url.startswith("https://") for result in results)
    assert "None of these figures was measured here" in card_of(name).text


@every_checkpoint
def test_every_figure_of_the_metadata_is_also_in_the_text(name):
    card = card_of(name)
    assert [f for f in PUBLISHED[name] if not re.search(rf"\b{re.escape(str(f))}\b", card.text)] == []


@every_checkpoint
@pytest.mark.parametrize(
    "heading", ["Use it", "What it is for", "Where the weights come from", "Limits and biases", "How it was converted"]
)
def test_a_card_says_what_its_reader_has_to_know(name, heading):
    assert f"\n## {heading}" in card_of(name).text


@pytest.mark.parametrize(("name", "warns"), [(B32, False), (L14, False), (TUNED_B32, True), (TUNED_L14, False)])
def test_only_the_model_that_has_lost_its_contrastive_space_warns_of_it(name, warns):
    card = card_of(name)
    assert ("lost its contrastive space" in card.text) == warns
    assert ("zero-shot-image-classification" not in card.data.tags) == warns
    assert ("zero-shot-image-classification" not in examples(card.content)) == warns


def test_a_converted_checkpoint_of_laions_gets_the_whole_card():
    config = open_clip_config("coca_ViT-L-14").to_dict()
    assert folder_card(config, f"laion/{L14}") == (CARDS / f"{L14}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("source", "base_model"), [("someone/theirs", "someone/theirs"), ("epoch_10.pt", None)])
def test_a_converted_checkpoint_that_nothing_is_known_of_claims_nothing(source, base_model):
    card = ModelCard(folder_card(open_clip_config("coca_ViT-B-32").to_dict(), source))
    assert (card.data.base_model, card.data.license, card.data.eval_results) == (base_model, None, None)
    assert f"`{source}`" in card.text
    assert "LAION" not in card.text


def test_weights_for_research_only_keep_their_license_and_say_so():
    config = open_clip_config("coca_ViT-B-32").to_dict()
    apple = ModelCard(folder_card(config, "apple/mobileclip2_coca_dfn2b_s13b_context77"))
    conch = ModelCard(folder_card(config, "MahmoodLab/conch"))
    assert (apple.data.license, conch.data.license) == ("apple-amlr", "cc-by-nc-nd-4.0")
    assert "For research only" in apple.text
    assert "forbid publishing copies" in conch.text


def test_a_model_without_decoder_promises_no_captions():
    config = coca_hf.CoCaConfig(multimodal_config={"num_hidden_layers": 0}).to_dict()
    card = ModelCard(folder_card(config))
    assert card.data.pipeline_tag == "zero-shot-image-classification"
    assert "image-to-text" not in card.content


def test_the_examples_of_every_card_run_on_the_bundled_model_without_this_package(scene_folder, tmp_path):
    cards = [
        path.read_text(encoding="utf-8") for path in (*sorted(CARDS.glob("*CoCa*.md")), scene_folder / "README.md")
    ]
    cards.append(folder_card(json.loads((coca_hf.bundled_model() / "config.json").read_text())))
    (tmp_path / "OWNER").mkdir()
    (tmp_path / "OWNER" / "NAME").symlink_to(scene_folder)
    shutil.copy(coca_hf.example_images()[-1], tmp_path / "photo.jpg")
    scripts = [examples(card) for card in cards]
    assert len(scripts) == 6
    assert all(script.count("pipeline(") for script in scripts)
    # In one process: loading the libraries takes longer than all examples.
    program = f"import sys; sys.modules['coca_hf'] = None\nfor script in {scripts!r}: exec(script, {{}})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("generated_text") == 6


@pytest.fixture(scope="module")
def scene_folder(tmp_path_factory) -> Path:
    """The bundled model's folder with its code and a card of figures that nobody measured."""
    folder = tmp_path_factory.mktemp("scenes") / "bundled"
    shutil.copytree(coca_hf.bundled_model(), folder)
    coca_hf.CoCaForCaptioning.from_pretrained(folder).save_pretrained(folder)
    coca_hf.CoCaProcessor.from_pretrained(folder).save_pretrained(folder)
    shares = dict.fromkeys(["zero_shot_shape", "zero_shot_colour", "zero_shot_colour_and_shape"], 0.25)
    figures = {**shares, **{name: number / 8 for number, name in enumerate(scene_card.METRICS, 1)}}
    names = "parameters batch_size train_scenes minutes processes"
    steps = "shapes_steps facts_steps captions_steps"
    versions = {"seed": 0, "torch": "2", "transformers": "5", "python": "3"}
    scene_card.write_scene_card(folder, figures, {**dict.fromkeys(f"{names} {steps}".split(), 1), **versions})
    return folder


def test_the_bundled_models_card_gives_its_own_figures_as_measured(scene_folder):
    data = ModelCard.load(scene_folder / "README.md").data
    assert [result.metric_value for result in data.eval_results] == [12.5, 25.0, 37.5, 50.0, 62.5]
    assert all(result.source_url is None for result in data.eval_results)
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "transformers", "image-to-text")


def test_the_bundled_models_card_is_published_with_the_pictures_that_it_shows(scene_folder):
    publication = plan_publication(scene_folder, "someone/scenes")
    assert {f"examples/{name}" for name in scene_card.WIDGET} <= publication.sizes.keys()
    assert publication.left_out == ("training.json",)
    assert 'model="someone/scenes"' in publication.card


def test_a_card_made_by_trainer_is_published_as_it_is(tmp_path):
    folder = save_tiny_folder(tmp_path / "tuned")
    model = tiny_model(tiny_processor())
    arguments = TrainingArguments(str(folder), report_to=[], use_cpu=True)
    trainer = Trainer(model, arguments, processing_class=tiny_processor())
    trainer.save_model()
    trainer.create_model_card(model_name="photos", language="en", license="mit", tasks="image-to-text")
    publication = plan_publication(folder, "someone/photos")
    data = ModelCard(publication.card).data
    assert publication.card == (folder / "README.md").read_text(encoding="utf-8")
    assert (data.library_name, data.license, "generated_from_trainer" in data.tags) == ("transformers", "mit", True)
    assert publication.left_out == ("training_args.bin",)
