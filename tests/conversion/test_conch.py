# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""CONCH's checkpoints: their layout, on random weights, against its forward pass written down here.

The released weights are gated. What is written down follows the public code (github.com/mahmoodlab/CONCH,
conch/open_clip_custom, and timm's VisionTransformer): every tensor under the name it has there.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

from coca_hf.conversion import ConversionError, convert_open_clip, export_open_clip
from coca_hf.conversion.presets import CONCH_PRESETS
from coca_hf.modeling_coca import CoCaForCaptioning, CoCaModel
from fixtures.open_clip import recipe


WIDTH, TEXT_WIDTH, VECTOR, HEADS, POOLER_HEADS, CONTEXT, VOCABULARY = 48, 32, 24, 4, 8, 14, 300
CONFIG: dict[str, Any] = {
    "embed_dim": VECTOR,
    "embed_dim_caption": TEXT_WIDTH,
    "vision_cfg": {
        "image_size": 24,
        "patch_size": 8,
        "layers": 2,
        "width": WIDTH,
        "num_heads": HEADS,
        "attentional_pool_caption": True,
        "attentional_pool_contrast": True,
        "attn_pooler_heads": 4,
        "n_queries_contrast": 1,
        "n_queries_caption": 6,
        "output_tokens": True,
    },
    "text_cfg": {
        "context_length": CONTEXT,
        "vocab_size": VOCABULARY,
        "width": TEXT_WIDTH,
        "heads": HEADS,
        "layers": 2,
        "embed_cls": True,
        "output_tokens": True,
    },
    "multimodal_cfg": {
        "context_length": CONTEXT,
        "vocab_size": VOCABULARY,
        "width": TEXT_WIDTH,
        "heads": HEADS,
        "layers": 2,
    },
    "custom_text": True,
}


def block_shapes(prefix: str, width: int, names: tuple[str, str, str, str, str, str]) -> dict[str, list[int]]:
    """A transformer block; names of: first norm, stacked projections, output, second norm, both MLP layers."""
    norm1, stacked, out, norm2, fc1, fc2 = names
    dot = "_" if stacked.endswith("in_proj") else "."
    return {
        **{f"{prefix}.{norm}.{leaf}": [width] for norm in (norm1, norm2) for leaf in ("weight", "bias")},
        f"{prefix}.{stacked}{dot}weight": [3 * width, width],
        f"{prefix}.{stacked}{dot}bias": [3 * width],
        f"{prefix}.{out}.weight": [width, width],
        f"{prefix}.{out}.bias": [width],
        f"{prefix}.{fc1}.weight": [4 * width, width],
        f"{prefix}.{fc1}.bias": [4 * width],
        f"{prefix}.{fc2}.weight": [width, 4 * width],
        f"{prefix}.{fc2}.bias": [width],
    }


TIMM = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
TORCH = ("ln_1", "attn.in_proj", "attn.out_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")


def pooler_shapes(prefix: str, queries: int, width: int) -> dict[str, list[int]]:
    return {
        f"{prefix}.query": [queries, width],
        f"{prefix}.attn.q_proj_weight": [width, width],
        f"{prefix}.attn.k_proj_weight": [width, WIDTH],
        f"{prefix}.attn.v_proj_weight": [width, WIDTH],
        f"{prefix}.attn.in_proj_bias": [3 * width],
        f"{prefix}.attn.out_proj.weight": [width, width],
        f"{prefix}.attn.out_proj.bias": [width],
        **{f"{prefix}.ln_q.{leaf}": [width] for leaf in ("weight", "bias")},
        **{f"{prefix}.ln_k.{leaf}": [WIDTH] for leaf in ("weight", "bias")},
    }


def shapes(has_decoder: bool = False) -> dict[str, list[int]]:
    """Every tensor of a CONCH checkpoint of CONFIG."""
    result: dict[str, list[int]] = {
        "logit_scale": [],
        "text.text_projection": [TEXT_WIDTH, VECTOR],
        "text.cls_emb": [TEXT_WIDTH],
        "text.token_embedding.weight": [VOCABULARY, TEXT_WIDTH],
        "text.positional_embedding": [CONTEXT, TEXT_WIDTH],
        "text.ln_final.weight": [TEXT_WIDTH],
        "text.ln_final.bias": [TEXT_WIDTH],
        "visual.trunk.cls_token": [1, 1, WIDTH],
        "visual.trunk.pos_embed": [1, 10, WIDTH],
        "visual.trunk.patch_embed.proj.weight": [WIDTH, 3, 8, 8],
        "visual.trunk.patch_embed.proj.bias": [WIDTH],
        "visual.trunk.norm.weight": [WIDTH],
        "visual.trunk.norm.bias": [WIDTH],
        "visual.ln_contrast.weight": [VECTOR],
        "visual.ln_contrast.bias": [VECTOR],
        "visual.ln_caption.weight": [TEXT_WIDTH],
        "visual.ln_caption.bias": [TEXT_WIDTH],
        "visual.proj_contrast": [VECTOR, VECTOR],
        **pooler_shapes("visual.attn_pool_contrast", 1, VECTOR),
        **pooler_shapes("visual.attn_pool_caption", 6, TEXT_WIDTH),
    }
    for layer in range(2):
        result |= block_shapes(f"visual.trunk.blocks.{layer}", WIDTH, TIMM)
        result |= block_shapes(f"text.transformer.resblocks.{layer}", TEXT_WIDTH, TORCH)
    if has_decoder:
        for layer in range(2):
            result |= block_shapes(f"text_decoder.resblocks.{layer}", TEXT_WIDTH, TORCH)
            result |= block_shapes(f"text_decoder.cross_attn.{layer}", TEXT_WIDTH, TORCH)
            result |= {f"text_decoder.cross_attn.{layer}.ln_1_kv.{leaf}": [TEXT_WIDTH] for leaf in ("weight", "bias")}
        result |= {f"text_decoder.ln_final.{leaf}": [TEXT_WIDTH] for leaf in ("weight", "bias")}
        result["text_decoder.text_projection"] = [TEXT_WIDTH, VOCABULARY]
    return result


def weights_of(has_decoder: bool = False) -> dict[str, torch.Tensor]:
    """Random, and small where a wrong epsilon of a norm would show."""
    weights = recipe.state_dict(shapes(has_decoder))
    for name in weights:
        if name.startswith("visual.trunk.norm.") or ".query" in name:
            weights[name] = weights[name] * 3e-3
    return weights


class Reference:
    """CONCH's forward pass in evaluation mode, by its parameters' names."""

    def __init__(self, weights: dict[str, torch.Tensor]):
        self.weights = weights

    def norm(self, x: torch.Tensor, name: str, eps: float = 1e-5) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], eps)

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    @staticmethod
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, seen: Any = None) -> torch.Tensor:
        """Multi-head attention of projected (batch, length, width); `seen` is (batch, query, key)."""
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if seen is not None:
            scores = scores.masked_fill(~seen[:, None], -torch.inf)
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)

    def block(
        self, x: torch.Tensor, prefix: str, names: tuple[str, ...], eps: float, seen: Any = None, kv: Any = None
    ):
        norm1, stacked, out, norm2, fc1, fc2 = (f"{prefix}.{name}" for name in names)
        dot = "_" if stacked.endswith("in_proj") else "."
        weight, bias = self.weights[f"{stacked}{dot}weight"].chunk(3), self.weights[f"{stacked}{dot}bias"].chunk(3)
        y = self.norm(x, norm1, eps)
        sources = (y, y, y) if kv is None else (y, kv, kv)
        q, k, v = (F.linear(s, w, b) for s, w, b in zip(sources, weight, bias, strict=True))
        x = x + self.linear(self.attend(q, k, v, HEADS, seen), out)
        return x + self.linear(F.gelu(self.linear(self.norm(x, norm2, eps), fc1)), fc2)

    def pooler(self, x: torch.Tensor, name: str) -> torch.Tensor:
        x = self.norm(x, f"{name}.ln_k")
        query = self.norm(self.weights[f"{name}.query"], f"{name}.ln_q").expand(len(x), -1, -1)
        bias = self.weights[f"{name}.attn.in_proj_bias"].chunk(3)
        projected = [
            F.linear(source, self.weights[f"{name}.attn.{letter}_proj_weight"], b)
            for source, letter, b in zip((query, x, x), "qkv", bias, strict=True)
        ]
        return self.linear(self.attend(*projected, POOLER_HEADS), f"{name}.attn.out_proj")

    def image(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features, not normalised, and tokens."""
        trunk = "visual.trunk"
        patches = F.conv2d(
            pixel_values,
            self.weights[f"{trunk}.patch_embed.proj.weight"],
            self.weights[f"{trunk}.patch_embed.proj.bias"],
            stride=8,
        )
        patches = patches.flatten(2).transpose(1, 2)
        x = torch.cat([self.weights[f"{trunk}.cls_token"].expand(len(patches), -1, -1), patches], dim=1)
        x = x + self.weights[f"{trunk}.pos_embed"]
        for layer in range(2):
            x = self.block(x, f"{trunk}.blocks.{layer}", TIMM, 1e-6)
        x = self.norm(x, f"{trunk}.norm", 1e-6)
        vector = self.norm(self.pooler(x, "visual.attn_pool_contrast")[:, 0], "visual.ln_contrast")
        tokens = self.norm(self.pooler(x, "visual.attn_pool_caption"), "visual.ln_caption")
        return vector @ self.weights["visual.proj_contrast"], tokens

    def text(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features, not normalised, and token states, of ids one shorter than the context."""
        x = self.weights["text.token_embedding.weight"][ids]
        x = torch.cat([x, self.weights["text.cls_emb"].expand(len(ids), 1, -1)], dim=1)
        x = x + self.weights["text.positional_embedding"][: x.shape[1]]
        length = x.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool).tril().repeat(len(ids), 1, 1)
        seen[:, -1, 1:] &= ids != 0
        for layer in range(2):
            x = self.block(x, f"text.transformer.resblocks.{layer}", TORCH, 1e-5, seen)
        pooled = self.norm(x[:, -1], "text.ln_final")
        return pooled @ self.weights["text.text_projection"], x[:, :-1]

    def logits(self, pixel_values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        tokens, x = self.image(pixel_values)[1], self.text(ids)[1]
        seen = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril().repeat(len(ids), 1, 1)
        for layer in range(2):
            x = self.block(x, f"text_decoder.resblocks.{layer}", TORCH, 1e-5, seen)
            cross = f"text_decoder.cross_attn.{layer}"
            x = self.block(x, cross, TORCH, 1e-5, kv=self.norm(tokens, f"{cross}.ln_1_kv"))
        return self.norm(x, "text_decoder.ln_final") @ self.weights["text_decoder.text_projection"]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory) -> Path:
    """A tokenizer.json in the style of CONCH's: byte-level BPE, accents stripped, special tokens at the beginning."""
    special = ["<pad>", "<start_of_text>", "<end_of_text>", "<|person|>"]
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("i", "n"), ("Ġ", "a"), ("a", "t")]
    tokens = [*special, *characters, *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    backend.add_special_tokens(special)
    backend.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="<start_of_text> $A <end_of_text>", special_tokens=[("<start_of_text>", 1), ("<end_of_text>", 2)]
    )
    path = tmp_path_factory.mktemp("conch") / "conch_byte_level_bpe_uncased.json"
    backend.save(str(path))
    return path


def converted(
    folder: Path, vocabulary: Path, weights: dict[str, torch.Tensor], config: dict[str, Any] = CONFIG
) -> Any:
    torch.save(weights, folder / "pytorch_model.bin")
    return convert_open_clip(folder / "pytorch_model.bin", folder / "out", config, vocabulary)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


IMAGES = recipe.images(3, 24, 24)
IDS = torch.tensor([[1, 40, 41, 2] + [0] * 9, [1, *range(50, 61), 2], [1, 70, 71, 72, 73, 2] + [0] * 7])


@pytest.mark.parametrize("has_decoder", [False, True], ids=["towers", "with_decoder"])
def test_features_and_tokens_are_conchs(tmp_path, vocabulary, has_decoder):
    weights = weights_of(has_decoder)
    model, reference = converted(tmp_path, vocabulary, weights), Reference(weights)
    with torch.no_grad():
        image, text = model.get_image_features(IMAGES), model.get_text_features(IDS)
    features, tokens = reference.image(IMAGES)
    close(image.pooler_output, features)
    close(image.image_tokens, tokens)
    text_features, token_states = reference.text(IDS)
    close(text.pooler_output, text_features)
    is_token = IDS != 0
    close(text.last_hidden_state[is_token], token_states[is_token])


def test_logits_of_a_checkpoint_with_decoder_are_conchs(tmp_path, vocabulary):
    weights = weights_of(has_decoder=True)
    model = converted(tmp_path, vocabulary, weights)
    assert isinstance(model, CoCaForCaptioning)
    with torch.no_grad():
        logits = model(IMAGES, IDS).logits
    is_token = IDS != 0
    close(logits[is_token], Reference(weights).logits(IMAGES, IDS)[is_token])


def test_a_checkpoint_without_decoder_becomes_a_model_of_the_towers(tmp_path, vocabulary):
    model = converted(tmp_path, vocabulary, weights_of())
    assert isinstance(model, CoCaModel)
    assert isinstance(AutoModel.from_pretrained(tmp_path / "out"), CoCaModel)
    assert "AutoModelForImageTextToText" not in json.loads((tmp_path / "out" / "config.json").read_text())["auto_map"]


def test_a_checkpoint_with_decoder_captions(tmp_path, vocabulary):
    converted(tmp_path, vocabulary, weights_of(has_decoder=True))
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    ids = model.generate(pixel_values=IMAGES, max_new_tokens=4)
    assert (ids[:, 0] == 1).all()
    assert model.generation_config.eos_token_id == 2


def test_texts_are_tokenized_by_its_own_vocabulary(tmp_path, vocabulary):
    converted(tmp_path, vocabulary, weights_of())
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    texts = ["Invasive carcinoma, café &amp; in", "at", "a" * 200]
    theirs = Tokenizer.from_file(str(vocabulary))
    theirs.enable_truncation(CONTEXT - 1)
    theirs.enable_padding(length=CONTEXT - 1)
    ids = processor(text=texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert ids.tolist() == [encoding.ids for encoding in theirs.encode_batch(texts)]


def test_images_are_prepared_at_its_size(tmp_path, vocabulary):
    converted(tmp_path, vocabulary, weights_of())
    processor = AutoProcessor.from_pretrained(tmp_path / "out").image_processor
    assert dict(processor.crop_size) == {"height": 24, "width": 24}
    assert list(processor.image_mean) == pytest.approx([0.48145466, 0.4578275, 0.40821073])


def test_positions_of_another_grid_are_resized(tmp_path, vocabulary):
    weights = weights_of()
    weights["visual.trunk.pos_embed"] = recipe.weight("visual.trunk.pos_embed", (1, 26, WIDTH))
    model = converted(tmp_path, vocabulary, weights)
    patches = weights["visual.trunk.pos_embed"][:, 1:].unflatten(1, (5, 5)).permute(0, 3, 1, 2)
    resized = F.interpolate(patches, size=(3, 3), mode="bilinear").flatten(2).transpose(1, 2)
    weights["visual.trunk.pos_embed"] = torch.cat([weights["visual.trunk.pos_embed"][:, :1], resized], dim=1)
    with torch.no_grad():
        close(model.get_image_features(IMAGES).pooler_output, Reference(weights).image(IMAGES)[0])


def test_the_released_configuration_is_known_by_name():
    preset = CONCH_PRESETS["conch_ViT-B-16"]
    assert (preset["embed_dim"], preset["embed_dim_caption"], preset["text_cfg"]["vocab_size"]) == (512, 768, 32007)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"visual.ln_caption.bias": None}, r"lacks visual.ln_caption.bias"),
        ({"visual.trunk.patch_embed.proj.bias": None}, r"lacks visual.trunk.patch_embed.proj.bias"),
        ({"visual.trunk.pos_embed": None}, r"lacks visual.trunk.pos_embed"),
        ({"visual.head.proj.weight": torch.zeros(2)}, r"has, beyond .*, visual.head.proj.weight"),
        (
            {"visual.trunk.cls_token": torch.zeros(1, WIDTH)},
            r"another shape visual.trunk.cls_token \(1, 48\), exp",
        ),
        ({"text_decoder.ln_final.bias": torch.zeros(TEXT_WIDTH)}, r"lacks text_decoder.resblocks.0.ln_1.weight"),
    ],
)
def test_weights_that_do_not_fit_stop_the_conversion_by_name(tmp_path, vocabulary, change, says):
    weights = {name: tensor for name, tensor in (weights_of() | change).items() if tensor is not None}
    with pytest.raises(ConversionError, match=says):
        converted(tmp_path, vocabulary, weights)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vision_cfg": {"attentional_pool_contrast": False}}, "vision_cfg.attentional_pool_contrast=False"),
        ({"vision_cfg": {"attentional_pool_caption": False}}, "vision_cfg.attentional_pool_caption=False"),
        ({"vision_cfg": {"n_queries_contrast": 4}}, "vision_cfg.n_queries_contrast=4 is not supported"),
        ({"text_cfg": {"embed_cls": False}}, "text_cfg.embed_cls=False"),
        ({"vision_cfg": {"queries": 4}}, "vision_cfg.queries is unknown here and may change the model"),
        (
            {"vision_cfg": {"n_querys_caption": 4}},
            "vision_cfg has no field 'n_querys_caption'; the nearest is 'n_queries_",
        ),
        ({"vision_cfg": {"num_heads": 5}}, "vision_cfg.width=48 must be a multiple of vision_cfg.num_heads=5"),
    ],
)
def test_a_configuration_that_cannot_be_had_is_refused_by_name(tmp_path, vocabulary, change, says):
    config = {name: {**value, **change[name]} if name in change else value for name, value in CONFIG.items()}
    with pytest.raises(ConversionError, match=says):
        converted(tmp_path, vocabulary, weights_of(), config)


def test_open_clip_has_no_such_model(tmp_path, vocabulary):
    model = converted(tmp_path, vocabulary, weights_of(has_decoder=True))
    with pytest.raises(ConversionError, match="attentional_pooling='separate'"):
        export_open_clip(model, tmp_path / "back")


def test_safetensors_are_read_too(tmp_path, vocabulary):
    save_file(weights_of(), tmp_path / "model.safetensors")
    assert isinstance(convert_open_clip(tmp_path, tmp_path / "out", CONFIG, vocabulary), CoCaModel)
