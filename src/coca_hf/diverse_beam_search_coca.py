# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""
Diverse beam search (arXiv 1610.02424): a decoding loop for the library's `generate(custom_generate=...)`.

The beams of an image are divided into groups. Each group is a beam search of its own, and pays a penalty for tokens
that the groups before it took at the same step. In shapes below, S = images * groups is the number of searches, K the
number of beams of a group, N the number of candidates that a search looks at in a step, and L the maximum length.
"""

import functools
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import DynamicCache
from transformers.generation import (
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    GenerateBeamDecoderOnlyOutput,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    StoppingCriteriaList,
    StopStringCriteria,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)
from transformers.integrations import is_deepspeed_zero3_enabled, is_fsdp_managed_module
from transformers.utils import ModelOutput


# The library's processors that look at each row by itself, so that a group's rows alone get the same scores.
ROW_BY_ROW = {
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
}


def use_diverse_beam_search(config: GenerationConfig, kwargs: dict[str, Any]) -> dict[str, Any]:
    """
    The arguments of `generate()`, with diverse beam search as the decoding loop if the config asks for groups.

    Args:
        config: What `generate()` makes of its own config and of `kwargs`.
        kwargs: Arguments of `generate()`; a `custom_generate` among them stays as it is.

    Raises:
        ValueError: There are groups and a `streamer`.
    """
    has_groups = config.num_beam_groups is not None and config.num_beam_groups > 1
    if not has_groups or kwargs.get("custom_generate") is not None:
        return kwargs
    if kwargs.get("streamer") is not None:
        raise ValueError("`streamer` cannot be used with beam search (yet!). Make sure that `num_beams` is set to 1.")
    # The library passes neither synced_gpus nor tokenizer on when custom_generate is a function.
    search = functools.partial(diverse_beam_search, synced_gpus=kwargs.get("synced_gpus"))
    kwargs = {**kwargs, "custom_generate": search}
    if config.stop_strings is not None and kwargs.get("tokenizer") is not None:
        criterion = StopStringCriteria(tokenizer=kwargs["tokenizer"], stop_strings=config.stop_strings)
        kwargs["stopping_criteria"] = StoppingCriteriaList([*(kwargs.get("stopping_criteria") or []), criterion])
        kwargs["stop_strings"] = None
    return kwargs


class _Candidates(NamedTuple):
    """The best continuations of each search, best first: sums of scores, beams to extend and tokens, (S, N) each."""

    scores: Tensor
    parents: Tensor
    tokens: Tensor


def _take(tensor: Tensor, index: Tensor) -> Tensor:
    """(S, K, ...) at (S, N) -> (S, N, ...)."""
    return tensor.gather(1, index.view(*index.shape, *[1] * (tensor.ndim - 2)).expand(*index.shape, *tensor.shape[2:]))


class _Searches:
    """
    The state of S beam searches with K beams each.

    Attributes:
        rows: (images * num_beams, length) ids of the running beams, in the library's order: by image, group and beam.
        running, running_beams: (S, K, L) ids and, for each token, which beam of the image it came from.
        scores: (S, K) sums of token scores; -inf for a beam that cannot go on.
        finished, finished_beams: (S, K, L) the best hypotheses that have ended, best first.
        finished_scores: (S, K) their scores, divided by length; -inf where there is none yet.
        done: (S,) whether no better hypothesis can come.
    """

    def __init__(self, input_ids: Tensor, config: GenerationConfig, uncounted_length: int):
        """`input_ids`: (images * num_beams, prompt); a score is not divided by the first `uncounted_length` tokens."""
        self.config, self.uncounted_length = config, uncounted_length
        self.length = self.prompt_length = input_ids.shape[1]
        num_groups, num_beams, device = config.num_beam_groups or 1, config.num_beams, input_ids.device
        num_images, num_searches = len(input_ids) // num_beams, len(input_ids) // num_beams * num_groups
        group_size = num_beams // num_groups
        end_tokens = [] if config.eos_token_id is None else config.eos_token_id
        self.end_tokens = torch.as_tensor(end_tokens, dtype=torch.long, device=device).flatten()
        self.pad_token = config.pad_token_id
        if self.pad_token is None:
            self.pad_token = int(self.end_tokens[0]) if len(self.end_tokens) else 0

        self.rows = input_ids
        ids = F.pad(input_ids, (0, config.max_length - self.length), value=self.pad_token)
        self.running = ids.view(num_searches, group_size, config.max_length)
        self.running_beams = torch.full_like(self.running, -1)
        # All beams of a group are the same at first: only one of them may propose.
        self.scores = torch.full((num_searches, group_size), -torch.inf, dtype=torch.float32, device=device)
        self.scores[:, 0] = 0
        self.finished, self.finished_beams = self.running, self.running_beams
        self.finished_scores = torch.full_like(self.scores, -torch.inf)
        self.done = torch.zeros(num_searches, dtype=torch.bool, device=device)
        self.first_beams = group_size * torch.arange(num_groups, device=device).repeat(num_images)[:, None]
        self.first_rows = (
            self.first_beams
            + num_beams * (torch.arange(num_images, device=device).repeat_interleave(num_groups)[:, None])
        )

    def is_end(self, tokens: Tensor) -> Tensor:
        """Which of the tokens, of any shape, end a text."""
        return (tokens[..., None] == self.end_tokens).any(dim=-1)

    def propose(self, scores: Tensor, group: int) -> _Candidates:
        """
        Candidates of one group, enough for K of them not to be end tokens.

        (images, K, vocabulary) what each token adds to its beam's score -> (images, N) each.
        """
        num_images, num_beams, vocab_size = scores.shape
        beam_scores = self.scores.view(num_images, -1, num_beams)[:, group]
        num_candidates = max(2, 1 + len(self.end_tokens)) * num_beams
        best_scores, best = (scores + beam_scores[:, :, None]).flatten(1).topk(num_candidates, dim=1)
        is_done = self.done.view(num_images, -1)[:, group, None]
        return _Candidates(
            scores=best_scores.masked_fill(is_done, 0.0),
            parents=best // vocab_size,
            tokens=(best % vocab_size).masked_fill(is_done, self.pad_token),
        )

    def going_on(self, is_end: Tensor) -> Tensor:
        """(S, N) which candidates end -> (S, K) the best that do not, in their order."""
        return is_end.int().argsort(dim=1, stable=True)[:, : self.scores.shape[1]]

    def extend(self, candidates: _Candidates) -> tuple[Tensor, Tensor]:
        """Ids of all candidates and the beams that they came from: (S, N, L) each."""
        tokens = candidates.tokens
        if len(self.end_tokens) > 1:
            # The library's group beam search wrote the first of its end tokens, whichever ended the text.
            tokens = torch.where(self.is_end(tokens), self.end_tokens[0], tokens)
        sequences, beams = _take(self.running, candidates.parents), _take(self.running_beams, candidates.parents)
        sequences[:, :, self.length] = tokens
        beams[:, :, self.length] = candidates.parents + self.first_beams
        return sequences, beams

    def advance(self, candidates: _Candidates, sequences: Tensor, beams: Tensor, is_end: Tensor) -> Tensor:
        """
        Ends some of the candidates, (S, N) each, and goes on with others.

        Returns:
            The rows which the running beams extend: (images * num_beams,).
        """
        num_beams = self.scores.shape[1]
        generated_length = self.length + 1 - self.uncounted_length
        # A hypothesis counts only among the best K candidates; the others are there for the search to go on.
        counts = is_end[:, :num_beams] & ~self.done[:, None]
        ended_scores = candidates.scores[:, :num_beams] / generated_length**self.config.length_penalty
        self._keep_best(sequences[:, :num_beams], beams[:, :num_beams], ended_scores.masked_fill(~counts, -torch.inf))
        index = self.going_on(is_end)
        self.running, self.running_beams = _take(sequences, index), _take(beams, index)
        self.scores = _take(candidates.scores.masked_fill(is_end, -torch.inf), index)
        self.length += 1
        self.rows = self.running[:, :, : self.length].flatten(0, 1)
        is_stuck = (self.scores == -torch.inf).all(dim=1)
        self.done = self.done | is_stuck | self._is_settled(candidates.scores[:, 0])
        return (_take(candidates.parents, index) + self.first_rows).flatten()

    def end_running(self) -> None:
        """Ends the running beams of the searches that are not done."""
        scores = self.scores / (self.length - self.uncounted_length) ** self.config.length_penalty
        self._keep_best(self.running, self.running_beams, scores.masked_fill(self.done[:, None], -torch.inf))

    def best(self) -> tuple[Tensor, Tensor, Tensor]:
        """
        The best hypotheses of all groups together.

        Returns:
            Ids (sequences, length), scores (sequences,), and beam indices (sequences, generated length), in which a
            beam is counted over all images and -1 stands behind the end.
        """
        config = self.config
        sequences, scores, beams = (
            found.reshape(-1, config.num_beams, *found.shape[2:])
            for found in (self.finished, self.finished_scores, self.finished_beams)
        )
        # The library's scorer popped hypotheses off a sorted list, so of two equal scores the later one wins.
        order = scores.shape[1] - 1 - scores.flip(1).argsort(dim=1, descending=True, stable=True)
        order = order[:, : config.num_return_sequences]
        image_offsets = config.num_beams * torch.arange(len(beams), device=beams.device)[:, None, None]
        beams = _take(torch.where(beams < 0, beams, beams + image_offsets), order).flatten(0, 1)[
            :, self.prompt_length :
        ]
        width = int((beams >= 0).sum(dim=1).max())
        sequences = _take(sequences, order).flatten(0, 1)[:, : self.prompt_length + width]
        return sequences, _take(scores, order).flatten(), beams[:, :width]

    def _keep_best(self, sequences: Tensor, beams: Tensor, scores: Tensor) -> None:
        """Merges hypotheses (S, N, L), of score -inf where there is none, into the K best of each search."""
        # Stable: an earlier hypothesis wins over a later one of the same score.
        all_scores, best = torch.cat([self.finished_scores, scores], dim=1).sort(dim=1, descending=True, stable=True)
        best = best[:, : self.scores.shape[1]]
        self.finished_scores = all_scores[:, : self.scores.shape[1]]
        self.finished = _take(torch.cat([self.finished, sequences], dim=1), best)
        self.finished_beams = _take(torch.cat([self.finished_beams, beams], dim=1), best)

    def _is_settled(self, best_scores: Tensor) -> Tensor:
        """(S,) the best sums of scores -> (S,) whether K hypotheses have ended and no other can beat them."""
        config, worst = self.config, self.finished_scores[:, -1]
        is_full = worst > -torch.inf
        if config.early_stopping is True:
            return is_full
        is_open_ended = config.early_stopping == "never" and config.length_penalty > 0
        length = (config.max_length if is_open_ended else self.length) - self.uncounted_length
        return is_full & (worst >= best_scores / length**config.length_penalty)


def _penalize_taken(scores: Tensor, taken: list[Tensor], penalty: float) -> None:
    """
    Lowers `scores` in place by `penalty` times how often the earlier groups took each token at this step.

    (images, K, vocabulary), an (images, K) for each earlier group.
    """
    tokens = torch.cat(taken, dim=1)
    counts = (tokens[:, :, None] == tokens[:, None]).sum(dim=2)
    tokens, counts = (values[:, None].expand(-1, scores.shape[1], -1) for values in (tokens, counts))
    # A token that was taken twice is written twice, with the same score.
    scores.scatter_(2, tokens, scores.gather(2, tokens) - penalty * counts)


def _propose(searches: _Searches, scores: Tensor, processors: LogitsProcessorList) -> tuple[_Candidates, list[Tensor]]:
    """
    Candidates of all searches, and the scores that they come from.

    With a penalty the processors are called for each group, since what a group is to pay depends on what they leave to
    the groups before it. They see the group's rows where all of them are `ROW_BY_ROW`. Otherwise they see the rows of
    all groups together, as in the library's beam search, since some count rows to find the image; the scores that they
    return for the other groups are not used.

    Args:
        scores: (images * num_beams, vocabulary); changed in place.

    Returns:
        The candidates, and the processed scores of each group, (images, K, vocabulary).
    """
    config, group_size = searches.config, searches.scores.shape[1]
    num_groups, penalty = config.num_beam_groups or 1, config.diversity_penalty or 0.0
    grouped_rows, grouped_scores = (
        part.view(-1, num_groups, group_size, part.shape[-1]) for part in (searches.rows, scores)
    )
    is_by_row = all(type(processor) in ROW_BY_ROW for processor in processors)
    proposals: list[_Candidates] = []
    processed_scores: list[Tensor] = []
    taken: list[Tensor] = []
    for group in range(num_groups):
        own_scores = grouped_scores[:, group]
        if penalty and taken:
            _penalize_taken(own_scores, taken, penalty)
        if penalty and is_by_row:
            processed = processors(grouped_rows[:, group].flatten(0, 1), own_scores.flatten(0, 1)).view_as(own_scores)
        else:
            if penalty or group == 0:
                # A copy, for a processor may write into what it gets.
                all_processed = processors(searches.rows, scores.clone() if penalty else scores)
            processed = all_processed.view_as(grouped_scores)[:, group]
        candidates = searches.propose(processed, group)
        proposals.append(candidates)
        processed_scores.append(processed)
        taken.append(_take(candidates.tokens, searches.going_on(searches.is_end(candidates.tokens))))
    merged = _Candidates(*(torch.stack(parts, dim=1).flatten(0, 1) for parts in zip(*proposals, strict=True)))
    return merged, processed_scores


class _Record:
    """What was asked for beside the ids, each a tuple with an entry a step, or None where it was not asked for."""

    def __init__(self, config: GenerationConfig):
        wanted = {
            "scores": config.output_scores,
            "logits": config.output_logits,
            "attentions": config.output_attentions,
            "hidden_states": config.output_hidden_states,
        }
        self.steps: dict[str, Any] = {
            name: () if is_wanted and config.return_dict_in_generate else None for name, is_wanted in wanted.items()
        }

    def add(self, outputs: ModelOutput, logits: Tensor, processed_scores: list[Tensor]) -> None:
        """One step: the model's outputs, logits (images * num_beams, vocabulary), each group's scores of the same."""
        values = {"attentions": outputs.attentions, "hidden_states": outputs.hidden_states}
        if self.steps["logits"] is not None:
            # A copy: what a compiled step returns is overwritten by the next.
            values["logits"] = logits.clone()
        if self.steps["scores"] is not None:
            values["scores"] = torch.stack(processed_scores, dim=1).flatten(0, 2)
        for name, value in values.items():
            if self.steps[name] is not None:
                self.steps[name] += (value,)


def _has_sharded_weights(model: GenerationMixin) -> bool:
    """Whether processes share the weights, so that each must call the model as often as the others do."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed.fsdp import FSDPModule

    is_sharded = is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model) or isinstance(model, FSDPModule)
    return is_sharded and torch.distributed.get_world_size() > 1


def _step(model: GenerationMixin, input_ids: Tensor, model_kwargs: dict[str, Any]) -> ModelOutput:
    """Runs the model on the newest token of each row, or on all where nothing is cached."""
    next_sequence_length = 1 if model_kwargs.get("use_cache") else None
    model_inputs = model.prepare_inputs_for_generation(
        input_ids, next_sequence_length=next_sequence_length, **model_kwargs
    )
    return model(**model_inputs, return_dict=True)


def _idle(model: GenerationMixin, input_ids: Tensor, model_kwargs: dict[str, Any]) -> None:
    """Runs the model for the sake of other processes, on one token: neither text nor cache grows out of bounds."""
    left_out = ("cache", "use_cache", "attention_mask", "position_ids", "prompt_key_mask")
    kept = {name: value for name, value in model_kwargs.items() if name not in left_out}
    # A new cache, since the others' steps have one: all must call the same parts of the model.
    cache = None if model_kwargs.get("cache") is None else DynamicCache()
    model_inputs = model.prepare_inputs_for_generation(
        input_ids[:, :1], cache=cache, use_cache=cache is not None, **kept
    )
    model(**model_inputs, return_dict=True)


def _reorder(model: GenerationMixin, model_kwargs: dict[str, Any], rows: Tensor) -> None:
    """Has the cache hold what the running beams extend: (images * num_beams,)."""
    cache = model_kwargs.get("cache")
    if cache is None:
        return
    if hasattr(model, "_reorder_cache"):
        model_kwargs["cache"] = model._reorder_cache(cache, rows)
    else:
        cache.reorder_cache(rows)


def _validate(config: GenerationConfig) -> None:
    num_groups, num_beams = config.num_beam_groups or 1, config.num_beams
    if num_beams % num_groups:
        raise ValueError(f"num_beams={num_beams} must be a multiple of num_beam_groups={num_groups}.")
    if config.do_sample:
        raise ValueError(f"num_beam_groups={num_groups} searches without sampling: pass do_sample=False.")
    if config.constraints is not None or config.force_words_ids is not None:
        raise ValueError(
            f"num_beam_groups={num_groups} cannot force words: leave out constraints and force_words_ids."
        )


def _advance(
    searches: _Searches, candidates: _Candidates, stopping_criteria: StoppingCriteriaList, scores: Any
) -> tuple[Tensor, bool]:
    """
    One step of all searches, in which the stopping criteria end candidates as in the library's beam search.

    Returns:
        The rows which the running beams extend, (images * num_beams,), and whether the criteria leave none to go on.
    """
    sequences, beams = searches.extend(candidates)
    is_end = searches.is_end(candidates.tokens)
    hits = stopping_criteria(sequences[:, :, : searches.length + 1].flatten(0, 1), scores).view_as(is_end) | is_end
    is_cut_off = bool((hits | searches.done[:, None]).all())
    # Beams that are cut off, as at the maximum length, wait for `end_running`: end tokens come first.
    return searches.advance(candidates, sequences, beams, is_end if is_cut_off else hits), is_cut_off


def _advance_as_open_clip(
    searches: _Searches, candidates: _Candidates, stopping_criteria: StoppingCriteriaList, scores: Any
) -> tuple[Tensor, bool]:
    """`_advance`, but as in open_clip the stopping criteria end nothing unless all running beams meet them."""
    rows = searches.advance(candidates, *searches.extend(candidates), searches.is_end(candidates.tokens))
    return rows, bool(stopping_criteria(searches.rows, scores).all())


def diverse_beam_search(
    model: GenerationMixin,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    synced_gpus: bool | None = None,
    score_by: Literal["log_probabilities", "logits"] = "log_probabilities",
    **model_kwargs: Any,
) -> GenerateBeamDecoderOnlyOutput | Tensor:
    """
    Diverse beam search (arXiv 1610.02424): groups of beams, each discouraged from the tokens of those before it.

    `CoCaForCaptioning.generate` selects it when `num_beam_groups > 1`. Hypotheses, lengths and ties are treated as the
    library's own group beam search treated them while it had one (transformers before 4.56), everything else as its
    beam search treats it.

    Args:
        input_ids: (images * num_beams, prompt).
        logits_processor: Called once a step; with a penalty once a group and step.
        stopping_criteria: Each ends the hypotheses for which it is true.
        generation_config: `num_beams`, `num_beam_groups`, `diversity_penalty`, `length_penalty`, `early_stopping` and
            `num_return_sequences` apply.
        synced_gpus: Whether to call the model until every process has finished. By default, where processes share the
            weights.
        score_by: "logits" for the scores of open_clip's `generate()`: sums of raw logits, divided by the length of the
            whole text, prompt included. Stopping criteria then end the search once all running beams meet them.

    Returns:
        Ids (images * num_return_sequences, length), or the library's output with them.

    Raises:
        ValueError: `num_beams` is no multiple of `num_beam_groups`, or the config asks for sampling or forced words.
    """
    _validate(generation_config)
    if synced_gpus is None:
        synced_gpus = _has_sharded_weights(model)
    by_logits = score_by == "logits"
    advance = _advance_as_open_clip if by_logits else _advance
    searches = _Searches(input_ids, generation_config, uncounted_length=0 if by_logits else input_ids.shape[1])
    record = _Record(generation_config)
    is_first, is_finished = True, False
    while model._has_unfinished_sequences(is_finished, synced_gpus, device=input_ids.device):
        if is_finished:
            _idle(model, input_ids, model_kwargs)
            continue
        if is_first:
            outputs = model._prefill(input_ids, generation_config, model_kwargs)
        else:
            outputs = _step(model, searches.rows, model_kwargs)
        is_first = False
        model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs)
        logits = outputs.logits[:, -1].float()
        scores = logits.clone() if by_logits else F.log_softmax(logits, dim=-1)
        candidates, processed_scores = _propose(searches, scores, logits_processor)
        record.add(outputs, logits, processed_scores)
        del outputs  # its logits can be large after a prompt
        rows, is_cut_off = advance(searches, candidates, stopping_criteria, record.steps["scores"])
        _reorder(model, model_kwargs, rows)
        is_finished = is_cut_off or bool(searches.done.all())

    searches.end_running()
    sequences, sequences_scores, beam_indices = searches.best()
    if not generation_config.return_dict_in_generate:
        return sequences
    return GenerateBeamDecoderOnlyOutput(
        sequences=sequences,
        sequences_scores=sequences_scores if generation_config.output_scores else None,
        beam_indices=beam_indices,
        cache=model_kwargs.get("cache"),
        **record.steps,
    )
