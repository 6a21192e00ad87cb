# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Names and captions made fit for a screen."""


def printable(text: str) -> str:
    """`text` with what a screen would obey, hide or choke on written as an escape: control characters, line ends,
    bytes that are not UTF-8 (surrogates in file names), invisible and direction-changing characters.

    >>> printable("a\\x1b[2J\\n")
    'a\\\\x1b[2J\\\\n'
    """
    return "".join(character if character.isprintable() else _escape(character) for character in text)


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def shortened(text: str, longest: int = 80) -> str:
    """What a message shows of a text that may be a book.

    >>> shortened("a dog"), shortened("dogs and cats", 9)
    ('a dog', 'dogs and…')
    """
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def one_line(error: BaseException) -> str:
    """What an exception says, in one line and without the full stop; its class where it says nothing."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def count(number: int, noun: str) -> str:
    """
    >>> count(1, "image"), count(1200, "image")
    ('1 image', '1,200 images')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """
    >>> duration(4.23), duration(75), duration(7384)
    ('4.2 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
