# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Masks that the caller prepares, embeddings in place of ids, and where the context ends."""

import pytest
import torch
from torch.nn import functional as F
from transformers import DynamicCache

from tiny import END, PAD, START, tiny_captioner


POOL_TYPES = ["cls", "first", "last", "argmax", "eos", "none"]
every_pool_type = pytest.mark.parametrize("pool_type", POOL_TYPES)
IDS = torch.tensor([[START, 5, 6, 7, END], [START, 8, 9, 10, END]])
PADDED = torch.tensor([[START, 5, 6, END, PAD], [START, 8, END, PAD, PAD]])
FULL = torch.randint(1, 90, (2, 20), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def captioner():
    return tiny_captioner()


@pytest.fixture(scope="module")
def pixel_values():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def captioner_of(pool_type):
    return tiny_captioner(text_config={"pool_type": pool_type})


def as_kind(mask, kind):
    """A mask of bools as it is, or as what is added to scores."""
    if kind == "bool":
        return mask
    return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)


def causal(rows, queries, keys=None):
    keys = queries if keys is None else keys
    return torch.ones(rows, 1, queries, keys, dtype=torch.bool).tril(keys - queries)


def assert_same(found, expected):
    for name in ("logits", "text_embeds", "logits_per_image"):
        if getattr(expected, name) is not None:
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-5)


@every_pool_type
@pytest.mark.parametrize("kind", ["bool", "additive"])
@pytest.mark.parametrize("ids", [IDS, FULL], ids=["short", "whole context"])
@torch.no_grad()
def test_a_prepared_causal_mask_is_what_no_mask_is(pixel_values, pool_type, kind, ids):
    model = captioner_of(pool_type)
    expected = model(pixel_values=pixel_values, input_ids=ids)
    mask = as_kind(causal(*ids.shape), kind)
    assert_same(model(pixel_values=pixel_values, input_ids=ids, attention_mask=mask), expected)


@pytest.mark.parametrize("kind", ["bool", "additive"])
@torch.no_grad()
def test_a_prepared_mask_with_a_cache_goes_on_with_the_text(captioner, pixel_values, kind):
    expected = captioner(pixel_values=pixel_values, input_ids=IDS).logits
    begun = captioner(
        pixel_values=pixel_values, input_ids=IDS[:, :3], attention_mask=as_kind(causal(2, 3), kind), use_cache=True
    )
    torch.testing.assert_close(begun.logits, expected[:, :3], rtol=0, atol=1e-5)
    mask = as_kind(causal(2, 2, 5), kind)
    found = captioner(input_ids=IDS[:, 3:], attention_mask=mask, cache=begun.cache)
    torch.testing.assert_close(found.logits, expected[:, 3:], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_prepared_mask_decides_which_tokens_are_seen(captioner, pixel_values):
    mask = causal(2, 5)
    mask[:, :, 2:, 1] = False
    found, changed = (
        captioner(pixel_values=pixel_values, input_ids=ids, attention_mask=mask).logits
        for ids in (IDS, IDS.index_fill(1, torch.tensor([1]), 33))
    )
    torch.testing.assert_close(found[:, 2:], changed[:, 2:], rtol=0, atol=1e-5)
    assert not torch.allclose(found[:, 1], changed[:, 1], atol=1e-2)


# --- embeddings in place of ids ---


@pytest.mark.parametrize("pool_type", ["cls", "first", "last", "none"])
@pytest.mark.parametrize("with_mask", [True, False])
@torch.no_grad()
def test_embeddings_in_place_of_ids_give_what_the_ids_give(pixel_values, pool_type, with_mask):
    model = captioner_of(pool_type)
    ids = PADDED if with_mask else IDS
    mask = (ids != PAD).long() if with_mask else None
    expected = model(pixel_values=pixel_values, input_ids=ids, attention_mask=mask)
    embeds = model.get_input_embeddings()(ids)
    assert_same(model(pixel_values=pixel_values, inputs_embeds=embeds, attention_mask=mask), expected)


@pytest.mark.parametrize("pool_type", ["argmax", "eos"])
def test_pooling_that_looks_for_an_id_refuses_embeddings_in_words(pixel_values, pool_type):
    model = captioner_of(pool_type)
    embeds = model.get_input_embeddings()(IDS)
    with pytest.raises(ValueError, match=f"inputs_embeds has no ids, which pool_type='{pool_type}' looks for"):
        model(pixel_values=pixel_values, inputs_embeds=embeds)


@torch.no_grad()
def test_embeddings_go_on_behind_a_cache(captioner, pixel_values):
    expected = captioner(pixel_values=pixel_values, input_ids=IDS).logits
    embeds = captioner.get_input_embeddings()(IDS)
    cache = captioner(pixel_values=pixel_values, inputs_embeds=embeds[:, :3], use_cache=True).cache
    found = captioner(inputs_embeds=embeds[:, 3:], cache=cache).logits
    torch.testing.assert_close(found, expected[:, 3:], rtol=0, atol=1e-5)


def test_text_given_twice_is_refused(captioner, pixel_values):
    embeds = captioner.get_input_embeddings()(IDS)
    with pytest.raises(ValueError, match="input_ids or as inputs_embeds, one of the two"):
        captioner(pixel_values=pixel_values, input_ids=IDS, inputs_embeds=embeds)


# --- the end of the context ---


@torch.no_grad()
def test_a_token_behind_a_full_context_is_refused(captioner, pixel_values):
    cache = captioner(pixel_values=pixel_values, input_ids=FULL, use_cache=True).cache
    with pytest.raises(ValueError, match="21 tokens, but the context is 20"):
        captioner(input_ids=torch.tensor([[5], [5]]), cache=cache)


def test_a_text_longer_than_the_context_is_refused(captioner, pixel_values):
    with pytest.raises(ValueError, match="21 tokens, but the context is 20"):
        captioner(pixel_values=pixel_values, input_ids=torch.ones(2, 21, dtype=torch.long))


@torch.no_grad()
def test_left_padding_wider_than_the_context_changes_nothing(captioner, pixel_values):
    padded = F.pad(IDS[:, :4], (20, 0), value=PAD)
    mask = F.pad(torch.ones(2, 4, dtype=torch.long), (20, 0))
    expected = captioner(pixel_values=pixel_values, input_ids=IDS[:, :4])
    found = captioner(pixel_values=pixel_values, input_ids=padded, attention_mask=mask)
    torch.testing.assert_close(found.logits[:, -4:], expected.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.text_embeds, expected.text_embeds, rtol=0, atol=1e-5)
    lengths = {"max_new_tokens": 5, "min_new_tokens": 5}
    generated = captioner.generate(pixel_values, input_ids=padded, attention_mask=mask, **lengths)
    assert torch.equal(generated[:, -9:], captioner.generate(pixel_values, input_ids=IDS[:, :4], **lengths))


# --- holes ---


@pytest.mark.parametrize("use_cache", [True, False])
@torch.no_grad()
def test_a_prompt_with_a_masked_token_inside_is_continued_as_forward_sees_it(captioner, pixel_values, use_cache):
    prompt, mask = torch.tensor([[START, 11, 12, 13]] * 2), torch.tensor([[1, 1, 0, 1]] * 2)
    expected, expected_mask = prompt, mask
    for _ in range(4):
        logits = captioner(pixel_values=pixel_values, input_ids=expected, attention_mask=expected_mask).logits[:, -1]
        logits[:, END] = -torch.inf
        expected = torch.cat([expected, logits.argmax(-1, keepdim=True)], dim=1)
        expected_mask = F.pad(expected_mask, (0, 1), value=1)
    lengths = {"max_new_tokens": 4, "min_new_tokens": 4, "use_cache": use_cache}
    found = captioner.generate(pixel_values, input_ids=prompt, attention_mask=mask, **lengths)
    assert torch.equal(found, expected)
    assert not torch.equal(found, captioner.generate(pixel_values, input_ids=prompt, **lengths))


# --- `use_cache` ---


@torch.no_grad()
def test_a_cache_is_returned_as_the_argument_says_and_else_as_the_config_does(pixel_values):
    for config_says in (True, False):
        model = tiny_captioner(use_cache=config_says)
        returned = {
            given: model(pixel_values=pixel_values, input_ids=IDS, use_cache=given).cache is not None
            for given in (True, False, None)
        }
        assert returned == {True: True, False: False, None: config_says}


@torch.no_grad()
def test_a_given_cache_is_used_whatever_use_cache_says(captioner, pixel_values):
    expected = captioner(pixel_values=pixel_values, input_ids=IDS).logits[:, 3:]
    cache = DynamicCache()
    captioner(pixel_values=pixel_values, input_ids=IDS[:, :3], cache=cache, use_cache=False)
    found = captioner(input_ids=IDS[:, 3:], cache=cache, use_cache=False)
    torch.testing.assert_close(found.logits, expected, rtol=0, atol=1e-5)
