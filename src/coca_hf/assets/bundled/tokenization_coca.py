# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""CoCa's tokenizer: open_clip's text cleaning and byte-pair encoding on the `tokenizers` backend."""

# This comes first: it refuses an older transformers in words. It also leads the Hub's loader to the other files.
from .configuration_coca import CoCaConfig  # noqa: F401


# isort: split
import gzip
import html
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers.tokenization_utils_tokenizers import TokenizersBackend
from transformers.utils import logging, to_py_obj


# Each file of a saved model reaches all others by imports, so that a copy of one brings the rest along.


try:
    import ftfy
except ImportError:
    ftfy = None  # type: ignore[assignment]


logger = logging.get_logger(__name__)

END_OF_WORD = "</w>"
# "ſ" because open_clip's pattern ignores case, and the long s is a case variant of "s" that lower() keeps.
WORD_PATTERN = r"'[sſ]|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# What ftfy never changes: printable ASCII and white space without HTML entities.
PLAIN_TEXT = re.compile(r"(?:[\t\n\r !-%'-~]|&(?![#\w]))*")
# open_clip reads this many of the 262,144 merges in its vocabulary file, which makes 49,408 entries in all.
OPEN_CLIP_MERGES = 49152 - 256 - 2


def byte_characters() -> list[str]:
    """The 256 printable characters that stand for bytes, in the order in which CLIP's vocabulary begins."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]


def vocabulary_from_merges(merges: Iterable[tuple[str, str]], special_tokens: Iterable[str]) -> dict[str, int]:
    """Token -> id as open_clip lays it out: bytes, bytes that end a word, merges in their order, special tokens."""
    characters = byte_characters()
    tokens = [*characters, *(character + END_OF_WORD for character in characters)]
    tokens += ["".join(pair) for pair in merges]
    tokens += special_tokens
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def byte_pair_backend(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """The `tokenizers` pipeline of open_clip's SimpleTokenizer, for text that `clean_text` has been over."""
    backend = Tokenizer(BPE(vocab=vocabulary, merges=merges, end_of_word_suffix=END_OF_WORD))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace(END_OF_WORD, " ")])
    return backend


def as_pair(merge: str | Iterable[str]) -> tuple[str, str]:
    """A merge as files hold it, "a b" or ["a", "b"]. Raises `ValueError` for anything but two tokens."""
    left, right = merge.split() if isinstance(merge, str) else merge
    return left, right


def read_merges(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Merges of open_clip's `bpe_simple_vocab_16e6.txt.gz` (gzipped or not) or of a CLIP `tokenizer.json`."""
    name = os.fspath(path)
    if name.endswith(".json"):
        with open(name, encoding="utf-8") as file:
            merges = json.load(file)["model"]["merges"]
        return [as_pair(merge) for merge in merges]
    with gzip.open(name, "rt", encoding="utf-8") if name.endswith(".gz") else open(name, encoding="utf-8") as file:
        lines = file.read().split("\n")
    return [as_pair(line) for line in lines[1 : OPEN_CLIP_MERGES + 1] if line]


def clean_text(text: str) -> str:
    """Mojibake repaired, HTML entities resolved twice, white space collapsed, lower case.

    This is open_clip's `clean="lower"`. Without ftfy, text is composed (NFC) and not otherwise repaired; the first
    text that ftfy might have changed brings a warning.
    """
    if ftfy is not None:
        text = ftfy.fix_text(text)
    elif not PLAIN_TEXT.fullmatch(text):
        logger.warning_once(
            "ftfy is not installed: mojibake, curly quotes, ligatures, full-width letters and control characters stay "
            "as they are, so texts that hold them may get other token ids than in training. `pip install ftfy` cures "
            "it."
        )
        text = unicodedata.normalize("NFC", text)
    text = html.unescape(html.unescape(text))
    return " ".join(text.split()).lower()


def clean_batches(texts: Iterable[str] | Iterable[list[str]]) -> Iterator[str]:
    """Cleaned texts, one by one, of texts or batches of texts."""
    for item in texts:
        yield from map(clean_text, [item] if isinstance(item, str) else item)


def hide_after_punctuation(text: str, special_tokens: list[str]) -> str:
    """Break up the special tokens that follow punctuation, which are plain text to open_clip.

    It finds words from left to right, so punctuation before a special token swallows the token's "<". The `tokenizers`
    library looks for special tokens first and would find it; a space after the "<" hides it and changes no word.
    """
    pieces = []
    end = 0  # of what is in pieces
    pattern = "|".join(map(re.escape, special_tokens))
    for match in re.finditer(pattern, text) if pattern else ():
        before = text[end : match.start()]
        hidden = before and not before[-1].isspace() and unicodedata.category(before[-1])[0] not in "LN"
        if hidden:
            # Only up to the "<": what follows is punctuation to the next special token.
            pieces += [before, text[match.start()], " "]
            end = match.start() + 1
        else:
            pieces += [before, match.group()]
            end = match.end()
    return "".join(pieces) + text[end:]


class CoCaTokenizer(TokenizersBackend):
    """Byte-pair encoding with the ids of open_clip's `SimpleTokenizer`, in transformers' calling convention.

    Texts are cleaned as open_clip cleans them (see `clean_text`); offsets and words in an encoding refer to
    the cleaned text. Encodings start with `<start_of_text>` and end with `<end_of_text>`; truncation keeps both.
    Either of them in a text, in any case, becomes its id, as in open_clip.

    Padding has id 0, which open_clip's vocabulary also gives to a "!" inside a run of punctuation. The pad token is
    therefore not declared special to the backend when it is an ordinary entry of the vocabulary: "!" in a text keeps
    its meaning, and decoding drops padding by its place.

    Args:
        vocab: Token -> id. None: laid out from `merges` as open_clip does it.
        merges: Pairs of tokens, the most frequent first. None: none, so that every byte is a token.
        bos_token: Starts a text.
        eos_token: Ends a text.
        pad_token: Fills a batch.
        unk_token: Never produced by a byte-level vocabulary; for tokenizers of another make.
        model_max_length: Where `truncation=True` cuts, in tokens: the context length of the model.
        kwargs: Arguments of every tokenizer, such as `padding_side`, `add_bos_token` and `add_eos_token`; the latter
            two are True unless the tokenizer was saved with something else.
    """

    _auto_class = "AutoTokenizer"
    vocab_files_names = {"tokenizer_file": "tokenizer.json"}
    model_input_names = ["input_ids", "attention_mask"]
    model = BPE

    def __init__(
        self,
        vocab: dict[str, int] | None = None,
        merges: Iterable[tuple[str, str]] | None = None,
        bos_token: str | AddedToken = "<start_of_text>",
        eos_token: str | AddedToken = "<end_of_text>",
        pad_token: str | AddedToken | None = "!",
        unk_token: str | AddedToken | None = None,
        model_max_length: int = 76,
        **kwargs: Any,
    ) -> None:
        for name in ("is_local", "local_files_only"):
            # Where it was loaded from; kept, it would be saved.
            kwargs.pop(name, None)
        backend = kwargs.pop("tokenizer_object", None)
        file = kwargs.pop("tokenizer_file", None)
        if backend is None and file is not None:
            backend = Tokenizer.from_file(os.fspath(file))
        elif backend is None:
            merges = [as_pair(pair) for pair in merges or []]
            backend = byte_pair_backend(
                vocab or vocabulary_from_merges(merges, [str(bos_token), str(eos_token)]), merges
            )
        # Left by a call made before saving; as init arguments they would make the pad token special.
        backend.no_padding()
        backend.no_truncation()

        added = {token.content for token in backend.get_added_tokens_decoder().values()}
        pad_is_ordinary = (
            pad_token is not None and str(pad_token) not in added and (backend.token_to_id(str(pad_token)) is not None)
        )
        frame = backend.encode("").ids if backend.post_processor is not None else None
        kwargs.setdefault("add_bos_token", frame is None or backend.token_to_id(str(bos_token)) in frame)
        kwargs.setdefault("add_eos_token", frame is None or backend.token_to_id(str(eos_token)) in frame)
        super().__init__(
            tokenizer_object=backend,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=None if pad_is_ordinary else pad_token,
            unk_token=unk_token,
            model_max_length=model_max_length,
            **kwargs,
        )
        if pad_is_ordinary:
            self.pad_token = str(pad_token)

    @classmethod
    def from_open_clip_vocabulary(cls, path: str | os.PathLike[str], **kwargs: Any) -> "CoCaTokenizer":
        """The tokenizer of open_clip's CLIP-style models: 49,408 entries, start 49406, end 49407, padding 0.

        Args:
            path: `bpe_simple_vocab_16e6.txt.gz` of the open_clip package, unpacked or not, or a CLIP repository's
                `tokenizer.json`, which holds the same merges.
            kwargs: Arguments of the tokenizer.

        Raises:
            ValueError: The file does not hold the merges of that vocabulary.
        """
        merges = read_merges(path)
        if len(merges) != OPEN_CLIP_MERGES:
            raise ValueError(
                f"'{path}' is not open_clip's vocabulary: it holds {len(merges)} merges, not {OPEN_CLIP_MERGES}. Give "
                " bpe_simple_vocab_16e6.txt.gz or the tokenizer.json of a CLIP repository."
            )
        return cls(merges=merges, **kwargs)

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs: Any) -> dict[str, Any]:
        # The library would take vocabulary and merges out of tokenizer.json, and lose what else it says.
        return kwargs

    def train_new_from_iterator(
        self,
        text_iterator: Iterable[str] | Iterable[list[str]],
        vocab_size: int,
        length: int | None = None,
        new_special_tokens: list[str | AddedToken] | None = None,
        special_tokens_map: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> "CoCaTokenizer":
        """A tokenizer of the same kind, its merges learnt from other texts.

        Its vocabulary has open_clip's layout: 256 bytes, 256 bytes that end a word, merges, start, end. So it encodes
        every text, padding has id 0, and nothing depends on what the texts happen to hold.

        Args:
            text_iterator: Texts or batches of texts.
            vocab_size: Entries in all, new special tokens included; fewer if the texts do not yield as many merges,
                more if the bytes and special tokens alone, which are never left out, are more.
            length: Number of items, for the progress bar.
            new_special_tokens: Further special tokens, put at the end.
            special_tokens_map: Old -> new name of the start, end or pad token.
            kwargs: Arguments of `tokenizers.trainers.BpeTrainer`.
        """
        renamed = special_tokens_map or {}
        bos_token, eos_token, pad_token = (
            renamed.get(token, token) for token in (self.bos_token, self.eos_token, self.pad_token)
        )
        extra_tokens = [*self.extra_special_tokens, *(new_special_tokens or [])]
        own_pad_token = {pad_token} - set(byte_characters()) - {None}
        merge_count = vocab_size - 2 * 256 - len({bos_token, eos_token} | own_pad_token) - len(extra_tokens)
        merge_count = max(merge_count, 0)
        backend = byte_pair_backend({}, [])
        characters = byte_characters()
        trainer = trainers.BpeTrainer(
            vocab_size=2 * 256 + merge_count,
            initial_alphabet=characters,
            # Numbered here, or the trainer numbers them as a hash table yields them, and breaks ties by their numbers.
            special_tokens=[character + END_OF_WORD for character in characters],
            end_of_word_suffix=END_OF_WORD,
            **{"show_progress": False, **kwargs},
        )
        backend.train_from_iterator(clean_batches(text_iterator), trainer=trainer, length=length)
        merges = json.loads(backend.to_str())["model"]["merges"][:merge_count]
        return type(self)(
            merges=merges,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            extra_special_tokens=extra_tokens,
            model_max_length=self.model_max_length,
            padding_side=self.padding_side,
            truncation_side=self.truncation_side,
        )

    def _clean(self, text: Any) -> Any:
        """Text as the backend takes it; lists of texts as lists; anything else is the caller's to refuse."""
        if isinstance(text, (list, tuple)):
            return [self._clean(part) for part in text]
        if not isinstance(text, str):
            return text
        text = clean_text(text)
        for token in self.added_tokens_encoder:
            text = text.replace(token.lower(), token)
        return hide_after_punctuation(text, [token for token in (self.bos_token, self.eos_token) if token])

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        text_target: Any = None,
        text_pair_target: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Texts -> `input_ids` and `attention_mask`, by the arguments of every tokenizer of transformers."""
        texts = (self._clean(given) for given in (text, text_pair, text_target, text_pair_target))
        return super().__call__(*texts, **kwargs)

    def encode(self, text: Any, text_pair: Any = None, **kwargs: Any) -> Any:
        """The `input_ids` alone."""
        return super().encode(self._clean(text), self._clean(text_pair), **kwargs)

    def tokenize(self, text: Any, pair: Any = None, **kwargs: Any) -> list[str]:
        """The tokens in the vocabulary's spelling; a word ends in `</w>`."""
        return super().tokenize(self._clean(text), self._clean(pair), **kwargs)

    def _without_padding(self, token_ids: list[int]) -> list[int]:
        """The ids without the padding at the end, after an end token and before a start token."""
        kept: list[int] = []
        pad, bos, eos = self.pad_token_id, self.bos_token_id, self.eos_token_id
        pending: list[int] = []  # padding, unless a word goes on behind it
        for token_id in token_ids:
            if token_id == pad:
                pending.append(token_id)
                continue
            if token_id != bos and (not kept or kept[-1] != eos):
                kept += pending
            pending = []
            kept.append(token_id)
        return kept

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Ids, or a batch of them as lists, array or tensor -> text, or a list of texts.

        Args:
            token_ids: One id, a sequence of ids or a batch of sequences.
            skip_special_tokens: Whether to leave out start, end and padding.
            clean_up_tokenization_spaces: Whether to take the space before punctuation away; None: as the tokenizer has
                it.
            kwargs: Further arguments of every tokenizer's `decode`.
        """
        token_ids = to_py_obj(token_ids)
        if isinstance(token_ids, int):
            token_ids = [token_ids]
        if token_ids and isinstance(token_ids[0], (list, tuple)):
            return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces, **kwargs) for row in token_ids]
        if skip_special_tokens:
            token_ids = self._without_padding(token_ids)
        text = super().decode(token_ids, skip_special_tokens, clean_up_tokenization_spaces=False, **kwargs)
        text = text.removesuffix(" ")
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        # Words do not carry the space before them here, so unlike GPT's byte-pair encoding this one loses nothing.
        return self.clean_up_tokenization(text) if clean_up_tokenization_spaces else text

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """Saves the tokenizer without the padding and truncation that its last call has left in the backend."""
        self.backend_tokenizer.no_padding()
        self.backend_tokenizer.no_truncation()
        return super().save_pretrained(save_directory, *args, **kwargs)


__all__ = ["CoCaTokenizer"]
