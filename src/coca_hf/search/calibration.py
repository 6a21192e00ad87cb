# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What "matches" means in one index, found out from the index itself.

How similar a text and a picture are that belong together depends on the model, on the photos and on the length of the
text. An index has examples of its own: pieces of a photo's caption are texts that belong to that photo. Their
similarities to their photos are what a query's are held against, those of about its length. There are two witnesses
for a photo, its similarity and its caption, and a photo matches a query where its similarity is not below

    the lowest of such pairs (`SAID`)       and its caption says the query: all of its words in their order and close
                                            together, but for those that most captions hold
    most of such pairs (`UNSAID`)           and its caption says less than three quarters of them
    half of such pairs (`UNKNOWN`)          and the query has words that no caption of the index uses, about which
                                            captions tell nothing

and in proportion between the first two where the caption says more than three quarters. So "three red circles" is not
said by "three blue circles above a red star", which is nearly as similar to it.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


SAID, UNSAID, UNKNOWN = 0.02, 0.72, 0.5
"""Which shares of the pairs of text and photo are less similar than those that match, with the caption's word for it,
without, and where captions tell nothing. They are conventions; the similarities that they stand for are each index's
own."""

FARTHEST = 0.05
"""A picture matches a photo unless they are less similar than photos of the index are to their nearest others, the
farthest of these (such a share) left out."""

# Photos of which pieces of captions are taken, and pieces of each.
_PHOTOS, _PIECES = 250, 4

_LONGEST_PIECE = 12

# A caption that leaves out this share of a query does not say it.
_LITTLE = 0.25

# So many pairs of about the query's length are looked at, where there are as many.
_ENOUGH = 50

_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """Lower case, plurals as singulars where an "s" makes them (English; of other languages the words as they are)."""
    return [_singular(word) for word in _WORD.findall(text.lower())]


def _singular(word: str) -> str:
    if word.endswith("sses"):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


@dataclass(frozen=True)
class Limits:
    """Similarities from which on a photo matches: whose caption says the query, and whose caption does not."""

    said: float
    unsaid: float

    def at(self, share: float) -> float:
        """For a caption that says this share of the query."""
        return self.said + (self.unsaid - self.said) * min(1.0, (1.0 - share) / _LITTLE)


@dataclass(frozen=True)
class Calibration:
    """
    Of an index with `photos` photos.

    Args:
        frequent: the words that are in more than half of the captions, which tell photos apart no more.
        known: the other words of captions.
        pairs: (other words in a piece of a caption, its similarity to its photo), in the order of the first.
        nearest: similarities of photos to those that are nearest to them, ascending.
    """

    photos: int = 0
    frequent: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()
    pairs: tuple[tuple[int, float], ...] = ()
    nearest: tuple[float, ...] = ()

    def is_outdated(self, photos: int) -> bool:
        """Whether the index has grown to twice what it was, or shrunk to half."""
        return photos >= 2 * self.photos or 2 * photos <= self.photos

    def telling(self, words: Sequence[str]) -> list[str]:
        """Those that are not in most captions."""
        return [word for word in words if word not in self.frequent]

    def limits(self, words: Sequence[str], unsaid: float = UNSAID) -> Limits:
        """For a query of these words."""
        if not self.pairs:
            return Limits(-1.0, -1.0)
        telling = self.telling(words)
        length = min(max(len(telling), 1), _LONGEST_PIECE)
        distances = np.abs(np.asarray([number for number, _ in self.pairs]) - length)
        reach = np.sort(distances)[min(_ENOUGH, len(distances)) - 1]
        similar = np.asarray([similarity for _, similarity in self.pairs])[distances <= reach]
        upper = unsaid if set(telling) <= self.known else min(UNKNOWN, unsaid)
        return Limits(*np.quantile(similar, (SAID, upper)).tolist())

    @property
    def picture_limit(self) -> float:
        return float(np.quantile(self.nearest, FARTHEST)) if self.nearest else -1.0

    def may_say(self, query: Sequence[str]) -> Callable[[bytes], bool]:
        """
        Whether `said` can be more than 0 for the caption in a line of ASCII JSON, seen in a hundredth of its time.

        A word in singular is the beginning of the word in the caption. Escaped letters are not looked into.
        """
        wanted = {word.encode("utf-8") for word in self.telling(query)}
        is_ascii, least = all(map(bytes.isascii, wanted)), (1 - _LITTLE) * len(wanted)

        def may(line: bytes) -> bool:
            if not is_ascii or b"\\u" in line:
                return True
            lower = line.lower()
            return sum(word in lower for word in wanted) > least

        return may

    def said(self, caption: str, query: Sequence[str]) -> float:
        """The share of the query's telling words that the caption holds in their order and close together."""
        wanted = self.telling(query)
        found = self.telling(words_of(caption))
        if not wanted or len(set(wanted) & set(found)) <= (1 - _LITTLE) * len(set(wanted)):
            return 0.0
        # Room for other words between, as in "two small red circles".
        reach = 2 * len(wanted)
        starts = (place for place, word in enumerate(found) if word in wanted)
        return max(_in_order(wanted, found[start : start + reach]) for start in starts) / len(wanted)

    def to_json(self) -> dict[str, Any]:
        return {
            "photos": self.photos,
            "frequent": sorted(self.frequent),
            "known": sorted(self.known),
            "pairs": [[number, round(similarity, 4)] for number, similarity in self.pairs],
            "nearest": [round(similarity, 4) for similarity in self.nearest],
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Calibration":
        pairs = tuple((number, similarity) for number, similarity in content["pairs"])
        frequent, known = frozenset(content["frequent"]), frozenset(content["known"])
        return cls(content["photos"], frequent, known, pairs, tuple(content["nearest"]))


def _in_order(wanted: Sequence[str], found: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    longest = [0] * (len(wanted) + 1)
    for word in found:
        before = 0
        for place, each in enumerate(wanted, 1):
            above = longest[place]
            longest[place] = before + 1 if word == each else max(above, longest[place - 1])
            before = above
    return longest[-1]


def calibrate(
    captions: Sequence[str], embeddings: np.ndarray, embed: Callable[[list[str]], np.ndarray]
) -> Calibration:
    """
    Looks at an index.

    Args:
        captions: of all photos.
        embeddings: float32 (photos, dimensions), L2-normalised.
        embed: texts -> the same of texts.
    """
    # The same index has the same limits whenever it is made.
    chance = random.Random(len(captions))
    counts = Counter(word for caption in captions for word in set(words_of(caption)))
    frequent = frozenset(word for word, number in counts.items() if 2 * number > len(captions))
    found = Calibration(len(captions), frequent, frozenset(counts) - frequent)
    sample = sorted(chance.sample(range(len(captions)), min(_PHOTOS, len(captions))))
    pieces = [(row, piece) for row in sample for piece in _pieces(captions[row], found, chance)]
    pairs: list[tuple[int, float]] = []
    if pieces:
        texts = embed([piece for _, piece in pieces])
        similarities = np.einsum("ij,ij->i", texts, embeddings[[row for row, _ in pieces]])
        lengths = [len(found.telling(words_of(piece))) for _, piece in pieces]
        pairs = sorted(zip(lengths, similarities.tolist(), strict=True))
    return replace(found, pairs=tuple(pairs), nearest=tuple(_nearest(embeddings, sample)))


def _pieces(caption: str, found: Calibration, chance: random.Random) -> list[str]:
    """Some runs of the caption's words, of all lengths, that begin and end in words that tell."""
    words = caption.split()
    tells = [bool(found.telling(words_of(word))) for word in words]
    ends = [place for place, is_end in enumerate(tells) if is_end]
    runs = [(start, end) for start in ends for end in ends if 0 <= end - start < _LONGEST_PIECE]
    by_length: dict[int, list[tuple[int, int]]] = {}
    for start, end in runs:
        by_length.setdefault(end - start, []).append((start, end))
    lengths = chance.sample(sorted(by_length), min(_PIECES, len(by_length)))
    return [" ".join(words[start : end + 1]) for start, end in (chance.choice(by_length[each]) for each in lengths)]


def _nearest(embeddings: np.ndarray, rows: Sequence[int]) -> list[float]:
    """How similar these rows are to the rows that are nearest to them, ascending."""
    if len(embeddings) < 2:
        return []
    best = np.full(len(rows), -1.0, np.float32)
    queries = embeddings[list(rows)]
    for start in range(0, len(embeddings), 1 << 14):
        similarities = queries @ embeddings[start : start + (1 << 14)].T
        for number, row in enumerate(rows):
            if start <= row < start + (1 << 14):
                similarities[number, row - start] = -1.0
        best = np.maximum(best, similarities.max(axis=1))
    return sorted(best.tolist())
