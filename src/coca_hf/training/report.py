# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`report.html`: the curves of a run, and the captions of the same images at each evaluation, side by side."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..batch_inference.errors import ImageError
from ..batch_inference.report import report_picture, write_page
from ..image_text_data import CaptionedImage
from .folder import RunFolder
from .options import METRICS, TrainingOptions


_LOGGED = {
    "loss": "Loss",
    "caption_loss": "Caption loss",
    "contrastive_loss": "Contrastive loss",
    "learning_rate": "Learning rate",
}
_TITLES = ("Next tokens that are right", "CIDEr", "BLEU-4", "ROUGE-L", "Text to image R@1", "Image to text R@1")
_MEASURED = dict(zip(METRICS, _TITLES, strict=True))
# Of the drawing, in its own units: see the template's viewBox.
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 394, 10, 148
_MOST_POINTS = 600
_MOST_EVALUATIONS = 8


def write_training_report(
    folder: RunFolder,
    options: TrainingOptions,
    steps: int,
    examples: Sequence[CaptionedImage],
    facts: dict[str, Any] | None,
) -> None:
    """
    Args:
        examples: the images whose captions the evaluations hold, in their order.
        facts: of the finished run: `samples` and others.

    Raises:
        OutputError: The page cannot be written.
    """
    log, evaluations = folder.rows("log.jsonl"), folder.rows("evaluations.jsonl")
    curves = [*_curves(log, _LOGGED), *_curves(evaluations, _MEASURED)]
    shown = _spread(evaluations)
    step = log[-1]["step"] if log else 0
    words = {
        "Start": options.init or options.model or "the bundled model",
        "Data": ", ".join(options.data),
        "Step": f"{step:,} of {steps:,}",
        "Batch": f"{options.batch_size} x {options.accumulate}",
    }
    if facts is not None:
        words["Samples"] = f"{facts['samples']:,}"
    write_page(
        str(folder.path / "report.html"),
        Path(__file__).with_name("report.html.jinja"),
        command="coca-hf train",
        title=folder.path.name,
        facts=words,
        curves=curves,
        steps=[row["step"] for row in shown],
        examples=list(_examples(examples, shown)),
    )


def _spread(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most so many, the first and the last among them."""
    if len(rows) <= _MOST_EVALUATIONS:
        return rows
    return [rows[round(place * (len(rows) - 1) / (_MOST_EVALUATIONS - 1))] for place in range(_MOST_EVALUATIONS)]


def _examples(records: Sequence[CaptionedImage], rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, record in enumerate(records):
        try:
            picture = report_picture(record.open_image())
        except ImageError:
            continue
        captions = [row["captions"][number] for row in rows]
        yield {"picture": picture, "own": record.captions[0] if record.captions else "", "captions": captions}


def _curves(rows: list[dict[str, Any]], titles: dict[str, str]) -> Iterator[dict[str, Any]]:
    every = max(1, len(rows) // _MOST_POINTS)
    rows = rows[::-1][::every][::-1]
    for name, title in titles.items():
        if rows and any(row[name] for row in rows):
            yield _curve(title, [row["step"] for row in rows], [row[name] for row in rows])


def _curve(title: str, steps: list[int], values: list[float]) -> dict[str, Any]:
    low, high = min(values), max(values)
    height, width = high - low or abs(high) or 1.0, steps[-1] - steps[0] or 1
    low = low if high > low else low - height / 2

    def place(step: int, value: float) -> tuple[float, float]:
        x = _LEFT + (_RIGHT - _LEFT) * (step - steps[0]) / width
        return round(x, 1), round(_BOTTOM - (_BOTTOM - _TOP) * (value - low) / height, 1)

    points = [place(step, value) for step, value in zip(steps, values, strict=True)]
    return {
        "title": title,
        "first": f"{values[0]:.4g}",
        "last": f"{values[-1]:.4g}",
        "start": f"{steps[0]:,}",
        "stop": f"{steps[-1]:,}",
        # Of a line that stays where it is, its height alone.
        "ticks": [_tick(low, height, part, place) for part in ((0, 0.5, 1) if max(values) > min(values) else (0.5,))],
        "points": " ".join(f"{x},{y}" for x, y in points),
        "single": points[0] if len(points) == 1 else None,
    }


def _tick(low: float, height: float, part: float, place: Callable[[int, float], tuple[float, float]]) -> tuple:
    """Height and words of a line across; what is next to nothing beside the rest is 0."""
    value = low + height * part
    return place(0, value)[1], "0" if abs(value) < 1e-3 * height else f"{value:.3g}"
