# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""open_clip's `CoCa` on our model: its numbers, its ids, its names."""

import copy
import dataclasses
import functools
import inspect
import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from transformers.generation import MaxLengthCriteria

from coca_hf.modeling_coca import CoCaMLP
from coca_hf.open_clip import CLIPTextCfg, CLIPVisionCfg, CoCa, MultimodalCfg, beam_search
from fixtures.open_clip import recipe
from fixtures.open_clip.recording import Recording


FIXTURES = Path(recipe.__file__).parent
API = json.loads((FIXTURES / "api.json").read_text())
RECORDING = json.loads((FIXTURES / "generation.json").read_text())


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def arguments_of(config: dict[str, Any]) -> dict[str, Any]:
    """What open_clip's factory passes to the constructor."""
    return {field: value for field, value in config.items() if field != "custom_text"}


@functools.cache
def model_of(name: str, seed: int) -> CoCa:
    config = recipe.GENERATION_CONFIGS[name]
    model = CoCa(**arguments_of(config))
    model.load_state_dict(recipe.state_dict(RECORDING["shapes"][name], seed))
    return model.eval()


def images_of(case: dict[str, Any]) -> torch.Tensor:
    size = recipe.GENERATION_CONFIGS[case["model"]]["vision_cfg"]["image_size"]
    return recipe.images(case["images"], size, size, seed=case["seed"])


def generated(case: dict[str, Any]) -> list[Any]:
    prompt = None if case["prompt"] is None else torch.tensor(case["prompt"])
    return model_of(case["model"], case["seed"]).generate(images_of(case), prompt, **case["arguments"]).tolist()


@pytest.mark.parametrize("case", recipe.GENERATION_CASES, ids=recipe.key)
def test_generated_ids_are_open_clips(case):
    assert generated(case) == RECORDING["ids"][recipe.key(case)]


@pytest.mark.parametrize("case", recipe.sampling_cases(), ids=recipe.key)
def test_every_sampled_token_has_open_clips_distribution(case):
    seen: list[torch.Tensor] = []

    def choose(probabilities: torch.Tensor, count: int) -> torch.Tensor:
        seen.append(probabilities)
        return recipe.draw(probabilities, len(seen))

    with mock.patch("torch.multinomial", choose):
        ids = generated(case)
    expected = RECORDING["sampled"][recipe.key(case)]
    assert ids == expected["ids"]
    assert len(seen) == len(expected["distributions"])
    for ours, theirs in zip(seen, expected["distributions"], strict=True):
        torch.testing.assert_close(ours, torch.tensor(theirs), rtol=0, atol=1e-5)


WITH_TWO_POOLERS = ("pooler_parallel", "pooler_cascade")
SOME_CONFIGS = ("base", *WITH_TWO_POOLERS, "unpooled", "plain_text_argmax", "logit_bias", "nonscalar_logit_scale")


@functools.cache
def recorded(name: str) -> Recording:
    return Recording(FIXTURES / "models" / f"{name}.safetensors")


@functools.cache
def parity_model(name: str) -> CoCa:
    model = CoCa(**arguments_of(recipe.CONFIGS[name]))
    model.load_state_dict(recorded(name).weights())
    return model.eval()


@pytest.mark.parametrize("method", API["signatures"])
def test_arguments_and_defaults_are_open_clips(method):
    parameters = inspect.signature(getattr(CoCa, method)).parameters.values()
    ours = {p.name: "required" if p.default is inspect.Parameter.empty else p.default for p in parameters}
    assert list(ours.items()) == list(API["signatures"][method].items())


@pytest.mark.parametrize("kind", [CLIPVisionCfg, CLIPTextCfg, MultimodalCfg])
def test_configuration_fields_and_defaults_are_open_clips_in_their_order(kind):
    ours = {field.name: field.default for field in dataclasses.fields(kind)}
    assert list(ours.items()) == list(API["fields"][kind.__name__].items())


@pytest.mark.parametrize("name", SOME_CONFIGS)
def test_features_are_open_clips_shape_included(name):
    recording, model, images = recorded(name), parity_model(name), recipe.images(3, 24, 24)
    ids = recording["padded.input_ids"]
    with torch.no_grad():
        close(model.encode_image(images), recording["image_features"])
        close(model.encode_image(images, normalize=False), recording["image_features_raw"])
        close(model.encode_text(ids), recording["padded.text_features"])
        close(model.encode_text(ids, normalize=False), recording["padded.text_features_raw"])


@pytest.mark.parametrize("kind", recipe.CAPTION_KINDS)
@pytest.mark.parametrize("name", SOME_CONFIGS)
def test_forward_returns_what_open_clip_returns(name, kind):
    recording, model = recorded(name), parity_model(name)
    ids = recording[f"{kind}.input_ids"]
    with torch.no_grad():
        out = model(recipe.images(3, 24, 24), ids)
    expected = ["image_features", "text_features", "logits", "logit_scale", "labels"]
    assert list(out) == expected + ["logit_bias"] * (model.logit_bias is not None)
    close(out["image_features"], recording["image_features"])
    close(out["text_features"], recording[f"{kind}.text_features"])
    close(out["logits"], recording[f"{kind}.logits"][:, :-1])
    close(out["logit_scale"], recording["logit_scale_exp"])
    assert torch.equal(out["labels"], ids[:, 1:])


def test_without_labels_the_last_position_has_logits_too():
    recording = recorded("base")
    with torch.no_grad():
        out = parity_model("base")(recipe.images(3, 24, 24), recording["full.input_ids"], output_labels=False)
    close(out["logits"], recording["full.logits"])
    assert "labels" not in out


def test_without_text_forward_returns_what_a_later_call_can_take():
    recording, model = recorded("base"), parity_model("base")
    with torch.no_grad():
        first = model(recipe.images(3, 24, 24))
        again = model(None, recording["padded.input_ids"], first["image_features"], first["image_embs"])
    assert list(first) == ["image_features", "image_embs"]
    close(first["image_embs"], recording["image_tokens"])
    close(again["logits"], recording["padded.logits"][:, :-1])


def test_a_short_text_has_the_features_of_the_padded_text():
    model, ids = parity_model("base"), recorded("base")["padded.input_ids"]
    with torch.no_grad():
        close(model.encode_text(ids[:, : max(recipe.CAPTION_LENGTHS)]), recorded("base")["padded.text_features"])


def test_a_short_texts_logits_are_open_clips():
    recording = recorded("base")
    ids = recording["zeros.input_ids"][:, :-3]
    with torch.no_grad():
        out = parity_model("base")(recipe.images(3, 24, 24), ids, output_labels=False)
    close(out["logits"], recording["short.logits"])


def test_the_towers_can_be_called_by_open_clips_names():
    recording, model = recorded("base"), parity_model("base")
    with torch.no_grad():
        image_features, image_tokens = model.visual(recipe.images(3, 24, 24))
        text_features, text_tokens = model.text(recording["padded.input_ids"])
        logits = model.text_decoder(image_tokens, text_tokens)
    close(image_features, recording["image_features_raw"])
    close(text_features, recording["padded.text_features_raw"])
    close(logits, recording["padded.logits"])


def test_attributes_are_open_clips():
    model = CoCa(**arguments_of(recipe.variant(multimodal={"context_length": 15})), pad_id=4)
    assert (model.pad_id, model.context_length, model.text.context_length) == (4, 15, 12)
    assert isinstance(model.logit_scale, torch.nn.Parameter)
    assert model.logit_bias is None
    assert model.visual.image_size == (24, 24)


@pytest.mark.parametrize("name", SOME_CONFIGS)
def test_state_dict_has_open_clips_names_and_values(name):
    state, weights = parity_model(name).state_dict(), recorded(name).weights()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[key], weights[key]) for key in weights)


def test_state_dict_of_a_wrapping_module_has_the_prefix_and_loads_again():
    wrapped = torch.nn.ModuleDict({"module": copy.deepcopy(parity_model("base"))})
    state = wrapped.state_dict()
    assert state.keys() == {f"module.{name}" for name in recorded("base").weights()}
    fresh = torch.nn.ModuleDict({"module": CoCa(**arguments_of(recipe.CONFIGS["base"]))})
    fresh.load_state_dict(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in fresh.state_dict().items())


def test_a_loaded_state_dict_is_left_as_it_was():
    state = recorded("base").weights()
    names = list(state)
    CoCa(**arguments_of(recipe.CONFIGS["base"])).load_state_dict(state)
    assert list(state) == names


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"visual.conv1.weight": None}, r'Missing key\(s\) in state_dict: "visual.conv1.weight"'),
        (
            {"text.transformer.resblocks.1.attn.in_proj_bias": None},
            r'"text.transformer.resblocks.1.attn.in_proj_bias"',
        ),
        ({"visual.extra": torch.zeros(2)}, r'Unexpected key\(s\) in state_dict: "visual.extra"'),
        ({"visual.proj": torch.zeros(2, 3)}, r"size mismatch for visual.proj: .*\[2, 3\].*\[32, 32\]"),
        ({"text_decoder.resblocks.0.attn.in_proj_weight": torch.zeros(3, 32)}, r"size mismatch for text_decoder.resb"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused_in_open_clips_names(change, says):
    state = {name: t for name, t in (recorded("base").weights() | change).items() if t is not None}
    with pytest.raises(RuntimeError, match=says) as caught:
        CoCa(**arguments_of(recipe.CONFIGS["base"])).load_state_dict(state)
    assert "captioner" not in str(caught.value)


def test_loading_a_part_reports_the_rest_in_open_clips_names():
    weights = recorded("base").weights()
    model = CoCa(**arguments_of(recipe.CONFIGS["base"]))
    result = model.load_state_dict({"logit_scale": weights["logit_scale"], "other": torch.zeros(1)}, strict=False)
    assert set(result.missing_keys) == weights.keys() - {"logit_scale"}
    assert result.unexpected_keys == ["other"]
    assert torch.equal(model.logit_scale, weights["logit_scale"])


def test_a_model_and_its_captioner_share_their_weights():
    captioner = parity_model("base").captioner
    model = CoCa.from_captioner(captioner)
    assert model.captioner is captioner
    assert model.visual.parts[0] is captioner.model.vision_model
    assert not model.training


def test_every_parameter_is_listed_once():
    model = parity_model("base")
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == sum(tensor.numel() for tensor in recorded("base").weights().values())


def test_a_copy_is_a_model_of_its_own():
    twin = copy.deepcopy(parity_model("base"))
    with torch.no_grad():
        twin.logit_scale.zero_()
        for parameter in twin.visual.parameters():
            parameter.zero_()
    assert parity_model("base").logit_scale != 0
    assert not twin.encode_image(recipe.images(1, 24, 24), normalize=False).any()


def test_gradient_checkpointing_runs_every_block_again_and_gives_the_same_gradients():
    recording = recorded("base")
    plain, checkpointed = copy.deepcopy(parity_model("base")), copy.deepcopy(parity_model("base"))
    checkpointed.set_grad_checkpointing()
    gradients, runs = [], []
    for model in (plain.train(), checkpointed.train()):
        blocks = [m for m in model.modules() if isinstance(m, CoCaMLP)]
        calls: list[torch.nn.Module] = []
        for block in blocks:
            block.register_forward_pre_hook(lambda module, args, calls=calls: calls.append(module))
        out = model(recipe.images(3, 24, 24), recording["padded.input_ids"])
        (out["logits"].sum() + out["text_features"].sum() + out["image_features"].sum()).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        runs.append(len(calls) / len(blocks))
    assert runs == [1, 2]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("arguments", [{}, {"generation_type": "top_k", "top_k": 1}], ids=["beams", "greedy"])
def test_generation_sees_each_image_once_and_each_token_once(arguments):
    model = copy.deepcopy(model_of("base", 18))
    images, tokens = [], []
    vision, text = model.captioner.model.vision_model, model.captioner.model.text_model
    vision.register_forward_pre_hook(lambda module, args: images.append(len(args[0])))
    text.register_forward_pre_hook(lambda module, args: tokens.append(args[0].shape[1]))
    model.generate(recipe.images(3, 24, 24, seed=18), seq_len=12, sot_token_id=22, eos_token_id=23, **arguments)
    assert images == [3]
    assert set(tokens) == {1}


@pytest.mark.parametrize("arguments", [{"num_beams": 2}, {"num_beams": 6, "num_beam_groups": 3}], ids=str)
def test_the_librarys_generate_gives_the_same_captions_with_open_clips_scores(arguments):
    model = model_of("base", 18)
    images = recipe.images(3, 24, 24, seed=18)
    theirs = model.generate(images, seq_len=12, sot_token_id=22, eos_token_id=23)
    ours = model.captioner.generate(
        pixel_values=images, custom_generate=beam_search, max_length=12, min_length=5, **arguments
    )
    assert torch.equal(ours, theirs)


def test_generate_leaves_the_training_mode_as_it_was():
    model = copy.deepcopy(model_of("base", 18)).train()
    model.generate(recipe.images(1, 24, 24), seq_len=8, sot_token_id=22, eos_token_id=23)
    assert model.training
    assert model.captioner.model.vision_model.training


def test_one_beam_is_a_search_too():
    ids = model_of("base", 18).generate(
        recipe.images(2, 24, 24), seq_len=8, num_beams=1, num_beam_groups=1, sot_token_id=22, eos_token_id=23
    )
    assert ids.shape[0] == 2


def test_a_stopping_criterion_of_the_callers_ends_the_captions():
    ids = model_of("base", 72).generate(
        recipe.images(2, 24, 24, seed=72),
        generation_type="top_k",
        seq_len=12,
        stopping_criteria=[MaxLengthCriteria(max_length=7)],
        sot_token_id=22,
        eos_token_id=23,
    )
    assert ids.shape == (2, 7)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"seq_len": 5}, "seq_len=5 must be larger than min_seq_len=5"),
        ({"generation_type": "nucleus"}, "generation_type='nucleus' is not one of top_k, top_p, beam_search"),
        ({"num_beams": 5, "num_beam_groups": 2, "seq_len": 9}, "num_beams=5 must be a multiple of num_beam_groups=2"),
        ({"seq_len": 14}, "the model see 13 tokens, but its context is 12"),
        ({"seq_len": 14, "generation_type": "top_k"}, "the model see 13 tokens, but its context is 12"),
    ],
)
def test_impossible_calls_of_generate_are_refused_before_any_work(arguments, says):
    model = copy.deepcopy(model_of("base", 18))
    model.captioner.model.vision_model.register_forward_pre_hook(lambda *_: pytest.fail("the image was encoded"))
    with pytest.raises(ValueError, match=says):
        model.generate(recipe.images(1, 24, 24), **{"sot_token_id": 22, "eos_token_id": 23, **arguments})


def test_a_tower_that_sees_what_follows_cannot_generate():
    model = CoCa(**arguments_of(recipe.CONFIGS["not_causal"]))
    with pytest.raises(ValueError, match="no_causal_mask"):
        model.generate(recipe.images(1, 24, 24), seq_len=9)


@pytest.mark.slow
def test_full_size_ids_are_open_clips():
    recording = Recording(FIXTURES / "full_size.safetensors")
    model = CoCa(**arguments_of(recipe.FULL_SIZE_CONFIG)).eval()
    model.load_state_dict(recording.weights(), assign=True)
    images = recipe.images(2, 224, 224)
    assert torch.equal(model.generate(images, generation_type="top_k", top_k=1, seq_len=12), recording["greedy_ids"])
    assert torch.equal(model.generate(images, seq_len=12), recording["beam_ids"])


# The examples of open_clip's documentation: they run as written there, but for the import.


@pytest.fixture(scope="module")
def documented_model():
    torch.manual_seed(0)
    vision_cfg = CLIPVisionCfg(layers=12, width=768, patch_size=16, image_size=224, output_tokens=True)
    text_cfg = CLIPTextCfg(77, 49408, 512, 8, 12)
    multimodal_cfg = MultimodalCfg(77, 49408, 512, 8, layers=6)
    return CoCa(embed_dim=512, vision_cfg=vision_cfg, text_cfg=text_cfg, multimodal_cfg=multimodal_cfg)


IMAGES = recipe.images(4, 224, 224)
CAPTIONS = recipe.captions("padded", 77, 49408)[[0, 1, 2, 0]]


@pytest.mark.slow
def test_the_documented_forward_and_beam_search_run(documented_model):
    out = documented_model(IMAGES, CAPTIONS)
    assert out["image_features"].shape == out["text_features"].shape == (4, 512)
    assert out["logits"].shape == (4, 76, 49408)
    assert out["labels"].shape == (4, 76)
    generated = documented_model.generate(IMAGES, generation_type="beam_search")
    assert generated.shape[0] == 4
    assert generated.shape[1] <= 30


@pytest.mark.slow
def test_the_documented_zero_shot_classification_runs(documented_model):
    image_features = documented_model.encode_image(IMAGES, normalize=True)
    text_features = documented_model.encode_text(CAPTIONS, normalize=True)
    probabilities = (documented_model.logit_scale.exp() * image_features @ text_features.T).softmax(dim=-1)
    torch.testing.assert_close(image_features.norm(dim=-1), torch.ones(4))
    torch.testing.assert_close(probabilities.sum(dim=-1), torch.ones(4))


@pytest.mark.slow
def test_the_documented_sampling_and_beams_in_groups_run(documented_model):
    sampled = documented_model.generate(
        IMAGES, generation_type="top_p", top_p=0.9, temperature=0.8, repetition_penalty=1.2, seq_len=20
    )
    searched = documented_model.generate(IMAGES, num_beams=10, num_beam_groups=5, seq_len=20)
    assert sampled.shape == (4, 20)
    assert searched.shape[0] == 4
