# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The parts of the model under the names that they have in open_clip's `CoCa`."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel

from ..conversion.weights import entries
from ..modeling_coca import CoCaForCaptioning


_EMBEDDINGS = ("conv1.", "class_embedding", "positional_embedding", "ln_pre.", "token_embedding.", "cls_emb")
_FINAL_NORMS = ("ln_post.", "ln_final.")
_PROJECTIONS = ("proj", "text_projection")


class _Tower(nn.Module):
    """A part of the model under open_clip's name; it shares its modules with the captioner."""

    # What open_clip puts in front of the names of its parameters.
    prefix = ""

    def __init__(self, captioner: CoCaForCaptioning, parts: Sequence[nn.Module]):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        # Not as a submodule: the parts above are this tower's, and nothing else of the captioner is.
        object.__setattr__(self, "_captioner", captioner)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Turns gradient checkpointing of this tower on or off."""
        for part in self.parts:
            if isinstance(part, PreTrainedModel) and enable:
                part.activation_checkpointing_enable()
            elif isinstance(part, PreTrainedModel):
                part.activation_checkpointing_disable()

    def _lock(self, num_unlocked: int, num_layers: int, fixed: Sequence[str] = ()) -> None:
        """
        Freezes all parameters but those of the last groups: embeddings, each layer, the projection.

        The final norm is of the last layer's group. Poolers are of none, as in open_clip, and stay frozen.
        """
        if num_unlocked < 0:
            raise ValueError(f"{num_unlocked} groups cannot be unlocked: give 0 or more.")
        parameters = dict(self._captioner.named_parameters())
        table = [entry for entry in entries(self._captioner.config) if entry.theirs.startswith(self.prefix)]
        groups = {entry: _group(entry.theirs.removeprefix(self.prefix), num_layers) for entry in table}
        first_unlocked = 1 + max(group for group in groups.values() if group is not None) - num_unlocked
        for entry, group in groups.items():
            is_unlocked = group is not None and group >= first_unlocked and entry.theirs not in fixed
            for name in entry.ours:
                if name in parameters:  # fixed positions may not be one
                    parameters[name].requires_grad_(is_unlocked)


def _group(name: str, num_layers: int) -> int | None:
    """Which group of parameters open_clip's `lock` counts one among, by its name within the tower."""
    if name.startswith("transformer.resblocks."):
        return 1 + int(name.split(".")[2])
    if name.startswith(_EMBEDDINGS):
        return 0
    if name.startswith(_FINAL_NORMS):
        return num_layers
    return num_layers + 1 if name.startswith(_PROJECTIONS) else None


def _chosen(indices: int | Sequence[int] | None, num_layers: int) -> list[int]:
    """Layers in their order: all, the last so many, or those of the given indices. Raises `ValueError`."""
    if indices is None:
        return list(range(num_layers))
    if isinstance(indices, int):
        if not 0 < indices <= num_layers:
            raise ValueError(f"The last {indices} layers were asked for, of {num_layers}.")
        return list(range(num_layers - indices, num_layers))
    for index in indices:
        if not -num_layers <= index < num_layers:
            raise ValueError(f"Layer {index} was asked for, of {num_layers}.")
    return sorted({index % num_layers for index in indices})


@contextlib.contextmanager
def _watched(model: Any, indices: int | Sequence[int] | None, stop_early: bool) -> Iterator[list[Tensor]]:
    """
    Collects what the chosen layers of a tower give while it is entered.

    With `stop_early` the tower has no layer after the last chosen one meanwhile.
    """
    layers = model.layers
    chosen = _chosen(indices, len(layers))
    outputs: list[Tensor] = []
    hooks = [layers[index].register_forward_hook(lambda *call: outputs.append(call[-1])) for index in chosen]
    try:
        if stop_early:
            model.layers = layers[: chosen[-1] + 1]
        yield outputs
    finally:
        model.layers = layers
        for hook in hooks:
            hook.remove()


class VisionTower(_Tower):
    """`CoCa.visual`."""

    prefix = "visual."
    output_tokens = True

    def __init__(self, captioner: CoCaForCaptioning):
        super().__init__(captioner, (captioner.model.vision_model, captioner.model.visual_projection))
        self.output_dim = captioner.config.projection_dim

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        size = self._captioner.config.vision_config.image_size
        return (size, size) if isinstance(size, int) else tuple(size)

    @property
    def grid_size(self) -> tuple[int, int]:
        """Patches along (height, width)."""
        return self._captioner.config.vision_config.grid_size

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """
        (batch, 3, height, width) -> features (batch, embed_dim), not normalised, and tokens (batch, tokens, width).

        A tower with a second pooler gives (batch, 1, embed_dim), as open_clip's does.
        """
        outputs = self._captioner.get_image_features(images)
        features = outputs.pooler_output
        if self._captioner.config.vision_config.attentional_pooling in ("parallel", "cascade"):
            features = features[:, None]
        return features, outputs.image_tokens

    def lock(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        """
        Freezes the tower but for its last groups.

        Args:
            unlocked_groups: How many of the groups stay trainable, from the end: embeddings, each layer (the last one
                with the final norm), the projection. Poolers belong to none and are frozen, as in open_clip.
            freeze_bn_stats: Without effect: there are no batch norms.
        """
        config = self._captioner.config.vision_config
        fixed = ["visual.positional_embedding"] if config.position_embedding_type == "sincos" else []
        self._lock(unlocked_groups, config.num_hidden_layers, fixed)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        stop_early: bool = False,
        normalize_intermediates: bool = False,
        intermediates_only: bool = False,
        output_fmt: str = "NCHW",
        output_extra_tokens: bool = False,
    ) -> dict[str, Tensor | list[Tensor]]:
        """What the layers give for images (batch, 3, height, width): see [`CoCa.forward_intermediates`]."""
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"The format of images is NCHW or NLC, not {output_fmt!r}.")
        model = self._captioner.model.vision_model
        with _watched(model, indices, stop_early) as layers:
            features, _ = self(x)
        if normalize_intermediates:
            if self.output_dim != model.config.hidden_size and model.config.attentional_pooling != "none":
                raise ValueError("normalize_intermediates=True needs a final norm as wide as the layers.")
            layers = [model.post_layernorm(states) for states in layers]
        prefix, patches = [states[:, :1] for states in layers], [states[:, 1:] for states in layers]
        if output_fmt == "NCHW":
            patches = [one.transpose(1, 2).unflatten(2, self.grid_size).contiguous() for one in patches]
        output: dict[str, Tensor | list[Tensor]] = {"image_intermediates": patches}
        if output_extra_tokens:
            output["image_intermediates_prefix"] = prefix
        return output if intermediates_only else {**output, "image_features": features}


class TextTower(_Tower):
    """`CoCa.text`."""

    prefix = "text."
    output_tokens = True

    def __init__(self, captioner: CoCaForCaptioning):
        super().__init__(captioner, (captioner.model.text_model, captioner.model.text_projection))
        config = captioner.config
        self.context_length = config.text_config.max_position_embeddings
        self.vocab_size, self.pad_id = config.text_config.vocab_size, config.text_config.pad_token_id
        self.width, self.heads = config.text_config.hidden_size, config.text_config.num_attention_heads
        self.output_dim = config.projection_dim

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """
        (batch, length) -> features (batch, embed_dim), not normalised, and tokens (batch, length, width).

        A text shorter than the context has the features of the text padded to it, whatever its length.
        """
        outputs = self._captioner.get_text_features(text)
        return outputs.pooler_output, outputs.last_hidden_state

    def lock(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:
        """
        Freezes the tower but for its last groups.

        Args:
            unlocked_layers: How many of the groups stay trainable, from the end: embeddings, each layer (the last one
                with the final norm), the projection.
            freeze_layer_norm: True, the only possibility in open_clip too: norms are treated as their layers.
        """
        if not freeze_layer_norm:
            raise ValueError("freeze_layer_norm=False is not supported: norms are frozen with their layers.")
        self._lock(unlocked_layers, self._captioner.config.text_config.num_hidden_layers)

    def forward_intermediates(
        self,
        text: Tensor,
        indices: int | Sequence[int] | None = None,
        stop_early: bool = False,
        normalize_intermediates: bool = False,
        intermediates_only: bool = False,
        output_fmt: str = "NLC",
        output_extra_tokens: bool = False,
    ) -> dict[str, Tensor | list[Tensor]]:
        """What the layers give for texts (batch, length): see [`CoCa.forward_intermediates`]."""
        if output_fmt != "NLC":
            raise ValueError(f"The format of texts is NLC, not {output_fmt!r}.")
        model = self._captioner.model.text_model
        with _watched(model, indices, stop_early) as layers:
            features, _ = self(text)
        if normalize_intermediates:
            layers = [model.final_layer_norm(states) for states in layers]
        output: dict[str, Tensor | list[Tensor]] = {
            "text_intermediates": [states[:, : text.shape[1]] for states in layers]
        }
        if output_extra_tokens and model.config.pool_type == "cls":
            output["text_intermediates_suffix"] = [states[:, -1:] for states in layers]
        return output if intermediates_only else {**output, "text_features": features}


class TextDecoder(_Tower):
    """`CoCa.text_decoder`."""

    prefix = "text_decoder."

    def __init__(self, captioner: CoCaForCaptioning, context_length: int):
        super().__init__(captioner, (captioner.decoder, captioner.lm_head))
        self.context_length = context_length

    def forward(self, image_embs: Tensor, text_embs: Tensor) -> Tensor:
        """(batch, image tokens, width), (batch, length, width) -> logits (batch, length, vocabulary)."""
        outputs = self._captioner.decoder(text_embs, image_embs, return_dict=True)
        return self._captioner.lm_head(outputs.last_hidden_state)
