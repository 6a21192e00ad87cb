# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The pipelines: "image-to-text" as transformers 4 had it, by every way to it, and the library's own."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.pipelines.pt_utils import KeyDataset

import coca_hf
from coca_hf import CoCaForCaptioning, CoCaImageProcessor, CoCaModel, CoCaProcessor, ImageToTextPipeline
from tiny_folder import save_tiny_folder


IMAGES = Path(__file__).parent / "fixtures" / "processing" / "images"
RGB, RGBA, TALL = IMAGES / "rgb.png", IMAGES / "rgba.png", IMAGES / "rgb_tall.jpg"
PATHS = [str(RGB), str(RGBA), str(TALL)]
FEW = {"max_new_tokens": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_folder(tmp_path_factory.mktemp("pipelines") / "tiny")


@pytest.fixture(scope="module")
def pipe(folder):
    return coca_hf.pipeline("image-to-text", folder, device="cpu")


@pytest.fixture(scope="module")
def caption(folder):
    """What the model itself says, of one image and prompt."""
    model, processor = CoCaForCaptioning.from_pretrained(folder), CoCaProcessor.from_pretrained(folder)

    def say(path, prompt=None, **kwargs):
        inputs = processor(images=path, text=prompt, return_tensors="pt")
        return processor.batch_decode(model.generate(**inputs, **{**FEW, **kwargs}), skip_special_tokens=True)

    return say


@pytest.mark.parametrize("do_reduce", [False, True])
def test_a_large_file_is_read_as_the_processor_reads_it(folder, tmp_path, do_reduce):
    noise = np.random.default_rng(0).integers(0, 256, (600, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.jpg")
    image_processor = CoCaImageProcessor.from_pretrained(folder, do_reduce=do_reduce)
    pipe = coca_hf.pipeline("image-to-text", folder, image_processor=image_processor, device="cpu")
    expected = image_processor(tmp_path / "x.jpg", return_tensors="pt").pixel_values
    opened = image_processor(Image.open(tmp_path / "x.jpg"), return_tensors="pt").pixel_values
    assert torch.equal(pipe.preprocess(tmp_path / "x.jpg")["pixel_values"], expected)
    assert torch.equal(pipe.preprocess(str(tmp_path / "x.jpg"))["pixel_values"], expected)
    assert torch.equal(opened, expected) != do_reduce


def test_different_images_get_different_captions(caption):
    assert len({caption(path)[0] for path in PATHS}) == len(PATHS)


@pytest.mark.parametrize(
    "image",
    [str(RGBA), RGBA, Image.open(RGBA), np.asarray(Image.open(RGBA)), torch.from_numpy(np.array(Image.open(RGBA)))],
    ids=["path", "path object", "PIL", "numpy", "torch"],
)
def test_one_image_gives_a_list_of_one_record(pipe, caption, image):
    assert pipe(image, **FEW) == [{"generated_text": caption(RGBA)[0]}]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_list_gives_a_list_for_each_image(pipe, caption, batch_size):
    expected = [[{"generated_text": caption(path)[0]}] for path in PATHS]
    assert pipe(PATHS, batch_size=batch_size, **FEW) == expected


def test_a_generator_is_captioned_as_it_comes(pipe, caption):
    captions = pipe((path for path in PATHS), batch_size=2, **FEW)
    assert not isinstance(captions, list)
    assert list(captions) == [[{"generated_text": caption(path)[0]}] for path in PATHS]


def test_a_dataset_is_captioned_as_it_comes(pipe, caption):
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict({"image": PATHS}).cast_column("image", datasets.Image())
    captions = pipe(KeyDataset(dataset, "image"), batch_size=2, **FEW)
    assert list(captions) == [[{"generated_text": caption(path)[0]}] for path in PATHS]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_prompt_is_continued_and_begins_the_caption(pipe, caption, batch_size):
    captions = pipe(PATHS, prompt="a photo of", batch_size=batch_size, **FEW)
    assert captions == [[{"generated_text": caption(path, "a photo of")[0]}] for path in PATHS]
    assert all(record["generated_text"].startswith("a photo of") for records in captions for record in records)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_generation_arguments_reach_generate(pipe, caption, batch_size):
    arguments = {"num_beams": 4, "num_return_sequences": 2}
    captions = pipe(PATHS, generate_kwargs={**arguments, **FEW}, batch_size=batch_size)
    assert captions == [[{"generated_text": text} for text in caption(path, **arguments)] for path in PATHS]


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_beams": 3},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"repetition_penalty": 1.3, "min_new_tokens": 3},
        {"logits_processor": transformers.LogitsProcessorList([transformers.NoBadWordsLogitsProcessor([[5]], 0)])},
    ],
)
def test_generation_arguments_are_also_taken_flat(pipe, caption, arguments):
    expected = caption(RGB, **arguments)
    assert pipe(str(RGB), **arguments, **FEW) == [{"generated_text": text} for text in expected]


def test_flat_arguments_reach_the_pipeline_when_it_is_made(folder, caption):
    pipe = coca_hf.pipeline("image-to-text", folder, device="cpu", num_beams=3, **FEW)
    assert pipe(str(RGB)) == [{"generated_text": caption(RGB, num_beams=3)[0]}]


def test_generation_may_return_more_than_ids(pipe, caption):
    captions = pipe(str(RGB), generate_kwargs={"return_dict_in_generate": True, "output_scores": True, **FEW})
    assert captions == [{"generated_text": caption(RGB)[0]}]


def test_arguments_of_the_pipeline_serve_every_call(folder, caption):
    pipe = coca_hf.pipeline("image-to-text", folder, device="cpu", prompt="a photo of", batch_size=2, **FEW)
    assert pipe(str(RGB)) == [{"generated_text": caption(RGB, "a photo of")[0]}]
    assert pipe(str(RGB), prompt="two red") == [{"generated_text": caption(RGB, "two red")[0]}]


def test_images_are_also_taken_by_name(pipe):
    assert pipe(images=str(RGB), **FEW) == pipe(str(RGB), **FEW)


def test_files_and_opened_images_are_turned_upright(pipe, caption):
    path = IMAGES / "rotated.jpg"
    assert pipe(Image.open(path), **FEW) == pipe(str(path), **FEW) == [{"generated_text": caption(path)[0]}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "There is no image to caption"),
        ({"inputs": str(RGB), "num_beam": 3}, "'num_beam' is no argument .*Did you mean 'num_beams'?"),
        ({"inputs": str(RGB), "promt": "a"}, "'promt' is no argument .*Did you mean 'prompt'?"),
        ({"inputs": str(RGB), "zzz": "a"}, "'zzz' is no argument of this pipeline or of generate\\(\\).$"),
        ({"inputs": str(RGB), "max_new_tokens": 3, "generate_kwargs": {"max_new_tokens": 4}}, "given twice"),
    ],
)
def test_a_wrong_call_is_refused_with_its_reason(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(**arguments)


def test_a_model_without_decoder_is_refused(folder, pipe):
    towers = CoCaModel.from_pretrained(folder)
    with pytest.raises(ValueError, match="CoCaModel has no decoder"):
        ImageToTextPipeline(model=towers, tokenizer=pipe.tokenizer, image_processor=pipe.image_processor)


def expect_captions(pipe, caption):
    assert type(pipe).__name__ == "ImageToTextPipeline"
    assert pipe(PATHS, **FEW) == [[{"generated_text": caption(path)[0]}] for path in PATHS]


def test_the_packages_pipeline_takes_a_model(folder, caption):
    model, processor = CoCaForCaptioning.from_pretrained(folder), CoCaProcessor.from_pretrained(folder)
    pipe = coca_hf.pipeline(
        "image-to-text", model, tokenizer=processor.tokenizer, image_processor=processor.image_processor, device="cpu"
    )
    expect_captions(pipe, caption)
    assert pipe.task == "image-to-text"


def test_the_packages_pipeline_takes_a_model_and_its_processor(folder, caption):
    model, processor = CoCaForCaptioning.from_pretrained(folder), CoCaProcessor.from_pretrained(folder)
    expect_captions(coca_hf.pipeline("image-to-text", model=model, processor=processor, device="cpu"), caption)


def test_without_a_task_the_package_captions_and_asks_for_no_trust(folder, caption):
    expect_captions(coca_hf.pipeline(model=str(folder), device="cpu"), caption)
    expect_captions(coca_hf.pipeline(model=folder, device="cpu"), caption)
    model, processor = CoCaForCaptioning.from_pretrained(folder), CoCaProcessor.from_pretrained(folder)
    expect_captions(coca_hf.pipeline(model=model, processor=processor, device="cpu"), caption)


def test_without_a_task_towers_classify(folder):
    model, processor = CoCaModel.from_pretrained(folder), CoCaProcessor.from_pretrained(folder)
    pipe = coca_hf.pipeline(model=model, processor=processor, device="cpu")
    assert pipe.task == "zero-shot-image-classification"


def test_without_a_task_another_model_is_left_to_the_library(tmp_path):
    config = transformers.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    CoCaImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="cannot infer task automatically"):
        coca_hf.pipeline(model=str(tmp_path))


def test_the_packages_pipeline_says_nothing_about_a_redirection(folder, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    coca_hf.pipeline("image-to-text", folder, device="cpu")
    assert [record.getMessage() for record in caplog.records if "removed" in record.getMessage()] == []


def test_the_class_works_by_itself(folder, caption):
    model, processor = CoCaForCaptioning.from_pretrained(folder), CoCaProcessor.from_pretrained(folder)
    pipe = ImageToTextPipeline(
        model=model, tokenizer=processor.tokenizer, image_processor=processor.image_processor, device="cpu"
    )
    expect_captions(pipe, caption)


def test_the_class_works_as_pipeline_class_without_trust(folder, caption):
    pipe = transformers.pipeline("image-to-text", str(folder), pipeline_class=ImageToTextPipeline, device="cpu")
    expect_captions(pipe, caption)
    assert type(pipe) is ImageToTextPipeline


def test_transformers_own_pipeline_finds_the_class_in_the_folder(folder, caption, tmp_path):
    # A name of its own: the library keeps modules by the folder's name.
    copied = shutil.copytree(folder, tmp_path / "trusted_folder")
    pipe = transformers.pipeline("image-to-text", str(copied), trust_remote_code=True, device="cpu")
    expect_captions(pipe, caption)
    assert type(pipe).__module__.startswith("transformers_modules.trusted_folder")


def test_a_task_left_out_is_the_folders_only_custom_one(folder, caption):
    pipe = transformers.pipeline(model=str(folder), trust_remote_code=True, device="cpu")
    expect_captions(pipe, caption)


def test_image_text_to_text_continues_a_prompt(folder, caption):
    pipe = coca_hf.pipeline("image-text-to-text", folder, device="cpu")
    prompt = "a photo of"
    expected = [{"input_text": prompt, "generated_text": caption(RGB, prompt)[0]}]
    assert pipe(str(RGB), text=prompt, **FEW) == expected
    added = caption(RGB, prompt)[0].removeprefix(prompt)
    assert pipe(str(RGB), text=prompt, return_full_text=False, **FEW)[0]["generated_text"] == added


def test_image_text_to_text_stops_at_the_context_by_default(folder):
    pipe = coca_hf.pipeline("image-text-to-text", folder, device="cpu")
    ids = pipe(str(RGB), text="a photo of", return_tensors=True)[0]["generated_token_ids"]
    # The prompt's end token has become padding before it, which the context need not hold.
    assert len(ids) - 1 <= 24


def test_image_text_to_text_takes_batches(folder, caption):
    pipe = coca_hf.pipeline("image-text-to-text", folder, device="cpu")
    prompts = ["a photo of", "two red", "three"]
    records = pipe(images=PATHS, text=prompts, **FEW)
    expected = [caption(path, prompt)[0] for path, prompt in zip(PATHS, prompts, strict=True)]
    assert [record["generated_text"] for record in records] == expected


@pytest.mark.parametrize("image", [str(RGB), Image.open(RGB)], ids=["path", "opened"])
def test_image_text_to_text_captions_an_image_alone(folder, caption, image):
    pipe = coca_hf.pipeline("image-text-to-text", folder, device="cpu")
    assert pipe(image, **FEW) == [{"input_text": "", "generated_text": caption(RGB)[0]}]
    assert pipe(images=image, **FEW) == pipe(image, **FEW)


def test_image_text_to_text_captions_images_alone(folder, caption):
    pipe = coca_hf.pipeline("image-text-to-text", folder, device="cpu")
    paths = [str(RGB), str(TALL)]
    assert [record["generated_text"] for record in pipe(paths, **FEW)] == [caption(path)[0] for path in paths]


def chat(path, text):
    return [{"role": "user", "content": [{"type": "image", "path": path}, {"type": "text", "text": text}]}]


@pytest.mark.parametrize("make", [coca_hf.pipeline, transformers.pipeline], ids=["of the package", "of the library"])
def test_image_text_to_text_answers_chat_messages(folder, caption, make):
    pipe = make("image-text-to-text", str(folder), device="cpu")
    messages = chat(str(RGB), "a photo of")
    added = caption(RGB, "a photo of")[0].removeprefix("a photo of")
    assert pipe(text=messages, return_full_text=False, **FEW)[0]["generated_text"] == added
    answer = {"role": "assistant", "content": added}
    assert pipe(text=messages, **FEW)[0]["generated_text"] == [*messages, answer]
    records = pipe([chat(path, "a photo of") for path in PATHS], return_full_text=False, **FEW)
    expected = [caption(path, "a photo of")[0].removeprefix("a photo of") for path in PATHS]
    assert [record[0]["generated_text"] for record in records] == expected


def test_opened_photos_are_upright_in_every_pipeline(folder):
    path = IMAGES / "rotated.jpg"
    calls = {
        "image-to-text": FEW,
        "image-text-to-text": FEW,
        "zero-shot-image-classification": {"candidate_labels": ["a cube", "a ball"]},
        "image-feature-extraction": {},
    }
    for task, arguments in calls.items():
        pipe = coca_hf.pipeline(task, folder, device="cpu")
        assert pipe(str(path), **arguments) == pipe(Image.open(path), **arguments)


@pytest.mark.parametrize("task", ["zero-shot-image-classification", "image-feature-extraction"])
def test_a_captioner_serves_the_tasks_of_its_towers(folder, task):
    arguments = {"candidate_labels": ["a cube", "a ball"]} if task.startswith("zero") else {}
    model, processor = CoCaForCaptioning.from_pretrained(folder), CoCaProcessor.from_pretrained(folder)
    of_object = coca_hf.pipeline(task, model=model, processor=processor, device="cpu")
    assert of_object(str(RGB), **arguments) == coca_hf.pipeline(task, folder, device="cpu")(str(RGB), **arguments)


def test_zero_shot_image_classification_ranks_labels_as_the_model_does(folder):
    labels = ["red cube", "blue ball", "a ring on a table"]
    pipe = coca_hf.pipeline("zero-shot-image-classification", folder, device="cpu")
    results = pipe(PATHS, candidate_labels=labels, hypothesis_template="a photo of {}")
    model, processor = CoCaModel.from_pretrained(folder), CoCaProcessor.from_pretrained(folder)
    inputs = processor(
        images=[Image.open(path).convert("RGB") for path in PATHS],
        text=[f"a photo of {label}" for label in labels],
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        probabilities = model(**inputs).logits_per_image.softmax(dim=-1)
    for ranked, row in zip(results, probabilities, strict=True):
        assert {entry["label"] for entry in ranked} == set(labels)
        for entry in ranked:
            assert entry["score"] == pytest.approx(row[labels.index(entry["label"])].item(), abs=1e-5)


def test_image_feature_extraction_gives_the_image_embedding(folder):
    pipe = coca_hf.pipeline("image-feature-extraction", folder, device="cpu")
    features = torch.tensor(pipe(str(RGB)))
    model, processor = CoCaModel.from_pretrained(folder), CoCaProcessor.from_pretrained(folder)
    with torch.no_grad():
        embeds = model(pixel_values=processor(images=RGB, return_tensors="pt").pixel_values)[0]
    torch.testing.assert_close(features, embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.tensor(pipe(str(RGB), pool=True)), features)


def test_a_pipeline_runs_in_the_models_dtype(folder):
    pipe = coca_hf.pipeline("image-to-text", folder, dtype=torch.bfloat16, device="cpu")
    assert pipe.model.dtype == torch.bfloat16
    assert set(pipe(str(RGB), **FEW)[0]) == {"generated_text"}
