# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How CoCa decodes: the library's `generate()` with images encoded once, and diverse beam search."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import Cache, StaticLayer
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


class _CompiledSteps:
    """A model to search with: its calls are compiled, all else is the model's own, the first pass over prompts too."""

    def __init__(self, model: GenerationMixin, config: GenerationConfig):
        self._model = model
        self._step = model.get_compiled_call(config.compile_config)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, **inputs: Any) -> Any:
        return self._step(**inputs)


def _with_compiled_steps(model: GenerationMixin, model_kwargs: dict[str, Any], config: GenerationConfig) -> Any:
    """The model, its steps compiled where the library compiles those of greedy decoding: it leaves out beams."""
    return _CompiledSteps(model, config) if model._valid_auto_compile_criteria(model_kwargs, config) else model


def _reorder(cache: Cache, beam_idx: Tensor) -> None:
    """`cache.reorder_cache`, in place where a CUDA graph may read these very tensors."""
    if not cache.is_compileable or beam_idx.device.type == "cpu":
        cache.reorder_cache(beam_idx)
        return
    for layer in cache.layers:
        if isinstance(layer, StaticLayer) and layer.is_initialized:
            layer.keys.copy_(layer.keys.index_select(0, beam_idx))
            layer.values.copy_(layer.values.index_select(0, beam_idx))
        else:
            layer.reorder_cache(beam_idx)


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
        cache = kwargs.get("cache")
        has_cached_tokens = cache is not None and cache.get_seq_length() > 0
        if has_cached_tokens and input_ids is None:
            raise ValueError("cache holds tokens: pass all ids so far, theirs included, as input_ids.")
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
        if model_kwargs.get("cache") is not None:
            # Here rather than in `forward`, where a compiled one could not.
            model_kwargs["cache"] = self._prepare_cache(model_kwargs["cache"], use_cache=True)

    def _beam_search(self, *args: Any, generation_config: GenerationConfig, **kwargs: Any) -> ModelOutput | Tensor:
        model = _with_compiled_steps(self, kwargs, generation_config)
        return GenerationMixin._beam_search(model, *args, generation_config=generation_config, **kwargs)

    def _reorder_cache(self, cache: Cache, beam_idx: Tensor) -> Cache:
        _reorder(cache, beam_idx)
        return cache

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
class _Searches:
    """
    The state of S = images * groups beam searches of K beams each, image by image; L tokens at most.

    running: (S, K, L) ids; scores: (S, K) sums; finished, finished_scores: the K best hypotheses that have ended, of
    lengths (S, K), with scores divided by length, -inf where there is none; done: (S,) no better one can come.
    *_beams: (S, K, L) which beam of the image, over all groups, each token came from, for `beam_indices`;
    first_beams: (S, 1) the first beam of each group.
    """

    running: Tensor
    scores: Tensor
    running_beams: Tensor
    finished: Tensor
    finished_scores: Tensor
    finished_lengths: Tensor
    finished_beams: Tensor
    done: Tensor
    first_beams: Tensor


def _start_searches(
    prompts: Tensor, num_groups: int, group_size: int, max_length: int, pad_token_id: int
) -> _Searches:
    """prompts: (images, prompt)."""
    num_images, prompt_length = prompts.shape
    num_searches = num_images * num_groups
    running = F.pad(prompts, (0, max_length - prompt_length), value=pad_token_id)
    running = running.repeat_interleave(num_groups * group_size, dim=0).view(num_searches, group_size, max_length)
    # All beams are the same at first: only one of them may propose.
    scores = torch.full((num_searches, group_size), -1e9, device=prompts.device)
    scores[:, 0] = 0
    no_beams = torch.full_like(running, -1)
    return _Searches(
        running=running,
        scores=scores,
        running_beams=no_beams,
        finished=torch.full_like(running, pad_token_id),
        finished_scores=torch.full_like(scores, -torch.inf),
        finished_lengths=torch.full_like(scores, prompt_length, dtype=torch.long),
        finished_beams=no_beams.clone(),
        done=torch.zeros(num_searches, dtype=torch.bool, device=prompts.device),
        first_beams=group_size * torch.arange(num_groups, device=prompts.device).repeat(num_images)[:, None],
    )


def _take(tensor: Tensor, index: Tensor) -> Tensor:
    """(S, K, ...) at (S, N) -> (S, N, ...)."""
    return tensor.gather(1, index.view(*index.shape, *[1] * (tensor.ndim - 2)).expand(*index.shape, *tensor.shape[2:]))


def _keep_best(searches: _Searches, sequences: Tensor, scores: Tensor, length: int, beams: Tensor) -> None:
    """Merges ended hypotheses (S, N, L), of score -inf where there is none, into the K best of each search."""
    # Stable: an earlier hypothesis wins over a later one of the same score.
    all_scores = torch.cat([searches.finished_scores, scores], dim=1)
    all_scores, best = all_scores.sort(dim=1, descending=True, stable=True)
    best = best[:, : searches.scores.shape[1]]
    searches.finished_scores = all_scores[:, : searches.scores.shape[1]]
    searches.finished = _take(torch.cat([searches.finished, sequences], dim=1), best)
    searches.finished_beams = _take(torch.cat([searches.finished_beams, beams], dim=1), best)
    lengths = torch.cat([searches.finished_lengths, torch.full_like(scores, length, dtype=torch.long)], dim=1)
    searches.finished_lengths = _take(lengths, best)


def _is_end(tokens: Tensor, eos_token_ids: Tensor) -> Tensor:
    return (tokens[..., None] == eos_token_ids).any(dim=-1)


def _propose(next_scores: Tensor, scores: Tensor, eos_token_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """
    The best continuations of a group, best first: their scores, the beams that they extend, and their tokens.

    next_scores: (images, K, vocabulary), what each continuation adds to its beam's score, (images, K)
    -> (images, N) each, enough for K of them not to end.
    """
    num_beams, vocab_size = next_scores.shape[1:]
    num_candidates = max(2, 1 + len(eos_token_ids)) * num_beams
    candidate_scores, candidates = (next_scores + scores[:, :, None]).flatten(1).topk(num_candidates, dim=1)
    return candidate_scores, candidates // vocab_size, candidates % vocab_size


def _going_on(tokens: Tensor, eos_token_ids: Tensor, num_beams: int) -> Tensor:
    """(S, N) candidates -> which K go on: the best that do not end, in their order."""
    return _is_end(tokens, eos_token_ids).int().argsort(dim=1, stable=True)[:, :num_beams]


def _advance(
    searches: _Searches,
    candidate_scores: Tensor,
    parents: Tensor,
    tokens: Tensor,
    length: int,
    generated_length: int,
    config: GenerationConfig,
    eos_token_ids: Tensor,
    pad_token_id: int,
    max_generated_length: int,
) -> Tensor:
    """One step of all searches with their candidates, (S, N) each -> which beam each beam now extends, (S, K)."""
    num_beams = searches.scores.shape[1]
    is_end = _is_end(tokens[:, :num_beams], eos_token_ids)  # an end counts only among the best K candidates
    ended_scores = candidate_scores[:, :num_beams] / (generated_length + 1) ** config.length_penalty
    ended_scores = ended_scores.masked_fill(~is_end | searches.done[:, None], -torch.inf)
    ended_parents = parents[:, :num_beams]
    ended_beams = _take(searches.running_beams, ended_parents)
    ended_beams[:, :, length] = searches.first_beams + ended_parents
    _keep_best(searches, _take(searches.running, ended_parents), ended_scores, length, ended_beams)

    going_on = _going_on(tokens, eos_token_ids, num_beams)
    is_done_row = searches.done[:, None]
    parents = _take(parents, going_on).masked_fill(is_done_row, 0)
    searches.scores = _take(candidate_scores, going_on).masked_fill(is_done_row, 0.0)
    searches.running = _take(searches.running, parents)
    searches.running[:, :, length] = _take(tokens, going_on).masked_fill(is_done_row, pad_token_id)
    searches.running_beams = _take(searches.running_beams, parents)
    searches.running_beams[:, :, length] = searches.first_beams + parents

    searches.done = searches.done | _is_settled(
        searches, candidate_scores[:, 0], generated_length + 1, config, max_generated_length
    )
    return parents


def _is_settled(
    searches: _Searches,
    best_scores: Tensor,
    generated_length: int,
    config: GenerationConfig,
    max_generated_length: int,
) -> Tensor:
    """(S,) whether K hypotheses have ended and no running one can beat the worst of them."""
    worst = searches.finished_scores[:, -1]
    is_full = worst > -torch.inf
    if config.early_stopping is True:
        return is_full
    if config.early_stopping == "never" and config.length_penalty > 0:
        generated_length = max_generated_length
    return is_full & (worst >= best_scores / generated_length**config.length_penalty)


def _diversity_penalty(next_scores: Tensor, taken: list[Tensor], penalty: float) -> Tensor:
    """
    Scores less `penalty` times how often the earlier groups took each token at this step (arXiv 1610.02424, Hamming).

    (images, K, vocabulary), an (images, K) for each earlier group -> (images, K, vocabulary).
    """
    tokens = torch.cat(taken, dim=1)
    counts = (tokens[:, :, None] == tokens[:, None]).sum(dim=2)
    tokens, counts = (values[:, None].expand(-1, next_scores.shape[1], -1) for values in (tokens, counts))
    # A token that was taken twice is written twice, with the same score.
    return next_scores.scatter(2, tokens, next_scores.gather(2, tokens) - penalty * counts)


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
    searches = _start_searches(input_ids[::num_beams], num_groups, group_size, max_length, pad_token_id)
    offsets = torch.arange(batch, device=device)[:, None] * num_beams
    collected: dict[str, tuple[Any, ...]] = {"scores": (), "logits": (), "attentions": (), "hidden_states": ()}
    uncounted_length = 0 if score_by == "logits" else prompt_length

    length, outputs = prompt_length, None
    stepping_model = _with_compiled_steps(model, model_kwargs, config)
    while model._has_unfinished_sequences(
        outputs is not None and _is_finished(searches, input_ids, stopping_criteria), synced_gpus, device=device
    ):
        is_first = outputs is None
        outputs = _run_step(model if is_first else stepping_model, input_ids, model_kwargs, is_first)
        model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs)
        # A copy: what a compiled step returns is overwritten by the next.
        logits = outputs.logits[:, -1].to(torch.float32, copy=True)
        scores = logits if score_by == "logits" else F.log_softmax(logits, dim=-1)
        scores = scores.view(batch, num_groups, group_size, -1)
        rows = input_ids.view(batch, num_groups, group_size, -1)
        beam_scores, done = searches.scores.view(batch, num_groups, -1), searches.done.view(batch, num_groups, 1)
        processed_scores: list[Tensor] = []
        proposals: list[tuple[Tensor, Tensor, Tensor]] = []
        taken: list[Tensor] = []
        for idx in range(num_groups):
            next_scores = scores[:, idx]
            if taken:
                next_scores = _diversity_penalty(next_scores, taken, penalty)
            next_scores = logits_processor(rows[:, idx].flatten(0, 1), next_scores.flatten(0, 1))
            next_scores = next_scores.view(batch, group_size, -1)
            processed_scores.append(next_scores)
            proposals.append(_propose(next_scores, beam_scores[:, idx], eos_token_ids))
            if penalty and idx + 1 < num_groups:
                _, _, tokens = proposals[-1]
                tokens = _take(tokens, _going_on(tokens, eos_token_ids, group_size))
                taken.append(tokens.masked_fill(done[:, idx], pad_token_id))
        candidate_scores, parents, tokens = (
            torch.stack(parts, dim=1).flatten(0, 1) for parts in zip(*proposals, strict=True)
        )
        parents = _advance(
            searches,
            candidate_scores,
            parents,
            tokens,
            length,
            length - uncounted_length,
            config,
            eos_token_ids,
            pad_token_id,
            max_generated_length=max_length - uncounted_length,
        )
        _collect(collected, config, outputs, logits, processed_scores)

        length += 1
        input_ids = searches.running[:, :, :length].flatten(0, 1)
        beam_idx = ((searches.first_beams + parents).view(batch, num_beams) + offsets).flatten()
        if model_kwargs.get("cache") is not None:
            _reorder(model_kwargs["cache"], beam_idx)

    running_scores = searches.scores / (length - uncounted_length) ** config.length_penalty
    running_scores = running_scores.masked_fill(searches.done[:, None], -torch.inf)
    _keep_best(searches, searches.running, running_scores, length, searches.running_beams)
    return _finalize(searches, config, eos_token_ids, pad_token_id, prompt_length, collected, model_kwargs)


def _as_ids(token_ids: int | list[int] | Tensor | None, device: torch.device) -> Tensor:
    return torch.as_tensor([] if token_ids is None else token_ids, dtype=torch.long, device=device).flatten()


def _run_step(model: GenerationMixin, input_ids: Tensor, model_kwargs: dict[str, Any], is_first: bool) -> Any:
    next_sequence_length = None if is_first or not model_kwargs.get("use_cache") else 1
    model_inputs = model.prepare_inputs_for_generation(
        input_ids, next_sequence_length=next_sequence_length, is_first_iteration=is_first, **model_kwargs
    )
    return model(**model_inputs, return_dict=True)


def _is_finished(searches: _Searches, input_ids: Tensor, stopping_criteria: StoppingCriteriaList) -> bool:
    return bool(searches.done.all()) or bool(stopping_criteria(input_ids, None).all())


def _collect(
    collected: dict[str, tuple[Any, ...]],
    config: GenerationConfig,
    outputs: Any,
    logits: Tensor,
    group_scores: list[Tensor],
) -> None:
    """group_scores: (images, K, vocabulary) of each group."""
    if not config.return_dict_in_generate:
        return
    if config.output_scores:
        collected["scores"] += (torch.stack(group_scores, dim=1).flatten(0, 2),)
    for name, wanted, value in (
        ("logits", config.output_logits, logits),
        ("attentions", config.output_attentions, outputs.attentions),
        ("hidden_states", config.output_hidden_states, outputs.hidden_states),
    ):
        if wanted:
            collected[name] += (value,)


def _finalize(
    searches: _Searches,
    config: GenerationConfig,
    eos_token_ids: Tensor,
    pad_token_id: int,
    prompt_length: int,
    collected: dict[str, tuple[Any, ...]],
    model_kwargs: dict[str, Any],
) -> GenerateBeamDecoderOnlyOutput | Tensor:
    """The best hypotheses of all groups, with the end token behind each where it fits."""
    # All groups of an image together: (images, num_beams, ...).
    scores, lengths, sequences, beams = (
        found.reshape(-1, config.num_beams, *found.shape[2:])
        for found in (
            searches.finished_scores,
            searches.finished_lengths,
            searches.finished,
            searches.finished_beams,
        )
    )
    # Of equal scores the later one, as the library's scorer popped them off a sorted list.
    order = scores.shape[1] - 1 - scores.flip(1).argsort(dim=1, descending=True, stable=True)
    order = order[:, : config.num_return_sequences]
    sequences, lengths = _take(sequences, order).flatten(0, 1), _take(lengths, order).flatten()
    width = min(int(lengths.max()) + 1, config.max_length)
    positions = torch.arange(sequences.shape[1], device=sequences.device)
    sequences = sequences.masked_fill(positions >= lengths[:, None], pad_token_id)
    if len(eos_token_ids):
        sequences = torch.where(positions == lengths[:, None], eos_token_ids[0], sequences)
    sequences = sequences[:, :width]
    if not config.return_dict_in_generate:
        return sequences

    beams = _take(beams, order)
    image_offsets = torch.arange(len(beams), device=beams.device)[:, None, None] * config.num_beams
    beams = torch.where(beams < 0, beams, beams + image_offsets).flatten(0, 1)
    return GenerateBeamDecoderOnlyOutput(
        sequences=sequences,
        sequences_scores=_take(scores, order).flatten() if config.output_scores else None,
        scores=collected["scores"] or None,
        logits=collected["logits"] or None,
        beam_indices=beams[:, prompt_length:width],
        attentions=collected["attentions"] or None,
        hidden_states=collected["hidden_states"] or None,
        cache=model_kwargs.get("cache"),
    )
