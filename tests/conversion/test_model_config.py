# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""open_clip's model_cfg becomes our configuration and back."""

import dataclasses
import json
import re

import pytest

from coca_hf.conversion.errors import ConversionError
from coca_hf.conversion.model_config import (
    CLIPTextCfg,
    CLIPVisionCfg,
    MultimodalCfg,
    open_clip_config,
    open_clip_model_cfg,
)
from coca_hf.conversion.presets import PRESETS
from coca_hf.conversion.sources import load_model_cfg
from fixtures.open_clip import recipe


ALL = {**recipe.CONFIGS, **PRESETS}


@pytest.mark.parametrize("name", ALL)
def test_the_way_back_gives_a_model_cfg_that_means_the_same(name):
    config = open_clip_config(ALL[name])
    assert open_clip_config(open_clip_model_cfg(config)).to_dict() == config.to_dict()


def test_the_model_cfg_of_the_way_back_is_json():
    model_cfg = open_clip_model_cfg(open_clip_config(recipe.CONFIGS["mixture"]))
    assert json.loads(json.dumps(model_cfg)) == model_cfg


def test_a_name_gives_the_configuration_of_the_model_of_that_name():
    assert open_clip_config("coca_ViT-B-32").to_dict() == open_clip_config(recipe.FULL_SIZE_CONFIG).to_dict()


def test_the_large_preset_has_its_published_sizes():
    config = open_clip_config("coca_ViT-L-14")
    assert (config.projection_dim, config.text_config.hidden_size, config.text_config.num_attention_heads) == (
        768,
        768,
        12,
    )
    assert (config.vision_config.hidden_size, config.vision_config.num_hidden_layers) == (1024, 24)
    assert (config.vision_config.patch_size, config.vision_config.num_attention_heads) == (14, 16)


def test_the_base_preset_has_no_pooler_and_a_larger_image():
    vision = open_clip_config("coca_base").vision_config
    assert (vision.attentional_pooling, vision.image_size, vision.patch_size) == ("none", 288, 18)


def test_a_whole_configuration_file_is_taken_for_its_model_cfg():
    whole = {"model_cfg": recipe.BASE_CONFIG, "preprocess_cfg": {"mean": [0, 0, 0]}}
    assert open_clip_config(whole).to_dict() == open_clip_config(recipe.BASE_CONFIG).to_dict()


def test_fields_left_out_have_open_clips_defaults():
    config = open_clip_config({"embed_dim": 64, "vision_cfg": {}, "text_cfg": {"width": 512}, "multimodal_cfg": {}})
    vision, text, decoder = config.vision_config, config.text_config, config.multimodal_config
    assert (vision.hidden_size, vision.patch_size, vision.attentional_pooling) == (768, 16, "none")
    assert (text.max_position_embeddings, text.pool_type, text.vocab_size) == (77, "argmax", 49408)
    assert (decoder.hidden_size, decoder.num_hidden_layers, decoder.intermediate_size) == (512, 12, 2048)


def test_the_decoders_mlp_ratio_is_four_whatever_the_configuration_says():
    changed = recipe.variant(multimodal={"mlp_ratio": 2})
    assert open_clip_config(changed).multimodal_config.intermediate_size == 4 * 32


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"vision": {"mlp_ratio": 2.7}}, "vision_config.intermediate_size", 64),
        ({"vision": {"attentional_pool": "cascade", "width": 32}}, "vision_config.attentional_pooling", "cascade"),
        ({"vision": {"pos_embed_type": "sin_cos_2d"}}, "vision_config.position_embedding_type", "sincos"),
        ({"vision": {"act_kwargs": {"approximate": "tanh"}}}, "vision_config.hidden_act", "gelu_pytorch_tanh"),
        ({"quick_gelu": True}, "multimodal_config.hidden_act", "quick_gelu"),
        ({"text": {"proj_bias": True}}, "text_config.projection_type", "linear_bias"),
        ({"text": {"proj_bias": True, "proj_type": "none"}}, "text_config.projection_type", "none"),
        ({"text": {"norm_kwargs": {"eps": 1e-6}}}, "text_config.layer_norm_eps", 1e-6),
        ({"text": {"pad_id": 3}}, "text_config.pad_token_id", 3),
        ({"text": {"embed_cls": False, "pool_type": "eos", "eos_id": 9}}, "text_config.eos_token_id", 9),
        ({"text": {"embed_cls": True, "pool_type": "first"}}, "text_config.pool_type", "cls"),
        ({"init_logit_bias": -10}, "logit_bias_init_value", -10),
        ({"nonscalar_logit_scale": True}, "nonscalar_logit_scale", True),
        ({"text": {"vocab_size": 49408}}, "text_config.eos_token_id", 49407),
        ({"text": {"vocab_size": 64000}}, "text_config.bos_token_id", 49406),
        ({"text": {"vocab_size": 64}}, "text_config.bos_token_id", 62),
    ],
)
def test_a_field_says_here_what_it_says_there(change, field, value):
    config = open_clip_config(recipe.variant(**change))
    *parts, name = field.split(".")
    owner = getattr(config, parts[0]) if parts else config
    assert getattr(owner, name) == value


OUR_NAMES = re.compile(
    r"\w*_config\b|hidden_size|num_\w+|intermediate_size|pooler_\w+size|attentional_pooling|'sincos'"
)


@pytest.mark.parametrize(
    ("model_cfg", "says"),
    [
        ("coca_ViT-B-16", "coca_ViT-B-32"),
        ({"embed_dim": 32}, "no vision_cfg"),
        ({"embed_dim": 32, "vision_cfg": {}, "text_cfg": {}}, "a CLIP model, not a CoCa model"),
        (recipe.variant(quick_gelU=True), "the nearest is 'quick_gelu'"),
        (
            recipe.variant(vision={"attn_pool_heads": 8}),
            "model_cfg.vision_cfg has no field 'attn_pool_heads'; the nearest is",
        ),
        (recipe.variant(text={"contxt_length": 8}), "the nearest is 'context_length'"),
        (recipe.variant(text={"correct_cls_mask": True}), "text_cfg.correct_cls_mask is unknown here and may change"),
        (recipe.variant(vision={"width": "768"}), "vision_cfg.width='768' has the wrong type"),
        (recipe.variant(vision={"layers": [3, 4, 6, 3]}), r"vision_cfg.layers=\[3, 4, 6, 3\] asks for a ResNet"),
        (recipe.variant(vision={"timm_model_name": "vit"}), "vision_cfg.timm_model_name='vit' asks for a timm"),
        (recipe.variant(text={"hf_model_name": "roberta-base"}), "text_cfg.hf_model_name='roberta-base' asks for"),
        (recipe.variant(vision={"block_type": "custom"}), "vision_cfg.block_type='custom'"),
        (recipe.variant(vision={"qk_norm": True}), "vision_cfg.qk_norm=True"),
        (recipe.variant(text={"scaled_cosine_attn": True}), "text_cfg.scaled_cosine_attn=True"),
        (recipe.variant(text={"scale_heads": True}), "text_cfg.scale_heads=True"),
        (recipe.variant(text={"scale_attn_inner": True}), "text_cfg.scale_attn_inner=True"),
        (recipe.variant(text={"scale_attn": True}), "text_cfg.scale_attn=True"),
        (recipe.variant(text={"scale_fc": True}), "text_cfg.scale_fc=True"),
        (recipe.variant(vision={"attentional_pool": "sum"}), "vision_cfg.attentional_pool='sum'.*'cascade'"),
        (recipe.variant(text={"proj_type": "mlp"}), "text_cfg.proj_type='mlp'"),
        (recipe.variant(vision={"norm_kwargs": {"eps": 1e-3}}), "attentional pooler"),
        (recipe.variant(text={"norm_kwargs": {"bias": False}}), "text_cfg.norm_kwargs.bias"),
        (recipe.variant(quick_gelu=True, text={"act_kwargs": {"approximate": "tanh"}}), "text_cfg.act_kwargs"),
        (recipe.variant(pad_id=5), "pad_id=5 and text_cfg.pad_id=0"),
        (recipe.variant(multimodal={"context_length": 10}), "multimodal_cfg.context_length=10"),
        (recipe.variant(multimodal={"layers": 0}), "multimodal_cfg.layers=0"),
        (recipe.variant(multimodal={"width": 48}), "multimodal_cfg.width=48 must equal text_cfg.width=32"),
        (recipe.variant(vision={"width": -8}), "vision_cfg.width=-8"),
        (
            recipe.variant(vision={"width": 25}),
            r"vision_cfg.width=25 .* \(vision_cfg.width // vision_cfg.head_width\)=3",
        ),
        (recipe.variant(vision={"head_width": 0}), "vision_cfg.head_width=0"),
        (recipe.variant(vision={"head_width": 48}), r"\(vision_cfg.width // vision_cfg.head_width\)=0"),
        (recipe.variant(vision={"mlp_ratio": -1.0}), r"vision_cfg.mlp_ratio=-1.0"),
        (recipe.variant(vision={"layers": -1}), "vision_cfg.layers=-1"),
        (recipe.variant(vision={"image_size": 0}), "vision_cfg.image_size"),
        (recipe.variant(vision={"patch_size": 32}), "vision_cfg.patch_size=32 .* vision_cfg.image_size=24"),
        (recipe.variant(vision={"patch_dropout": 1.5}), "vision_cfg.patch_dropout=1.5"),
        (recipe.variant(vision={"attn_pooler_heads": 5}), "embed_dim=32 .* vision_cfg.attn_pooler_heads=5"),
        (recipe.variant(vision={"attn_pooler_queries": 1}), "vision_cfg.attn_pooler_queries=1"),
        (
            recipe.variant(vision={"pos_embed_type": "sin_cos_2d", "image_size": [24, 16]}),
            "vision_cfg.pos_embed_type='sin_cos_2d'",
        ),
        (
            recipe.variant(vision={"attentional_pool": "cascade"}),
            "embed_dim=32 .*vision_cfg.attentional_pool='cascade'",
        ),
        (recipe.variant(recipe.UNPOOLED, vision={"norm_kwargs": {"eps": -1.0}}), "vision_cfg.norm_kwargs.eps=-1.0"),
        (recipe.variant(text={"width": 0}), "text_cfg.width=0"),
        (recipe.variant(text={"heads": 5}), "text_cfg.width=32 .* text_cfg.heads=5"),
        (recipe.variant(text={"context_length": 0}), "text_cfg.context_length=0"),
        (recipe.variant(text={"vocab_size": 0}), "text_cfg.vocab_size=0"),
        (recipe.variant(embed_dim=48, text={"proj_type": "none"}), "text_cfg.proj_type='none' .* embed_dim=48"),
        (recipe.variant(multimodal={"heads": 0}), "multimodal_cfg.heads=0"),
        (recipe.variant(embed_dim=0), "embed_dim=0"),
        (recipe.variant(embed_dim="32"), "embed_dim"),
    ],
)
def test_what_cannot_be_had_is_refused_in_the_words_of_the_file(model_cfg, says):
    with pytest.raises(ConversionError, match=says) as caught:
        open_clip_config(model_cfg)
    assert OUR_NAMES.findall(str(caught.value)) == []


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("multimodal_config", "intermediate_size", 96),
        ("multimodal_config", "layer_norm_eps", 1e-6),
        ("multimodal_config", "hidden_act", "quick_gelu"),
        ("text_config", "hidden_act", "relu"),
        ("vision_config", "num_channels", 4),
    ],
)
def test_what_open_clip_cannot_have_stops_the_way_back_and_is_named(part, field, value):
    config = open_clip_config(recipe.BASE_CONFIG)
    setattr(getattr(config, part), field, value)
    with pytest.raises(ConversionError, match=f"{part}.{field}={value!r}"):
        open_clip_model_cfg(config)


def test_the_defaults_are_the_ones_that_open_clip_documents():
    vision, text, decoder = CLIPVisionCfg(), CLIPTextCfg(), MultimodalCfg()
    assert (vision.layers, vision.width, vision.patch_size, vision.image_size) == (12, 768, 16, 224)
    assert (text.context_length, text.vocab_size, text.width, text.heads, text.layers) == (77, 49408, 512, 8, 12)
    assert dataclasses.astuple(decoder)[:3] == (77, 49408, None)
    assert (decoder.heads, decoder.n_queries, decoder.attn_pooler_heads, decoder.dim_head) == (8, 256, 8, 64)
    assert MultimodalCfg(77, 49408, 512, 8, layers=6).layers == 6


@pytest.mark.parametrize(("content", "says"), [("{", "Cannot read the configuration"), ("[]", "holds no JSON object")])
def test_a_broken_configuration_file_is_named(tmp_path, content, says):
    path = tmp_path / "open_clip_config.json"
    path.write_text(content)
    with pytest.raises(ConversionError, match=rf"{says}.*" if says.startswith("C") else says) as caught:
        load_model_cfg(path)
    assert str(path) in str(caught.value)
