# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whatever way a caption is decoded in, its tokens are those of the plain way.

Each test compares one way (a batch, a cache, a chunked prompt, an assistant, a streamer) with a plain call of
`generate()`. The captions of a batch end at different lengths here, and their prompts differ in length, as those of
users do. The source archive of transformers lacks its own generation tests, and these take their place.
"""

from threading import Thread

import pytest
import torch
from transformers import TextIteratorStreamer

from tiny import END, PAD, START, tiny_captioner
from tiny_folder import tiny_model, tiny_processor


# A streamer that is never told of the end, or two waiting threads, would otherwise wait for the suite's limit.
pytestmark = pytest.mark.timeout(120)

BATCH, MAX_NEW_TOKENS = 3, 12
# The pad id can also be a token of the prompt: in open_clip's vocabulary it is that of "!".
PROMPTS = [[START, 11], [START, 12, 13, PAD, 15], [START, 16, 17]]

MODES = {
    "greedy": {},
    # One candidate, so that the draws of a batch and of a single image agree.
    "sampling": {"do_sample": True, "top_k": 1},
    "beam search": {"num_beams": 3},
    "several beams": {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.5},
    "beam search that stops early": {"num_beams": 3, "early_stopping": True},
    "diverse beam search": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "several diverse beams": {
        "num_beams": 4,
        "num_beam_groups": 4,
        "num_return_sequences": 4,
        "diversity_penalty": 0.5,
    },
}
CACHES = {
    "dynamic": {},
    "static": {"cache_implementation": "static"},
    "offloaded": {"cache_implementation": "offloaded"},
    "no cache": {"use_cache": False},
}
every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())
every_cache = pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES.keys())
one_mode_of_each_kind = pytest.mark.parametrize("name", ["greedy", "beam search", "diverse beam search"])


class NoStream:
    """A CUDA stream where there is no CUDA: nothing is under way, so there is nothing to wait for."""

    def __init__(self, device=None):
        pass

    def wait_stream(self, other):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


@pytest.fixture(autouse=True)
def _offloading_without_cuda(monkeypatch):
    """The library's offloaded caches keep their books on any device, but ask for the streams of CUDA."""
    monkeypatch.setattr(torch, "Stream", NoStream)
    monkeypatch.setattr(torch.cuda, "default_stream", NoStream)


@pytest.fixture(scope="module")
def captioner():
    return tiny_captioner()


@pytest.fixture(scope="module")
def images():
    return torch.randn(BATCH, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def generate(model, images, **keywords):
    arguments = {"do_sample": False, "max_new_tokens": MAX_NEW_TOKENS, **keywords}
    return model.generate(pixel_values=images, **arguments)


def padded_prompts(side, prompts=PROMPTS):
    """Prompts of different lengths as the keywords of one call."""
    longest = max(map(len, prompts))
    rows, mask = [], []
    for prompt in prompts:
        gap = longest - len(prompt)
        rows.append([PAD] * gap + prompt if side == "left" else prompt + [PAD] * gap)
        mask.append([0] * gap + [1] * len(prompt) if side == "left" else [1] * len(prompt) + [0] * gap)
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}


def until_end(row, end):
    """A caption without the prompt before it: up to its first end token, or whole."""
    return row[: row.index(end) + 1] if end in row else row


def captions_of_each_alone(model, images, prompts=None, *, end, **mode):
    """The captions of each image in a call of its own, without the prompt: a list of ids for each."""
    prompts = prompts or [[START]] * len(images)
    captions = []
    for image, prompt in zip(images, prompts, strict=True):
        ids = generate(model, image[None], input_ids=torch.tensor([prompt]), eos_token_id=end, **mode)
        captions += [until_end(row, end) for row in ids[:, len(prompt) :].tolist()]
    return captions


@pytest.fixture(scope="module")
def ending(captioner, images):
    """
    A function from prompts and a mode to a token, and the captions that it ends when it is taken as the end token.

    These captions, each made alone, differ in length.
    """
    found = {}

    def find(prompts=None, **mode):
        whole = captions_of_each_alone(captioner, images, prompts, end=END, min_new_tokens=MAX_NEW_TOKENS, **mode)
        for end in dict.fromkeys(token for row in whole for token in row[1:6]):
            captions = captions_of_each_alone(captioner, images, prompts, end=end, **mode)
            lengths = {len(caption) for caption in captions}
            if len(lengths) > 1 and min(lengths) > 1:
                return end, captions
        raise AssertionError("no token of these captions ends them at different lengths: choose other images")

    def find_once(prompts=None, **mode):
        key = repr((prompts, mode))
        if key not in found:
            found[key] = find(prompts, **mode)
        return found[key]

    return find_once


def assert_rows_are(ids, captions, prompt_length, end):
    """Each row of `ids` is a caption of `captions` behind its prompt, and nothing but filling behind that."""
    rows = ids[:, prompt_length:].tolist()
    assert [until_end(row, end) for row in rows] == captions
    behind = [row[len(caption) :] for row, caption in zip(rows, captions, strict=True)]
    # The library's beam search fills with the end token where the pad id is 0.
    assert {token for row in behind for token in row} <= {PAD, end}


# --- batches ---


@every_cache
@every_mode
def test_captions_that_end_at_different_lengths_are_those_of_each_image_alone(captioner, images, ending, mode, cache):
    end, captions = ending(**mode)
    ids = generate(captioner, images, eos_token_id=end, **mode, **cache)
    assert_rows_are(ids, captions, 1, end)


@pytest.mark.parametrize("side", ["left", "right"])
@every_cache
@every_mode
def test_prompts_of_different_lengths_are_continued_as_each_alone_until_its_end(
    captioner, images, ending, mode, cache, side
):
    end, captions = ending(PROMPTS, **mode)
    ids = generate(captioner, images, **padded_prompts(side), eos_token_id=end, **mode, **cache)
    assert_rows_are(ids, captions, max(map(len, PROMPTS)), end)


def test_a_sampled_caption_has_only_padding_behind_its_end(captioner, images):
    torch.manual_seed(0)
    ids = generate(captioner, images, do_sample=True, num_return_sequences=8, eos_token_id=list(range(0, 97, 5)))
    is_end = (ids[:, 1:] % 5 == 0) & (ids[:, 1:] < 97)
    is_behind = is_end.int().cumsum(dim=1) - is_end.int() > 0
    assert is_behind.any(), "no caption ended early"
    assert (ids[:, 1:][is_behind] == PAD).all()


def test_turning_the_cache_off_in_the_generation_config_changes_no_token(images):
    model = tiny_captioner()
    expected = generate(model, images)
    model.generation_config.use_cache = False
    assert torch.equal(generate(model, images), expected)
    assert generate(model, images, return_dict_in_generate=True).cache is None


@pytest.mark.parametrize("cache", ["static", "offloaded_static"])
def test_the_whole_context_fits_a_static_cache(captioner, images, cache):
    expected = generate(captioner, images, max_new_tokens=None, max_length=20, min_length=20)
    ids = generate(captioner, images, max_new_tokens=None, max_length=20, min_length=20, cache_implementation=cache)
    assert torch.equal(ids, expected)


# --- chunked prefill ---

CHUNKED_PROMPTS = {
    "plain": [START, 12, 13, 14, 15, 16],
    "pad id in the first chunk": [START, PAD, 13, 14, 15, 16],
    "pad id in a later chunk": [START, 12, 13, 14, PAD, 16],
    "pad ids in several chunks": [START, PAD, 13, PAD, PAD, 16],
}


@pytest.mark.parametrize("chunk_size", [1, 4])
@pytest.mark.parametrize("prompt", CHUNKED_PROMPTS.values(), ids=CHUNKED_PROMPTS.keys())
@one_mode_of_each_kind
def test_a_prompt_read_in_chunks_is_the_prompt(captioner, images, name, prompt, chunk_size):
    prompt = {"input_ids": torch.tensor([prompt])}
    arguments = {**prompt, "return_dict_in_generate": True, "output_logits": True, **MODES[name]}
    expected = generate(captioner, images[:1], **arguments)
    chunked = generate(captioner, images[:1], **arguments, prefill_chunk_size=chunk_size)
    assert torch.equal(chunked.sequences, expected.sequences)
    torch.testing.assert_close(chunked.logits[0], expected.logits[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@every_mode
def test_prompts_of_different_lengths_can_be_read_in_chunks(captioner, images, ending, mode, side):
    end, captions = ending(PROMPTS, **mode)
    ids = generate(captioner, images, **padded_prompts(side), eos_token_id=end, prefill_chunk_size=2, **mode)
    assert_rows_are(ids, captions, max(map(len, PROMPTS)), end)


def test_a_prompt_can_be_read_in_chunks_into_a_static_cache(captioner, images):
    prompt = torch.tensor([CHUNKED_PROMPTS["pad id in a later chunk"]] * BATCH)
    expected = generate(captioner, images, input_ids=prompt)
    chunked = generate(captioner, images, input_ids=prompt, prefill_chunk_size=2, cache_implementation="static")
    assert torch.equal(chunked, expected)


# --- assisted decoding ---

ASSISTANTS = {
    "another CoCa": lambda: {"assistant_model": tiny_captioner(seed=5)},
    "a smaller CoCa": lambda: {
        "assistant_model": tiny_captioner(
            vision_config={"num_hidden_layers": 1, "pooler_hidden_size": 16},
            text_config={"num_hidden_layers": 1},
            multimodal_config={"num_hidden_layers": 1},
        )
    },
    "prompt lookup": lambda: {"prompt_lookup_num_tokens": 3},
}


@pytest.mark.parametrize("prompt", [[START], [START, 5, 6, 5, 6, 5], [START, 5, PAD, 5, PAD, 5]], ids=str)
@pytest.mark.parametrize("cache", [{}, {"cache_implementation": "static"}], ids=["dynamic", "static"])
@pytest.mark.parametrize("make_assistant", ASSISTANTS.values(), ids=ASSISTANTS.keys())
def test_an_assistant_changes_no_token_and_no_end(captioner, images, make_assistant, cache, prompt):
    arguments = {"input_ids": torch.tensor([prompt]), **make_assistant(), **cache}
    for image in images:
        end = generate(captioner, image[None], input_ids=torch.tensor([prompt]))[0, len(prompt) + 4].item()
        expected = generate(captioner, image[None], input_ids=torch.tensor([prompt]), eos_token_id=end)
        assert torch.equal(generate(captioner, image[None], eos_token_id=end, **arguments), expected)


def test_an_assistant_may_look_for_the_whole_context(captioner, images):
    expected = generate(captioner, images[:1], max_new_tokens=19, min_new_tokens=19)
    assisted = generate(
        captioner, images[:1], max_new_tokens=19, min_new_tokens=19, assistant_model=tiny_captioner(seed=5)
    )
    assert torch.equal(assisted, expected)


# --- streamers ---


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.fixture(scope="module")
def speaking_captioner(processor):
    return tiny_model(processor)


@pytest.mark.parametrize("mode", [{}, {"do_sample": True, "top_k": 1}], ids=["greedy", "sampling"])
def test_a_text_streamer_yields_the_caption_and_ends(processor, speaking_captioner, images, mode):
    streamer = TextIteratorStreamer(processor.tokenizer, skip_special_tokens=True, timeout=30)
    arguments = {"pixel_values": images[:1], "max_new_tokens": MAX_NEW_TOKENS, **mode}
    thread = Thread(target=speaking_captioner.generate, kwargs={**arguments, "streamer": streamer})
    thread.start()
    text = "".join(streamer)
    thread.join()
    expected = speaking_captioner.generate(**arguments)
    assert text == processor.tokenizer.decode(expected[0], skip_special_tokens=True)


@pytest.mark.parametrize("mode", [{"num_beams": 2}, {"num_beams": 4, "num_beam_groups": 2}], ids=["beams", "groups"])
def test_a_streamer_is_refused_where_the_tokens_are_not_final(processor, speaking_captioner, images, mode):
    streamer = TextIteratorStreamer(processor.tokenizer, timeout=5)
    with pytest.raises(ValueError, match="streamer"):
        speaking_captioner.generate(pixel_values=images[:1], max_new_tokens=4, streamer=streamer, **mode)


# --- continuing ---


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("prompts", [[[START]] * 3, PROMPTS], ids=["without prompts", "with prompts"])
def test_continuing_from_a_returned_cache_is_generating_longer(captioner, images, prompts, side):
    arguments = padded_prompts(side, prompts)
    whole = generate(captioner, images, **arguments, min_new_tokens=MAX_NEW_TOKENS)
    begun = generate(captioner, images, **arguments, max_new_tokens=4, min_new_tokens=4, return_dict_in_generate=True)
    longest = max(map(len, prompts))
    left = padded_prompts("left", prompts)["attention_mask"]
    continued = generate(
        captioner,
        images,
        input_ids=begun.sequences,
        attention_mask=torch.cat([left, left.new_ones(BATCH, begun.sequences.shape[1] - longest)], dim=1),
        cache=begun.cache,
        max_new_tokens=MAX_NEW_TOKENS - 4,
        min_new_tokens=MAX_NEW_TOKENS - 4,
    )
    assert torch.equal(continued, whole)


@pytest.mark.parametrize("prompt", [[START, 12, 13, 15], PROMPTS[1]], ids=["plain", "pad id inside"])
def test_a_cache_that_forward_filled_is_continued(captioner, images, prompt):
    input_ids = torch.tensor([prompt] * BATCH)
    with torch.no_grad():
        outputs = captioner(pixel_values=images, input_ids=input_ids, use_cache=True)
    begun = torch.cat([input_ids, outputs.logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    continued = generate(captioner, images, input_ids=begun, cache=outputs.cache, max_new_tokens=5)
    assert torch.equal(continued, generate(captioner, images, input_ids=input_ids, max_new_tokens=6))
