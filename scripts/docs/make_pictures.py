# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Draws the pictures of README and documentation: captions of example images and where their words look, and a chart.

    python scripts/docs/make_pictures.py

The chart's figures are those of `benchmarks/`. Overwrites docs/assets/captions.png and docs/assets/speed.png.
"""

import json
import textwrap
from pathlib import Path
from typing import Any

from matplotlib import pyplot
from PIL import Image, ImageOps
from transformers import AutoModelForImageTextToText, AutoProcessor

import coca_hf


ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "docs" / "assets"
EXAMPLES = (
    "blue-hearts-left-of-orange-rings.jpg",
    "four-green-rings.webp",
    "red-crosses-left-of-green-square.png",
    "cyan-diamonds-above-pink-circles.png",
)
# The picture whose words are shown, and the words.
LOOKED_AT, WORDS = 2, ("three", "crosses", "green", "square")
SPEED = ROOT / "benchmarks" / "speed" / "results.json"
# Of the rows of SPEED, and of their variants, what the chart shows and how it calls them.
ROWS = {
    "generate-B-32": "B/32: 2 images, 6 beams\nin 3 groups, 30 tokens",
    "generate-L-14": "L/14: the same",
    "greedy": "B/32: 32 images, greedy,\n30 tokens",
    "text": "B/32: features of\n64 captions of 12 tokens",
}
VARIANTS = {
    "float32": ("float32", "#9fa8da"),
    "float32, packed": ("float32, optimised", "#5c6bc0"),
    "bfloat16, packed": ("bfloat16, optimised", "#283593"),
}
INK = "#202124"


def draw_captions(path: Path) -> None:
    """Pictures side by side, each with its caption below; and below them where words of one caption look."""
    model = AutoModelForImageTextToText.from_pretrained(coca_hf.bundled_model())
    processor = AutoProcessor.from_pretrained(coca_hf.bundled_model())
    files = {file.name: file for file in coca_hf.example_images()}
    images = [ImageOps.exif_transpose(Image.open(files[name])).convert("RGB") for name in EXAMPLES]
    ids = model.generate(**processor(images=images, return_tensors="pt"))
    captions = processor.batch_decode(ids, skip_special_tokens=True)
    maps = coca_hf.word_maps(model, processor, images[LOOKED_AT], captions[LOOKED_AT])
    heats = {each.word: each.heat for each in maps}

    figure, axes = pyplot.subplots(2, len(EXAMPLES), figsize=(10, 6.6))
    for axis, image, caption in zip(axes[0], images, captions, strict=True):
        show(axis, image, textwrap.fill(caption, 27))
    for axis, word in zip(axes[1], WORDS, strict=True):
        show(axis, coca_hf.overlay(images[LOOKED_AT], heats[word]), f"\u201c{word}\u201d")
    save(figure, path)


def show(axis: Any, image: Image.Image, text: str) -> None:
    axis.imshow(image)
    axis.set_xlabel(text, fontsize=11, color=INK, labelpad=8)
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set_color("#dadce0")


def draw_speed(path: Path) -> None:
    """Bars: times as fast as open_clip, which is 1, for each row and variant."""
    results = json.loads(SPEED.read_text())
    figure, axis = pyplot.subplots(figsize=(10, 4))
    height = 0.8 / len(VARIANTS)
    for number, (variant, (label, colour)) in enumerate(VARIANTS.items()):
        values = [speed_of(results, row, variant) for row in ROWS]
        places = [row + (number - (len(VARIANTS) - 1) / 2) * height for row in range(len(ROWS))]
        bars = axis.barh(places, values, height * 0.9, label=label, color=colour)
        axis.bar_label(bars, fmt="%.1f", padding=3, fontsize=9, color=INK)
    axis.axvline(1, color=INK, linewidth=1, linestyle="--")
    axis.text(1.1, -0.62, "open_clip = 1", fontsize=9, color=INK)
    axis.set_yticks(range(len(ROWS)), ROWS.values(), fontsize=10, color=INK)
    axis.invert_yaxis()
    axis.set_xlabel(f"times as fast as open_clip {results['versions']['open_clip_torch']} in float32", color=INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="upper right", fontsize=10, labelcolor=INK)
    save(figure, path)


def speed_of(results: dict[str, Any], row: str, variant: str) -> float:
    """How many times as fast as open_clip; raises `StopIteration` where that was not measured."""
    return next(each["value"] for each in results["rows"] if (each["row"], each["variant"]) == (row, variant))


def save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    # Without a date, the same picture is the same file.
    figure.savefig(path, dpi=110, facecolor="white", bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    draw_captions(ASSETS / "captions.png")
    draw_speed(ASSETS / "speed.png")
