# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""open_clip's `SimpleTokenizer`, `tokenize` and `decode`, on this package's tokenizer."""

import functools
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import decoders
from transformers import PreTrainedTokenizerBase

from ..conversion.preprocessing import clip_vocabulary
from ..tokenization_coca import CoCaTokenizer


DEFAULT_CONTEXT_LENGTH = 77


class SimpleTokenizer:
    """
    Texts -> ids of a fixed length, as open_clip's models take them.

    Args:
        bpe_path: The vocabulary file `bpe_simple_vocab_16e6.txt.gz`, or the `tokenizer.json` of a CLIP repository. By
            default that of an installed open_clip, else the one of openai/clip-vit-large-patch14 on the Hub.
        additional_special_tokens: Must be None.
        context_length: Length of the ids.
        clean: Must be "lower", as CoCa's models were trained.
        reduction_mask: Must be "".

    Raises:
        ValueError: An argument asks for something that CoCa's models do not use.
        ConversionError: There is no vocabulary.
    """

    def __init__(
        self,
        bpe_path: str | Path | None = None,
        additional_special_tokens: list[str] | None = None,
        context_length: int | None = DEFAULT_CONTEXT_LENGTH,
        clean: str = "lower",
        reduction_mask: str = "",
    ):
        for name, value, allowed in (
            ("additional_special_tokens", additional_special_tokens or None, None),
            ("clean", clean, "lower"),
            ("reduction_mask", reduction_mask, ""),
        ):
            if value != allowed:
                raise ValueError(f"{name}={value!r} is not supported: CoCa's models use {allowed!r}.")
        path = clip_vocabulary() if bpe_path is None else bpe_path
        self._take(CoCaTokenizer.from_open_clip_vocabulary(path), context_length)

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase, context_length: int | None) -> "SimpleTokenizer":
        """open_clip's way of calling a tokenizer that is there already."""
        simple = cls.__new__(cls)
        simple._take(tokenizer, context_length)
        return simple

    def _take(self, tokenizer: PreTrainedTokenizerBase, context_length: int | None) -> None:
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.vocab_size = len(tokenizer)
        self.sot_token_id, self.eot_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.all_special_ids = [self.sot_token_id, self.eot_token_id]

    def encode(self, text: str) -> list[int]:
        """A text's ids, without start and end."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of ids, special tokens and padding included."""
        words = self.tokenizer.convert_ids_to_tokens([int(token) for token in tokens])
        return decoders.ByteLevel().decode(words).replace("</w>", " ")

    def __call__(self, texts: str | list[str], context_length: int | None = None) -> torch.LongTensor:
        """
        Texts -> ids (texts, context_length), padded with the padding id; a longer text loses its end.

        Raises:
            ValueError: There is no context length.
        """
        texts = [texts] if isinstance(texts, str) else texts
        length = context_length or self.context_length
        if not length:
            raise ValueError("The tokenizer has no context length: give context_length.")
        result = torch.full((len(texts), length), self.tokenizer.pad_token_id or 0, dtype=torch.long)
        for row, text in enumerate(texts):
            ids = [self.sot_token_id, *self.encode(text)][: length - 1]
            result[row, : len(ids) + 1] = torch.tensor([*ids, self.eot_token_id])
        return result


@functools.cache
def _default() -> SimpleTokenizer:
    return SimpleTokenizer()


def tokenize(texts: str | list[str], context_length: int = DEFAULT_CONTEXT_LENGTH) -> torch.LongTensor:
    """Texts -> ids (texts, context_length) of CLIP's vocabulary: see [`SimpleTokenizer`]."""
    return _default()(texts, context_length)


def decode(output_ids: torch.Tensor) -> str:
    """The text of ids (length,) of CLIP's vocabulary, special tokens and padding included."""
    return _default().decode(output_ids.tolist())
