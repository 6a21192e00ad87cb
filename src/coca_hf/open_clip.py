# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""open_clip's `CoCa`, with its names and its numbers, on this package's model.

    from coca_hf.open_clip import CoCa, CLIPVisionCfg, CLIPTextCfg, MultimodalCfg

Programs written for open_clip 3.3.0's `CoCa` run with this import; state dicts have open_clip's names; `generate()`
returns open_clip's ids, from a cache and with each image encoded once. `CoCa.from_captioner(model)` gives this API to a
loaded `CoCaForCaptioning`, and `CoCa(...).captioner` is the `CoCaForCaptioning` behind it.

Moving on from it, open_clip on the left, the rest of this package on the right:

| open_clip | here | what differs, and why |
| --- | --- | --- |
| `create_model_from_pretrained("coca_ViT-L-14", pretrained=...)` | `convert_open_clip(source, folder)` once, then `AutoModelForImageTextToText.from_pretrained(folder)` | a saved folder has the processor too |
| `preprocess(image)`, `tokenizer(texts)` | `processor(images=image, text=texts, padding=True, return_tensors="pt")` | padding to the longest text gives the same features in less time; 16-bit images are scaled, not clipped; files are turned upright |
| `model.encode_image(x)` | `F.normalize(model.get_image_features(x).pooler_output, dim=-1)` | features are not normalised, as elsewhere in transformers |
| `model.encode_text(ids)` | `F.normalize(model.get_text_features(ids).pooler_output, dim=-1)` | the same |
| `model(x, ids)["logits"]` | `model(pixel_values=x, input_ids=ids).logits` | one row per input token, so the last one has no label |
| `labels = ids[:, 1:]`, `CoCaLoss(2.0, 1.0)` | `model(..., labels=ids.masked_fill(ids == 0, -100)).loss` | shifted inside; -100 is ignored instead of id 0 |
| `model.generate(x)` | `model.generate(pixel_values=x, num_beams=2, max_length=30, min_length=5)` | log-probabilities instead of raw logits as scores, so captions differ; open_clip's 6 beams in 3 groups are a search with 2 beams, done three times |
| the same, and the same captions | `model.generate(pixel_values=x, custom_generate=beam_search, num_beams=2, max_length=30, min_length=5)` | `beam_search` of this module keeps open_clip's scores |
| `generate(generation_type="top_p", top_p=0.9, temperature=0.8)` | `generate(do_sample=True, top_p=0.9, top_k=0, temperature=0.8)` | temperature is applied before the filter |
| `seq_len`, `min_seq_len` | `max_length`, `min_length`, or `max_new_tokens` | prompt and start token count in the former, not in the latter |
"""  # noqa: E501

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
from transformers.masking_utils import create_causal_mask
from transformers.modeling_utils import PreTrainedModel

from .conversion.model_config import CLIPTextCfg, CLIPVisionCfg, MultimodalCfg, config_of_parts
from .conversion.weights import entries
from .diverse_beam_search_coca import diverse_beam_search
from .modeling_coca import CoCaEncodedImages, CoCaForCaptioning


START_TOKEN_ID, END_TOKEN_ID = 49406, 49407
WARPERS: dict[str, Callable[[Any], Any]] = {"top_k": TopKLogitsWarper, "top_p": TopPLogitsWarper}
GENERATION_TYPES = (*WARPERS, "beam_search")

# For `CoCaForCaptioning.generate(custom_generate=...)`: beam search by open_clip's scores, sums of raw logits.
beam_search = functools.partial(diverse_beam_search, score_by="logits")


class _Tower(nn.Module):
    """A part of the model under open_clip's name; it shares its modules with the captioner."""

    def __init__(self, captioner: CoCaForCaptioning, parts: Sequence[nn.Module]):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        # Not as a submodule: the parts above are this tower's, and nothing else of the captioner is.
        object.__setattr__(self, "_captioner", captioner)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Turns gradient checkpointing of this tower on or off."""
        word = "enable" if enable else "disable"
        for part in self.parts:
            if isinstance(part, PreTrainedModel):
                # The library is renaming it: the old name warns in new releases, old ones lack the new name.
                name = f"activation_checkpointing_{word}"
                getattr(part, name if hasattr(part, name) else f"gradient_checkpointing_{word}")()


class VisionTower(_Tower):
    """`CoCa.visual`."""

    output_tokens = True

    def __init__(self, captioner: CoCaForCaptioning):
        super().__init__(captioner, (captioner.model.vision_model, captioner.model.visual_projection))
        size = captioner.config.vision_config.image_size
        self.image_size = (size, size) if isinstance(size, int) else tuple(size)
        self.output_dim = captioner.config.projection_dim

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


class TextTower(_Tower):
    """`CoCa.text`."""

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


class TextDecoder(_Tower):
    """`CoCa.text_decoder`."""

    def __init__(self, captioner: CoCaForCaptioning, context_length: int):
        super().__init__(captioner, (captioner.decoder, captioner.lm_head))
        self.context_length = context_length

    def forward(self, image_embs: Tensor, text_embs: Tensor) -> Tensor:
        """(batch, image tokens, width), (batch, length, width) -> logits (batch, length, vocabulary)."""
        mask = create_causal_mask(
            config=self._captioner.config.multimodal_config,
            inputs_embeds=text_embs,
            attention_mask=None,
            cache=None,
        )
        outputs = self._captioner.decoder(text_embs, image_embs, attention_mask=mask, return_dict=True)
        return self._captioner.lm_head(outputs.last_hidden_state)


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
        self._wrap(CoCaForCaptioning(config), multimodal_cfg.context_length, pad_id)

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
        # Views of the captioner's modules. As submodules they would list every parameter twice.
        object.__setattr__(self, "visual", VisionTower(captioner))
        object.__setattr__(self, "text", TextTower(captioner))
        object.__setattr__(self, "text_decoder", TextDecoder(captioner, context_length))
        self._table = entries(captioner.config)
        self._register_state_dict_hook(_write_open_clip_names)
        self.register_load_state_dict_pre_hook(_read_open_clip_names)

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
            "logit_scale": self.logit_scale.exp(),
        }
        if output_labels:
            out_dict["labels"] = text[:, 1:]
        if self.logit_bias is not None:
            out_dict["logit_bias"] = self.logit_bias
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
            eos_token_id: Ends a caption; 49407 by default.
            sot_token_id: Starts a caption; 49406 by default.
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
        start = _as_ids(START_TOKEN_ID if sot_token_id is None else sot_token_id, device)
        end = _as_ids(END_TOKEN_ID if eos_token_id is None else eos_token_id, device)
        pad_token_id = self.pad_id if pad_token_id is None else pad_token_id
        processors = LogitsProcessorList(
            [
                MinLengthLogitsProcessor(min_seq_len, end, device=device),
                RepetitionPenaltyLogitsProcessor(float(repetition_penalty)),
            ]
        )
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


def _as_ids(token_ids: int | Sequence[int] | Tensor, device: torch.device) -> Tensor:
    """-> (ids,)."""
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
    current = dict(module.captioner.named_parameters())
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


__all__ = [
    "CLIPTextCfg",
    "CLIPVisionCfg",
    "CoCa",
    "MultimodalCfg",
    "TextDecoder",
    "TextTower",
    "VisionTower",
    "beam_search",
]
