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
    reduced = processor.image_processor(tmp_path / "x.jpg", return_tensors="pt").pixel_values
    assert torch.equal(processor(images=tmp_path / "x.jpg", return_tensors="pt").pixel_values, reduced)
    in_full = processor(images=tmp_path / "x.jpg", do_reduce=False, return_tensors="pt").pixel_values
    assert not torch.equal(in_full, reduced)
    assert torch.equal(in_full, processor(images=Image.open(tmp_path / "x.jpg"), return_tensors="pt").pixel_values)


def test_each_half_works_alone(processor):
    assert set(processor(images=IMAGES / "rgb.png")) == {"pixel_values"}
    assert set(processor(text="a red cube")) == {"input_ids", "attention_mask"}


def test_neither_half_is_an_error(processor):
    with pytest.raises(ValueError, match="at least one input"):
        processor()


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
