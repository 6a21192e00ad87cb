# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What `generate()` promises of every model of the library, checked on a tiny captioner with random weights.

transformers' own generation tests are in none of its archives; these take their place.
"""

import copy
import itertools

import pytest
import torch
from transformers import DynamicCache, LogitsProcessor, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from tiny import END, PAD, START, tiny_captioner


BATCH, NEW_TOKENS = 3, 8

# Every decoding mode of the library that needs no download, with the number of sequences it returns per image.
MODES = {
    "greedy": ({}, 1),
    "sampling": ({"do_sample": True}, 1),
    "sampling, filtered": ({"do_sample": True, "top_k": 20, "top_p": 0.9, "temperature": 0.7, "min_p": 0.01}, 1),
    "several samples": ({"do_sample": True, "num_return_sequences": 3}, 3),
    "beam search": ({"num_beams": 3}, 1),
    "several beams": ({"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.5}, 2),
    "beam sampling": ({"num_beams": 3, "do_sample": True}, 1),
    "diverse beam search": ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}, 1),
    "several diverse beams": ({"num_beams": 4, "num_beam_groups": 2, "num_return_sequences": 4}, 4),
}
every_mode = pytest.mark.parametrize(("mode", "returned"), MODES.values(), ids=MODES.keys())


@pytest.fixture(scope="module")
def captioner():
    return tiny_captioner()


@pytest.fixture
def pixel_values():
    return torch.randn(BATCH, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def generate(model, pixel_values, **keywords):
    """Ids of exactly `NEW_TOKENS` new tokens unless `keywords` say otherwise; the same random draws at every call."""
    torch.manual_seed(0)
    lengths = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
    return model.generate(pixel_values=pixel_values, **{"do_sample": False, **lengths, **keywords})


def scores_without_cache(model, pixel_values, input_ids):
    """Log-probabilities of the token after `input_ids`: (batch, vocabulary)."""
    with torch.no_grad():
        logits = model(pixel_values=pixel_values, input_ids=input_ids, use_cache=False).logits
    return logits[:, -1].log_softmax(-1)


class Recorder(BaseStreamer):
    def __init__(self):
        self.received, self.ended = [], False

    def put(self, value):
        self.received.append(value.reshape(value.shape[0], -1))

    def end(self):
        self.ended = True


class OnlyToken(LogitsProcessor):
    """Leaves one token with a score above minus infinity."""

    def __init__(self, token):
        self.token = token

    def __call__(self, input_ids, scores):
        alone = torch.full_like(scores, -torch.inf)
        alone[:, self.token] = scores[:, self.token]
        return alone


class StopAtLength(StoppingCriteria):
    def __init__(self, length):
        self.length = length

    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((input_ids.shape[0],), input_ids.shape[1] >= self.length)


# --- what comes out ---


def test_greedy_decoding_takes_the_likeliest_token_each_time(captioner, pixel_values):
    expected = torch.full((BATCH, 1), START)
    for _ in range(NEW_TOKENS):
        scores = scores_without_cache(captioner, pixel_values, expected)
        scores[:, END] = -torch.inf
        expected = torch.cat([expected, scores.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(generate(captioner, pixel_values), expected)


@every_mode
def test_a_caption_starts_with_the_start_token_and_has_the_length_asked_for(captioner, pixel_values, mode, returned):
    ids = generate(captioner, pixel_values, **mode)
    assert ids.shape == (BATCH * returned, 1 + NEW_TOKENS)
    assert (ids[:, 0] == START).all()


@every_mode
def test_the_cache_changes_no_token(captioner, pixel_values, mode, returned):
    with_cache = generate(captioner, pixel_values, use_cache=True, **mode)
    assert torch.equal(with_cache, generate(captioner, pixel_values, use_cache=False, **mode))


@every_mode
def test_the_same_seed_gives_the_same_caption(captioner, pixel_values, mode, returned):
    assert torch.equal(generate(captioner, pixel_values, **mode), generate(captioner, pixel_values, **mode))


DETERMINISTIC = {name: mode for name, (mode, _) in MODES.items() if not mode.get("do_sample")}


@pytest.mark.parametrize("mode", DETERMINISTIC.values(), ids=DETERMINISTIC.keys())
def test_a_batch_of_images_gives_what_each_gives_alone(captioner, pixel_values, mode):
    alone = [generate(captioner, image[None], **mode) for image in pixel_values]
    assert torch.equal(generate(captioner, pixel_values, **mode), torch.cat(alone))


def test_different_images_get_different_captions(captioner, pixel_values):
    assert len({tuple(row) for row in generate(captioner, pixel_values).tolist()}) == BATCH


def test_samples_of_one_image_differ_from_each_other(captioner, pixel_values):
    ids = generate(captioner, pixel_values[:1], do_sample=True, num_return_sequences=4)
    assert len({tuple(row) for row in ids.tolist()}) == 4


def test_sampling_from_one_candidate_is_greedy_decoding_for_each_return_sequence(captioner, pixel_values):
    ids = generate(captioner, pixel_values, do_sample=True, top_k=1, num_return_sequences=2)
    assert torch.equal(ids, generate(captioner, pixel_values).repeat_interleave(2, dim=0))


def test_sampling_follows_the_models_distribution(captioner, pixel_values):
    expected = scores_without_cache(captioner, pixel_values[:1], torch.tensor([[START]])).exp()[0]
    ids = generate(
        captioner,
        pixel_values[:1].expand(4000, -1, -1, -1),
        do_sample=True,
        top_k=0,
        max_new_tokens=1,
        min_new_tokens=0,
    )
    observed = torch.bincount(ids[:, 1], minlength=len(expected)) / 4000
    assert (observed - expected).abs().sum() < 0.25


def test_beam_search_as_wide_as_the_vocabulary_finds_the_best_pair(captioner, pixel_values):
    image = pixel_values[:1]
    first = scores_without_cache(captioner, image, torch.tensor([[START]]))[0]
    first[END] = -torch.inf
    prompts = torch.stack([torch.full_like(first, START), torch.arange(len(first))], dim=1).long()
    second = scores_without_cache(captioner, image.expand(len(first), -1, -1, -1), prompts)
    second[:, END] = -torch.inf
    best = (first[:, None] + second).flatten().argmax().item()
    ids = generate(captioner, image, num_beams=len(first), max_new_tokens=2, min_new_tokens=2)
    assert ids[0, 1:].tolist() == [best // len(first), best % len(first)]


def test_beams_are_returned_best_first_with_their_scores(captioner, pixel_values):
    found = generate(
        captioner, pixel_values, num_beams=4, num_return_sequences=4, return_dict_in_generate=True, output_scores=True
    )
    scores = found.sequences_scores.view(BATCH, 4)
    assert torch.equal(scores, scores.sort(dim=1, descending=True).values)


def test_the_score_of_a_beam_is_the_mean_log_probability_of_its_tokens(captioner, pixel_values):
    found = generate(captioner, pixel_values, num_beams=3, return_dict_in_generate=True, output_scores=True)
    with torch.no_grad():
        logits = captioner(pixel_values=pixel_values, input_ids=found.sequences).logits[:, :-1]
    # The minimum length makes the end token impossible, but its probability is not handed to the others.
    chosen = logits.log_softmax(-1).gather(2, found.sequences[:, 1:, None])[..., 0]
    torch.testing.assert_close(found.sequences_scores, chosen.mean(1), atol=1e-5, rtol=0)


def test_a_row_that_ends_early_is_padded(captioner, pixel_values):
    first = generate(captioner, pixel_values)[:, 1]
    end = first[0].item()
    ids = generate(captioner, pixel_values[[0]], eos_token_id=end, min_new_tokens=0)
    together = generate(captioner, pixel_values, eos_token_id=end, min_new_tokens=0)
    assert ids.tolist() == [[START, end]]
    assert together[0].tolist() == [START, end] + [PAD] * (together.shape[1] - 2)


def test_the_callers_tensors_are_left_alone(captioner, pixel_values):
    prompt = torch.tensor([[START, 5, 6, END, PAD]] * BATCH)
    mask = torch.ones_like(prompt)
    images = pixel_values.clone()
    generate(captioner, images, input_ids=prompt, attention_mask=mask, num_beams=2)
    assert torch.equal(images, pixel_values)
    assert prompt.tolist() == [[START, 5, 6, END, PAD]] * BATCH
    assert mask.all()


# --- prompts ---

PROMPTS = [[START, 11], [START, 12, 13, 14, 15], [START, 16, 17]]


def padded(prompts, side):
    """Prompts of different lengths as one tensor, and its mask."""
    longest = max(map(len, prompts))
    fill = [[PAD] * (longest - len(prompt)) for prompt in prompts]
    rows = [gap + prompt if side == "left" else prompt + gap for gap, prompt in zip(fill, prompts, strict=True)]
    lengths = torch.tensor([len(prompt) for prompt in prompts])[:, None]
    positions = torch.arange(longest)
    mask = positions >= longest - lengths if side == "left" else positions < lengths
    return torch.tensor(rows), mask.long()


def continuations_alone(model, pixel_values, **mode):
    """What each prompt is continued with when it is the only one."""
    return [
        generate(model, image[None], input_ids=torch.tensor([prompt]), **mode)[:, len(prompt) :]
        for image, prompt in zip(pixel_values, PROMPTS, strict=True)
    ]


def test_a_prompt_is_continued(captioner, pixel_values):
    prompt = torch.tensor([[START, 5, 6]] * BATCH)
    ids = generate(captioner, pixel_values, input_ids=prompt)
    assert torch.equal(ids[:, :3], prompt)
    assert ids.shape == (BATCH, 3 + NEW_TOKENS)


def test_the_start_token_as_a_prompt_is_no_prompt(captioner, pixel_values):
    prompted = generate(captioner, pixel_values, input_ids=torch.full((BATCH, 1), START))
    assert torch.equal(prompted, generate(captioner, pixel_values))


def test_an_empty_prompt_is_no_prompt(captioner, pixel_values):
    prompted = generate(captioner, pixel_values, input_ids=torch.empty(BATCH, 0, dtype=torch.long))
    assert torch.equal(prompted, generate(captioner, pixel_values))


def test_a_caption_is_continued_from_any_of_its_beginnings(captioner, pixel_values):
    whole = generate(captioner, pixel_values)
    continued = generate(captioner, pixel_values, input_ids=whole[:, :4], max_new_tokens=5, min_new_tokens=5)
    assert torch.equal(continued, whole)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("mode", DETERMINISTIC.values(), ids=DETERMINISTIC.keys())
def test_padded_prompts_give_what_each_gives_alone(captioner, pixel_values, mode, use_cache, side):
    input_ids, attention_mask = padded(PROMPTS, side)
    ids = generate(
        captioner, pixel_values, input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache, **mode
    )
    assert torch.equal(ids[:, -NEW_TOKENS:], torch.cat(continuations_alone(captioner, pixel_values, **mode)))


@pytest.mark.parametrize("tail", [[END], [PAD], [END, PAD, PAD]], ids=["end", "padding", "end and padding"])
def test_a_prompt_that_ends_in_the_end_token_or_padding_is_continued_as_if_it_did_not(captioner, pixel_values, tail):
    prompt = [START, 5, 6]
    ids = generate(captioner, pixel_values, input_ids=torch.tensor([prompt + tail] * BATCH))
    expected = generate(captioner, pixel_values, input_ids=torch.tensor([prompt] * BATCH))
    assert torch.equal(ids[:, -NEW_TOKENS:], expected[:, -NEW_TOKENS:])


# --- limits ---


@pytest.mark.parametrize("mode", DETERMINISTIC.values(), ids=DETERMINISTIC.keys())
@pytest.mark.parametrize("lengths", [{"max_length": 21}, {"max_new_tokens": 20}])
def test_a_length_beyond_the_context_is_refused_before_any_work(captioner, pixel_values, monkeypatch, lengths, mode):
    worked = []
    monkeypatch.setattr(captioner.model.vision_model, "forward", lambda *args, **kwargs: worked.append(1))
    with pytest.raises(ValueError, match="20"):
        captioner.generate(pixel_values=pixel_values, **lengths, **mode)
    assert worked == []


def test_the_whole_context_can_be_filled(captioner, pixel_values):
    ids = captioner.generate(pixel_values=pixel_values, max_length=20, min_length=20)
    assert ids.shape == (BATCH, 20)


REFUSED = {
    "no images": ({"pixel_values": None}, "generate\\(\\) needs images: pass either pixel_values or"),
    "a single image without its batch": (
        {"pixel_values": torch.zeros(3, 16, 16)},
        r"pixel_values has the shape \(3, 16, 16\), but must have \(batch, channels, height, width\)",
    ),
    "images of another size": ({"pixel_values": torch.zeros(1, 3, 20, 16)}, "20 x 16 pixels, .* made for 16 x 16"),
    "more prompts than images": (
        {"input_ids": torch.ones(4, 2, dtype=torch.long)},
        "input_ids holds 4 prompts for 3 images",
    ),
    "a mask of another shape": (
        {"input_ids": torch.ones(3, 2, dtype=torch.long), "attention_mask": torch.ones(3, 5)},
        r"attention_mask has the shape \(3, 5\), but must have that of input_ids, \(3, 2\)",
    ),
    "a misspelt argument": ({"num_baems": 3}, "num_baems"),
    "a cache with tokens but not their ids": (
        {"cache": DynamicCache([(torch.zeros(3, 4, 2, 4), torch.zeros(3, 4, 2, 4))])},
        "cache holds tokens: pass all ids so far",
    ),
}


@pytest.mark.parametrize(("keywords", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_wrong_call_is_refused_in_words(captioner, pixel_values, keywords, message):
    with pytest.raises(ValueError, match=message):
        captioner.generate(**{"pixel_values": pixel_values, "max_new_tokens": 3, **keywords})


# --- the library's hooks ---


def test_a_streamer_receives_the_prompt_and_then_every_token(captioner, pixel_values):
    streamer = Recorder()
    ids = generate(captioner, pixel_values[:1], streamer=streamer)
    assert torch.equal(torch.cat([piece.reshape(1, -1) for piece in streamer.received], dim=1), ids)
    assert len(streamer.received) == 1 + NEW_TOKENS
    assert streamer.ended


@every_mode
def test_a_logits_processor_decides(captioner, pixel_values, mode, returned):
    ids = generate(captioner, pixel_values, logits_processor=[OnlyToken(7)], **mode)
    assert (ids[0, 1:] == 7).all()


@every_mode
def test_stopping_criteria_stop(captioner, pixel_values, mode, returned):
    ids = generate(captioner, pixel_values, stopping_criteria=[StopAtLength(4)], **mode)
    # Diverse beam search closes a caption with the end token.
    assert ids[:, :4].ne(END).all()
    assert ids[:, 4:].eq(END).all()


BANS = {
    "bad words": {"bad_words_ids": [[token] for token in range(50)]},
    "suppressed tokens": {"suppress_tokens": list(range(50))},
}


@pytest.mark.parametrize("ban", BANS.values(), ids=BANS.keys())
def test_banned_tokens_never_appear(captioner, pixel_values, ban):
    assert (generate(captioner, pixel_values, **ban)[:, 1:] >= 50).all()


def test_no_pair_of_tokens_is_repeated_when_that_is_asked(captioner, pixel_values):
    ids = generate(captioner, pixel_values, no_repeat_ngram_size=2, max_new_tokens=15, min_new_tokens=15)
    pairs = [list(itertools.pairwise(row)) for row in ids.tolist()]
    assert [len(set(row)) for row in pairs] == [len(row) for row in pairs]


def test_the_generation_config_of_the_model_is_used(pixel_values):
    model = tiny_captioner()
    model.generation_config.max_new_tokens = 3
    model.generation_config.suppress_tokens = [END]
    assert model.generate(pixel_values=pixel_values).shape == (BATCH, 4)


def test_special_tokens_reach_the_generation_config(captioner):
    config = captioner.generation_config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (START, END, PAD)


# --- assisted decoding ---


@pytest.mark.parametrize("assistant_seed", [0, 5], ids=["itself", "another model"])
def test_an_assistant_changes_no_token(captioner, pixel_values, assistant_seed):
    assistant = tiny_captioner(seed=assistant_seed)
    expected = generate(captioner, pixel_values[:1])
    assert torch.equal(generate(captioner, pixel_values[:1], assistant_model=assistant), expected)


def test_a_smaller_assistant_changes_no_token(captioner, pixel_values):
    assistant = tiny_captioner(
        vision_config={"num_hidden_layers": 1, "pooler_hidden_size": 16},
        text_config={"num_hidden_layers": 1},
        multimodal_config={"num_hidden_layers": 1},
    )
    expected = generate(captioner, pixel_values[:1])
    assert torch.equal(generate(captioner, pixel_values[:1], assistant_model=assistant), expected)


def test_looking_candidates_up_in_the_prompt_changes_no_token(captioner, pixel_values):
    prompt = torch.tensor([[START, 5, 6, 5, 6, 5]])
    expected = generate(captioner, pixel_values[:1], input_ids=prompt)
    assert torch.equal(generate(captioner, pixel_values[:1], input_ids=prompt, prompt_lookup_num_tokens=2), expected)


# --- caches and compilation ---


@every_mode
def test_a_static_cache_changes_no_token(captioner, pixel_values, mode, returned):
    expected = generate(captioner, pixel_values, **mode)
    assert torch.equal(generate(captioner, pixel_values, cache_implementation="static", **mode), expected)


def test_a_static_cache_takes_padded_prompts(captioner, pixel_values):
    input_ids, attention_mask = padded(PROMPTS, "left")
    ids = generate(
        captioner, pixel_values, input_ids=input_ids, attention_mask=attention_mask, cache_implementation="static"
    )
    assert torch.equal(ids[:, -NEW_TOKENS:], torch.cat(continuations_alone(captioner, pixel_values)))


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_the_compiled_model_has_no_graph_break_and_changes_no_token(captioner, pixel_values, cache):
    expected = generate(captioner, pixel_values)
    compiled = copy.deepcopy(captioner)
    # The "eager" backend traces as any other does and needs no C++ compiler.
    compiled.forward = torch.compile(compiled.forward, backend="eager", fullgraph=True)
    assert torch.equal(generate(compiled, pixel_values, cache_implementation=cache), expected)


def test_generation_continues_from_a_returned_cache(captioner, pixel_values):
    whole = generate(captioner, pixel_values)
    begun = generate(captioner, pixel_values, max_new_tokens=4, min_new_tokens=4, return_dict_in_generate=True)
    continued = generate(
        captioner,
        pixel_values,
        input_ids=begun.sequences,
        cache=begun.cache,
        max_new_tokens=4,
        min_new_tokens=4,
    )
    assert torch.equal(continued, whole)


# --- what else can be asked for ---


def everything(model, pixel_values, **mode):
    return generate(
        model,
        pixel_values,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        output_attentions=True,
        output_hidden_states=True,
        **mode,
    )


@pytest.mark.parametrize(("mode", "rows"), [({}, BATCH), ({"num_beams": 3}, 3 * BATCH)], ids=["greedy", "beams"])
def test_scores_hidden_states_and_attentions_come_a_step_at_a_time(captioner, pixel_values, mode, rows):
    # The other implementations give no attention weights.
    eager = copy.deepcopy(captioner)
    eager.set_attn_implementation("eager")
    found = everything(eager, pixel_values, **mode)
    assert [tuple(score.shape) for score in found.scores] == [(rows, 99)] * NEW_TOKENS
    assert [tuple(logits.shape) for logits in found.logits] == [(rows, 99)] * NEW_TOKENS
    assert [tuple(step[-1].shape) for step in found.hidden_states] == [(rows, 1, 16)] * NEW_TOKENS
    assert [tuple(step[0].shape) for step in found.attentions] == [
        (rows, 4, 1, length) for length in range(1, NEW_TOKENS + 1)
    ]


def test_the_embedding_of_the_same_pass_is_returned(captioner, pixel_values):
    found = generate(captioner, pixel_values, num_beams=2, return_dict_in_generate=True)
    with torch.no_grad():
        embeds = captioner(pixel_values=pixel_values, input_ids=found.sequences).image_embeds
    torch.testing.assert_close(found.image_embeds, embeds, atol=1e-6, rtol=0)


@every_mode
def test_each_image_goes_through_the_vision_tower_once(captioner, pixel_values, mode, returned):
    seen = []
    hook = captioner.model.vision_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("pixel_values", args[0] if args else None).shape[0]),
        with_kwargs=True,
    )
    generate(captioner, pixel_values, return_dict_in_generate=True, **mode)
    hook.remove()
    assert seen == [BATCH]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_generates(captioner, pixel_values, dtype):
    model = copy.deepcopy(captioner).to(dtype)
    assert generate(model, pixel_values.to(dtype), num_beams=2).shape == (BATCH, 1 + NEW_TOKENS)


@pytest.mark.parametrize("mode", DETERMINISTIC.values(), ids=DETERMINISTIC.keys())
def test_the_attention_implementation_changes_no_token(captioner, pixel_values, mode):
    eager = copy.deepcopy(captioner)
    eager.set_attn_implementation("eager")
    assert torch.equal(generate(eager, pixel_values, **mode), generate(captioner, pixel_values, **mode))


def test_a_cache_of_ones_own_is_filled(captioner, pixel_values):
    cache = DynamicCache()
    generate(captioner, pixel_values, cache=cache)
    assert cache.get_seq_length() == NEW_TOKENS
