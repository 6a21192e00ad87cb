# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import functools
import json
import unittest

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging
from transformers_tests.test_configuration_common import ConfigTester

from coca_hf.configuration_coca import CoCaConfig, CoCaMultimodalConfig, CoCaTextConfig, CoCaVisionConfig
from coca_hf.conversion.weights import entries
from coca_hf.modeling_coca import CoCaForCaptioning
from tiny import TINY, tiny_config
from transformers_tests.utils.test_configuration_utils import config_common_kwargs


CLASSES = [CoCaVisionConfig, CoCaTextConfig, CoCaMultimodalConfig, CoCaConfig]
SUB_CONFIGS = ["vision_config", "text_config", "multimodal_config"]

# Class, keywords, and what the message must name: the field, the value, and what is allowed.
REFUSED = [
    (CoCaVisionConfig, {"hidden_size": 0}, ["hidden_size=0", "at least 1"]),
    (CoCaVisionConfig, {"hidden_size": -768}, ["hidden_size=-768", "at least 1"]),
    (CoCaVisionConfig, {"hidden_size": 770}, ["hidden_size=770", "multiple of num_attention_heads=12"]),
    (CoCaVisionConfig, {"hidden_size": "768"}, ["hidden_size", "int", "'768'"]),
    (CoCaVisionConfig, {"intermediate_size": 0}, ["intermediate_size=0", "at least 1"]),
    (CoCaVisionConfig, {"num_hidden_layers": -1}, ["num_hidden_layers=-1", "at least 0"]),
    (CoCaVisionConfig, {"num_attention_heads": 0}, ["num_attention_heads=0", "at least 1"]),
    (CoCaVisionConfig, {"num_channels": 0}, ["num_channels=0", "at least 1"]),
    (CoCaVisionConfig, {"image_size": 0}, ["image_size=0", "positive"]),
    (CoCaVisionConfig, {"image_size": [224]}, ["image_size=[224]", "(height, width)"]),
    (CoCaVisionConfig, {"image_size": [224, -224]}, ["image_size=[224, -224]", "positive"]),
    (CoCaVisionConfig, {"patch_size": 0}, ["patch_size=0", "positive"]),
    (CoCaVisionConfig, {"patch_size": 225}, ["patch_size=225", "image_size=224"]),
    (CoCaVisionConfig, {"hidden_act": "wavy"}, ["hidden_act='wavy'", "quick_gelu"]),
    (CoCaVisionConfig, {"layer_norm_eps": 0.0}, ["layer_norm_eps=0.0", "positive"]),
    (CoCaVisionConfig, {"attention_dropout": 1.0}, ["attention_dropout=1.0", "[0, 1)"]),
    (CoCaVisionConfig, {"attention_dropout": -0.1}, ["attention_dropout=-0.1", "[0, 1)"]),
    (CoCaVisionConfig, {"patch_dropout": 1.5}, ["patch_dropout=1.5", "[0, 1)"]),
    (CoCaVisionConfig, {"position_embedding_type": "rotary"}, ["position_embedding_type", "rotary", "sincos"]),
    (
        CoCaVisionConfig,
        {"position_embedding_type": "sincos", "image_size": [224, 448]},
        ["position_embedding_type='sincos'", "square", "(7, 14)"],
    ),
    (
        CoCaVisionConfig,
        {"position_embedding_type": "sincos", "hidden_size": 774, "num_attention_heads": 6},
        ["hidden_size=774", "multiple of 4"],
    ),
    (CoCaVisionConfig, {"attentional_pooling": "double"}, ["attentional_pooling", "double", "cascade"]),
    (CoCaVisionConfig, {"pooler_hidden_size": 0}, ["pooler_hidden_size=0", "at least 1"]),
    (CoCaVisionConfig, {"pooler_hidden_size": 500}, ["pooler_hidden_size=500", "num_pooler_attention_heads=8"]),
    (CoCaVisionConfig, {"num_pooler_attention_heads": 0}, ["num_pooler_attention_heads=0", "at least 1"]),
    (CoCaVisionConfig, {"num_pooler_queries": 1}, ["num_pooler_queries=1", "at least 2"]),
    (CoCaVisionConfig, {"attentional_pooling": "parallel"}, ["pooler_hidden_size=512", "hidden_size=768"]),
    (CoCaVisionConfig, {"attentional_pooling": "cascade"}, ["pooler_hidden_size=512", "hidden_size=768"]),
    (
        CoCaVisionConfig,
        {"attentional_pooling": "cascade", "pooler_hidden_size": 768, "pool_type": "mean"},
        ["pool_type='mean'", "attentional_pooling='cascade'"],
    ),
    (
        CoCaVisionConfig,
        {"contrastive_pooler_hidden_size": 256},
        ["contrastive_pooler_hidden_size=256", "attentional_pooling='separate'"],
    ),
    (
        CoCaVisionConfig,
        {"attentional_pooling": "separate", "contrastive_pooler_hidden_size": 500},
        ["contrastive_pooler_hidden_size=500", "num_pooler_attention_heads=8"],
    ),
    (CoCaVisionConfig, {"pool_type": "argmax"}, ["pool_type", "argmax", "mean"]),
    (CoCaVisionConfig, {"final_norm_after_pool": True}, ["final_norm_after_pool=True", "attentional_pooling='none'"]),
    (CoCaTextConfig, {"hidden_size": 100}, ["hidden_size=100", "multiple of num_attention_heads=8"]),
    (CoCaTextConfig, {"vocab_size": 0}, ["vocab_size=0", "at least 1"]),
    (CoCaTextConfig, {"max_position_embeddings": 0}, ["max_position_embeddings=0", "at least 1"]),
    (CoCaTextConfig, {"pool_type": "mean"}, ["pool_type", "mean", "argmax"]),
    (CoCaTextConfig, {"projection_type": "mlp"}, ["projection_type", "mlp", "linear_bias"]),
    (CoCaTextConfig, {"pad_token_id": None}, ["pad_token_id=None", "pool_type='cls'"]),
    (CoCaTextConfig, {"pool_type": "eos", "eos_token_id": None}, ["eos_token_id=None", "pool_type='eos'"]),
    (CoCaMultimodalConfig, {"hidden_size": 100}, ["hidden_size=100", "multiple of num_attention_heads=8"]),
    (CoCaMultimodalConfig, {"num_hidden_layers": -1}, ["num_hidden_layers=-1", "at least 0"]),
    (
        CoCaMultimodalConfig,
        {"cross_attention_hidden_size": 0},
        ["cross_attention_hidden_size=0", "at least 1"],
    ),
    (CoCaVisionConfig, {"projection_dim": 0}, ["projection_dim=0", "at least 1"]),
    (CoCaTextConfig, {"projection_dim": 0}, ["projection_dim=0", "at least 1"]),
    (
        CoCaConfig,
        {"vision_config": {"projection_dim": 256}},
        ["vision_config.projection_dim=256", "projection_dim=512"],
    ),
    (
        CoCaConfig,
        {"text_config": CoCaTextConfig(projection_dim=256)},
        ["text_config.projection_dim=256", "projection_dim=512"],
    ),
    (CoCaConfig, {"projection_dim": 0}, ["projection_dim=0", "at least 1"]),
    (CoCaConfig, {"caption_loss_weight": -1.0}, ["caption_loss_weight=-1.0", "at least 0"]),
    (CoCaConfig, {"contrastive_loss_weight": -1.0}, ["contrastive_loss_weight=-1.0", "at least 0"]),
    (
        CoCaConfig,
        {"text_config": {"projection_type": "none"}, "projection_dim": 256},
        ["text_config.projection_type='none'", "text_config.hidden_size=512", "projection_dim=256"],
    ),
    (
        CoCaConfig,
        {"multimodal_config": {"hidden_size": 768}},
        ["multimodal_config.hidden_size=768", "text_config.hidden_size=512"],
    ),
    (
        CoCaConfig,
        {"multimodal_config": {"cross_attention_hidden_size": 100}},
        ["multimodal_config.cross_attention_hidden_size=100", "512"],
    ),
    (CoCaConfig, {"vision_config": {"hidden_size": 0}}, ["hidden_size=0", "at least 1"]),
    (CoCaConfig, {"vision_config": 3}, ["vision_config", "3", "CoCaVisionConfig"]),
]


@pytest.mark.parametrize(("config_class", "keywords", "named"), REFUSED)
def test_an_invalid_value_is_refused_by_name_when_the_config_is_made(config_class, keywords, named):
    with pytest.raises(StrictDataclassError) as refusal:
        config_class(**keywords)
    assert [part for part in named if part not in str(refusal.value)] == []


@pytest.mark.parametrize("config_class", CLASSES)
def test_a_config_without_arguments_is_made_in_silence(config_class):
    with CaptureLogger(logging.get_logger("transformers.configuration_utils")) as captured:
        config_class()
    assert captured.out == ""


def test_the_defaults_are_those_of_open_clips_base_model():
    config = CoCaConfig()
    assert (config.vision_config.hidden_size, config.vision_config.patch_size) == (768, 32)
    assert (config.text_config.hidden_size, config.text_config.max_position_embeddings) == (512, 76)
    assert (config.multimodal_config.hidden_size, config.multimodal_config.cross_attention_hidden_size) == (512, 512)
    assert (config.caption_loss_weight, config.contrastive_loss_weight) == (2.0, 1.0)


ROUND_TRIPS = [
    {},
    {"vision_config": {"image_size": (16, 24), "patch_size": [4, 8]}},
    {"vision_config": {"attentional_pooling": "none", "final_norm_after_pool": True}},
    {"text_config": {"eos_token_id": [97, 98]}},
    {"multimodal_config": {"num_hidden_layers": 0}},
    {"logit_bias_init_value": -10.0, "nonscalar_logit_scale": True},
]


@pytest.mark.parametrize("changes", ROUND_TRIPS)
def test_a_saved_config_loads_as_it_was(changes, tmp_path):
    config = tiny_config(**changes)
    config.save_pretrained(tmp_path)
    assert json.loads(CoCaConfig.from_pretrained(tmp_path).to_json_string(use_diff=False)) == json.loads(
        config.to_json_string(use_diff=False)
    ) | {"transformers_version": CoCaConfig.from_pretrained(tmp_path).transformers_version}


# `ConfigTester` checks this of configs without parts only.
@pytest.mark.parametrize("name", ["return_dict", "output_hidden_states", "chunk_size_feed_forward", "problem_type"])
def test_the_composite_config_keeps_what_every_config_takes(name):
    assert getattr(tiny_config(**{name: config_common_kwargs[name]}), name) == config_common_kwargs[name]


@pytest.mark.parametrize("name", SUB_CONFIGS)
def test_a_sub_config_loads_from_the_whole_ones_folder(name, tmp_path):
    config = tiny_config()
    config.save_pretrained(tmp_path)
    loaded = CoCaConfig.sub_configs[name].from_pretrained(tmp_path)
    assert {field: loaded.to_dict()[field] for field in TINY[name]} == TINY[name]


@pytest.mark.parametrize("name", ["vision_config", "text_config"])
@pytest.mark.parametrize("is_old", [False, True], ids=["as saved now", "as saved before the towers had the field"])
def test_a_tower_loads_the_width_of_the_shared_space_from_the_whole_ones_folder(name, is_old, tmp_path):
    tiny_config(projection_dim=10).save_pretrained(tmp_path)
    if is_old:
        path = tmp_path / "config.json"
        content = json.loads(path.read_text())
        del content[name]["projection_dim"]
        path.write_text(json.dumps(content))
    assert CoCaConfig.sub_configs[name].from_pretrained(tmp_path).projection_dim == 10


def test_sub_configs_may_be_given_as_objects():
    parts = {name: config_class(**TINY[name]) for name, config_class in CoCaConfig.sub_configs.items()}
    assert CoCaConfig(**{**TINY, **parts}).to_dict() == tiny_config().to_dict()


def test_a_sub_config_that_was_given_as_an_object_fits_several_models():
    parts = {name: config_class(**TINY[name]) for name, config_class in CoCaConfig.sub_configs.items()}
    before = {name: part.to_dict() for name, part in parts.items()}
    wide = CoCaVisionConfig(**{**TINY["vision_config"], "pooler_hidden_size": 32})
    configs = [CoCaConfig(**{**TINY, **parts}), CoCaConfig(**{**parts, "vision_config": wide, "projection_dim": 10})]
    assert [config.multimodal_config.cross_attention_hidden_size for config in configs] == [24, 32]
    assert [config.text_config.projection_dim for config in configs] == [12, 10]
    assert {name: part.to_dict() for name, part in parts.items()} == before


def test_the_padding_id_is_the_text_towers():
    config = tiny_config(text_config={"pad_token_id": 5})
    assert config.pad_token_id == 5
    config.pad_token_id = 6
    assert config.text_config.pad_token_id == 6
    assert "pad_token_id" not in config.to_dict()


def test_changing_a_config_leaves_the_callers_dictionary_alone():
    vision = dict(TINY["vision_config"])
    CoCaConfig(**{**TINY, "vision_config": vision}).vision_config.hidden_size = 64
    assert vision == TINY["vision_config"]


def test_the_text_config_is_what_the_library_takes_for_the_vocabulary():
    config = tiny_config()
    assert config.get_text_config() is config.text_config
    assert config.get_text_config(decoder=True).vocab_size == TINY["text_config"]["vocab_size"]


@pytest.mark.parametrize(
    ("vision", "expected"),
    [
        ({}, 24),
        ({"attentional_pooling": "none"}, 32),
        ({"attentional_pooling": "parallel", "pooler_hidden_size": 32}, 32),
        ({"attentional_pooling": "separate", "contrastive_pooler_hidden_size": 16}, 24),
    ],
)
def test_the_decoder_attends_to_image_tokens_of_the_width_that_the_vision_tower_gives(vision, expected):
    assert tiny_config(vision_config=vision).multimodal_config.cross_attention_hidden_size == expected


@pytest.mark.parametrize(
    ("image_size", "patch_size", "expected"),
    [(16, 4, (4, 4)), ([16, 24], 4, (4, 6)), (16, [4, 8], (4, 2)), (18, 4, (4, 4))],
)
def test_the_grid_counts_whole_patches_along_height_and_width(image_size, patch_size, expected):
    assert CoCaVisionConfig(image_size=image_size, patch_size=patch_size).grid_size == expected


# A value other than the tiny one for every field.
OTHER_VALUES = {
    "vision_config": {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_channels": 1,
        "image_size": 24,
        "patch_size": 8,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-2,
        "attention_dropout": 0.5,
        "layer_scale_init_value": 0.1,
        "patch_dropout": 0.5,
        "position_embedding_type": "sincos",
        "use_pre_norm": False,
        "attentional_pooling": "none",
        "pooler_hidden_size": 32,
        "contrastive_pooler_hidden_size": 16,
        "num_pooler_queries": 6,
        "num_pooler_attention_heads": 2,
        "pool_type": "mean",
        "final_norm_after_pool": True,
        "initializer_range": 0.5,
        "projection_dim": 16,
    },
    "text_config": {
        "vocab_size": 120,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 24,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-2,
        "attention_dropout": 0.5,
        "layer_scale_init_value": 0.1,
        "pool_type": "argmax",
        "projection_type": "linear_bias",
        "is_causal": False,
        "pad_token_id": 5,
        "bos_token_id": 7,
        "eos_token_id": 8,
        "initializer_range": 0.5,
        "projection_dim": 16,
    },
    "multimodal_config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-2,
        "attention_dropout": 0.5,
        "layer_scale_init_value": 0.1,
        "cross_attention_hidden_size": 32,
    },
    "": {
        "projection_dim": 16,
        "logit_scale_init_value": 1.0,
        "logit_bias_init_value": -10.0,
        "nonscalar_logit_scale": True,
        "caption_loss_weight": 1.0,
        "contrastive_loss_weight": 2.0,
        "use_cache": False,
    },
}
FIELDS = [(part, field) for part, fields in OTHER_VALUES.items() for field in fields]

# What a field needs around it, before and after, to have its effect.
CONTEXT = {
    ("vision_config", "final_norm_after_pool"): {"vision_config": {"attentional_pooling": "none"}},
    ("vision_config", "contrastive_pooler_hidden_size"): {"vision_config": {"attentional_pooling": "separate"}},
    ("text_config", "eos_token_id"): {"text_config": {"pool_type": "eos"}},
}
# What has to change with a field for the towers and the decoder to fit each other.
COMPANION = {
    ("text_config", "hidden_size"): {"multimodal_config": {"hidden_size": 32}},
    ("multimodal_config", "hidden_size"): {"text_config": {"hidden_size": 32}},
    ("vision_config", "projection_dim"): {"projection_dim": 16},
    ("text_config", "projection_dim"): {"projection_dim": 16},
    ("multimodal_config", "cross_attention_hidden_size"): {"vision_config": {"pooler_hidden_size": 32}},
}


def combined(*changes):
    """Nested keyword arguments of `tiny_config`, later ones on top."""
    result = {}
    for change in changes:
        for name, value in change.items():
            result[name] = {**result.get(name, {}), **value} if isinstance(value, dict) else value
    return result


def behaviour(config):
    """Everything observable of a model freshly made from `config`: weights, outputs in training, a generated start."""
    torch.manual_seed(0)
    vision = config.vision_config
    pixel_values = torch.randn(2, vision.num_channels, vision.image_size, vision.image_size)
    input_ids = torch.tensor([[97, 3, 5, 60, 8, 11, 98, 0], [97, 4, 5, 98, 8, 0, 0, 0]])
    model = CoCaForCaptioning(config)
    weights = model.state_dict()
    torch.manual_seed(0)
    outputs = model.train()(pixel_values=pixel_values, input_ids=input_ids, labels=input_ids)
    named = {name: getattr(outputs, name) for name in ("loss", "logits", "image_embeds", "text_embeds")}
    has_cache = model.eval()(pixel_values=pixel_values, input_ids=input_ids).cache is not None
    (scale,) = [entry for entry in entries(config) if entry.theirs == "logit_scale"]
    return {
        **weights,
        **named,
        "has_cache": torch.as_tensor(has_cache),
        "start": torch.as_tensor(model.generation_config.bos_token_id),
        "scale for open_clip": scale.to_theirs(weights),
    }


@functools.cache
def plain_behaviour():
    return behaviour(tiny_config())


def behaviour_before(part, field):
    """The behaviour that a field has to change: for most of them that of the plain configuration."""
    context = CONTEXT.get((part, field))
    return plain_behaviour() if context is None else behaviour(tiny_config(**context))


def differences(first, second):
    """Names of the tensors that only one of two behaviours has, or that differ."""
    differing = {name for name in first.keys() & second.keys() if not torch.equal(first[name], second[name])}
    return differing | (first.keys() ^ second.keys())


@pytest.mark.parametrize(("config_class", "part"), list(zip(CLASSES, [*SUB_CONFIGS, ""], strict=True)))
def test_every_field_has_another_value_to_be_tested_with(config_class, part):
    inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)} | set(SUB_CONFIGS)
    declared = {field.name for field in dataclasses.fields(config_class)} - inherited
    assert set(OTHER_VALUES[part]) == declared


def test_the_same_config_gives_the_same_behaviour():
    assert differences(plain_behaviour(), behaviour(tiny_config())) == set()


@pytest.mark.parametrize(("part", "field"), FIELDS)
def test_every_field_changes_something(part, field):
    context = CONTEXT.get((part, field), {})
    value = OTHER_VALUES[part][field]
    change = combined(COMPANION.get((part, field), {}), {part: {field: value}} if part else {field: value})
    assert differences(behaviour_before(part, field), behaviour(tiny_config(**combined(context, change))))


class _ConfigTestCase(unittest.TestCase):
    """What `ConfigTester` wants of the test case that runs it."""

    model_tester = None


@pytest.mark.parametrize(("config_class", "part"), list(zip(CLASSES, [*SUB_CONFIGS, ""], strict=True)))
def test_the_configs_pass_transformers_own_config_tests(config_class, part):
    tester = ConfigTester(
        _ConfigTestCase(),
        config_class=config_class,
        has_text_modality=config_class is CoCaTextConfig,
        **{field: value for field, value in (TINY[part] if part else TINY).items() if not isinstance(value, dict)},
    )
    tester.run_common_tests()
