# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Limits follow the index's own pairs of captions and photos, not the model's scale."""

import numpy as np
import pytest

from coca_hf.search.calibration import SAID, UNKNOWN, UNSAID, Calibration, Limits, calibrate, words_of
from coca_hf.search.folder import Photo


def test_words_lose_their_plural():
    assert words_of("Two BIG dogs, three glasses & a bus") == ["two", "big", "dog", "three", "glass", "a", "bus"]


@pytest.mark.parametrize(
    ("caption", "query", "says"),
    [
        ("two small red circles on a white background", "two red circles", True),
        ("two small red circles on a white background", "red circle", True),
        ("two small red circles on a white background", "three red circles", False),
        ("two small red circles to the left of one blue star", "two small red circles left of a blue star", True),
        ("two small red circles on a white background", "circle red", False),
        ("three blue stars above two red circles", "three red circles", False),
        ("a dog runs along the beach", "a dog on the beach", True),
        ("a dog runs along the beach", "puppy", False),
        ("a dog runs along the beach", "a", False),
    ],
)
def test_a_caption_says_what_it_says_in_this_order_and_close_together(caption, query, says):
    common = frozenset({"a", "on", "the", "background"})
    assert (Calibration(10, common).said(caption, words_of(query)) == 1) is says


def test_a_line_that_may_not_say_a_query_does_not_say_it():
    calibration = Calibration(10, frozenset({"a", "and"}))
    captions = [
        "Two small RED glasses",
        "a red glass and two kisses",
        "grüne Äpfel",
        "",
        "glas",
        '\u212aelvin\'s red "box"',
    ]
    queries = ["two red glasses", "glass", "glasses and kisses", "grüne", "kelvin", "box", "a", "red boxes", "blue"]
    told_apart = 0
    for caption in captions:
        line = Photo("/photos/x.jpg", caption, "", 0, 0, "").line()
        for query in map(words_of, queries):
            if not calibration.may_say(query)(line):
                told_apart += 1
                assert calibration.said(caption, query) == 0
    assert told_apart > len(queries)


def made() -> Calibration:
    captions = [
        f"{count} {shape} on a table" for count in ("one", "two", "three") for shape in ("cube", "ball", "ring")
    ]
    chance = np.random.default_rng(0)
    embeddings = chance.standard_normal((len(captions), 8)).astype(np.float32)
    return calibrate(captions, embeddings, lambda texts: np.ones((len(texts), 8), np.float32))


def test_limits_are_quantiles_of_the_pairs_of_about_the_query_s_length():
    pairs = [(length, length / 10 + step / 1000) for length in (1, 2, 3) for step in range(100)]
    calibration = Calibration(300, known=frozenset({"word"}), pairs=tuple(pairs))
    for length in (1, 2, 3):
        limits = calibration.limits(["word"] * length)
        assert limits.said == pytest.approx(length / 10 + SAID * 0.099, abs=2e-3)
        assert limits.unsaid == pytest.approx(length / 10 + UNSAID * 0.099, abs=2e-3)
        assert calibration.limits(["other"] * length).unsaid == pytest.approx(length / 10 + UNKNOWN * 0.099, abs=2e-3)
    assert calibration.limits(["word"] * 50) == calibration.limits(["word"] * 3)


def test_a_caption_that_says_nearly_all_is_nearly_believed():
    limits = Limits(0.2, 0.4)
    assert [limits.at(share) for share in (1, 0.75, 0.5, 0)] == pytest.approx([0.2, 0.4, 0.4, 0.4])
    assert limits.at(0.9) == pytest.approx(0.28)


def test_an_index_made_anew_has_the_same_limits():
    first, second = made(), made()
    assert first == second
    assert first.frequent == {"on", "a", "table"}
    assert Calibration.from_json(first.to_json()).limits(["red"]).unsaid == pytest.approx(
        first.limits(["red"]).unsaid, abs=1e-4
    )


def test_an_index_is_looked_at_again_when_it_has_doubled_or_halved():
    calibration = Calibration(100)
    assert [calibration.is_outdated(photos) for photos in (51, 100, 199)] == [False] * 3
    assert [calibration.is_outdated(photos) for photos in (50, 200)] == [True] * 2
