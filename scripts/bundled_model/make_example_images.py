# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Write the example images that ship with the bundled model: a dozen scenes as files of many kinds.

Each file is named after what it shows. Sizes, proportions, colour modes, formats and an orientation tag differ, as
they do among anyone's images.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from scenes import Facts, Group, render, scene_of


OUTPUT = Path(__file__).resolve().parents[2] / "src/coca_hf/assets/examples"
ORIENTATION_TAG = 0x0112


def as_is(image: Image.Image) -> Image.Image:
    return image


def widened(image: Image.Image) -> Image.Image:
    """A third wider, the border repeated outwards."""
    margin = image.width // 6
    return Image.fromarray(np.pad(np.asarray(image), ((0, 0), (margin, margin), (0, 0)), mode="edge"))


def heightened(image: Image.Image) -> Image.Image:
    return widened(image.transpose(Image.Transpose.ROTATE_90)).transpose(Image.Transpose.ROTATE_270)


def palette(image: Image.Image) -> Image.Image:
    return image.quantize(64, dither=Image.Dither.NONE)


def opaque(image: Image.Image) -> Image.Image:
    return image.convert("RGBA")


def printed(image: Image.Image) -> Image.Image:
    return image.convert("CMYK")


def sideways(image: Image.Image) -> Image.Image:
    """Stored lying on its side, with the tag that tells viewers to turn it upright."""
    turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[ORIENTATION_TAG] = 6
    return turned


# File name, facts, side in pixels, and what makes the file a different one.
EXAMPLES: list[tuple[str, Facts, int, Callable[[Image.Image], Image.Image]]] = [
    ("red-circle.jpg", Facts((Group(1, "large", "red", "circle"),), None, "white"), 256, as_is),
    ("three-yellow-stars.png", Facts((Group(3, "medium", "yellow", "star"),), None, "black"), 200, as_is),
    ("five-blue-squares.png", Facts((Group(5, "small", "blue", "square"),), None, "gray"), 240, palette),
    ("two-pink-hearts.jpg", Facts((Group(2, "large", "pink", "heart"),), None, "brown"), 320, widened),
    ("four-green-rings.webp", Facts((Group(4, "medium", "green", "ring"),), None, "white"), 160, as_is),
    (
        "orange-triangle-above-blue-circle.jpg",
        Facts((Group(1, "medium", "orange", "triangle"), Group(1, "large", "blue", "circle")), "above", "white"),
        300,
        heightened,
    ),
    (
        "red-crosses-left-of-green-square.png",
        Facts((Group(3, "small", "red", "cross"), Group(1, "large", "green", "square")), "left of", "gray"),
        224,
        opaque,
    ),
    (
        "purple-star-left-of-yellow-star.jpg",
        Facts((Group(1, "large", "purple", "star"), Group(1, "small", "yellow", "star")), "left of", "black"),
        280,
        printed,
    ),
    (
        "cyan-diamonds-above-pink-circles.png",
        Facts((Group(2, "medium", "cyan", "diamond"), Group(3, "small", "pink", "circle")), "above", "brown"),
        96,
        as_is,
    ),
    (
        "blue-hearts-left-of-orange-rings.jpg",
        Facts((Group(2, "medium", "blue", "heart"), Group(2, "medium", "orange", "ring")), "left of", "white"),
        192,
        sideways,
    ),
    (
        "green-triangles-above-red-diamond.gif",
        Facts((Group(4, "small", "green", "triangle"), Group(1, "medium", "red", "diamond")), "above", "black"),
        180,
        palette,
    ),
    ("purple-cross.bmp", Facts((Group(1, "small", "purple", "cross"),), None, "gray"), 80, as_is),
]


def main(output: Annotated[Path, typer.Option(help="Folder for the images.")] = OUTPUT) -> None:
    """Write the example images."""
    output.mkdir(parents=True, exist_ok=True)
    for seed, (name, facts, side, change) in enumerate(EXAMPLES):
        image = change(render(scene_of(facts, seed), side))
        exif: dict[str, Any] = {"exif": image.getexif()} if ORIENTATION_TAG in image.getexif() else {}
        image.save(output / name, **exif)


if __name__ == "__main__":
    typer.run(main)
