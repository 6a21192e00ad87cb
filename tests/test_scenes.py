# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The rendered scenes that the bundled model is trained and measured on."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import scenes


SPLITS = ("train", "test", "held_out", "single")
GROUP = scenes.Group(2, "small", "red", "cross")
# Mean red, green and blue of the first ten training pictures.
RECORDED_MEANS = [
    [231.5, 221.8, 236.9],
    [132.5, 85.3, 44.3],
    [130.4, 126.6, 118.6],
    [120.8, 85.3, 40.4],
    [102.9, 88.1, 72.0],
    [96.3, 68.8, 37.4],
    [97.8, 68.2, 51.2],
    [46.2, 14.1, 14.0],
    [93.7, 66.5, 48.6],
    [92.0, 73.4, 49.8],
]


def any_scene() -> st.SearchStrategy[scenes.Scene]:
    return st.builds(scenes.make_scene, st.sampled_from(SPLITS), st.integers(0, 10**6))


@given(scene=any_scene(), seed=st.integers(0, 10**6))
def test_every_caption_parses_back_to_the_facts_of_its_scene(scene, seed):
    text = scenes.caption(scene.facts, random.Random(seed))
    assert scenes.parse_caption(text) == scene.facts


@given(scene=any_scene(), seed=st.integers(0, 10**6))
def test_a_partial_caption_is_never_taken_for_a_full_one(scene, seed):
    assert scenes.parse_caption(scenes.partial_caption(scene.facts, random.Random(seed))) is None


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        (
            "an image of two little red crosses over a big circle in blue on a grey backdrop",
            scenes.Facts((GROUP, scenes.Group(1, "large", "blue", "circle")), "above", "gray"),
        ),
        (
            "on a white background, one large blue circle to the right of two small crosses in red",
            scenes.Facts((GROUP, scenes.Group(1, "large", "blue", "circle")), "left of", "white"),
        ),
        (
            "A black background with two small red crosses at the top and a big blue circle at the bottom",
            scenes.Facts((GROUP, scenes.Group(1, "large", "blue", "circle")), "above", "black"),
        ),
        ("two small red crosses on a brown background", scenes.Facts((GROUP,), None, "brown")),
    ],
)
def test_wordings_of_the_same_facts_are_read_alike(text, facts):
    assert scenes.parse_caption(text) == facts


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a small red circle",
        "a small red circle on a background",
        "a red circle on a white background",
        "two small red circle on a white background",
        "a small red circles on a white background",
        "six small red circles on a white background",
        "a small red circle a small blue square on a white background",
        "a small red circle above on a white background",
        "a small red circle above a small blue square on a white background on a black background",
    ],
)
def test_text_that_is_no_full_description_has_no_facts(text):
    assert scenes.parse_caption(text) is None


@pytest.mark.parametrize("num_groups", [1, 2])
def test_every_group_that_a_scene_may_show_fits_in_a_picture(num_groups):
    other = scenes.Group(1, "large", "blue", "ring")
    groups = [group for group in scenes.possible_groups(num_groups) if (group.colour, group.shape) == ("red", "star")]
    for group in groups:
        facts = scenes.Facts((group, other)[:num_groups], "above" if num_groups == 2 else None, "white")
        assert scenes.scene_of(facts, seed=0).facts == facts


def test_facts_that_do_not_fit_are_refused():
    facts = scenes.Facts((scenes.Group(40, "large", "red", "star"),), None, "white")
    with pytest.raises(ValueError, match="does not fit in a picture"):
        scenes.scene_of(facts, seed=0)


@given(index=st.integers(0, 10**6))
def test_the_same_index_gives_the_same_scene_and_pixels(index):
    first, second = scenes.make_scene("train", index), scenes.make_scene("train", index)
    assert first == second
    assert np.array_equal(scenes.render(first), scenes.render(second))


def test_pixels_are_those_recorded_when_the_model_was_trained():
    means = [np.asarray(scenes.render(scene), dtype=float).mean((0, 1)) for scene in scenes.scenes("train", 10)]
    # JPEG decoders may differ by a grey level.
    np.testing.assert_allclose(means, RECORDED_MEANS, rtol=0, atol=0.5)


@pytest.mark.parametrize("split", ["train", "test", "single"])
def test_no_scene_outside_the_held_out_split_shows_a_held_out_combination(split):
    shown = {(group.colour, group.shape) for scene in scenes.scenes(split, 5000) for group in scene.facts.groups}
    assert shown.isdisjoint(scenes.HELD_OUT_COMBINATIONS)
    assert len(shown) == 64 - len(scenes.HELD_OUT_COMBINATIONS)


def test_every_held_out_scene_shows_a_held_out_combination():
    assert all(scene.facts.is_held_out for scene in scenes.scenes("held_out", 500))


def test_no_caption_in_training_names_a_held_out_combination():
    rng = random.Random(0)
    texts = [
        word(scene.facts, rng)
        for scene in scenes.scenes("train", 2000)
        for word in (scenes.caption, scenes.partial_caption)
    ]
    named = {pair for pair in scenes.HELD_OUT_COMBINATIONS for text in texts if " ".join(pair) in text}
    assert not named


def test_every_colour_and_every_shape_is_held_out_once():
    colours, shapes = zip(*scenes.HELD_OUT_COMBINATIONS, strict=True)
    assert sorted(colours) == sorted(scenes.COLOURS)
    assert sorted(shapes) == sorted(scenes.SHAPES)


def test_splits_share_no_picture():
    pictures = {scenes.render(scene).tobytes() for split in SPLITS for scene in scenes.scenes(split, 200)}
    assert len(pictures) == 200 * len(SPLITS)


@given(scene=any_scene())
def test_groups_lie_as_their_relation_says_by_a_clear_margin(scene):
    shapes = iter(scene.shapes)
    middles = [np.mean([next(shapes).centre for _ in range(group.count)], axis=0) for group in scene.facts.groups]
    axis = {None: 0, "left of": 0, "above": 1}[scene.facts.relation]
    step = middles[-1] - middles[0]
    least = 0.2 * (len(middles) - 1)
    assert step[axis] >= least
    assert abs(step[1 - axis]) <= abs(step[axis])


@given(scene=any_scene())
def test_shapes_do_not_overlap(scene):
    centres = np.array([shape.centre for shape in scene.shapes])
    extents = np.array([shape.radius for shape in scene.shapes])
    distances = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    room = distances - extents[:, None] - extents[None]
    assert room[~np.eye(len(centres), dtype=bool)].min(initial=1) > 0


@pytest.mark.parametrize("side", [64, 80, 200])
def test_a_scene_is_rendered_at_any_size(side):
    picture = scenes.render(scenes.make_scene("test", 0), side)
    assert (picture.size, picture.mode) == ((side, side), "RGB")
