# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""BLEU, ROUGE-L and CIDEr as coco-caption computes them: the numbers that papers on captioning print.

All three are formulas on counts of tokens and n-grams. Where coco-caption departs from the papers that they come
from, so does this: BLEU (Papineni et al. 2002) adds tiny constants in place of smoothing; ROUGE-L (Lin 2004) takes the
best precision and the best recall of all references with beta 1.2; "CIDEr" is CIDEr-D (Vedantam et al. 2015, section
7) with sigma 6, times 10, and document frequencies from the references that are evaluated.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import meteor as java_meteor
from .errors import EvaluationError
from .ptb_tokenizer import ptb_tokenize


logger = logging.getLogger(__name__)

METRICS = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider")

_ORDERS = range(1, 5)
_BETA = 1.2
_SIGMA = 6.0

# coco-caption's, so that a precision of nothing is nearly nothing, and no division is by zero.
_TINY, _SMALL = 1e-15, 1e-9


def caption_scores(
    candidates: Mapping[Any, str],
    references: Mapping[Any, Sequence[str]],
    *,
    per_image: bool = False,
    bootstrap: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
    meteor: bool = False,
    tokenize: Callable[[str], list[str]] = ptb_tokenize,
) -> dict[str, Any]:
    """
    Scores of captions against reference captions.

    Args:
        candidates: {id: caption}, one an image.
        references: {id: [caption, ...]} of the same ids.
        per_image: whether to have the scores of each image, as coco-caption gives them, too.
        bootstrap: number of resamples of the images for intervals, 1000 for instance; 0 for none. CIDEr keeps the
            document frequencies of the whole set in them.
        confidence: of an interval, 0.95 from the 2.5th to the 97.5th percentile.
        seed: of the resampling.
        meteor: METEOR, too, where Java and the package pycocoevalcap are; else a line in the log says why not.
        tokenize: text -> tokens; `str.split` for texts that are tokenized.

    Returns:
        {"bleu_1": ..., "bleu_2": ..., "bleu_3": ..., "bleu_4": ..., "rouge_l": ..., "cider": ...}, fractions as
        coco-caption prints them (CIDEr is between 0 and 10); with `per_image` "per_image": {id: {"bleu_1": ...}}, with
        `bootstrap` "intervals": {"bleu_1": (low, high), ...}.

        Of a single image CIDEr is 0, because every n-gram occurs in every image. A candidate without tokens has 0 in
        everything, unless a reference has none either: then ROUGE-L is 1.

    Raises:
        EvaluationError: (a `ValueError`) Ids are in one mapping only, there are none, or something is no text.
    """
    check_captions(candidates, references)
    if bootstrap < 0 or not 0 < confidence < 1:
        raise EvaluationError("bootstrap has to be 0 or more, and confidence between 0 and 1")
    tokenized = {}

    def words_of(text: str) -> list[str]:
        # References repeat each other.
        if text not in tokenized:
            tokenized[text] = tokenize(text)
        return tokenized[text]

    ids = list(references)
    images = [_Image(words_of(candidates[each]), [words_of(text) for text in references[each]]) for each in ids]
    parts = _Parts.of(images)
    scores: dict[str, Any] = parts.scores()
    found_meteor = _meteor(images) if meteor else None
    if found_meteor is not None:
        scores["meteor"] = found_meteor[0]
    if per_image:
        columns = parts.per_image()
        if found_meteor is not None:
            columns["meteor"] = found_meteor[1]
        rows = zip(*columns.values(), strict=True)
        scores["per_image"] = {each: dict(zip(columns, row, strict=True)) for each, row in zip(ids, rows, strict=True)}
    if bootstrap:
        scores["intervals"] = parts.intervals(bootstrap, confidence, seed)
    return scores


def check_captions(candidates: Mapping[Any, str], references: Mapping[Any, Sequence[str]]) -> None:
    """Raises `EvaluationError` unless both are texts for the same ids."""
    if not references:
        raise EvaluationError("there are no references: nothing to compare captions with")
    for here, there, what, other in (
        (candidates, references, "a candidate", "no reference"),
        (references, candidates, "references", "no candidate"),
    ):
        alone = [each for each in here if each not in there]
        if alone:
            more = f" and so have {len(alone) - 1:,} more" if len(alone) > 1 else ""
            raise EvaluationError(f"{alone[0]!r} has {what} but {other}{more}. Give both for the same images")
    for each, text in candidates.items():
        if not isinstance(text, str):
            raise EvaluationError(f"the candidate of {each!r} is no text but {type(text).__name__}")
    for each, texts in references.items():
        if isinstance(texts, str) or not isinstance(texts, Sequence) or not texts:
            raise EvaluationError(f"the references of {each!r} have to be a list of one or more texts")
        if not all(isinstance(text, str) for text in texts):
            raise EvaluationError(f"a reference of {each!r} is no text")


@dataclass(frozen=True)
class _Image:
    candidate: list[str]
    references: list[list[str]]


def _meteor(images: Sequence[_Image]) -> tuple[float, list[float]] | None:
    why = java_meteor.why_missing()
    if why is not None:
        logger.warning("METEOR is left out: %s", why)
        return None
    return java_meteor.meteor_scores(
        [" ".join(image.candidate) for image in images],
        [[" ".join(words) for words in image.references] for image in images],
    )


@dataclass(frozen=True)
class _Parts:
    """What scores of any subset of the images are made of, a row an image."""

    correct: np.ndarray
    """(images, 4): n-grams of the candidate that references have too."""
    guessed: np.ndarray
    """(images, 4): n-grams of the candidate."""
    lengths: np.ndarray
    """(images, 2): tokens of the candidate and of the reference that is nearest to it in length."""
    rouge: np.ndarray
    cider: np.ndarray

    @classmethod
    def of(cls, images: Sequence[_Image]) -> "_Parts":
        numbers: dict[Hashable, int] = {}
        correct, guessed, lengths, rouge = [], [], [], []
        counted = []
        for image in images:
            candidate = _ngrams(image.candidate, numbers)
            references = [_ngrams(words, numbers) for words in image.references]
            counted.append((candidate, references))
            correct.append([_clipped(candidate, references, order) for order in range(4)])
            guessed.append([max(candidate.length - order, 0) for order in range(4)])
            nearest = min((abs(each.length - candidate.length), each.length) for each in references)[1]
            lengths.append([candidate.length, nearest])
            rouge.append(_rouge_l(image))
        return cls(
            np.array(correct, float),
            np.array(guessed, float),
            np.array(lengths, float),
            np.array(rouge),
            _cider(counted),
        )

    def scores(self) -> dict[str, float]:
        weights = np.ones((1, len(self.rouge)))
        return {name: float(values[0]) for name, values in self._weighted(weights).items()}

    def per_image(self) -> dict[str, list[float]]:
        bleu = _bleu(self.correct, self.guessed, self.lengths)
        names = (f"bleu_{order}" for order in _ORDERS)
        columns = dict(zip(names, bleu.T, strict=True)) | {"rouge_l": self.rouge, "cider": self.cider}
        return {name: values.tolist() for name, values in columns.items()}

    def intervals(self, resamples: int, confidence: float, seed: int) -> dict[str, tuple[float, float]]:
        number = len(self.rouge)
        generator = np.random.default_rng(seed)
        # In pieces: a resample is a row of as many numbers as there are images.
        step = max(1, 2_000_000 // number)
        found: dict[str, list[np.ndarray]] = {name: [] for name in METRICS}
        for start in range(0, resamples, step):
            rows = min(step, resamples - start)
            weights = generator.multinomial(number, np.full(number, 1 / number), size=rows).astype(float)
            for name, values in self._weighted(weights).items():
                found[name].append(values)
        outside = 50 * (1 - confidence)
        bounds = {name: np.percentile(np.concatenate(each), [outside, 100 - outside]) for name, each in found.items()}
        return {name: (float(low), float(high)) for name, (low, high) in bounds.items()}

    def _weighted(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of as many sets of images as there are rows of weights (sets, images)."""
        bleu = _bleu(weights @ self.correct, weights @ self.guessed, weights @ self.lengths)
        total = weights.sum(axis=1)
        means = {"rouge_l": weights @ self.rouge / total, "cider": weights @ self.cider / total}
        return {f"bleu_{order}": bleu[:, order - 1] for order in _ORDERS} | means


@dataclass(frozen=True)
class _NGrams:
    """Counts of each order's n-grams, and the number of tokens."""

    counts: tuple[Counter[Any], ...]
    length: int


def _ngrams(tokens: Iterable[str], numbers: dict[Hashable, int]) -> _NGrams:
    # coco-caption joins tokens by spaces and splits them again at every kind of space.
    words = " ".join(tokens).split()
    coded = [numbers.setdefault(word, len(numbers)) for word in words]
    shifted = [coded[order:] for order in range(4)]
    return _NGrams(tuple(Counter(zip(*shifted[: order + 1], strict=False)) for order in range(4)), len(words))


def _clipped(candidate: _NGrams, references: Sequence[_NGrams], order: int) -> int:
    counts = [each.counts[order] for each in references]
    return sum(min(number, max(each[ngram] for each in counts)) for ngram, number in candidate.counts[order].items())


def _bleu(correct: np.ndarray, guessed: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(sets, 4) counts and (sets, 2) lengths -> (sets, 4): BLEU with 1 to 4 orders."""
    precisions = np.cumprod((correct + _TINY) / (guessed + _SMALL), axis=1)
    bleu = precisions ** (1 / np.arange(1, 5))
    ratio = (lengths[:, 0] + _TINY) / (lengths[:, 1] + _SMALL)
    # exp() of a candidate without tokens is 0.
    with np.errstate(over="ignore"):
        penalty = np.where(ratio < 1, np.exp(1 - 1 / ratio), 1.0)
    return bleu * penalty[:, None]


def _rouge_l(image: _Image) -> float:
    # coco-caption splits at single spaces, so that a text without tokens has one, the empty one.
    candidate = " ".join(image.candidate).split(" ")
    places: dict[str, int] = {}
    for number, word in enumerate(candidate):
        places[word] = places.get(word, 0) | 1 << number
    precision = recall = 0.0
    for tokens in image.references:
        reference = " ".join(tokens).split(" ")
        common = _common(places, len(candidate), reference)
        precision = max(precision, common / len(candidate))
        recall = max(recall, common / len(reference))
    if not precision or not recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _common(places: Mapping[str, int], length: int, reference: Sequence[str]) -> int:
    """Length of the longest common subsequence, all places of one text at a time in the bits of a number.

    Hyyrö, "Bit-parallel LCS-length computation revisited" (2004): a bit turns to 0 where the length grows.
    """
    bits = full = (1 << length) - 1
    for word in reference:
        matches = bits & places.get(word, 0)
        bits = (bits + matches | bits - matches) & full
    return length - bits.bit_count()


def _cider(counted: Sequence[tuple[_NGrams, Sequence[_NGrams]]]) -> np.ndarray:
    """(images,): CIDEr-D of each candidate."""
    frequencies: Counter[Any] = Counter()
    for _, references in counted:
        frequencies.update({ngram for each in references for counts in each.counts for ngram in counts})
    all_images = math.log(len(counted))
    weights = {ngram: all_images - math.log(number) for ngram, number in frequencies.items()}
    return np.array([_cider_of(candidate, references, weights, all_images) for candidate, references in counted])


def _cider_of(candidate: _NGrams, references: Sequence[_NGrams], weights: Mapping[Any, float], rarest: float) -> float:
    vectors = [
        {ngram: number * weights.get(ngram, rarest) for ngram, number in each.items()} for each in candidate.counts
    ]
    norms = [math.sqrt(sum(value * value for value in each.values())) for each in vectors]
    total = 0.0
    for reference in references:
        # The difference in bigrams, which is that in tokens where there are two.
        difference = max(candidate.length - 1, 0) - max(reference.length - 1, 0)
        nearness = math.exp(-(difference**2) / (2 * _SIGMA**2))
        for vector, norm, counts in zip(vectors, norms, reference.counts, strict=True):
            square = product = 0.0
            for ngram, number in counts.items():
                value = number * weights[ngram]
                square += value * value
                if ngram in vector:
                    product += min(vector[ngram], value) * value
            if norm and square:
                product /= norm * math.sqrt(square)
            total += product * nearness
    return 10 * total / 4 / len(references)
