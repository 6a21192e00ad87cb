# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The tokenizer against open_clip's recorded ids, and as transformers' users expect a tokenizer to behave."""

import json
import logging
import pickle
import tempfile
import unittest
from pathlib import Path

import ftfy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers_tests.test_tokenization_common import TokenizerTesterMixin
from transformers_tests.test_tokenizers_backend_mixin import TokenizersBackendTesterMixin

from coca_hf import tokenization_coca
from coca_hf.tokenization_coca import CoCaTokenizer, clean_text, vocabulary_from_merges


FIXTURES = Path(__file__).parent / "fixtures" / "processing"
MERGES = FIXTURES / "clip_merges.txt.gz"
RECORDING = json.loads((FIXTURES / "tokenization.json").read_text(encoding="utf-8"))
CASES = RECORDING["cases"]
START, END = 49406, 49407
SCENES = [f"a {colour} {shape} on a table!" for colour in ("red", "blue", "green") for shape in ("cube", "ball")]

by_text = pytest.mark.parametrize("case", CASES, ids=[f"{index}" for index in range(len(CASES))])


@pytest.fixture(scope="module")
def tokenizer() -> CoCaTokenizer:
    return CoCaTokenizer.from_open_clip_vocabulary(MERGES)


@pytest.fixture(scope="module")
def small_tokenizer() -> CoCaTokenizer:
    return CoCaTokenizer(model_max_length=16).train_new_from_iterator(SCENES, vocab_size=560)


@by_text
def test_ids_equal_open_clips(tokenizer, case):
    assert tokenizer(case["text"], add_special_tokens=False)["input_ids"] == case["ids"]


@by_text
def test_padding_and_truncation_to_the_context_equal_open_clips(tokenizer, case):
    encoded = tokenizer(case["text"], padding="max_length", truncation=True)
    assert encoded["input_ids"] == case["padded"]
    visible = sum(encoded["attention_mask"])
    assert encoded["attention_mask"] == [1] * visible + [0] * (76 - visible)
    assert encoded["input_ids"][visible - 1] == END


@by_text
def test_decoding_equals_open_clips_but_for_the_last_space(tokenizer, case):
    assert tokenizer.decode(case["ids"], skip_special_tokens=False) == case["decoded"].removesuffix(" ")


@by_text
def test_a_batch_gives_what_each_text_gives_alone(tokenizer, case):
    encoded = tokenizer(["a cat", case["text"]], truncation=True, padding=True)
    assert (
        encoded["input_ids"][1][: sum(encoded["attention_mask"][1])]
        == tokenizer(case["text"], truncation=True).input_ids
    )


def test_special_ids_are_open_clips(tokenizer):
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (START, END, 0)
    assert len(tokenizer) == tokenizer.vocab_size == 49408


def test_an_exclamation_mark_is_a_word_and_not_padding(tokenizer):
    assert tokenizer("a dog!")["input_ids"] == [START, 320, 1929, 256, END]
    assert tokenizer.decode(tokenizer("!-! a dog!").input_ids, skip_special_tokens=True) == "!-! a dog !"


@pytest.mark.parametrize("side", ["left", "right"])
def test_decoding_drops_padding_on_either_side(tokenizer, side):
    batch = tokenizer(["a cat", "!<! two dogs on a bench!"], padding=True, padding_side=side, return_tensors="pt")
    assert tokenizer.batch_decode(batch.input_ids, skip_special_tokens=True) == ["a cat", "!<! two dogs on a bench !"]


def test_padding_side_of_the_tokenizer_is_honoured(tokenizer):
    left = CoCaTokenizer.from_open_clip_vocabulary(MERGES, padding_side="left")
    encoded = left(["cat", "a black cat"], padding=True)
    assert encoded["input_ids"][0] == [0, 0, START, tokenizer("cat").input_ids[1], END]
    assert encoded["attention_mask"][0] == [0, 0, 1, 1, 1]


def test_left_truncation_keeps_both_special_tokens(tokenizer):
    text = "one two three four"
    words = tokenizer(text, add_special_tokens=False)["input_ids"]
    left = CoCaTokenizer.from_open_clip_vocabulary(MERGES, truncation_side="left")
    assert left(text, truncation=True, max_length=4)["input_ids"] == [START, *words[-2:], END]


def test_a_tokenizer_without_end_token_writes_prompts(tokenizer):
    prompts = CoCaTokenizer.from_open_clip_vocabulary(MERGES, add_eos_token=False)
    assert prompts("a cat")["input_ids"] == tokenizer("a cat")["input_ids"][:-1]
    prompts.add_eos_token = True
    assert prompts("a cat")["input_ids"] == tokenizer("a cat")["input_ids"]


def test_tensors_come_on_request(tokenizer):
    encoded = tokenizer(["a cat", "a"], padding=True, return_tensors="pt")
    assert encoded.input_ids.dtype == torch.long
    assert encoded.input_ids.shape == encoded.attention_mask.shape == (2, 4)


def test_words_already_split_are_cleaned_one_by_one(tokenizer):
    split = tokenizer(["A", "schÃ¶n", "CAT"], is_split_into_words=True)
    assert split["input_ids"] == tokenizer("a schön cat")["input_ids"]


def test_offsets_refer_to_the_cleaned_text(tokenizer):
    text = "A  CAT &amp; dog"
    cleaned = clean_text(text)
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert [cleaned[start:end] for start, end in offsets] == ["a", "cat", "&", "dog"]


def test_special_tokens_in_text_can_be_read_as_text(tokenizer):
    ids = tokenizer("<start_of_text>", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert START not in ids
    assert tokenizer.decode(ids) == "< start _ of _ text >"


def test_added_tokens_are_found_in_any_case(tokenizer):
    extended = CoCaTokenizer.from_open_clip_vocabulary(MERGES)
    extended.add_special_tokens({"extra_special_tokens": ["<REGION>"]})
    assert extended("a <region> and <REGION>", add_special_tokens=False)["input_ids"].count(49408) == 2


def test_spaces_before_punctuation_go_when_asked(tokenizer):
    ids = tokenizer("it's a dog, isn't it?").input_ids
    plain = tokenizer.decode(ids, skip_special_tokens=True)
    assert plain == "it 's a dog , isn 't it ?"
    assert (
        tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=True) == "it's a dog, isn 't it?"
    )


# Characters that Python does not know yet may have a lower case that the backend knows.
@settings(deadline=None, max_examples=200)
@given(text=st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=40))
def test_no_character_is_lost(tokenizer, text):
    decoded = tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert decoded.replace(" ", "") == clean_text(text).replace(" ", "")


def test_a_saved_tokenizer_comes_back_the_same(tokenizer, tmp_path):
    # Padding and truncation of the last call are state of the backend and must not be saved.
    tokenizer(["a cat", "a dog!"], padding=True, truncation=True, max_length=3)
    tokenizer.save_pretrained(tmp_path)
    loaded = CoCaTokenizer.from_pretrained(tmp_path)
    assert [loaded(case["text"])["input_ids"] for case in CASES] == [
        tokenizer(case["text"])["input_ids"] for case in CASES
    ]
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (START, END, 0)
    assert loaded.model_max_length == 76
    assert "!" not in loaded.get_added_vocab()


def test_a_saved_prompt_tokenizer_stays_one_until_told_otherwise(tokenizer, tmp_path):
    prompts = CoCaTokenizer.from_open_clip_vocabulary(MERGES, add_eos_token=False)
    prompts.save_pretrained(tmp_path)
    assert CoCaTokenizer.from_pretrained(tmp_path)("a cat").input_ids == prompts("a cat").input_ids
    complete = CoCaTokenizer.from_pretrained(tmp_path, add_eos_token=True)
    assert complete("a cat").input_ids == tokenizer("a cat").input_ids


def test_the_saved_file_serves_the_tokenizers_library_alone(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    plain = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert plain.encode("A photo of 2 cats!").ids == tokenizer("A photo of 2 cats!").input_ids


def test_a_tokenizer_survives_pickling(tokenizer):
    assert pickle.loads(pickle.dumps(tokenizer))("a dog!").input_ids == tokenizer("a dog!").input_ids


def test_clips_own_tokenizer_file_gives_the_same_vocabulary(tokenizer, tmp_path):
    # As in CLIP repositories: their names for the special tokens, merges as strings.
    stored = json.loads(tokenizer.backend_tokenizer.to_str())
    stored["model"]["merges"] = [" ".join(pair) for pair in stored["model"]["merges"]]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(stored), encoding="utf-8")
    assert CoCaTokenizer.from_open_clip_vocabulary(path).get_vocab() == tokenizer.get_vocab()


def test_another_vocabulary_file_is_refused(tmp_path):
    path = tmp_path / "merges.txt"
    path.write_text("#version\na b\n", encoding="utf-8")
    with pytest.raises(ValueError, match="is not open_clip's vocabulary"):
        CoCaTokenizer.from_open_clip_vocabulary(path)


def test_a_trained_vocabulary_has_open_clips_layout(small_tokenizer):
    assert len(small_tokenizer) <= 560
    assert small_tokenizer.get_vocab() == vocabulary_from_merges(
        json.loads(small_tokenizer.backend_tokenizer.to_str())["model"]["merges"],
        ["<start_of_text>", "<end_of_text>"],
    )
    assert small_tokenizer.pad_token_id == 0
    assert (small_tokenizer.bos_token_id, small_tokenizer.eos_token_id) == (
        len(small_tokenizer) - 2,
        len(small_tokenizer) - 1,
    )


def test_a_trained_vocabulary_shortens_what_it_was_trained_on(small_tokenizer):
    assert len(small_tokenizer(SCENES[0], add_special_tokens=False).input_ids) == 7


@pytest.mark.parametrize("text", ["a red cube", "zyx 日本 😀 qä!", "!-! <a>"])
def test_a_trained_vocabulary_encodes_every_text(small_tokenizer, text):
    assert clean_text(small_tokenizer.decode(small_tokenizer(text).input_ids, skip_special_tokens=True)).replace(
        " ", ""
    ) == text.replace(" ", "")


def test_a_trained_tokenizer_comes_back_from_its_folder(small_tokenizer, tmp_path):
    small_tokenizer.save_pretrained(tmp_path)
    loaded = CoCaTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == small_tokenizer.get_vocab()
    assert loaded.model_max_length == 16
    assert loaded(SCENES[0]).input_ids == small_tokenizer(SCENES[0]).input_ids


def test_training_is_reproducible():
    words = [a + b + c for a in "abcdef" for b in "ghijkl" for c in "mnopqr"]  # many ties
    trained = [
        CoCaTokenizer().train_new_from_iterator(texts, vocab_size=620)
        for texts in (words, words, words[::-1], [words[:100], words[100:]])
    ]
    assert len({tokenizer.backend_tokenizer.to_str() for tokenizer in trained}) == 1


def test_bytes_and_special_tokens_are_never_left_out_of_a_trained_vocabulary():
    tokenizer = CoCaTokenizer().train_new_from_iterator(SCENES, vocab_size=100)
    assert len(tokenizer) == 514
    assert tokenizer.decode(tokenizer("a red cube").input_ids, skip_special_tokens=True) == "a red cube"


def test_a_trained_vocabulary_takes_new_names_and_keeps_to_its_size():
    names = {"<start_of_text>": "<s>", "!": "<pad>"}
    tokenizer = CoCaTokenizer().train_new_from_iterator(
        SCENES, vocab_size=530, special_tokens_map=names, new_special_tokens=["<region>"]
    )
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "<end_of_text>", "<pad>")
    assert len(tokenizer) == 530
    assert "<region>" in tokenizer.all_special_tokens


def test_a_pad_token_of_its_own_is_special():
    tokenizer = CoCaTokenizer(pad_token="<pad>")
    assert tokenizer.pad_token_id == 514
    batch = tokenizer(["a", "a!"], padding=True)
    assert tokenizer.decode(batch.input_ids[0], skip_special_tokens=True) == "a"


@pytest.fixture
def warnings_without_ftfy(monkeypatch, caplog):
    """Texts of the warnings that come where ftfy is not installed."""
    monkeypatch.setattr(tokenization_coca, "ftfy", None)
    tokenization_coca.logger.warning_once.cache_clear()
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(tokenization_coca.logger, "propagate", True)
    with caplog.at_level(logging.WARNING):
        yield lambda: [record.getMessage().partition(":")[0] for record in caplog.records]


def test_without_ftfy_texts_are_composed_and_one_warning_names_the_difference(warnings_without_ftfy):
    assert clean_text("Cafe\u0301 &amp; dog’s") == "café & dog’s"
    clean_text("schÃ¶n")
    assert warnings_without_ftfy() == ["ftfy is not installed"]


@pytest.mark.parametrize("text", ["A photo of a dog, isn't it?", "salt & pepper\r\n", "<start_of_text> 100% [x]"])
def test_without_ftfy_nothing_is_said_of_texts_that_it_would_not_change(warnings_without_ftfy, text):
    clean_text(text)
    assert warnings_without_ftfy() == []


# White space is collapsed after ftfy, whatever it has made of it.
@settings(deadline=None, max_examples=300)
@given(text=st.from_regex(tokenization_coca.PLAIN_TEXT, fullmatch=True))
def test_texts_without_a_warning_get_the_same_ids_with_and_without_ftfy(text):
    assert ftfy.fix_text(text).split() == text.split()


@pytest.mark.parametrize("text", ["dog’s", "&rsquo;", "&amp;amp;amp;", "&#39;", "a\x1b[31mb", "\x00", "ﬁ", "Ｆ", "Ã©"])
def test_texts_that_ftfy_changes_bring_the_warning(text):
    assert tokenization_coca.PLAIN_TEXT.fullmatch(text) is None


class CoCaTokenizationTest(TokenizerTesterMixin, TokenizersBackendTesterMixin, unittest.TestCase):
    tokenizer_class = CoCaTokenizer
    rust_tokenizer_class = CoCaTokenizer
    # For tokenizers that transformers rebuilds from their vocabulary; this one reads its file as it is.
    test_tokenizer_from_extractor = False

    @classmethod
    def setUpClass(cls):
        cls.tmpdirname = tempfile.mkdtemp()
        # A context that pad_to_multiple_of=8 divides.
        CoCaTokenizer(model_max_length=80).train_new_from_iterator(SCENES, vocab_size=560).save_pretrained(
            cls.tmpdirname
        )
        cls.from_pretrained_id = [cls.tmpdirname]
        cls.tokenizers_list = [(CoCaTokenizer, cls.tmpdirname, {})]
        cls._data = " ".join(SCENES)
