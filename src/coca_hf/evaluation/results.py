# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Results of an evaluation as JSON, as a table, and as what a model card says of them."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..batch_inference.files import error_text, write_whole
from ..batch_inference.wording import count
from .errors import EvaluationError


FORMAT = 1

NAMES = {
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "meteor": "METEOR",
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr",
    "clip_score": "CLIPScore",
    "ref_clip_score": "RefCLIPScore",
    **{
        f"{there}_recall@{k}": f"{words} R@{k}"
        for there, words in (
            ("text_to_image", "Text to image"),
            ("image_to_text", "Image to text"),
        )
        for k in (1, 5, 10)
    },
    "top_1": "Top-1",
    "top_5": "Top-5",
    "mean_per_class": "Mean per class",
}
_TASK_WORDS = {
    "captions": ("image-to-text", "Image captioning"),
    "retrieval": ("zero-shot-retrieval", "Zero-shot retrieval"),
    "zero-shot": ("zero-shot-image-classification", "Zero-shot image classification"),
    "probe": ("image-classification", "Linear probe"),
}


def write_results(results: Mapping[str, Any], path: str) -> None:
    """Raises `OutputError`."""
    write_whole(path, json.dumps(results, indent=1).encode("ascii") + b"\n")


def read_results(path: str) -> dict[str, Any]:
    """Raises `EvaluationError` where the file holds no results of an evaluation."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise EvaluationError(f"cannot read {path!r}: {error_text(error)}") from None
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT or "tasks" not in content:
        raise EvaluationError(f"{path!r} holds no results of coca-hf evaluate")
    return content


def rows(
    results: Mapping[str, Any],
) -> Iterator[tuple[str, str, float, Sequence[float] | None]]:
    """(task, metric, value, interval or None) of all scores."""
    for task, scores in results["tasks"].items():
        intervals = scores.get("intervals", {})
        for metric, value in scores.items():
            if metric != "intervals":
                yield task, metric, value, intervals.get(metric)


def table(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[list[str]]:
    """A row a metric, a column for each of the results, the first row their names; intervals of one alone."""
    alone = len(results) == 1
    found = [{(task, metric): (value, bounds) for task, metric, value, bounds in rows(each)} for each in results]
    lines = [["", *names, *(["95 % interval"] if alone else [])]]
    for key in dict.fromkeys(key for each in found for key in each):
        line = [f"{_TASK_WORDS[key[0]][1]}: {NAMES.get(key[1], key[1])}"]
        line += [_number(*each[key][:1]) if key in each else "" for each in found]
        if alone:
            bounds = found[0][key][1]
            line.append(f"{_number(bounds[0])} to {_number(bounds[1])}" if bounds else "")
        lines.append(line)
    return lines


def _number(value: float) -> str:
    return f"{value:.4f}"


def comparison_names(paths: Sequence[str]) -> list[str]:
    """Short names of result files, which tell them apart."""
    short = [os.path.splitext(os.path.basename(path))[0] for path in paths]
    return short if len(set(short)) == len(short) else list(paths)


def eval_results(results: Mapping[str, Any], data_name: str | None = None) -> list[Any]:
    """huggingface_hub's `EvalResult` of each score, for `ModelCardData(eval_results=...)`."""
    from huggingface_hub import EvalResult

    name = data_name or ", ".join(os.path.basename(path.rstrip("/")) for path in results["data"]["paths"])
    return [
        EvalResult(
            task_type=_TASK_WORDS[task][0],
            task_name=_TASK_WORDS[task][1],
            dataset_type=name,
            dataset_name=name,
            metric_type=metric,
            metric_name=NAMES.get(metric, metric),
            metric_value=round(value, 6),
        )
        for task, metric, value, _ in rows(results)
    ]


def card_block(results: Mapping[str, Any], model_name: str, data_name: str | None = None) -> str:
    """Markdown for a model card: metadata with a `model-index`, which the Hub shows, and a table."""
    from huggingface_hub import ModelCardData

    metadata = ModelCardData(model_name=model_name, eval_results=eval_results(results, data_name)).to_yaml()
    lines = table([results], ["value"])
    text = [f"---\n{metadata.strip()}\n---\n", "## Evaluation\n"]
    data = results["data"]
    parts = [count(data[name], name[:-1]) for name in ("images", "captions") if data[name]]
    text.append(f"{', '.join(parts)}; coca-hf {results['versions']['coca-hf']}.\n")
    text += [
        "| " + " | ".join(line) + " |" + ("\n|" + " --- |" * len(line) if not n else "")
        for n, line in enumerate(lines)
    ]
    return "\n".join(text) + "\n"
