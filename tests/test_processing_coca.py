# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The processor: both halves behind one call, saved and loaded together, and transformers' own tests."""

import unittest
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers_tests.test_processing_common import ProcessorTesterMixin

import coca_hf  # noqa: F401  registers the classes that from_pretrained looks up
from coca_hf.image_processing_coca import CoCaImageProcessor
from coca_hf.processing_coca import CoCaProcessor
from coca_hf.tokenization_coca import CoCaTokenizer


IMAGES = Path(__file__).parent / "fixtures" / "processing" / "images"
CORPUS = ["a photo of a red cube", "a photo of two blue balls on a table", "lower newer upper older longer string"]


def make_tokenizer(**kwargs) -> CoCaTokenizer:
    return CoCaTokenizer(**kwargs).train_new_from_iterator(CORPUS, vocab_size=560)


@pytest.fixture(scope="module")
def processor() -> CoCaProcessor:
    size = {"height": 16, "width": 16}
    return CoCaProcessor(CoCaImageProcessor(size=size, crop_size=size), make_tokenizer(model_max_length=12))


def test_images_and_texts_give_the_inputs_of_the_model(processor):
    batch = processor(
        images=[IMAGES / "rgb.png", Image.open(IMAGES / "rgba.png")],
        text=["a red cube", "two blue balls on a table"],
        padding=True,
        truncation=True,
        return_tensors="pt",
    )
    assert set(batch) == {"pixel_values", "input_ids", "attention_mask"}
    assert batch.pixel_values.shape == (2, 3, 16, 16)
    assert batch.input_ids.shape == batch.attention_mask.shape
    assert batch.attention_mask[0].sum() < batch.attention_mask[1].sum()


def test_a_large_file_is_read_as_the_image_processor_reads_it(processor, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (600, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.jpg")
    in_full = processor(images=tmp_path / "x.jpg", return_tensors="pt").pixel_values
    assert torch.equal(in_full, processor(images=Image.open(tmp_path / "x.jpg"), return_tensors="pt").pixel_values)
    asked = {"do_reduce": True, "return_tensors": "pt"}
    reduced = processor(images=tmp_path / "x.jpg", **asked).pixel_values
    assert torch.equal(reduced, processor.image_processor(tmp_path / "x.jpg", **asked).pixel_values)
    assert not torch.equal(in_full, reduced)


def test_each_half_works_alone(processor):
    assert set(processor(images=IMAGES / "rgb.png")) == {"pixel_values"}
    assert set(processor(text="a red cube")) == {"input_ids", "attention_mask"}


def test_neither_half_is_an_error(processor):
    with pytest.raises(ValueError, match="at least one input"):
        processor()


@pytest.mark.parametrize("name", ["videos", "audio"])
def test_inputs_that_the_model_does_not_have_are_refused(processor, name):
    with pytest.raises(ValueError, match=f"takes images and text, not {name}"):
        processor(**{name: np.zeros((2, 4, 4, 3), np.uint8)})


def message(*content, role="user"):
    return {"role": role, "content": list(content)}


IMAGE = {"type": "image", "path": str(IMAGES / "rgb.png")}
PROMPT = {"type": "text", "text": "A red"}


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([message(IMAGE)], ""),
        ([message(IMAGE, PROMPT)], "A red"),
        ([message(PROMPT, IMAGE)], "A red"),
        ([message(IMAGE), message(PROMPT, role="assistant")], "A red"),
        ([message(IMAGE, PROMPT), message({"type": "text", "text": "cube"}, role="assistant")], "A red cube"),
        ([{"role": "user", "content": "A red"}], "A red"),
    ],
)
def test_chat_messages_are_a_prompt(processor, messages, prompt):
    assert processor.apply_chat_template(messages) == "<start_of_text>" + prompt
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    framed = processor(text=prompt, return_tensors="pt").input_ids
    assert torch.equal(inputs["input_ids"], framed[:, :-1])
    images = [part for each in messages for part in each["content"] if part == IMAGE]
    expected = processor(images=IMAGES / "rgb.png", return_tensors="pt").pixel_values if images else None
    assert torch.equal(inputs["pixel_values"], expected) if images else "pixel_values" not in inputs


def test_chats_of_a_batch_are_padded_prompts(processor):
    chats = [[message(IMAGE)], [message(IMAGE, PROMPT)]]
    inputs = processor.apply_chat_template(
        chats, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"padding": True}
    )
    assert inputs["pixel_values"].shape == (2, 3, 16, 16)
    assert inputs["attention_mask"].sum(dim=1).tolist() == [1, inputs["input_ids"].shape[1]]


def test_a_chat_template_of_ones_own_is_used(processor):
    own = CoCaProcessor(processor.image_processor, processor.tokenizer, chat_template="{{ messages[0].content }}!")
    messages = [{"role": "user", "content": "a cube"}]
    assert own.apply_chat_template(messages) == "a cube!"
    assert own.apply_chat_template(messages, chat_template="only this") == "only this"


def test_arguments_reach_the_half_they_belong_to(processor):
    batch = processor(
        images=IMAGES / "rgb.png",
        text="a red cube",
        resize_mode="squash",
        do_normalize=False,
        padding="max_length",
        return_tensors="np",
    )
    expected = processor.image_processor(IMAGES / "rgb.png", resize_mode="squash", do_normalize=False)
    np.testing.assert_array_equal(batch["pixel_values"][0], expected["pixel_values"][0])
    assert batch["input_ids"].shape == (1, 12)


def test_generated_ids_become_captions(processor):
    ids = processor(text=["a red cube", "two blue balls on a table"], padding=True, return_tensors="pt").input_ids
    captions = ["a red cube", "two blue balls on a table"]
    assert processor.batch_decode(ids, skip_special_tokens=True) == captions
    assert processor.post_process_image_text_to_text(ids) == captions
    assert processor.decode(ids[0], skip_special_tokens=True) == captions[0]


def test_a_saved_processor_comes_back_the_same(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = CoCaProcessor.from_pretrained(tmp_path)
    assert loaded.image_processor.to_dict() == processor.image_processor.to_dict()
    assert loaded.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    first, second = (
        p(images=IMAGES / "rgb.png", text="a red cube!", return_tensors="pt") for p in (processor, loaded)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


class CoCaProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = CoCaProcessor

    @classmethod
    def _setup_image_processor(cls):
        return CoCaImageProcessor()

    @classmethod
    def _setup_tokenizer(cls):
        return make_tokenizer()
