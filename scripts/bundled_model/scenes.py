# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Rendered scenes with captions whose facts can be checked: the world of the bundled model.

A scene shows one or two groups of equal shapes on a background. `Facts` is all that a caption must say about it: the
count, size, colour and shape of each group, how two groups lie to each other, and the colour of the background.
Everything else (places, tilts, shades, texture, blur, noise, JPEG artefacts) varies freely. `caption` words the facts
in many ways and `parse_caption` reads them back, so a caption is right or wrong without a judge.

A scene follows from its split and index alone, and its picture from the scene, on every machine.
"""

import colorsys
import io
import math
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


Split = Literal["train", "test", "held_out", "single"]
Point = tuple[float, float]
Range = tuple[float, float]

# Hue in degrees, saturation, value. The jitter of `_shade` keeps neighbours apart.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0, 0.85, 0.85),
    "orange": (28, 0.92, 0.98),
    "yellow": (54, 0.85, 0.98),
    "green": (125, 0.75, 0.65),
    "cyan": (182, 0.75, 0.90),
    "blue": (226, 0.80, 0.90),
    "purple": (276, 0.70, 0.70),
    "pink": (330, 0.42, 1.00),
}
SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "heart", "ring")
# Half the extent of a shape as a share of the picture's side: ranges with wide gaps between them.
SIZES: dict[str, Range] = {
    "small": (0.064, 0.074),
    "medium": (0.103, 0.114),
    "large": (0.153, 0.170),
}
# Ranges of hue, saturation and value.
BACKGROUNDS: dict[str, tuple[Range, Range, Range]] = {
    "white": ((0, 360), (0.00, 0.03), (0.95, 1.00)),
    "gray": ((0, 360), (0.00, 0.04), (0.48, 0.62)),
    "black": ((0, 360), (0.00, 0.20), (0.03, 0.10)),
    "brown": ((22, 32), (0.55, 0.65), (0.34, 0.44)),
}
RELATIONS = ("left of", "above")
# What fits beside a second group, and what fits alone.
MAX_COUNT_IN_PAIR = {"small": 4, "medium": 3, "large": 2}
MAX_COUNT_ALONE = {"small": 5, "medium": 5, "large": 3}

# Each colour and each shape loses one partner: the eight pairs that training never shows.
HELD_OUT_COMBINATIONS = frozenset(
    (colour, SHAPES[(3 * index + 1) % len(SHAPES)]) for index, colour in enumerate(COLOURS)
)


@dataclass(frozen=True)
class Group:
    """Some equal shapes that a caption names together."""

    count: int
    size: str
    colour: str
    shape: str

    @property
    def is_held_out(self) -> bool:
        return (self.colour, self.shape) in HELD_OUT_COMBINATIONS


@dataclass(frozen=True)
class Facts:
    """All that a caption has to say. `relation` holds from the first group to the second: "left of" or "above"."""

    groups: tuple[Group, ...]
    relation: str | None
    background: str

    @property
    def is_held_out(self) -> bool:
        return any(group.is_held_out for group in self.groups)


@dataclass(frozen=True)
class Shape:
    """One drawn shape: centre and half extent as shares of the picture's side, tilt in radians, colour 0..255."""

    kind: str
    centre: Point
    radius: float
    tilt: float
    rgb: tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """Facts and one way to show them. `blur` is a share of the side, `noise` in grey levels, `jpeg_quality` 1..95."""

    facts: Facts
    shapes: tuple[Shape, ...]
    background_rgb: tuple[float, float, float]
    texture: str
    blur: float
    noise: float
    jpeg_quality: int | None
    seed: int


def mirrored(facts: Facts) -> Facts:
    """The facts of a scene in a mirror that swaps left and right; no shape changes there."""
    if facts.relation != "left of":
        return facts
    return Facts(facts.groups[::-1], facts.relation, facts.background)


# --- from a seed to a scene ----------------------------------------------------------------------------------------


def make_scene(split: Split, index: int) -> Scene:
    """The scene number `index` of a split.

    "train" and "test" avoid the held-out combinations; "held_out" scenes each contain one; "single" is "test" with one
    group a scene, for zero-shot labels.
    """
    rng = random.Random(f"{split}/{index}")
    limits = (MAX_COUNT_ALONE,) if split == "single" else (MAX_COUNT_ALONE, MAX_COUNT_IN_PAIR)
    while True:
        facts = _draw_facts(rng, rng.choice(limits))
        if facts.is_held_out != (split == "held_out"):
            continue
        centres = _place(facts, rng)
        if centres is not None:
            return _dress(facts, centres, rng)


def scenes(split: Split, count: int, start: int = 0) -> Iterator[Scene]:
    """`count` scenes of a split, from index `start` on."""
    return (make_scene(split, index) for index in range(start, start + count))


def scene_of(facts: Facts, seed: int) -> Scene:
    """A scene that shows the given facts. Raises `ValueError` if they cannot be placed in a picture."""
    rng = random.Random(f"facts/{seed}")
    for _ in range(100):
        centres = _place(facts, rng)
        if centres is not None:
            return _dress(facts, centres, rng)
    raise ValueError(f"{facts} does not fit in a picture: use fewer or smaller shapes")


def possible_groups(num_groups: int) -> list[Group]:
    """Every group that fits in a picture with `num_groups` groups, the held-out combinations included."""
    limits = MAX_COUNT_ALONE if num_groups == 1 else MAX_COUNT_IN_PAIR
    return [
        Group(count, size, colour, shape)
        for size, colour, shape in product(SIZES, COLOURS, SHAPES)
        for count in range(1, limits[size] + 1)
    ]


def _draw_facts(rng: random.Random, max_count: dict[str, int]) -> Facts:
    num_groups = 2 if max_count is MAX_COUNT_IN_PAIR else 1
    groups = tuple(_draw_group(rng, max_count) for _ in range(num_groups))
    while num_groups == 2 and _look_alike(*groups):
        groups = (groups[0], _draw_group(rng, max_count))
    relation = rng.choice(RELATIONS) if num_groups == 2 else None
    return Facts(groups, relation, rng.choice(tuple(BACKGROUNDS)))


def _draw_group(rng: random.Random, max_count: dict[str, int]) -> Group:
    size = rng.choice(tuple(SIZES))
    return Group(rng.randint(1, max_count[size]), size, rng.choice(tuple(COLOURS)), rng.choice(SHAPES))


def _look_alike(first: Group, second: Group) -> bool:
    # Two groups of the same colour and shape could be read as one.
    return (first.colour, first.shape) == (second.colour, second.shape)


def _place(facts: Facts, rng: random.Random) -> list[list[Point]] | None:
    """Centres per group, or None if this attempt found no room or left the relation unclear."""
    if facts.relation is None:
        centres = _scatter(facts.groups[0], (0.0, 0.0, 1.0, 1.0), rng)
        return None if centres is None else [centres]
    border = rng.uniform(0.47, 0.53)
    boxes = [(0.0, 0.0, border - 0.02, 1.0), (border + 0.02, 0.0, 1.0, 1.0)]
    placed = [_scatter(group, box, rng) for group, box in zip(facts.groups, boxes, strict=True)]
    if placed[0] is None or placed[1] is None:
        return None
    (x0, y0), (x1, y1) = _middle(placed[0]), _middle(placed[1])
    if abs(y1 - y0) > 0.6 * abs(x1 - x0):
        return None
    if facts.relation == "above":
        return [[(y, x) for x, y in group] for group in (placed[0], placed[1])]
    return [placed[0], placed[1]]


def _scatter(group: Group, box: tuple[float, float, float, float], rng: random.Random) -> list[Point] | None:
    extent = 1.15 * SIZES[group.size][1]
    left, top, right, bottom = box[0] + extent, box[1] + extent, box[2] - extent, box[3] - extent
    if right <= left:  # a large shape just fills its half
        left = right = (box[0] + box[2]) / 2
    gap = 2 * extent + 0.025
    for _ in range(20):
        centres: list[Point] = []
        for _ in range(12 * group.count):
            x, y = rng.uniform(left, right), rng.uniform(top, bottom)
            if all((x - u) ** 2 + (y - v) ** 2 >= gap**2 for u, v in centres):
                centres.append((x, y))
                if len(centres) == group.count:
                    return centres
    return None


def _middle(points: list[Point]) -> Point:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


def _dress(facts: Facts, centres: list[list[Point]], rng: random.Random) -> Scene:
    """Chooses everything that the facts leave open."""
    turn = math.radians(rng.uniform(-5, 5))
    shapes = []
    for group, points in zip(facts.groups, centres, strict=True):
        hue, saturation, value = COLOURS[group.colour]
        for point in points:
            shapes.append(
                Shape(
                    kind=group.shape,
                    centre=_turned(point, turn),
                    radius=rng.uniform(*SIZES[group.size]),
                    tilt=turn + math.radians(rng.uniform(-10, 10)),
                    rgb=_shade(hue, saturation, value, rng),
                )
            )
    hues, saturations, values = BACKGROUNDS[facts.background]
    red, green, blue = colorsys.hsv_to_rgb(rng.uniform(*hues) / 360, rng.uniform(*saturations), rng.uniform(*values))
    return Scene(
        facts=facts,
        shapes=tuple(shapes),
        background_rgb=(255 * red, 255 * green, 255 * blue),
        texture=rng.choice(("plain", "gradient", "stripes", "blotches")),
        blur=rng.uniform(0.002, 0.011) if rng.random() < 0.4 else 0.0,
        noise=rng.uniform(2, 12) if rng.random() < 0.5 else 0.0,
        jpeg_quality=rng.randint(40, 90) if rng.random() < 0.5 else None,
        seed=rng.getrandbits(32),
    )


def _turned(point: Point, angle: float) -> Point:
    # Shrunk a little as well, so that the turn pushes nothing over the edge.
    x, y = 0.95 * (point[0] - 0.5), 0.95 * (point[1] - 0.5)
    return 0.5 + x * math.cos(angle) - y * math.sin(angle), 0.5 + x * math.sin(angle) + y * math.cos(angle)


def _shade(hue: float, saturation: float, value: float, rng: random.Random) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(
        (hue + rng.uniform(-6, 6)) % 360 / 360,
        min(1.0, saturation * rng.uniform(0.92, 1.08)),
        min(1.0, value * rng.uniform(0.92, 1.08)),
    )
    return round(255 * red), round(255 * green), round(255 * blue)


# --- from a scene to a picture -------------------------------------------------------------------------------------


def render(scene: Scene, side: int = 80) -> Image.Image:
    """The scene as an RGB picture of `side` × `side` pixels."""
    noise_rng = np.random.default_rng(scene.seed)
    scale = 3 * side  # drawn three times as large and reduced, for smooth edges
    ground = Image.fromarray(_background(scene, side, noise_rng)).resize((scale, scale), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(ground)
    for shape in scene.shapes:
        _draw_shape(draw, shape, scale)
    picture = ground.reduce(3)
    if scene.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(scene.blur * side))
    if scene.noise:
        grain = scene.noise * noise_rng.standard_normal((side, side, 3), dtype=np.float32)
        picture = Image.fromarray(np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8))
    if scene.jpeg_quality is not None:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=scene.jpeg_quality)
        picture = Image.open(buffer).convert("RGB")
    return picture


def _background(scene: Scene, side: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 (side, side, 3): the background's colour, a little lighter and darker from place to place."""
    angle, phase, period = rng.uniform(0, 2 * math.pi), rng.uniform(0, 2 * math.pi), rng.uniform(0.08, 0.3)
    line = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    along = np.float32(math.cos(angle)) * line[None, :] + np.float32(math.sin(angle)) * line[:, None]
    if scene.texture == "gradient":
        relief = 22 * along
    elif scene.texture == "stripes":
        relief = 6 * np.sin(2 * np.float32(math.pi / period) * along + np.float32(phase))
    elif scene.texture == "blotches":
        coarse = Image.fromarray(rng.uniform(-12, 12, (6, 6)).astype(np.float32))
        relief = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
    else:
        relief = np.zeros((side, side), dtype=np.float32)
    colour = np.asarray(scene.background_rgb, dtype=np.float32)
    return np.clip(colour + relief[:, :, None], 0, 255).astype(np.uint8)


def _draw_shape(draw: ImageDraw.ImageDraw, shape: Shape, scale: int) -> None:
    x, y, radius = (scale * value for value in (*shape.centre, shape.radius))
    if shape.kind == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=shape.rgb)
    elif shape.kind == "ring":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=shape.rgb, width=round(0.42 * radius))
    else:
        cos, sin = radius * math.cos(shape.tilt), radius * math.sin(shape.tilt)
        draw.polygon([(x + u * cos - v * sin, y + u * sin + v * cos) for u, v in OUTLINES[shape.kind]], fill=shape.rgb)


def _regular(corners: int, radius: float, start: float = -90.0) -> list[Point]:
    angles = [math.radians(start + 360 * corner / corners) for corner in range(corners)]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


def _star() -> list[Point]:
    outer, inner = _regular(5, 1.15), _regular(5, 0.48, start=-54)
    return [point for pair in zip(outer, inner, strict=True) for point in pair]


def _cross(arm: float = 1.02, half_width: float = 0.34) -> list[Point]:
    corner = [(half_width, -arm), (half_width, -half_width), (arm, -half_width)]
    turned: list[Callable[[float, float], Point]] = [
        lambda u, v: (u, v),
        lambda u, v: (-v, u),
        lambda u, v: (-u, -v),
        lambda u, v: (v, -u),
    ]
    return [turn(u, v) for turn in turned for u, v in corner]


def _heart() -> list[Point]:
    angles = [2 * math.pi * step / 28 for step in range(28)]
    return [
        (
            math.sin(angle) ** 3 * 1.05,
            -(13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)) / 15.5,
        )
        for angle in angles
    ]


# Corners in units of the half extent, y downwards.
OUTLINES: dict[str, list[Point]] = {
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "triangle": [(0.0, -1.05), (1.05, 0.85), (-1.05, 0.85)],
    "diamond": [(0.0, -1.15), (0.82, 0.0), (0.0, 1.15), (-0.82, 0.0)],
    "star": _star(),
    "cross": _cross(),
    "heart": _heart(),
}


# --- from facts to a caption ---------------------------------------------------------------------------------------

# The first word of each row is the usual one; rows hold nothing that another row holds.
SIZE_WORDS = {"small": ("small", "little"), "medium": ("medium",), "large": ("large", "big")}
BACKGROUND_WORDS = {"white": ("white",), "gray": ("gray", "grey"), "black": ("black",), "brown": ("brown",)}
COUNT_WORDS = {1: ("a", "one"), 2: ("two",), 3: ("three",), 4: ("four",), 5: ("five",)}
# Words between the first group and the second, and those that fit if the second group is named first.
RELATION_WORDS = {
    "left of": ("to the left of", "left of", "on the left of"),
    "above": ("above", "over"),
}
REVERSED_RELATION_WORDS = {
    "left of": ("to the right of", "right of", "on the right of"),
    "above": ("below", "under"),
}
PLACE_WORDS = {
    "left of": ("on the left", "on the right"),
    "above": ("at the top", "at the bottom"),
}
LABEL_KINDS = ("shape", "colour", "colour and shape")
LEADS = ("", "a picture of ", "an image of ", "this is a photo of ")
BACKGROUND_NOUNS = ("background", "backdrop")


def caption(facts: Facts, rng: random.Random) -> str:
    """The facts, all of them, in words chosen at random; the plainest wording is the most frequent one."""
    ground = f"a {_word(BACKGROUND_WORDS[facts.background], rng)} {_word(BACKGROUND_NOUNS, rng)}"
    subject = _subject(facts, rng)
    frame = rng.random()
    if frame < 0.7:
        return f"{_word(LEADS, rng)}{subject} on {ground}"
    if frame < 0.85:
        return f"on {ground}, {subject}"
    return f"{ground} with {subject}"


def partial_caption(facts: Facts, rng: random.Random) -> str:
    """Some of the facts, as zero-shot labels give them: "red star", "two circles", "a star above a square"."""
    if facts.relation is not None and rng.random() < 0.5:
        first, second = (_part(group, rng) for group in facts.groups)
        text = f"{first} {_word(RELATION_WORDS[facts.relation], rng)} {second}"
        if rng.random() < 0.5:
            text = f"{second} {_word(REVERSED_RELATION_WORDS[facts.relation], rng)} {first}"
    elif rng.random() < 0.1:
        text = f"a {_word(BACKGROUND_WORDS[facts.background], rng)} {_word(BACKGROUND_NOUNS, rng)}"
    elif rng.random() < 0.5:
        text = label(rng.choice(facts.groups), rng.choice(LABEL_KINDS))
    else:
        text = _part(rng.choice(facts.groups), rng)
    # Zero-shot templates end in a full stop, captions do not.
    return f"{_word(LEADS, rng)}{text}{rng.choice(('', '', '.'))}"


def label(group: Group, kind: str) -> str:
    """A label that holds whatever the count: "star", "red shape" or "red star"."""
    return {
        "shape": group.shape,
        "colour": f"{group.colour} shape",
        "colour and shape": f"{group.colour} {group.shape}",
    }[kind]


def _word(words: tuple[str, ...], rng: random.Random) -> str:
    return words[0] if rng.random() < 0.6 else rng.choice(words)


def _subject(facts: Facts, rng: random.Random) -> str:
    phrases = [_phrase(group, rng) for group in facts.groups]
    if facts.relation is None:
        return phrases[0]
    first, second = phrases
    wording = rng.random()
    if wording < 0.65:
        return f"{first} {_word(RELATION_WORDS[facts.relation], rng)} {second}"
    if wording < 0.8:
        return f"{second} {_word(REVERSED_RELATION_WORDS[facts.relation], rng)} {first}"
    here, there = PLACE_WORDS[facts.relation]
    return f"{first} {here} and {second} {there}"


def _phrase(group: Group, rng: random.Random) -> str:
    start = f"{_word(COUNT_WORDS[group.count], rng)} {_word(SIZE_WORDS[group.size], rng)}"
    if rng.random() < 0.7:
        return f"{start} {group.colour} {_noun(group)}"
    return f"{start} {_noun(group)} in {group.colour}"


def _part(group: Group, rng: random.Random) -> str:
    count = _word(COUNT_WORDS[group.count], rng)
    size = f"{_word(SIZE_WORDS[group.size], rng)} " if rng.random() < 0.25 else ""
    colour = f"{group.colour} " if rng.random() < 0.75 else ""
    noun = _noun(group) if not colour or rng.random() < 0.8 else ("shape" if group.count == 1 else "shapes")
    if count == "a" and not size and colour == "orange ":
        count = "an"
    return f"{count} {size}{colour}{noun}"


def _noun(group: Group) -> str:
    if group.count == 1:
        return group.shape
    return f"{group.shape}es" if group.shape == "cross" else f"{group.shape}s"


# --- from a caption back to facts ----------------------------------------------------------------------------------


def parse_caption(text: str) -> Facts | None:
    """The facts that a caption states, or None if it is not a full and grammatical description of a scene."""
    text = " ".join(text.lower().replace(",", " ").split())
    for pattern in _FRAMES:
        match = pattern.fullmatch(text)
        subject = match and _parse_subject(match["subject"])
        if match and subject:
            return Facts(*subject, _BACKGROUNDS[match["ground"]])
    return None


def _parse_subject(text: str) -> tuple[tuple[Group, ...], str | None] | None:
    group = _parse_group(text)
    if group is not None:
        return (group,), None
    for pattern, relation, is_reversed in _RELATIONS:
        match = pattern.fullmatch(text)
        if match:
            first, second = _parse_group(match[1]), _parse_group(match[2])
            if first is None or second is None:
                return None
            return ((second, first) if is_reversed else (first, second)), relation
    return None


def _parse_group(text: str) -> Group | None:
    for pattern in _GROUPS:
        match = pattern.fullmatch(text)
        if match:
            noun = match["noun"]
            group = Group(_COUNTS[match["count"]], _SIZES[match["size"]], match["colour"], _NOUNS[noun])
            return group if _noun(group) == noun else None
    return None


def _inverse(words: dict) -> dict:
    return {word: key for key, row in words.items() for word in row}


def _any_of(words: Iterable[str]) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


_COUNTS, _SIZES, _BACKGROUNDS = _inverse(COUNT_WORDS), _inverse(SIZE_WORDS), _inverse(BACKGROUND_WORDS)
_NOUNS = {_noun(Group(count, "", "", shape)): shape for shape in SHAPES for count in (1, 2)}
_START = f"(?P<count>{_any_of(_COUNTS)}) (?P<size>{_any_of(_SIZES)})"
_COLOUR, _NOUN = f"(?P<colour>{_any_of(COLOURS)})", f"(?P<noun>{_any_of(_NOUNS)})"
_GROUPS = [re.compile(f"{_START} {_COLOUR} {_NOUN}"), re.compile(f"{_START} {_NOUN} in {_COLOUR}")]
_GROUND = f"a (?P<ground>{_any_of(_BACKGROUNDS)}) (?:{_any_of(BACKGROUND_NOUNS)})"
_FRAMES = [
    re.compile(f"(?:{_any_of(LEADS)})(?P<subject>.+) on {_GROUND}"),
    re.compile(f"on {_GROUND} (?P<subject>.+)"),
    re.compile(f"{_GROUND} with (?P<subject>.+)"),
]
_RELATIONS = [
    *((re.compile(f"(.+?) (?:{_any_of(words)}) (.+)"), name, False) for name, words in RELATION_WORDS.items()),
    *((re.compile(f"(.+?) (?:{_any_of(words)}) (.+)"), name, True) for name, words in REVERSED_RELATION_WORDS.items()),
    *((re.compile(f"(.+) {here} and (.+) {there}"), name, False) for name, (here, there) in PLACE_WORDS.items()),
]
