# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""
An exported folder as a model: `generate` is the library's own, with the runtime behind each step.

The cache is the one that the PyTorch model has, layer for layer, so that beams, prompts, assistants and whatever else
`generate` does with a cache work on it. A step hands its keys and values to the runtime, and takes the new ones back.
"""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationConfig
from transformers.utils.generic import can_return_tuple

from ..cache_coca import add_layers, holds_images
from ..configuration_coca import CoCaConfig
from ..generation_coca import CoCaGenerationMixin
from ..masks_coca import text_position_ids, token_key_mask
from ..modeling_coca import CoCaModel, CoCaPreTrainedModel
from ..outputs_coca import CoCaEncodedImages, CoCaForCaptioningOutput, CoCaTextModelOutput, CoCaVisionModelOutput
from .errors import ExportedModelError
from .folder import ExportedFolder
from .programs import RUNTIMES, Program, check_runtime, load_program


def load_exported(folder: str | Path) -> "ExportedCaptioner | ExportedTowers":
    """
    The model of an exported folder: `ExportedCaptioner`, or `ExportedTowers` where it has no decoder.

    Each component is loaded when it is first needed. Raises `ExportedModelError`.
    """
    manifest = ExportedFolder.read(folder)
    check_runtime(manifest.format)
    config = CoCaConfig.from_pretrained(folder)
    if not manifest.captions:
        return ExportedTowers(config, Path(folder), manifest)
    model = ExportedCaptioner(config, Path(folder), manifest)
    try:
        model.generation_config = GenerationConfig.from_pretrained(folder)
    except OSError:
        raise ExportedModelError(
            f"{str(folder)!r} is not complete: generation_config.json is missing or damaged"
        ) from None
    return model


class ExportedTowers(CoCaPreTrainedModel):
    """What [`CoCaModel`] offers, on the CPU in float32: features of images and texts, and their similarity."""

    def __init__(self, config: CoCaConfig, folder: Path, manifest: ExportedFolder):
        super().__init__(config)
        self.folder = folder
        self.manifest = manifest
        self.logit_scale = torch.tensor([manifest.logit_scale])
        self.logit_bias = None if manifest.logit_bias is None else torch.tensor([manifest.logit_bias])
        self.inference_words = f"{'int8' if manifest.int8 else 'float32'} by {RUNTIMES[manifest.format][1]} on cpu"
        self.eval()

    @functools.cached_property
    def programs(self) -> "_Programs":
        return _Programs(self.folder, self.manifest)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Raises `ExportedModelError`: there is no PyTorch model to save."""
        raise ExportedModelError(f"an exported model is not saved again: copy its folder, {str(self.folder)!r}")

    similarity = CoCaModel.similarity

    @can_return_tuple
    def get_image_features(
        self, pixel_values: Tensor, interpolate_pos_encoding: bool = False, **kwargs: Any
    ) -> CoCaVisionModelOutput:
        """
        (images, channels, height, width) -> as [`CoCaModel.get_image_features`], `pooler_output` projected and not
        normalised; without hidden states and attentions.

        Raises:
            ValueError: The images are not of the config's size, or what the programs do not give is asked for.
        """
        _refuse_internals(kwargs)
        size = self.config.vision_config.image_size
        expected = (size, size) if isinstance(size, int) else tuple(size)
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[-2:]) != expected:
            raise ValueError(
                f"pixel_values has the shape {tuple(pixel_values.shape)}, but an exported model takes (batch, "
                f"channels, {expected[0]}, {expected[1]}) only."
            )
        return CoCaVisionModelOutput(**self.programs["vision"]({"pixel_values": pixel_values.float()}))

    @can_return_tuple
    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: None = None, **kwargs: Any
    ) -> CoCaTextModelOutput:
        """
        (texts, text) ids and mask -> as [`CoCaModel.get_text_features`], `pooler_output` projected and not normalised.

        Raises:
            ValueError: The text is longer than the context, or what the programs do not give is asked for.
        """
        _refuse_internals({"position_ids": position_ids, **kwargs})
        text_config = self.config.text_config
        if attention_mask is None:
            # As the tower itself takes a text without a mask.
            is_cls = text_config.pool_type == "cls"
            attention_mask = (input_ids != text_config.pad_token_id).long() if is_cls else torch.ones_like(input_ids)
        length = int(attention_mask.sum(dim=1).max())
        if max(length, input_ids.shape[1]) > text_config.max_position_embeddings:
            raise ValueError(
                f"The text has {input_ids.shape[1]} tokens, but the context is {text_config.max_position_embeddings} "
                "long: truncate it, as `processor(text=..., truncation=True)` does."
            )
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask.long()}
        return CoCaTextModelOutput(**self.programs["text"](inputs))


class ExportedCaptioner(ExportedTowers, CoCaGenerationMixin):
    """What [`CoCaForCaptioning`] offers but training, on the CPU in float32."""

    main_input_name = "pixel_values"
    _is_stateful = False

    def __init__(self, config: CoCaConfig, folder: Path, manifest: ExportedFolder):
        super().__init__(config, folder, manifest)
        self.decoder = _CacheLayout(config)

    def encode_images(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> CoCaEncodedImages:
        """See [`CoCaForCaptioning.encode_images`]; images of the config's size only."""
        outputs = self.get_image_features(pixel_values, interpolate_pos_encoding, return_dict=True)
        return CoCaEncodedImages(
            image_embeds=F.normalize(outputs.pooler_output, dim=-1), image_tokens=outputs.image_tokens
        )

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        encoded_images: CoCaEncodedImages | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        text_key_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> CoCaForCaptioningOutput:
        """
        Scores each next token of texts about images: arguments as in [`CoCaForCaptioning`]'s `forward`, without losses
        and the text's own vector, which `get_text_features` gives.

        Raises:
            ValueError: Images or text are missing, or what the programs do not give is asked for.
        """
        _refuse_internals(kwargs)
        if input_ids is None:
            raise ValueError("input_ids is missing: an exported model scores texts; get_image_features embeds images.")
        if encoded_images is None and pixel_values is not None:
            encoded_images = self.encode_images(pixel_values)
        cache = DynamicCache() if cache is None else cache
        self.decoder.complete(cache)
        if not self.decoder.knows_images(cache):
            if encoded_images is None:
                raise ValueError("Images are missing: pass pixel_values, as the processor prepares them.")
            self._remember(encoded_images.image_tokens, cache)
        logits = self._step(input_ids, attention_mask, position_ids, text_key_mask, logits_to_keep, cache)
        return CoCaForCaptioningOutput(
            logits=logits,
            image_embeds=None if encoded_images is None else encoded_images.image_embeds,
            cache=cache,
        )

    def _remember(self, image_tokens: Tensor, cache: Cache) -> None:
        """The image tokens' keys and values, into their layers of the cache."""
        memory = self.programs["image_memory"]({"image_tokens": image_tokens})
        for index, layer in enumerate(cache.layers[self.decoder.first_image_layer_idx :]):
            layer.update(memory[f"image_keys.{index}"], memory[f"image_values.{index}"])

    def _step(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        text_key_mask: Tensor | None,
        logits_to_keep: int | Tensor,
        cache: Cache,
    ) -> Tensor:
        """-> logits (rows, kept, vocabulary); the cache takes in the tokens' keys and values."""
        rows, length = input_ids.shape
        past_length = cache.get_seq_length()
        if attention_mask is None:
            attention_mask = input_ids.new_ones(rows, past_length + length)
        if position_ids is None:
            position_ids = text_position_ids(length, attention_mask, past_length, input_ids.device)
        if text_key_mask is None:
            text_key_mask, pad_token_id = attention_mask, self.config.text_config.pad_token_id
            if pad_token_id is not None and self.config.text_config.pool_type == "cls" and not past_length:
                text_key_mask = token_key_mask(input_ids, attention_mask, pad_token_id)[:, :-1]
        num_layers = self.decoder.first_image_layer_idx
        texts, images = cache.layers[:num_layers], cache.layers[num_layers:]
        empty = functools.cache(lambda index: torch.empty(rows, *self.decoder.empty_shapes[index]))
        inputs = {
            "input_ids": input_ids,
            "position_ids": position_ids.expand(rows, -1),
            "attention_mask": attention_mask.long(),
            "text_key_mask": text_key_mask.bool(),
            "logit_positions": _positions(logits_to_keep, length),
        }
        for index, layer in enumerate(texts):
            inputs[f"keys.{index}"] = layer.keys if layer.is_initialized else empty(index)
            inputs[f"values.{index}"] = layer.values if layer.is_initialized else empty(index)
        for index, layer in enumerate(images):
            inputs[f"image_keys.{index}"], inputs[f"image_values.{index}"] = layer.keys, layer.values
        outputs = self.programs["decoder_step"](inputs)
        for index, layer in enumerate(texts):
            keys, values = outputs[f"new_keys.{index}"], outputs[f"new_values.{index}"]
            if not layer.is_initialized:
                layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
        return outputs["logits"]


class _Programs(dict[str, Program]):
    """The components of a folder, each loaded when it is first asked for."""

    def __init__(self, folder: Path, manifest: ExportedFolder):
        super().__init__()
        self.folder = folder
        self.manifest = manifest

    def __missing__(self, name: str) -> Program:
        if name not in self.manifest.files:
            raise ExportedModelError(f"{str(self.folder)!r} holds no {name}: it was exported without")
        self[name] = load_program(self.folder / self.manifest.files[name], self.manifest.format)
        return self[name]


class _CacheLayout:
    """Which layers a cache has, as [`CoCaMultimodalDecoder`] lays it out."""

    def __init__(self, config: CoCaConfig):
        text, multimodal = config.text_config, config.multimodal_config
        self.num_image_layers = multimodal.num_hidden_layers
        self.first_image_layer_idx = text.num_hidden_layers + multimodal.num_hidden_layers
        # Of each text layer's keys, without rows: (heads, no token yet, head size).
        self.empty_shapes = [
            (part.num_attention_heads, 0, part.hidden_size // part.num_attention_heads)
            for part in (text, multimodal)
            for _ in range(part.num_hidden_layers)
        ]

    def complete(self, cache: Cache) -> None:
        add_layers(cache, self.first_image_layer_idx, self.num_image_layers)

    def knows_images(self, cache: Cache | None) -> bool:
        return holds_images(cache, self.first_image_layer_idx)


def _positions(logits_to_keep: int | Tensor, length: int) -> Tensor:
    """As the library's `slice_logits_to_keep`: the last so many positions, 0 for all, or these."""
    if isinstance(logits_to_keep, Tensor):
        return logits_to_keep
    return torch.arange(length)[-logits_to_keep:] if logits_to_keep else torch.arange(length)


def _refuse_internals(kwargs: dict[str, Any]) -> None:
    """Raises `ValueError` for what a program of a runtime has no outputs or inputs for."""
    for name in ("output_hidden_states", "output_attentions", "labels", "inputs_embeds", "position_ids"):
        if kwargs.get(name) is not None and kwargs[name] is not False:
            raise ValueError(f"{name} is not there in an exported model: load the model that it was exported from.")
