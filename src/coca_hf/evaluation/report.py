# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Pages: what a model did best and worst, and several results side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..batch_inference.errors import ImageError
from ..batch_inference.report import report_picture, write_page
from ..batch_inference.wording import count
from .results import comparison_names, read_results, table
from .run import Evaluation


_COMMAND = "coca-hf evaluate"
_TEMPLATE = Path(__file__).with_name("report.html.jinja")

# Of each kind.
_SHOWN = 12


def write_evaluation_report(evaluation: Evaluation, path: str) -> None:
    """
    The table, the images with the best and the worst captions, texts that found another image, confusions of classes.

    Raises:
        OutputError: The page cannot be written.
    """
    details, data, made = evaluation.details, evaluation.data, evaluation.made
    ranked = sorted(
        details.per_image,
        key=lambda each: _worth(details.per_image[each]),
        reverse=True,
    )
    best = ranked[:_SHOWN]
    worst = [each for each in reversed(ranked[-_SHOWN:]) if each not in best]

    def captioned(name: str) -> dict[str, Any]:
        scores = details.per_image[name]
        shown = {
            "CIDEr": scores["cider"],
            "BLEU-4": scores["bleu_4"],
            "ROUGE-L": scores["rouge_l"],
        }
        return {
            "name": data.ids[name],
            "picture": _picture(evaluation, name),
            "caption": made.captions[name],
            "references": data.references[name],
            "scores": {each: f"{value:.3f}" for each, value in shown.items()},
        }

    missed = [
        {
            "text": text,
            "own": _picture(evaluation, own),
            "found": _picture(evaluation, found),
            "name": data.ids[own],
        }
        for text, own, found in details.missed_texts[:_SHOWN]
    ]
    write_page(
        path,
        _TEMPLATE,
        command=_COMMAND,
        title=f"Evaluation of {count(len(data.ids), 'image')}",
        facts=_facts(evaluation.results),
        tables=[table([evaluation.results], ["value"])],
        groups=[
            ("Best captions", [captioned(each) for each in best]),
            ("Worst captions", [captioned(each) for each in worst]),
        ],
        missed=missed,
        confusions=details.confusions[:30],
    )


def write_comparison(paths: Sequence[str], path: str) -> None:
    """
    A page with the scores of several result files side by side.

    Raises:
        EvaluationError: A file holds no results.
        OutputError: The page cannot be written.
    """
    results = [read_results(each) for each in paths]
    write_page(
        path,
        _TEMPLATE,
        command=f"{_COMMAND} --compare",
        title=f"Comparison of {count(len(results), 'evaluation')}",
        facts=_same_facts(results),
        tables=[table(results, comparison_names(paths))],
        groups=[],
        missed=[],
        confusions=[],
    )


def _worth(scores: Mapping[str, float]) -> tuple[float, float]:
    return scores["cider"], scores["rouge_l"]


def _picture(evaluation: Evaluation, name: str) -> bytes | None:
    try:
        return report_picture(evaluation.data.images[name].open_image())
    except ImageError:
        return None


def _facts(results: Mapping[str, Any]) -> dict[str, str]:
    options = {name.replace("_", " ").capitalize(): str(value) for name, value in results["options"].items()}
    return {
        "Model": str(results["model"]),
        "Data": ", ".join(results["data"]["paths"]),
        **options,
    }


def _same_facts(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    data = {each["data"]["fingerprint"] for each in results}
    same = "the same images and captions" if len(data) == 1 else "not the same: the numbers cannot be compared"
    return {"Data": same}
