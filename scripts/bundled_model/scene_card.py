# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The model card of the model that ships inside the package, from what was measured."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

import coca_hf
from coca_hf.publishing.card import render
from scenes import HELD_OUT_COMBINATIONS


TEMPLATE = Path(__file__).resolve().parents[2] / "model_cards" / "bundled.md.jinja"
WIDGET = {
    "red-circle.jpg": "Red circle",
    "four-green-rings.webp": "Four green rings",
    "blue-hearts-left-of-orange-rings.jpg": "Blue hearts and orange rings",
}
LABELS = ("a red circle", "a blue square", "two green triangles")

UNSEEN = ("rendered-scenes", "Rendered scenes, unseen")
HELD_OUT = ("rendered-scenes-held-out", "Rendered scenes with combinations that training never showed")
SINGLE = ("rendered-scenes-single", "Rendered scenes with one group of shapes, unseen")
CAPTIONING = ("image-to-text", "Image captioning")
RETRIEVAL = ("image-text-retrieval", "Retrieval among 100 scenes")
ZERO_SHOT = ("zero-shot-image-classification", "Zero-shot labels")

# By figure: task, dataset, metric and the metric's name.
METRICS = {
    "captions": (CAPTIONING, UNSEEN, "accuracy", "Captions with every fact right"),
    "captions_held_out": (CAPTIONING, HELD_OUT, "accuracy", "Captions with every fact right on held-out combinations"),
    "text_to_image": (RETRIEVAL, UNSEEN, "recall_at_1", "Text to image R@1"),
    "image_to_text": (RETRIEVAL, UNSEEN, "recall_at_1", "Image to text R@1"),
    "zero_shot": (ZERO_SHOT, SINGLE, "accuracy", "Accuracy, mean of the three sets of labels"),
}


def write_scene_card(folder: Path, figures: Mapping[str, float], training: Mapping[str, Any]) -> None:
    """
    Writes `README.md` of the model in `folder`, and the pictures that it shows beside it.

    Args:
        folder: The saved model.
        figures: What was measured, as shares from 0 to 1.
        training: Content of its `training.json`.
    """
    for name in WIDGET:
        (folder / "examples").mkdir(exist_ok=True)
        shutil.copyfile(coca_hf.bundled_model().parent / "examples" / name, folder / "examples" / name)
    card = render(
        TEMPLATE,
        _metadata(figures),
        json.loads((folder / "config.json").read_text(encoding="utf-8")),
        title="CoCa on rendered scenes",
        caption_tokens=40,
        labels=LABELS,
        percent={name: f"{100 * value:.1f}" for name, value in figures.items()},
        training=training,
        held_out=sorted(f"{colour} {shape}" for colour, shape in HELD_OUT_COMBINATIONS),
        megabytes=f"{(folder / 'model.safetensors').stat().st_size / 1e6:.1f}",
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _metadata(figures: Mapping[str, float]) -> ModelCardData:
    results = [
        EvalResult(
            task_type=task[0],
            task_name=task[1],
            dataset_type=dataset[0],
            dataset_name=dataset[1],
            metric_type=metric,
            metric_name=name,
            metric_value=round(100 * figures[figure], 1),
        )
        for figure, (task, dataset, metric, name) in METRICS.items()
    ]
    return ModelCardData(
        language="en",
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-to-text",
        tags=["coca", "image-captioning", "image-text-retrieval", "zero-shot-image-classification"],
        model_name="coca-scenes",
        eval_results=results,
        widget=[{"src": f"examples/{name}", "example_title": title} for name, title in WIDGET.items()],
    )
