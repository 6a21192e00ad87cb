# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The words of a text, and which tokens each of them is made of."""

import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from ..tokenization_coca import CoCaTokenizer, clean_text


@dataclass(frozen=True)
class Words:
    """
    A text as a model reads it.

    `token_ids` begin with the start token and end before the end token. `spans` gives for each of `words`, as they are
    written, the indices of its first token and of the one behind its last.
    """

    words: tuple[str, ...]
    token_ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


def written_words(text: str, tokenizer: Any, context: int) -> Words:
    """
    `split_words` of a caption that a model wrote, which may be without words.

    Encoded again it may be longer than what was written: words beyond the `context` are left out.
    """
    if not any(character.isalnum() for character in text):
        return Words((), (tokenizer.bos_token_id,), ())
    found = split_words(text, tokenizer)
    number = sum(end <= context for _, end in found.spans)
    return Words(found.words[:number], found.token_ids[:context], found.spans[:number])


def split_words(text: str, tokenizer: Any) -> Words:
    """
    Words are what white space separates, with the punctuation that is written onto them.

    Raises:
        ValueError: There is no letter and no number in the text.
    """
    if not any(character.isalnum() for character in text):
        raise ValueError(f"The text {text!r} has no words, so there is nothing to look for: give a caption.")
    # Offsets count in the text that the tokenizer makes of it.
    cleaned = clean_text(text) if isinstance(tokenizer, CoCaTokenizer) else text
    written, words = text.split(), cleaned.split()
    starts = [match.start() for match in re.finditer(r"\S+", cleaned)]
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    # By its end, for some tokenizers put the space before a word into its first token.
    ends = [max(start, end - 1) for start, end in encoding["offset_mapping"]]
    owners = [bisect_right(starts, end) - 1 for end in ends]
    shown = written if len(written) == len(words) else words
    found = sorted(set(owners))
    spans = [(1 + owners.index(word), 1 + len(owners) - owners[::-1].index(word)) for word in found]
    return Words(tuple(shown[word] for word in found), (tokenizer.bos_token_id, *encoding["input_ids"]), tuple(spans))
