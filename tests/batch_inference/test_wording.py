# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What reaches a screen is harmless and readable."""

import pytest

from coca_hf.batch_inference.wording import count, duration, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, Ü, 猫", "plain text, Ü, 猫"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\udcff\udc80", r"\xff\x80"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("\u2028", r"\u2028"),
        ("\x85", r"\x85"),
    ],
)
def test_what_a_screen_would_obey_is_escaped(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0.0 s"),
        (4.23, "4.2 s"),
        (59.97, "1 min 0 s"),
        (75, "1 min 15 s"),
        (3599.7, "1 h 0 min"),
        (7384, "2 h 3 min"),
    ],
)
def test_durations_read_well(seconds, shown):
    assert duration(seconds) == shown


def test_counts_have_their_plural_and_thousands():
    assert [count(number, "image") for number in (0, 1, 1200)] == ["0 images", "1 image", "1,200 images"]
