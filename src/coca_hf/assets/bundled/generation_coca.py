# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How CoCa decodes: the library's `generate()` with images encoded once, and diverse beam search."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.generation import (
    GenerateBeamDecoderOnlyOutput,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    StoppingCriteriaList,
)
from transformers.utils import ModelOutput


def continue_prompts(
    input_ids: Tensor, attention_mask: Tensor | None, bos_token_id: int, pad_token_id: int, end_token_ids: Tensor
) -> tuple[Tensor, Tensor]:
    """
    Prompts as decoding continues them: without end tokens and padding behind them, and padded on the left.

    Args:
        input_ids: (rows, text), padded on either side.
        attention_mask: (rows, text), 1 for tokens; without it, padding is what `pad_token_id` fills at either end.
        bos_token_id: what a prompt of nothing else starts from.
        pad_token_id: id that pads, and that is removed from a prompt's end.
        end_token_ids: (ids,), removed from a prompt's end.

    Returns:
        Ids and attention mask, both (rows, longest prompt).
    """
    is_removable = torch.isin(input_ids, torch.cat([end_token_ids, end_token_ids.new_tensor([pad_token_id])]))
    if attention_mask is None:
        is_padding = input_ids == pad_token_id
    else:
        is_padding = attention_mask == 0
        is_removable = is_removable | is_padding
    is_leading_padding = is_padding.cummin(dim=1).values
    is_trailing = is_removable.flip(1).cummin(dim=1).values.flip(1)
    is_kept = ~is_leading_padding & ~is_trailing
    lengths = is_kept.sum(dim=1).clamp(min=1)

    # A stable sort brings the kept tokens of each row to its end, in order.
    order = is_kept.int().argsort(dim=1, stable=True)[:, -int(lengths.max()) :]
    prompts = input_ids.gather(1, order)
    is_token = torch.arange(prompts.shape[1], device=prompts.device) >= prompts.shape[1] - lengths[:, None]
    prompts = prompts.masked_fill(~is_token, pad_token_id)
    prompts[:, -1] = torch.where(is_kept.any(dim=1), prompts[:, -1], bos_token_id)
    return prompts, is_token.long()


class CoCaGenerationMixin(GenerationMixin):
    """The library's `generate()` for a decoder that looks at images."""

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoded_images: Any = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Any,
    ) -> ModelOutput | Tensor:
        r"""
        Captions images: [`~transformers.GenerationMixin.generate`], whose every argument applies.

        The vision tower runs once per image, and so do the cross-attention's keys and values, however many beams or
        returned sequences share them.

        Args:
            inputs, pixel_values (`torch.FloatTensor` of shape `(images, channels, height, width)`): Normalised images.
            generation_config (`GenerationConfig`, *optional*):
                Overrides the model's. With `num_beam_groups > 1` the search is diverse beam search (arXiv 1610.02424).
            input_ids (`torch.LongTensor` of shape `(images, text)`, *optional*):
                Prompts, which the captions continue: end tokens and padding behind them are removed first. Without
                them a caption starts from the start token. One prompt serves all images; several may share one image.
            attention_mask (`torch.Tensor` of shape `(images, text)`, *optional*): 1 for tokens, 0 for padding.
            encoded_images (`CoCaEncodedImages`, *optional*): What `encode_images` made of images, in place of them.
            interpolate_pos_encoding (`bool`, defaults to `False`): Whether to accept images of another size.
            kwargs: Everything else that the library's `generate()` takes.

        Returns:
            Token ids (sequences, text), prompts included; or, with `return_dict_in_generate=True`, the library's
            output with a further field `image_embeds` (images, projection_dim), L2-normalised, of the same pass.

        Raises:
            ValueError: Images are missing, their number and that of prompts differ, or the caption would outgrow the
                context; before any image is encoded.

        Example:

        ```python
        >>> import coca_hf
        >>> from PIL import Image
        >>> from transformers import AutoModelForImageTextToText, AutoProcessor

        >>> model = AutoModelForImageTextToText.from_pretrained(coca_hf.bundled_model())
        >>> processor = AutoProcessor.from_pretrained(coca_hf.bundled_model())
        >>> image = Image.open(sorted(coca_hf.example_images())[0])
        >>> ids = model.generate(**processor(images=image, return_tensors="pt"), num_beams=4, max_new_tokens=20)
        >>> caption = processor.batch_decode(ids, skip_special_tokens=True)[0]
        ```"""
        if inputs is not None and pixel_values is not None:
            raise ValueError("Pass the images as inputs or as pixel_values, not both.")
        pixel_values = inputs if inputs is not None else pixel_values
        if (pixel_values is None) == (encoded_images is None):
            raise ValueError("generate() needs images: pass either pixel_values or encoded_images, one of the two.")
        if not self.config.text_config.is_causal:
            raise ValueError(
                "text_config.is_causal=False: token states that see the following tokens cannot generate."
            )
        config, _ = self._prepare_generation_config(generation_config, **kwargs)
        num_images = len(pixel_values) if encoded_images is None else len(encoded_images.image_embeds)
        cache = kwargs.get("past_key_values")
        has_cached_tokens = cache is not None and cache.get_seq_length() > 0
        if has_cached_tokens and input_ids is None:
            raise ValueError("past_key_values holds tokens: pass all ids so far, theirs included, as input_ids.")
        if not (has_cached_tokens or getattr(config, "is_assistant", False)):
            input_ids, attention_mask = self._prepare_prompts(input_ids, attention_mask, config, num_images)
        self._validate_context(config, input_ids.shape[1])
        if encoded_images is None:
            _gather_weights_for(self, "encode_images")
            for layer in self.decoder.layers:
                _gather_weights_for(layer, "project_image_tokens")
            encoded_images = self.encode_images(pixel_values.to(self.device), interpolate_pos_encoding)
        if config.num_beam_groups is not None and config.num_beam_groups > 1:
            kwargs.setdefault("custom_generate", diverse_beam_search)

        outputs = super().generate(
            generation_config=generation_config,
            # The library takes the batch size from it, and assisted decoding the assistant's images.
            pixel_values=pixel_values,
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoded_images=encoded_images,
            **kwargs,
        )
        if isinstance(outputs, ModelOutput):
            outputs["image_embeds"] = encoded_images.image_embeds
        return outputs

    def _prepare_prompts(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, config: GenerationConfig, num_images: int
    ) -> tuple[Tensor, Tensor]:
        """Prompts and their mask, both (rows, text), as many as there are captions to write."""
        if config.bos_token_id is None:
            raise ValueError("bos_token_id is missing from the generation config: captions start from it.")
        if input_ids is None or input_ids.shape[1] == 0:
            input_ids = torch.full((num_images, 1), config.bos_token_id, device=self.device)
            return input_ids, torch.ones_like(input_ids)
        if num_images > 1 and len(input_ids) not in (1, num_images):
            raise ValueError(
                f"input_ids holds {len(input_ids)} prompts for {num_images} images: give one for all, or one for each."
            )
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask has the shape {tuple(attention_mask.shape)}, but must have that of input_ids, "
                f"{tuple(input_ids.shape)}."
            )
        end_token_ids = [] if config.eos_token_id is None else config.eos_token_id
        end_token_ids = torch.as_tensor(end_token_ids, dtype=input_ids.dtype, device=input_ids.device).flatten()
        pad_token_id = self.config.text_config.pad_token_id
        pad_token_id = config.pad_token_id if pad_token_id is None else pad_token_id
        input_ids, attention_mask = continue_prompts(
            input_ids, attention_mask, config.bos_token_id, pad_token_id, end_token_ids
        )
        rows = max(num_images, len(input_ids))
        return input_ids.expand(rows, -1), attention_mask.expand(rows, -1)

    def _validate_context(self, config: GenerationConfig, prompt_length: int) -> None:
        """Refuses captions that would outgrow the position embeddings."""
        context = self.config.text_config.max_position_embeddings
        if config.max_new_tokens is not None:
            length, cause = prompt_length + config.max_new_tokens, f"max_new_tokens={config.max_new_tokens}"
        elif config.max_length is not None:
            length, cause = config.max_length, f"max_length={config.max_length}"
        else:
            length, cause = prompt_length + 1, "one new token"
        if length > context:
            raise ValueError(
                f"{cause} after a prompt of {prompt_length} tokens exceeds the context of {context} tokens: shorten "
                "the prompt or ask for fewer tokens."
            )

    def _prepare_generated_length(
        self, generation_config: GenerationConfig, has_default_max_length: bool, **kwargs: Any
    ) -> GenerationConfig:
        # The model's own max_length is no wish of the caller's that max_new_tokens would overrule: no warning.
        is_own_max_length = generation_config.max_length == self.generation_config.max_length
        generation_config = super()._prepare_generated_length(
            generation_config=generation_config,
            has_default_max_length=has_default_max_length
            or (is_own_max_length and generation_config.max_new_tokens is not None),
            **kwargs,
        )
        if has_default_max_length and generation_config.max_new_tokens is None:
            context = self.config.text_config.max_position_embeddings
            generation_config.max_length = min(generation_config.max_length, context)
        return generation_config

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        if model_kwargs.get("past_key_values") is not None:
            # Here rather than in `forward`, where a compiled one could not.
            model_kwargs["past_key_values"] = self._prepare_cache(model_kwargs["past_key_values"], use_cache=True)

    def _get_candidate_generator(
        self,
        *,
        model_kwargs: dict[str, Any],
        inputs_tensor: Tensor | None = None,
        assistant_model: Any = None,
        **kwargs: Any,
    ) -> Any:
        if assistant_model is not None:
            # An assistant sees the images with its own towers, or, if it is a language model, not at all.
            model_kwargs = {name: value for name, value in model_kwargs.items() if name != "encoded_images"}
            if isinstance(assistant_model, CoCaGenerationMixin):
                if inputs_tensor is None or inputs_tensor.ndim != 4:
                    raise ValueError("assistant_model needs pixel_values, not encoded_images, to encode them itself.")
                model_kwargs["encoded_images"] = assistant_model.encode_images(inputs_tensor)
        return super()._get_candidate_generator(
            model_kwargs=model_kwargs, inputs_tensor=inputs_tensor, assistant_model=assistant_model, **kwargs
        )


def _gather_weights_for(module: nn.Module, method: str) -> None:
    """Makes `method` see whole weights where FSDP has sharded `module`, which by itself it does for `forward` only."""
    is_sharded = hasattr(module, "unshard")
    if is_sharded and method not in vars(module):
        from torch.distributed.fsdp import register_fsdp_forward_method

        register_fsdp_forward_method(module, method)


@dataclass
class _Group:
    """
    One group of a diverse beam search: B images, K beams each, L tokens at most.

    running: (B, K, L) ids; scores: (B, K) sums; finished, finished_scores: the K best hypotheses that have ended, of
    lengths (B, K), with scores divided by length, -inf where there is none; done: (B,) no better one can come.
    *_beams: (B, K, L) which beam of the image, over all groups, each token came from, for `beam_indices`.
    """

    running: Tensor
    scores: Tensor
    running_beams: Tensor
    finished: Tensor
    finished_scores: Tensor
    finished_lengths: Tensor
    finished_beams: Tensor
    done: Tensor


def _start_group(prompts: Tensor, num_beams: int, max_length: int, pad_token_id: int) -> _Group:
    batch, prompt_length = prompts.shape
    running = F.pad(prompts, (0, max_length - prompt_length), value=pad_token_id)
    running = running[:, None].repeat(1, num_beams, 1)
    # All beams are the same at first: only one of them may propose.
    scores = torch.full((batch, num_beams), -1e9, device=prompts.device)
    scores[:, 0] = 0
    no_beams = torch.full_like(running, -1)
    return _Group(
        running=running,
        scores=scores,
        running_beams=no_beams,
        finished=torch.full_like(running, pad_token_id),
        finished_scores=torch.full_like(scores, -torch.inf),
        finished_lengths=torch.full_like(scores, prompt_length, dtype=torch.long),
        finished_beams=no_beams.clone(),
        done=torch.zeros(batch, dtype=torch.bool, device=prompts.device),
    )


def _take(tensor: Tensor, index: Tensor) -> Tensor:
    """(B, K, ...) at (B, N) -> (B, N, ...)."""
    return tensor.gather(1, index.view(*index.shape, *[1] * (tensor.ndim - 2)).expand(*index.shape, *tensor.shape[2:]))


def _keep_best(group: _Group, sequences: Tensor, scores: Tensor, length: int, beams: Tensor) -> None:
    """Merges ended hypotheses (B, N, L), of score -inf where there is none, into the group's K best."""
    # Stable: an earlier hypothesis wins over a later one of the same score.
    all_scores = torch.cat([group.finished_scores, scores], dim=1)
    all_scores, best = all_scores.sort(dim=1, descending=True, stable=True)
    best = best[:, : group.scores.shape[1]]
    group.finished_scores = all_scores[:, : group.scores.shape[1]]
    group.finished = _take(torch.cat([group.finished, sequences], dim=1), best)
    group.finished_beams = _take(torch.cat([group.finished_beams, beams], dim=1), best)
    lengths = torch.cat([group.finished_lengths, torch.full_like(scores, length, dtype=torch.long)], dim=1)
    group.finished_lengths = _take(lengths, best)


def _advance_group(
    group: _Group,
    next_scores: Tensor,
    length: int,
    generated_length: int,
    config: GenerationConfig,
    eos_token_ids: Tensor,
    pad_token_id: int,
    first_beam: int,
    max_generated_length: int,
) -> tuple[Tensor, Tensor]:
    """
    One step of one group: -> tokens (B, K) that its beams take, and the beams (B, K) of the group that they extend.

    next_scores: (B, K, vocabulary), what each continuation adds to its beam's score.
    """
    _, num_beams, vocab_size = next_scores.shape
    num_candidates = max(2, 1 + len(eos_token_ids)) * num_beams
    totals = (next_scores + group.scores[:, :, None]).flatten(1)
    candidate_scores, candidates = totals.topk(num_candidates, dim=1)
    parents, tokens = candidates // vocab_size, candidates % vocab_size

    is_end = torch.isin(tokens, eos_token_ids)
    ends = is_end & ~group.done[:, None]
    ends[:, num_beams:] = False  # an end counts only among the best K candidates
    ended_scores = candidate_scores / (generated_length + 1) ** config.length_penalty
    ended_scores = ended_scores.masked_fill(~ends, -torch.inf)[:, :num_beams]
    ended_parents = parents[:, :num_beams]
    ended_beams = _take(group.running_beams, ended_parents)
    ended_beams[:, :, length] = first_beam + ended_parents
    _keep_best(group, _take(group.running, ended_parents), ended_scores, length, ended_beams)

    # The best K that go on, in their order.
    going_on = is_end.int().argsort(dim=1, stable=True)[:, :num_beams]
    parents, tokens = _take(parents, going_on), _take(tokens, going_on)
    scores = _take(candidate_scores, going_on)
    is_done_row = group.done[:, None]
    tokens = tokens.masked_fill(is_done_row, pad_token_id)
    parents = parents.masked_fill(is_done_row, 0)
    group.scores = scores.masked_fill(is_done_row, 0.0)
    group.running = _take(group.running, parents)
    group.running[:, :, length] = tokens
    group.running_beams = _take(group.running_beams, parents)
    group.running_beams[:, :, length] = first_beam + parents

    group.done = group.done | _is_settled(
        group, candidate_scores[:, 0], generated_length + 1, config, max_generated_length
    )
    return tokens, parents


def _is_settled(
    group: _Group, best_scores: Tensor, generated_length: int, config: GenerationConfig, max_generated_length: int
) -> Tensor:
    """(B,) whether K hypotheses have ended and no running one can beat the worst of them."""
    worst = group.finished_scores[:, -1]
    is_full = worst > -torch.inf
    if config.early_stopping is True:
        return is_full
    if config.early_stopping == "never" and config.length_penalty > 0:
        generated_length = max_generated_length
    return is_full & (worst >= best_scores / generated_length**config.length_penalty)


def _diversity_penalty(next_scores: Tensor, taken: list[Tensor], penalty: float) -> Tensor:
    """
    Scores less `penalty` times how often the earlier groups took each token at this step (arXiv 1610.02424, Hamming).

    (B, K, vocabulary), a (B, K) for each earlier group -> (B, K, vocabulary).
    """
    tokens = torch.cat(taken, dim=1)
    counts = next_scores.new_zeros(next_scores.shape[0], next_scores.shape[2])
    counts.scatter_add_(1, tokens, torch.ones_like(tokens, dtype=counts.dtype))
    return next_scores - penalty * counts[:, None]


def diverse_beam_search(
    model: GenerationMixin,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    synced_gpus: bool = False,
    score_by: Literal["log_probabilities", "logits"] = "log_probabilities",
    **model_kwargs: Any,
) -> GenerateBeamDecoderOnlyOutput | Tensor:
    """
    Diverse beam search (arXiv 1610.02424): groups of beams, each discouraged from the tokens of those before it.

    A decoding loop for `generate(custom_generate=...)`, which `CoCaForCaptioning.generate` selects when
    `num_beam_groups > 1`. Hypotheses, lengths and ties are treated as the library's own group beam search treated
    them while it had one (transformers before 4.56).

    Args:
        input_ids: (images * num_beams, prompt).
        generation_config: `num_beams`, `num_beam_groups`, `diversity_penalty`, `length_penalty`, `early_stopping` and
            `num_return_sequences` apply.
        score_by: "logits" for the scores of open_clip's `generate()`: sums of raw logits, divided by the length of the
            whole text, prompt included.

    Raises:
        ValueError: `num_beams` is no multiple of `num_beam_groups`.
    """
    config = generation_config
    num_groups, num_beams = config.num_beam_groups or 1, config.num_beams
    if num_beams % num_groups:
        raise ValueError(f"num_beams={num_beams} must be a multiple of num_beam_groups={num_groups}.")
    if config.do_sample:
        raise ValueError(f"num_beam_groups={num_groups} searches without sampling: pass do_sample=False.")
    group_size, penalty = num_beams // num_groups, config.diversity_penalty or 0.0
    batch, prompt_length = len(input_ids) // num_beams, input_ids.shape[1]
    device, max_length = input_ids.device, config.max_length
    eos_token_ids = _as_ids(config.eos_token_id, device)
    pad_token_id = config.pad_token_id if config.pad_token_id is not None else int(eos_token_ids[0])
    groups = [_start_group(input_ids[::num_beams], group_size, max_length, pad_token_id) for _ in range(num_groups)]
    offsets = torch.arange(batch, device=device)[:, None] * num_beams
    collected: dict[str, tuple[Any, ...]] = {"scores": (), "logits": (), "attentions": (), "hidden_states": ()}
    uncounted_length = 0 if score_by == "logits" else prompt_length

    length, outputs = prompt_length, None
    while model._has_unfinished_sequences(
        outputs is not None and _is_finished(groups, input_ids, stopping_criteria), synced_gpus, device=device
    ):
        outputs = _run_step(model, input_ids, model_kwargs, is_first=outputs is None)
        model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs)
        logits = outputs.logits[:, -1].float()
        scores = logits if score_by == "logits" else F.log_softmax(logits, dim=-1)
        scores = scores.view(batch, num_groups, group_size, -1)
        rows = input_ids.view(batch, num_groups, group_size, -1)
        processed_scores: list[Tensor] = []
        taken: list[Tensor] = []
        parents: list[Tensor] = []
        for idx, group in enumerate(groups):
            next_scores = scores[:, idx]
            if taken and penalty:
                next_scores = _diversity_penalty(next_scores, taken, penalty)
            next_scores = logits_processor(rows[:, idx].flatten(0, 1), next_scores.flatten(0, 1))
            next_scores = next_scores.view(batch, group_size, -1)
            processed_scores.append(next_scores)
            tokens, group_parents = _advance_group(
                group,
                next_scores,
                length,
                length - uncounted_length,
                config,
                eos_token_ids,
                pad_token_id,
                first_beam=idx * group_size,
                max_generated_length=max_length - uncounted_length,
            )
            taken.append(tokens)
            parents.append(group_parents + idx * group_size)
        _collect(collected, config, outputs, logits, torch.stack(processed_scores, dim=1).flatten(0, 2))

        length += 1
        input_ids = torch.cat([group.running for group in groups], dim=1)[:, :, :length].flatten(0, 1)
        beam_idx = (torch.cat(parents, dim=1) + offsets).flatten()
        if model_kwargs.get("past_key_values") is not None:
            model_kwargs["past_key_values"].reorder_cache(beam_idx)

    for group in groups:
        running_scores = group.scores / (length - uncounted_length) ** config.length_penalty
        running_scores = running_scores.masked_fill(group.done[:, None], -torch.inf)
        _keep_best(group, group.running, running_scores, length, group.running_beams)
    return _finalize(groups, config, eos_token_ids, pad_token_id, prompt_length, collected, model_kwargs, num_beams)


def _as_ids(token_ids: int | list[int] | Tensor | None, device: torch.device) -> Tensor:
    return torch.as_tensor([] if token_ids is None else token_ids, dtype=torch.long, device=device).flatten()


def _run_step(model: GenerationMixin, input_ids: Tensor, model_kwargs: dict[str, Any], is_first: bool) -> Any:
    next_sequence_length = None if is_first or not model_kwargs.get("use_cache") else 1
    model_inputs = model.prepare_inputs_for_generation(
        input_ids, next_sequence_length=next_sequence_length, is_first_iteration=is_first, **model_kwargs
    )
    return model(**model_inputs, return_dict=True)


def _is_finished(groups: list[_Group], input_ids: Tensor, stopping_criteria: StoppingCriteriaList) -> bool:
    all_done = torch.stack([group.done for group in groups]).all()
    return bool(all_done) or bool(stopping_criteria(input_ids, None).all())


def _collect(
    collected: dict[str, tuple[Any, ...]], config: GenerationConfig, outputs: Any, logits: Tensor, scores: Tensor
) -> None:
    for name, wanted, value in (
        ("scores", config.output_scores, scores),
        ("logits", config.output_logits, logits),
        ("attentions", config.output_attentions, outputs.attentions),
        ("hidden_states", config.output_hidden_states, outputs.hidden_states),
    ):
        if config.return_dict_in_generate and wanted:
            collected[name] += (value,)


def _finalize(
    groups: list[_Group],
    config: GenerationConfig,
    eos_token_ids: Tensor,
    pad_token_id: int,
    prompt_length: int,
    collected: dict[str, tuple[Any, ...]],
    model_kwargs: dict[str, Any],
    num_beams: int,
) -> GenerateBeamDecoderOnlyOutput | Tensor:
    """The best hypotheses of all groups, with the end token behind each where it fits."""
    scores = torch.cat([group.finished_scores for group in groups], dim=1)
    # Of equal scores the later one, as the library's scorer popped them off a sorted list.
    order = scores.shape[1] - 1 - scores.flip(1).argsort(dim=1, descending=True, stable=True)
    order = order[:, : config.num_return_sequences]
    sequences = _take(torch.cat([group.finished for group in groups], dim=1), order).flatten(0, 1)
    lengths = _take(torch.cat([group.finished_lengths for group in groups], dim=1), order).flatten()
    width = min(int(lengths.max()) + 1, config.max_length)
    positions = torch.arange(sequences.shape[1], device=sequences.device)
    sequences = sequences.masked_fill(positions >= lengths[:, None], pad_token_id)
    if len(eos_token_ids):
        sequences = torch.where(positions == lengths[:, None], eos_token_ids[0], sequences)
    sequences = sequences[:, :width]
    if not config.return_dict_in_generate:
        return sequences

    beams = _take(torch.cat([group.finished_beams for group in groups], dim=1), order)
    image_offsets = torch.arange(len(beams), device=beams.device)[:, None, None] * num_beams
    beams = torch.where(beams < 0, beams, beams + image_offsets).flatten(0, 1)
    return GenerateBeamDecoderOnlyOutput(
        sequences=sequences,
        sequences_scores=_take(scores, order).flatten() if config.output_scores else None,
        scores=collected["scores"] or None,
        logits=collected["logits"] or None,
        beam_indices=beams[:, prompt_length:width],
        attentions=collected["attentions"] or None,
        hidden_states=collected["hidden_states"] or None,
        past_key_values=model_kwargs.get("past_key_values"),
    )
