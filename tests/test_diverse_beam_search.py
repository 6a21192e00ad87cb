# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Diverse beam search against recordings of the one that transformers had until 4.55, and its beam search of today."""

import json
import os
from datetime import timedelta

import PIL.Image
import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.distributed import DistributedConfig
from transformers.generation.streamers import BaseStreamer

import coca_hf
from coca_hf.diverse_beam_search_coca import diverse_beam_search
from coca_hf.modeling_coca import CoCaForCaptioning
from coca_hf.processing_coca import CoCaProcessor
from own_process import run_together
from record_group_beam_search_fixtures import FIXTURE, build_model, prompts
from tiny import tiny_captioner


RECORDINGS = json.loads(FIXTURE.read_text())["recordings"]


@pytest.fixture(scope="module")
def gpt2():
    return build_model()


def search(model, **arguments):
    return model.generate(
        prompts(),
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
        custom_generate=diverse_beam_search,
        **arguments,
    )


@pytest.mark.parametrize(
    "recording", RECORDINGS, ids=lambda recording: "-".join(map(str, recording["arguments"].values()))
)
def test_sequences_and_scores_are_those_of_the_librarys_group_beam_search(gpt2, recording):
    outputs = search(gpt2, **recording["arguments"])
    assert outputs.sequences.tolist() == recording["sequences"]
    torch.testing.assert_close(
        outputs.sequences_scores, torch.tensor(recording["sequences_scores"]), rtol=1e-5, atol=1e-5
    )


def test_beam_indices_lead_back_to_the_scores(gpt2):
    outputs = search(
        gpt2, num_beams=6, num_beam_groups=3, diversity_penalty=0.5, num_return_sequences=2, max_length=16
    )
    transitions = gpt2.compute_transition_scores(outputs.sequences, outputs.scores, outputs.beam_indices)
    means = transitions.sum(dim=1) / (outputs.beam_indices >= 0).sum(dim=1)
    torch.testing.assert_close(means, outputs.sequences_scores, rtol=1e-5, atol=1e-5)


def test_groups_of_the_captioner_differ_with_a_penalty():
    model = tiny_captioner()
    pixel_values = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    arguments = {"num_beams": 4, "num_beam_groups": 4, "num_return_sequences": 4, "max_new_tokens": 6}
    alike = model.generate(pixel_values, diversity_penalty=0.0, **arguments).view(2, 4, -1)
    diverse = model.generate(pixel_values, diversity_penalty=1e3, **arguments).view(2, 4, -1)
    assert all(len(set(map(tuple, rows.tolist()))) == 1 for rows in alike)
    assert all(len(set(map(tuple, rows.tolist()))) == 4 for rows in diverse)


# --- one group is the library's beam search ---


class EndsWith(StoppingCriteria):
    """Ends each text whose last token is one of these."""

    def __init__(self, tokens):
        self.tokens = torch.tensor(tokens)

    def __call__(self, input_ids, scores, **kwargs):
        return torch.isin(input_ids[:, -1], self.tokens)


PROMPTS = torch.tensor([[97, 5, 6, 7], [97, 8, 0, 0], [97, 9, 10, 0]])
END = 98


def allowed_tokens(image, input_ids):
    """Other tokens for each image, and the end token."""
    return [*range(3 + image, 97, 4), END]


OPTIONS = {
    "nothing else": {},
    "prompts of different lengths": {"input_ids": PROMPTS},
    "prompts in chunks": {"input_ids": PROMPTS, "prefill_chunk_size": 2},
    "no cache": {"use_cache": False},
    "a static cache": {"cache_implementation": "static"},
    "criteria for each text": {"stopping_criteria": [EndsWith(range(0, 97, 5))]},
    "a time limit": {"max_time": 0.0},
    "allowed tokens": {"prefix_allowed_tokens_fn": allowed_tokens},
    "two allowed tokens": {"prefix_allowed_tokens_fn": lambda image, ids: [10 + image, END]},
    "repetition penalty": {"input_ids": PROMPTS, "repetition_penalty": 1.5},
    "no repeated tokens": {"no_repeat_ngram_size": 1},
    "minimum length": {"min_new_tokens": 5, "sequence_bias": [[[END], 3.0]], "early_stopping": True},
    "bad words": {"bad_words_ids": [[14], [7, 50]]},
    "sequence bias": {"sequence_bias": [[[50], 9.0]]},
    "forced end": {"forced_eos_token_id": END},
    "renormalised": {"renormalize_logits": True, "repetition_penalty": 1.3},
    "decay": {"exponential_decay_length_penalty": (2, 1.5), "early_stopping": True},
    "early stopping": {"early_stopping": True},
    "no early stopping": {"early_stopping": "never"},
    "no length penalty": {"early_stopping": "never", "length_penalty": 0.0},
    "long texts": {"length_penalty": 2.0},
    "several end tokens": {"eos_token_id": [END, 20]},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


@pytest.fixture(scope="module")
def captioner():
    return tiny_captioner()


@pytest.fixture
def pixel_values():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def caption(model, pixel_values, **arguments):
    defaults = {"max_new_tokens": 8, "return_dict_in_generate": True, "output_scores": True}
    if "stopping_criteria" in arguments:
        arguments["stopping_criteria"] = StoppingCriteriaList(arguments["stopping_criteria"])
    return model.generate(pixel_values, **{**defaults, **arguments})


def hypotheses(outputs, prompt_length):
    """The generated tokens of each sequence, without padding, and its score."""
    lengths = (outputs.beam_indices >= 0).sum(dim=1).tolist()
    rows = zip(outputs.sequences[:, prompt_length:].tolist(), lengths, outputs.sequences_scores.tolist(), strict=True)
    return [(tuple(ids[:length]), pytest.approx(score, abs=1e-4)) for ids, length, score in rows]


def prompt_length(options):
    return PROMPTS.shape[1] if "input_ids" in options else 1


@every_option
def test_one_group_is_the_librarys_beam_search(captioner, pixel_values, options):
    arguments = {"num_beams": 4, "num_return_sequences": 3, **options}
    expected = caption(captioner, pixel_values, **arguments)
    found = caption(captioner, pixel_values, custom_generate=diverse_beam_search, **arguments)
    length = prompt_length(options)
    assert hypotheses(found, length) == hypotheses(expected, length)
    assert torch.equal(found.beam_indices, expected.beam_indices)


@every_option
def test_groups_without_a_penalty_each_find_what_one_finds_alone(captioner, pixel_values, options):
    alone = caption(captioner, pixel_values, num_beams=2, num_return_sequences=2, **options)
    groups = caption(captioner, pixel_values, num_beams=6, num_beam_groups=3, num_return_sequences=6, **options)
    length = prompt_length(options)
    expected = [pair for pair in hypotheses(alone, length) for _ in range(3)]
    assert hypotheses(groups, length) == expected


# --- what each group pays ---


def take_turns(model, pixel_values, num_groups, penalty, allowed, steps=5):
    """
    Groups of one beam by hand, an image after the other: each takes its best token, after paying for those taken.

    -> for each image, the ids of each group and the sum of its scores.
    """
    texts = []
    for image, pixels in enumerate(pixel_values):
        rows, sums = [[97] for _ in range(num_groups)], [0.0] * num_groups
        for _ in range(steps):
            taken = []
            for group, row in enumerate(rows):
                logits = model(pixel_values=pixels[None], input_ids=torch.tensor([row]), use_cache=False).logits[0, -1]
                scores = logits.log_softmax(dim=-1) - penalty * torch.tensor(taken, dtype=torch.long).bincount(
                    minlength=99
                )
                taken.append(max(allowed(image, row), key=lambda token, scores=scores: scores[token].item()))
                sums[group] += scores[taken[-1]].item()
            rows = [[*row, token] for row, token in zip(rows, taken, strict=True)]
        texts.append(sorted(zip(rows, sums, strict=True), key=lambda pair: -pair[1]))
    return texts


@torch.no_grad()
@pytest.mark.parametrize(
    "allowed",
    [lambda image, ids: [*range(3, 97)], lambda image, ids: [10 * image + 11, 10 * image + 12, 10 * image + 13]],
    ids=["any", "other tokens for each image"],
)
def test_a_group_pays_for_the_tokens_of_the_groups_before_it(captioner, pixel_values, allowed):
    outputs = caption(
        captioner,
        pixel_values,
        num_beams=3,
        num_beam_groups=3,
        num_return_sequences=3,
        diversity_penalty=0.4,
        prefix_allowed_tokens_fn=allowed,
        max_new_tokens=5,
    )
    expected = [pair for image in take_turns(captioner, pixel_values, 3, 0.4, allowed) for pair in image]
    assert outputs.sequences.tolist() == [ids for ids, _ in expected]
    torch.testing.assert_close(outputs.sequences_scores * 5, torch.tensor([score for _, score in expected]))


def test_a_function_of_the_allowed_tokens_hears_the_number_of_the_image(captioner, pixel_values):
    heard = set()

    def listen(image, input_ids):
        heard.add(image)
        return allowed_tokens(image, input_ids)

    outputs = caption(
        captioner,
        pixel_values,
        num_beams=4,
        num_beam_groups=2,
        num_return_sequences=4,
        diversity_penalty=0.5,
        prefix_allowed_tokens_fn=listen,
    )
    assert heard == {0, 1, 2}
    for row, ids in enumerate(outputs.sequences[:, 1:].tolist()):
        assert set(ids) <= {0, *allowed_tokens(row // 4, None)}


def test_prompts_of_different_lengths_give_what_each_gives_alone(captioner, pixel_values):
    arguments = {
        "num_beams": 4,
        "num_beam_groups": 2,
        "diversity_penalty": 0.5,
        "repetition_penalty": 1.5,
        "num_return_sequences": 4,
    }
    together = caption(captioner, pixel_values, input_ids=PROMPTS, **arguments)
    for row, length in enumerate([4, 2, 3]):
        alone = caption(captioner, pixel_values[row : row + 1], input_ids=PROMPTS[row : row + 1, :length], **arguments)
        assert hypotheses(together, 4)[4 * row : 4 * row + 4] == hypotheses(alone, length)


class AddsInPlace(LogitsProcessor):
    """Favours a token, and counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, input_ids, scores):
        self.calls += 1
        scores[:, 50] += 1.0
        return scores


@pytest.mark.parametrize(("penalty", "calls_a_step"), [(0.0, 1), (0.5, 2)])
def test_a_processor_may_write_into_the_scores(captioner, pixel_values, penalty, calls_a_step):
    processor = AddsInPlace()
    arguments = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": penalty, "output_logits": True}
    found = caption(captioner, pixel_values, logits_processor=[processor], **arguments)
    expected = caption(captioner, pixel_values, sequence_bias=[[[50], 1.0]], **arguments)
    assert processor.calls == 8 * calls_a_step
    assert torch.equal(found.sequences, expected.sequences)
    for name in ("scores", "logits"):
        torch.testing.assert_close(found[name], expected[name])


# --- when a search ends ---


class Listens(StoppingCriteria):
    """Ends nothing, and keeps what it is shown."""

    def __init__(self):
        self.shapes = []

    def __call__(self, input_ids, scores, **kwargs):
        self.shapes.append((input_ids.shape, len(scores), scores[-1].shape))
        return torch.zeros(len(input_ids), dtype=torch.bool)


def test_stopping_criteria_see_every_candidate_and_the_scores(captioner, pixel_values):
    listener = Listens()
    caption(
        captioner,
        pixel_values,
        num_beams=4,
        num_beam_groups=2,
        stopping_criteria=[listener],
        max_new_tokens=3,
    )
    assert listener.shapes == [((3 * 2 * 2 * 2, 1 + step), step, (12, 99)) for step in (1, 2, 3)]


@pytest.mark.parametrize("penalty", [0.0, 0.5])
def test_a_text_ends_where_a_criterion_says_and_nothing_follows(captioner, pixel_values, penalty):
    ends = set(range(0, 97, 5))
    outputs = caption(
        captioner,
        pixel_values,
        num_beams=6,
        num_beam_groups=3,
        diversity_penalty=penalty,
        num_return_sequences=6,
        stopping_criteria=[EndsWith(sorted(ends))],
    )
    endings = [ids for ids, _ in hypotheses(outputs, 1) if ids[-1] in ends]
    assert endings
    assert all(ends.isdisjoint(ids[:-1]) for ids, _ in hypotheses(outputs, 1))
    for row, (ids, _) in zip(outputs.sequences[:, 1:].tolist(), hypotheses(outputs, 1), strict=True):
        assert set(row[len(ids) :]) <= {0}


def test_a_search_with_no_way_on_ends_with_what_it_has(captioner, pixel_values):
    outputs = caption(
        captioner,
        pixel_values,
        num_beams=4,
        num_beam_groups=2,
        num_return_sequences=4,
        diversity_penalty=0.5,
        prefix_allowed_tokens_fn=lambda image, ids: [20 + image] if len(ids) < 4 else [END],
    )
    texts = [ids for ids, _ in hypotheses(outputs, 1)]
    # Each group finds the one text that is allowed; its second beam finds none.
    assert [texts[row : row + 4] for row in (0, 4, 8)] == [[(20 + i,) * 3 + (END,)] * 2 + [()] * 2 for i in range(3)]
    assert len(outputs.scores) == 4
    assert torch.isneginf(outputs.sequences_scores.view(3, 4)[:, 2:]).all()
    assert outputs.sequences.view(3, 4, -1)[:, 2:].flatten(0, 1).tolist() == [[97, 0, 0, 0, 0]] * 6


class Tells(LogitsProcessor):
    """Gives the tokens of each step these scores, and all others none."""

    def __init__(self, *steps):
        self.steps = iter(steps)

    def __call__(self, input_ids, scores):
        told = torch.full_like(scores, -100.0)
        for token, score in next(self.steps).items():
            told[:, token] = score
        return told


def test_texts_that_the_maximum_length_cuts_off_come_after_those_that_end(captioner, pixel_values):
    # In the last step 11, 98 ends and 11, 12 is cut off. The library's group beam search had its two texts by then.
    steps = {END: -1.0, 11: -0.5, 13: -3.0}, {END: -0.2, 12: -0.1}
    arguments = {"num_beams": 4, "num_beam_groups": 2, "num_return_sequences": 4, "max_new_tokens": 2}
    found = {}
    for early_stopping in (True, False):
        outputs = caption(
            captioner, pixel_values[:1], logits_processor=[Tells(*steps)], early_stopping=early_stopping, **arguments
        )
        found[early_stopping] = hypotheses(outputs, 1)[::2]
    assert found[True] == [((11, END), -0.35), ((END,), -1.0)]
    assert found[False] == [((11, 12), -0.3), ((11, END), -0.35)]


@pytest.fixture(scope="module")
def bundled():
    folder = coca_hf.bundled_model()
    return CoCaForCaptioning.from_pretrained(folder), CoCaProcessor.from_pretrained(folder)


@pytest.mark.parametrize("where", ["arguments", "config"])
def test_stop_strings_end_each_text(bundled, where):
    model, processor = bundled
    images = processor(
        images=[PIL.Image.open(path) for path in sorted(coca_hf.example_images())[:3]], return_tensors="pt"
    )
    words = processor.tokenizer.decode(
        model.generate(**images, max_new_tokens=20)[0], skip_special_tokens=True
    ).split()
    settings = {"num_beams": 4, "num_beam_groups": 2, "num_return_sequences": 4, "max_new_tokens": 20}
    settings["stop_strings"] = [words[3]]
    if where == "config":
        config = GenerationConfig.from_pretrained(coca_hf.bundled_model())
        config.update(**settings)
        settings = {"generation_config": config}
    ids = model.generate(**images, tokenizer=processor.tokenizer, **settings)
    alone = {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 20, "stop_strings": [words[3]]}
    expected = model.generate(**images, tokenizer=processor.tokenizer, **alone)
    texts = processor.batch_decode(ids, skip_special_tokens=True)
    assert texts == [text for text in processor.batch_decode(expected, skip_special_tokens=True) for _ in range(2)]
    assert any(text.endswith(words[3]) for text in texts)


def test_stop_strings_without_a_tokenizer_are_refused_in_the_librarys_words(captioner, pixel_values):
    with pytest.raises(ValueError, match="you must pass the model's tokenizer"):
        caption(captioner, pixel_values, num_beams=4, num_beam_groups=2, stop_strings=["red"])


def test_a_streamer_is_refused_in_the_librarys_words(captioner, pixel_values):
    messages = []
    for groups in (1, 2):
        with pytest.raises(ValueError, match="streamer") as caught:
            caption(captioner, pixel_values, num_beams=4, num_beam_groups=groups, streamer=BaseStreamer())
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


# --- what else can be asked for ---


def test_everything_that_is_asked_for_comes_a_step_at_a_time(pixel_values):
    # The other implementations give no attention weights.
    eager = tiny_captioner()
    eager.set_attn_implementation("eager")
    found = caption(
        eager,
        pixel_values,
        num_beams=4,
        num_beam_groups=2,
        diversity_penalty=0.5,
        num_return_sequences=2,
        output_logits=True,
        output_attentions=True,
        output_hidden_states=True,
    )
    assert [tuple(step.shape) for step in found.scores] == [(12, 99)] * 8
    assert [tuple(step.shape) for step in found.logits] == [(12, 99)] * 8
    assert [tuple(step[-1].shape) for step in found.hidden_states] == [(12, 1, 16)] * 8
    assert [tuple(step[0].shape) for step in found.attentions] == [(12, 4, 1, length) for length in range(1, 9)]
    assert found.cache.get_seq_length() == 8
    # The first group pays nothing, the second for what the first took.
    first, second = (found.scores[0] - found.logits[0].log_softmax(dim=-1)).view(3, 2, 2, 99).unbind(dim=1)
    torch.testing.assert_close(first, torch.zeros(3, 2, 99))
    torch.testing.assert_close(second.sum(dim=-1), torch.full((3, 2), -1.0), atol=1e-4, rtol=0)


def test_a_search_continues_from_a_filled_cache(captioner, pixel_values):
    arguments = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5, "max_new_tokens": 4}
    begun = caption(captioner, pixel_values, max_new_tokens=4, min_new_tokens=4)
    expected = caption(captioner, pixel_values, input_ids=begun.sequences, **arguments)
    begun.cache.batch_repeat_interleave(4)
    found = caption(captioner, pixel_values, input_ids=begun.sequences, cache=begun.cache, **arguments)
    assert torch.equal(found.sequences, expected.sequences)


# --- processes that share the weights ---


SHARED = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5, "num_return_sequences": 2}


def own_inputs(rank):
    """The first process has one token to write, up to the end of the context; the second has 19."""
    pixel_values = torch.randn(2, 1, 3, 16, 16, generator=torch.Generator().manual_seed(2))[rank]
    prompt = torch.arange(3, 22)[None, : 19 if rank == 0 else 1]
    return {"pixel_values": pixel_values, "input_ids": prompt, "max_length": 20, **SHARED}


def _search_together(rank, folder, sharded_by, arguments):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    if sharded_by == "transformers":
        model = CoCaForCaptioning.from_pretrained(folder, distributed_config=DistributedConfig(fsdp_size=2)).eval()
    else:
        model = CoCaForCaptioning.from_pretrained(folder).eval()
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)), reshard_after_forward=True)
    ids = model.generate(**own_inputs(rank), **arguments)
    # Otherwise the missing steps of one process could be those of its next search.
    torch.distributed.barrier()
    again = model.generate(**own_inputs(1 - rank), **arguments)
    torch.save((ids, again), f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("sharded_by", "arguments"),
    [
        ("transformers", {}),
        ("torch", {}),
        ("torch", {"synced_gpus": True, "cache_implementation": "static"}),
    ],
    ids=["transformers", "torch", "torch-static-cache"],
)
def test_processes_that_share_the_weights_wait_for_each_other(tmp_path, sharded_by, arguments):
    # Fully sharded, every parameter needs a dimension to divide.
    model = tiny_captioner(text_config={"vocab_size": 100}, nonscalar_logit_scale=True)
    model.save_pretrained(tmp_path)
    expected = [model.generate(**own_inputs(rank)) for rank in range(2)]
    assert [ids.shape for ids in expected] == [(2, 20), (2, 20)]
    run_together(_search_together, (str(tmp_path), sharded_by, arguments), 2)
    for rank in range(2):
        own, other = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert torch.equal(own, expected[rank])
        assert torch.equal(other, expected[1 - rank])


# --- what is refused ---


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_beams": 4, "num_beam_groups": 3}, "num_beams=4"),
        ({"num_beams": 4, "num_beam_groups": 2, "do_sample": True}, "do_sample"),
        ({"num_beams": 4, "num_beam_groups": 2, "force_words_ids": [[5]]}, "force_words_ids"),
    ],
)
def test_impossible_searches_are_refused_in_words(arguments, words):
    with pytest.raises(ValueError, match=words):
        tiny_captioner().generate(torch.zeros(1, 3, 16, 16), max_new_tokens=4, **arguments)
