# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Every attention implementation gives the same results, checked without the hardware that two of them want.

transformers' own tests of flash and flex attention need a GPU. Here flex attention runs without being compiled, and a
function with the contract of a flash kernel stands in for one.
"""

import pytest
import torch
import transformers
from packaging import version
from torch.nn.attention.flex_attention import flex_attention
from transformers import AttentionInterface, AttentionMaskInterface, masking_utils
from transformers.integrations.flex_attention import WrappedFlexAttention
from transformers.masking_utils import flash_attention_mask

from tiny import END, PAD, START, tiny_captioner


pytestmark = [
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
    pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask"),
]

IMPLEMENTATIONS = ["eager", "reference_flash", "flex_attention"]
# A text with padding, one without, and one with an id inside that equals padding.
TEXTS = [[START, 5, 6, END, PAD, PAD, PAD], [START, 8, 9, 10, 11, 12, END], [START, 5, PAD, 7, 8, END, PAD]]
LENGTHS = [4, 7, 6]


def reference_flash_attention(module, query, key, value, attention_mask, scaling, is_causal=None, **kwargs):
    """What flash kernels compute: a mask of theirs is one of padding, a query's too, and causality is a flag."""
    assert attention_mask is None or attention_mask.ndim == 2
    is_causal = module.is_causal if is_causal is None else is_causal
    # A static cache is longer than what it holds.
    queries, keys = query.shape[2], key.shape[2] if attention_mask is None else attention_mask.shape[1]
    key, value = key[:, :, :keys], value[:, :, :keys]
    visible = torch.ones(len(query), 1, queries, keys, dtype=torch.bool)
    if is_causal:
        visible = visible.tril(keys - queries)
    if attention_mask is not None:
        is_token = attention_mask.bool()
        visible = visible & is_token[:, None, None, :]
    weights = (query @ key.transpose(-1, -2) * scaling).masked_fill(~visible, -torch.inf).softmax(-1).nan_to_num()
    attended = (weights @ value).transpose(1, 2)
    if attention_mask is not None:
        attended = attended * is_token[:, -queries:, None, None]
    return attended, None


@pytest.fixture(scope="module", autouse=True)
def _flash_without_a_gpu():
    AttentionInterface.register("reference_flash", reference_flash_attention)
    AttentionMaskInterface.register("reference_flash", flash_attention_mask)


@pytest.fixture(autouse=True)
def _flex_without_a_compiler(monkeypatch):
    monkeypatch.setattr(WrappedFlexAttention, "__call__", lambda self: flex_attention)
    create = masking_utils.create_block_mask
    uncompiled = lambda *args, **keywords: create(*args, **{**keywords, "_compile": False})  # noqa: E731
    monkeypatch.setattr(masking_utils, "create_block_mask", uncompiled)


@pytest.fixture
def pixel_values():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def captioner(implementation, **changes):
    model = tiny_captioner(**changes)
    # Not `set_attn_implementation`, which wants to load a kernel for any name with "flash" in it.
    model.config._attn_implementation = implementation
    return model


POOL_TYPES = ["cls", "first", "last", "argmax", "eos"]
every_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


@every_implementation
@pytest.mark.parametrize("pool_type", POOL_TYPES)
@pytest.mark.parametrize("with_mask", [True, False])
@torch.no_grad()
def test_scores_embeddings_and_loss_are_the_same(pixel_values, implementation, pool_type, with_mask):
    input_ids = torch.tensor(TEXTS)
    is_token = torch.arange(7) < torch.tensor(LENGTHS)[:, None]
    inputs = {"pixel_values": pixel_values, "input_ids": input_ids, "labels": input_ids.masked_fill(~is_token, -100)}
    inputs |= {"attention_mask": is_token.long()} if with_mask else {}
    changes = {"text_config": {"pool_type": pool_type}}
    expected = captioner("sdpa", **changes)(**inputs)
    found = captioner(implementation, **changes)(**inputs)
    for name in ("image_embeds", "text_embeds", "caption_loss", "contrastive_loss"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.logits[is_token], expected.logits[is_token], atol=2e-5, rtol=0)


@every_implementation
@torch.no_grad()
def test_a_tower_that_sees_following_tokens_is_the_same(pixel_values, implementation):
    changes = {"text_config": {"is_causal": False, "pool_type": "first"}}
    inputs = {"pixel_values": pixel_values, "input_ids": torch.tensor(TEXTS)}
    expected = captioner("sdpa", **changes)(**inputs)
    found = captioner(implementation, **changes)(**inputs)
    torch.testing.assert_close(found.text_embeds, expected.text_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.logits, expected.logits, atol=2e-5, rtol=0)


PROMPTS = {
    "no prompt": {},
    "left padding": {
        "input_ids": torch.tensor([[PAD, PAD, START, 11], [START, 12, 13, 14], [PAD, START, 16, 17]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]]),
    },
    "an id that equals padding": {"input_ids": torch.tensor([[START, 12, PAD, 14]])},
}
MODES = {
    "greedy": {},
    "without cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "beam search": {"num_beams": 3},
    "diverse beam search": {"num_beams": 4, "num_beam_groups": 2},
}
COMBINATIONS = [(i, m) for i in IMPLEMENTATIONS for m in MODES]
# With flex attention the library cannot generate from a static cache, whose prepared mask it takes for a tensor.
COMBINATIONS.remove(("flex_attention", "static cache"))
if version.parse(transformers.__version__) < version.parse("5.21"):
    # Its flash attention read the unused places of a static cache.
    COMBINATIONS.remove(("reference_flash", "static cache"))


@pytest.mark.parametrize(("implementation", "mode"), COMBINATIONS)
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_captions_are_the_same(pixel_values, implementation, prompt, mode):
    keywords = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, **prompt, **MODES[mode]}
    expected = captioner("sdpa").generate(pixel_values, **keywords)
    assert torch.equal(captioner(implementation).generate(pixel_values, **keywords), expected)
