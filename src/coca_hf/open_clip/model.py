# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""open_clip's `CoCa`: its arguments, attributes, methods and return values."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationConfig
from transformers.cache_utils import DynamicCache
from transformers.generation import (
    LogitsProcessorList,
    MaxLengthCriteria,
    MinLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteriaList,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..conversion.model_config import CLIPTextCfg, CLIPVisionCfg, MultimodalCfg, config_of_parts
from ..conversion.weights import entries
from ..diverse_beam_search_coca import diverse_beam_search
from ..modeling_coca import CoCaForCaptioning
from ..outputs_coca import CoCaEncodedImages
from .towers import TextDecoder, TextTower, VisionTower


START_TOKEN_ID, END_TOKEN_ID = 49406, 49407
WARPERS: dict[str, Callable[[Any], Any]] = {"top_k": TopKLogitsWarper, "top_p": TopPLogitsWarper}
GENERATION_TYPES = (*WARPERS, "beam_search")

# For `CoCaForCaptioning.generate(custom_generate=...)`: beam search by open_clip's scores, sums of raw logits.
beam_search = functools.partial(diverse_beam_search, score_by="logits")


class CoCa(nn.Module):
    """
    open_clip's `CoCa`: its arguments, attributes, methods and return values.

    Args:
        embed_dim: Width of the features.
        multimodal_cfg: The decoder, as `MultimodalCfg` or dictionary.
        text_cfg: The text tower, as `CLIPTextCfg` or dictionary.
        vision_cfg: The vision tower, as `CLIPVisionCfg` or dictionary.
        quick_gelu: Whether activations are QuickGELU.
        init_logit_scale: Initial logarithm of the similarity's scale.
        init_logit_bias: Initial bias of the similarity; None for no bias.
        nonscalar_logit_scale: Whether scale and bias have shape (1,) rather than ().
        cast_dtype: Taken for compatibility. Layer norms accept any dtype, so nothing depends on it.
        pad_id: Id that fills captions up; the text tower's own padding id is `text_cfg.pad_id`.

    Raises:
        ConversionError: The configuration asks for something that this package does not have.

    Three things that fail in open_clip work here: towers whose `output_tokens` is not set, a decoder whose image
    tokens have another width than its own, and `num_beams=1`. A tower with `no_causal_mask` cannot generate.
    """

    def __init__(
        self,
        embed_dim: int,
        multimodal_cfg: MultimodalCfg,
        text_cfg: CLIPTextCfg,
        vision_cfg: CLIPVisionCfg,
        quick_gelu: bool = False,
        init_logit_scale: float = math.log(1 / 0.07),
        init_logit_bias: float | None = None,
        nonscalar_logit_scale: bool = False,
        cast_dtype: torch.dtype | None = None,
        pad_id: int = 0,
    ):
        super().__init__()
        multimodal_cfg = MultimodalCfg(**multimodal_cfg) if isinstance(multimodal_cfg, dict) else multimodal_cfg
        text_cfg = CLIPTextCfg(**text_cfg) if isinstance(text_cfg, dict) else text_cfg
        vision_cfg = CLIPVisionCfg(**vision_cfg) if isinstance(vision_cfg, dict) else vision_cfg
        config = config_of_parts(
            embed_dim,
            multimodal_cfg,
            text_cfg,
            vision_cfg,
            quick_gelu=quick_gelu,
            init_logit_scale=init_logit_scale,
            init_logit_bias=init_logit_bias,
            nonscalar_logit_scale=nonscalar_logit_scale,
        )
        captioner = CoCaForCaptioning(config)
        if not nonscalar_logit_scale:
            # Scalars, as open_clip's attributes are; the model computes with either shape.
            for name in ("logit_scale", "logit_bias"):
                if (parameter := getattr(captioner.model, name)) is not None:
                    setattr(captioner.model, name, nn.Parameter(parameter.detach().reshape(())))
        self._wrap(captioner, multimodal_cfg.context_length, pad_id)
        if text_cfg.vocab_size > END_TOKEN_ID:
            # As in open_clip, wherever the text tower looks for its end token.
            self.start_token_id, self.end_token_id = START_TOKEN_ID, END_TOKEN_ID

    @classmethod
    def from_captioner(cls, captioner: CoCaForCaptioning) -> "CoCa":
        """This API for a model that is there already; both share their weights."""
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        text_config = captioner.config.text_config
        model._wrap(captioner, text_config.max_position_embeddings, text_config.pad_token_id or 0)
        return model.train(captioner.training)

    def _wrap(self, captioner: CoCaForCaptioning, context_length: int, pad_id: int) -> None:
        self.captioner = captioner
        self.pad_id = pad_id
        self.context_length = context_length
        self.start_token_id = captioner.generation_config.bos_token_id
        self.end_token_id = captioner.generation_config.eos_token_id
        # Views of the captioner's modules. As submodules they would list every parameter twice.
        object.__setattr__(self, "visual", VisionTower(captioner))
        object.__setattr__(self, "text", TextTower(captioner))
        object.__setattr__(self, "text_decoder", TextDecoder(captioner, context_length))
        self._table = entries(captioner.config)
        self._register_state_dict_hook(_write_open_clip_names)
        self.register_load_state_dict_pre_hook(_read_open_clip_names)

    def _shaped(self, scale_or_bias: Tensor) -> Tensor:
        """With open_clip's shape, which is () unless the model was made with `nonscalar_logit_scale`."""
        return scale_or_bias if self.captioner.config.nonscalar_logit_scale else scale_or_bias.reshape(())

    @property
    def logit_scale(self) -> nn.Parameter:
        """Logarithm of the similarity's scale."""
        return self.captioner.model.logit_scale

    @property
    def logit_bias(self) -> nn.Parameter | None:
        """Bias of the similarity, or None."""
        return self.captioner.model.logit_bias

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Turns gradient checkpointing of all three towers on or off."""
        for tower in (self.visual, self.text, self.text_decoder):
            tower.set_grad_checkpointing(enable)

    def lock_image_tower(self, unlocked_groups: int = 0, freeze_bn_stats: bool = False) -> None:
        """Freezes the image tower but for its last groups: see [`VisionTower.lock`]."""
        self.visual.lock(unlocked_groups=unlocked_groups, freeze_bn_stats=freeze_bn_stats)

    def lock_text_tower(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:
        """Freezes the text tower but for its last groups: see [`TextTower.lock`]."""
        self.text.lock(unlocked_layers, freeze_layer_norm)

    def _encode_image(self, images: Tensor, normalize: bool = True) -> tuple[Tensor, Tensor]:
        features, tokens = self.visual(images)
        return F.normalize(features, dim=-1) if normalize else features, tokens

    def _encode_text(self, text: Tensor, normalize: bool = True) -> tuple[Tensor, Tensor]:
        features, tokens = self.text(text)
        return F.normalize(features, dim=-1) if normalize else features, tokens

    def encode_image(self, images: Tensor, normalize: bool = True) -> Tensor:
        """(batch, 3, height, width) -> (batch, embed_dim)."""
        return self._encode_image(images, normalize=normalize)[0]

    def encode_text(self, text: Tensor, normalize: bool = True) -> Tensor:
        """(batch, length) -> (batch, embed_dim)."""
        return self._encode_text(text, normalize=normalize)[0]

    def forward_intermediates(
        self,
        image: Tensor | None = None,
        text: Tensor | None = None,
        image_indices: int | Sequence[int] | None = None,
        text_indices: int | Sequence[int] | None = None,
        stop_early: bool = False,
        normalize: bool = True,
        normalize_intermediates: bool = False,
        intermediates_only: bool = False,
        image_output_fmt: str = "NCHW",
        image_output_extra_tokens: bool = False,
        text_output_fmt: str = "NLC",
        text_output_extra_tokens: bool = False,
        output_logits: bool = False,
        output_logit_scale_bias: bool = False,
    ) -> dict[str, Tensor | list[Tensor]]:
        """
        What the layers of both towers give, and the features.

        Args:
            image: (batch, 3, height, width), or None to leave the image tower out.
            text: (batch, length), or None to leave the text tower out.
            image_indices: Which layers: None for all, a number for so many of the last, or their indices.
            text_indices: The same for the text tower.
            stop_early: Whether the last layer asked for is the last one computed. Features then come from there.
            normalize: Whether features are L2-normalised.
            normalize_intermediates: Whether a tower's final norm is applied to what its layers give.
            intermediates_only: Whether to leave out the features.
            image_output_fmt: "NCHW" for (batch, width, rows, columns), "NLC" for (batch, patches, width).
            image_output_extra_tokens: Whether to return what the class token became, too.
            text_output_fmt: "NLC", the only form of texts.
            text_output_extra_tokens: Whether to return what [CLS] became, too.
            output_logits: Not supported, as in open_clip.
            output_logit_scale_bias: Whether to return the similarity's scale, exponentiated, and its bias.

        Returns:
            `image_intermediates`, `image_intermediates_prefix`, `image_features`, and the same of `text` with
            `text_intermediates_suffix`, `logit_scale`, `logit_bias`: those that were asked for.

        Raises:
            ValueError: An argument is out of range or not supported.
        """
        if output_logits and not intermediates_only:
            raise ValueError("output_logits=True is not supported: call the model for logits.")
        normalize = normalize and not intermediates_only
        output: dict[str, Any] = {}
        if image is not None:
            output |= self.visual.forward_intermediates(
                image,
                image_indices,
                stop_early,
                normalize_intermediates,
                intermediates_only,
                image_output_fmt,
                image_output_extra_tokens,
            )
        if text is not None:
            output |= self.text.forward_intermediates(
                text,
                text_indices,
                stop_early,
                normalize_intermediates,
                intermediates_only,
                text_output_fmt,
                text_output_extra_tokens,
            )
        for name in ("image_features", "text_features"):
            if normalize and name in output:
                output[name] = F.normalize(output[name], dim=-1)
        if output_logit_scale_bias:
            output["logit_scale"] = self._shaped(self.logit_scale.exp())
            if self.logit_bias is not None:
                output["logit_bias"] = self._shaped(self.logit_bias)
        return output

    def forward(
        self,
        image: Tensor | None,
        text: Tensor | None = None,
        image_latent: Tensor | None = None,
        image_embs: Tensor | None = None,
        output_labels: bool = True,
    ) -> dict[str, Tensor]:
        """
        Features of images and texts, and the scores of each next token.

        Args:
            image: (batch, 3, height, width); not read when the next two are given.
            text: (batch, length).
            image_latent: Normalised features of the images, if they are known already.
            image_embs: Their tokens.
            output_labels: Whether to leave out the last position's logits, for which there is no next token.

        Returns:
            `image_features`, `text_features`, `logits`, `logit_scale` (exponentiated), `labels` unless
            `output_labels=False`, and `logit_bias` if there is one. Without text, `image_features` and `image_embs`.
        """
        if image_latent is None or image_embs is None:
            image_latent, image_embs = self._encode_image(image)
        if text is None:
            return {"image_features": image_latent, "image_embs": image_embs}

        text_latent, token_embs = self._encode_text(text)
        out_dict = {
            "image_features": image_latent,
            "text_features": text_latent,
            "logits": self.text_decoder(image_embs, token_embs[:, :-1] if output_labels else token_embs),
            "logit_scale": self._shaped(self.logit_scale.exp()),
        }
        if output_labels:
            out_dict["labels"] = text[:, 1:]
        if self.logit_bias is not None:
            out_dict["logit_bias"] = self._shaped(self.logit_bias)
        return out_dict

    @torch.no_grad()
    def generate(
        self,
        image: Tensor,
        text: Tensor | None = None,
        seq_len: int = 30,
        max_seq_len: int = 77,
        temperature: float = 1.0,
        generation_type: str = "beam_search",
        top_p: float = 0.1,
        top_k: int = 1,
        pad_token_id: int | None = None,
        eos_token_id: int | Sequence[int] | Tensor | None = None,
        sot_token_id: int | Sequence[int] | Tensor | None = None,
        num_beams: int = 6,
        num_beam_groups: int = 3,
        min_seq_len: int = 5,
        stopping_criteria: Sequence[Any] | None = None,
        repetition_penalty: float = 1.0,
        fixed_output_length: bool = False,
    ) -> Tensor:
        """
        Captions images: open_clip's ids.

        Args:
            image: (batch, 3, height, width).
            text: Prompts (batch, length), or (length,) for one, which the captions continue; not read by beam search.
            seq_len: Longest caption in tokens, start token and prompt included; at most the context length plus one.
            max_seq_len: How many of the last tokens the model sees; not read by beam search.
            temperature: Divides the logits of "top_p" and "top_k", after the filter.
            generation_type: "beam_search", "top_p" or "top_k".
            top_p: Sample from the most probable tokens whose probabilities add up to this.
            top_k: Sample from so many of the most probable tokens.
            pad_token_id: Fills up captions that have ended; `pad_id` by default.
            eos_token_id: Ends a caption; by default 49407, and of a captioner with another vocabulary its own.
            sot_token_id: Starts a caption; by default 49406, and of a captioner with another vocabulary its own.
            num_beams: Beams of all groups together.
            num_beam_groups: Groups. There is no penalty for likeness, so they search alike: one of them is run.
            min_seq_len: No caption ends before it has so many tokens, start token and prompt included.
            stopping_criteria: transformers' stopping criteria in place of `seq_len`.
            repetition_penalty: Above 1, tokens that are there already become less likely.
            fixed_output_length: Whether the output is padded to (batch, seq_len).

        Returns:
            (batch, length) ids, or (length,) for a prompt of that shape.

        Raises:
            ValueError: An argument is out of range, or the caption would outgrow the context.
        """
        if seq_len <= min_seq_len:
            raise ValueError(f"seq_len={seq_len} must be larger than min_seq_len={min_seq_len}.")
        if generation_type not in GENERATION_TYPES:
            raise ValueError(f"generation_type={generation_type!r} is not one of {', '.join(GENERATION_TYPES)}.")
        if not self.captioner.config.text_config.is_causal:
            raise ValueError("A text tower with no_causal_mask cannot generate: its states depend on what follows.")
        device = image.device
        start = _as_ids(self.start_token_id if sot_token_id is None else sot_token_id, "sot_token_id", device)
        end = _as_ids(self.end_token_id if eos_token_id is None else eos_token_id, "eos_token_id", device)
        pad_token_id = self.pad_id if pad_token_id is None else pad_token_id
        processors = LogitsProcessorList([MinLengthLogitsProcessor(min_seq_len, end, device=device)])
        if repetition_penalty != 1:
            processors.append(RepetitionPenaltyLogitsProcessor(float(repetition_penalty)))
        criteria = StoppingCriteriaList(
            [MaxLengthCriteria(max_length=seq_len)] if stopping_criteria is None else stopping_criteria
        )
        was_training = self.training
        self.eval()
        try:
            if generation_type == "beam_search":
                if num_beams % num_beam_groups:
                    raise ValueError(f"num_beams={num_beams} must be a multiple of num_beam_groups={num_beam_groups}.")
                out = self._search(image, start, end, pad_token_id, num_beams // num_beam_groups, processors, criteria)
                missing = max(0, seq_len - out.shape[1]) if fixed_output_length else 0
                return F.pad(out, (0, missing), value=pad_token_id)
            processors.append(WARPERS[generation_type](top_p if generation_type == "top_p" else top_k))
            prompts = start.expand(len(image), 1) if text is None else text
            out = self._sample(
                image,
                prompts[None] if prompts.ndim == 1 else prompts,
                seq_len,
                max_seq_len,
                temperature,
                end,
                pad_token_id,
                processors,
                criteria,
                fixed_output_length,
            )
            return out[0] if prompts.ndim == 1 else out
        finally:
            self.train(was_training)

    def _validate_length(self, length: int, name: str) -> None:
        """Refuses to feed more tokens than there are positions; the last token of a caption is never fed."""
        context = self.captioner.config.text_config.max_position_embeddings
        if length > context:
            raise ValueError(f"{name} would have the model see {length} tokens, but its context is {context}.")

    def _search(
        self,
        image: Tensor,
        start: Tensor,
        end: Tensor,
        pad_token_id: int,
        num_beams: int,
        processors: LogitsProcessorList,
        criteria: StoppingCriteriaList,
    ) -> Tensor:
        """Beam search in one group: (batch, length)."""
        context = self.captioner.config.text_config.max_position_embeddings
        max_length = criteria.max_length or context + 1
        self._validate_length(max_length - 1, f"seq_len={max_length}")
        return beam_search(
            self.captioner,
            start.expand(len(image) * num_beams, 1),
            processors,
            criteria,
            GenerationConfig(
                num_beams=num_beams,
                num_beam_groups=1,
                num_return_sequences=1,
                length_penalty=1.0,
                early_stopping=False,
                max_length=max_length,
                eos_token_id=end.tolist(),
                pad_token_id=pad_token_id,
            ),
            encoded_images=self.captioner.encode_images(image),
            cache=DynamicCache(),
            use_cache=True,
        )

    def _sample(
        self,
        image: Tensor,
        out: Tensor,
        seq_len: int,
        max_seq_len: int,
        temperature: float,
        end: Tensor,
        pad_token_id: int,
        processors: LogitsProcessorList,
        criteria: StoppingCriteriaList,
        fixed_output_length: bool,
    ) -> Tensor:
        """Token after token: (batch, prompt) -> (batch, length)."""
        longest = max(out.shape[1], (criteria.max_length or seq_len) - 1)
        self._validate_length(min(longest, max_seq_len), f"seq_len={longest + 1}")
        steps = _Steps(self.captioner, self.captioner.encode_images(image), max_seq_len)
        while True:
            ended = torch.isin(out[:, -1], end) | (out[:, -1] == pad_token_id)
            sample = torch.full((len(out), 1), pad_token_id, device=out.device)
            if ended.all():
                if not fixed_output_length:
                    return out
            else:
                seen = out[:, -max_seq_len:]
                logits = steps.next_logits(out)[~ended]
                if seen.shape[1] + 1 == seq_len:
                    sample[~ended] = end[0]
                else:
                    scores = processors(seen[~ended], logits)
                    sample[~ended] = torch.multinomial(F.softmax(scores / temperature, dim=-1), 1)
            out = torch.cat([out, sample], dim=-1)
            if criteria(out, None).all():
                return out


class _Steps:
    """Scores of the next token, from a cache for as long as the model sees the whole text."""

    def __init__(self, captioner: CoCaForCaptioning, encoded_images: CoCaEncodedImages, max_seq_len: int):
        self.captioner = captioner
        self.max_seq_len = max_seq_len
        self.state = {"encoded_images": encoded_images, "cache": DynamicCache(), "use_cache": True}
        self.num_cached = 0

    def next_logits(self, ids: Tensor) -> Tensor:
        """(rows, text) -> (rows, vocabulary)."""
        if ids.shape[1] > self.max_seq_len:
            # The text has moved on by a position: nothing computed for it holds any more.
            encoded_images = self.state["encoded_images"]
            seen = ids[:, -self.max_seq_len :]
            return self.captioner(input_ids=seen, encoded_images=encoded_images, logits_to_keep=1).logits[:, -1]
        inputs = self.captioner.prepare_inputs_for_generation(
            ids,
            next_sequence_length=ids.shape[1] - self.num_cached,
            is_first_iteration=not self.num_cached,
            **self.state,
        )
        self.num_cached = ids.shape[1]
        return self.captioner(**inputs).logits[:, -1]


def _as_ids(token_ids: int | Sequence[int] | Tensor | None, name: str, device: torch.device) -> Tensor:
    """-> (ids,)."""
    if token_ids is None:
        raise ValueError(f"The model's configuration names no such token: give {name}.")
    return torch.as_tensor(token_ids, dtype=torch.long, device=device).reshape(-1)


# The captioner's tensors in the state dict of the module that holds it.
_CAPTIONER = "captioner."


def _write_open_clip_names(module: CoCa, state_dict: dict[str, Tensor], prefix: str, local_metadata: Any) -> None:
    """After `state_dict()` has collected our tensors: open_clip's in their place."""
    ours = {name: state_dict.pop(prefix + _CAPTIONER + name) for entry in module._table for name in entry.ours}
    for entry in module._table:
        state_dict[prefix + entry.theirs] = entry.to_theirs(ours)


def _read_open_clip_names(
    module: CoCa,
    state_dict: dict[str, Tensor],
    prefix: str,
    local_metadata: Any,
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    """
    Before `load_state_dict()` looks for our tensors: made of open_clip's.

    One that is missing or misshapen is reported here, by its name there, and our own put in its place, lest it be
    reported again by a name that nobody knows.
    """
    current = dict(module.captioner.named_parameters()) | dict(module.captioner.named_buffers())
    shapes = {name: parameter.shape for name, parameter in current.items()}
    for entry in module._table:
        theirs, expected = prefix + entry.theirs, entry.their_shape(shapes)
        tensor = state_dict.pop(theirs, None)
        if tensor is None:
            missing_keys.append(theirs)
        elif tuple(tensor.shape) != expected:
            error_msgs.append(
                f"size mismatch for {theirs}: copying a param with shape {tensor.shape} from checkpoint, the shape in "
                f"current model is {torch.Size(expected)}."
            )
            tensor = None
        parts = {name: current[name] for name in entry.ours} if tensor is None else entry.to_ours(tensor)
        state_dict.update({prefix + _CAPTIONER + name: part for name, part in parts.items()})
