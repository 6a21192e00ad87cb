# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A whole evaluation: a data set through a model, on the engine that `caption` and `embed` run on, to its scores."""

import json
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..batch_inference.engine import Summary, run
from ..batch_inference.files import error_text
from ..batch_inference.jobs import CaptionJob, CaptionOptions, EmbedJob, Job
from ..batch_inference.models import (
    ModelChoice,
    fingerprint,
    load_model,
    load_processor,
)
from ..image_text_data import open_image_text_data
from .data import EvaluationData, read_candidates
from .errors import EvaluationError
from .results import FORMAT
from .scoring import (
    TASKS,
    ClassNames,
    Details,
    EmbedTexts,
    Made,
    score_captions,
    score_probe,
    score_retrieval,
    score_zero_shot,
)


IMAGENET = "imagenet"
"""In place of a file: ImageNet's 1000 class names, or the 80 templates of CLIP's authors."""

_IMAGENET_FILE = Path(__file__).with_name("imagenet.json")


@dataclass(frozen=True)
class EvaluationOptions:
    """
    What is evaluated and how. Raises `EvaluationError` for what cannot be.

    `paths`, `split`, `image_column`, `caption_column` and `image_folder` are those of `open_image_text_data`.
    `label_column` has an image's class; without one its folder is. `class_names` is a file with a name a line, in the
    order of the labels, or "imagenet"; None for the labels themselves. `templates` is a file with a text a line, {}
    where the name goes, or "imagenet". `probe_data` is what a probe learns from; None for four fifths of the data.
    """

    paths: Sequence[str]
    tasks: Sequence[str] = ("captions", "retrieval")
    split: str = "train"
    image_column: str = "image"
    caption_column: str = "caption"
    label_column: str = "label"
    image_folder: str | None = None
    candidates: str | None = None
    class_names: str | None = None
    templates: str = IMAGENET
    probe_data: str | None = None
    bootstrap: int = 1000
    captions: CaptionOptions = field(default_factory=CaptionOptions)

    def __post_init__(self) -> None:
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or not self.tasks:
            raise EvaluationError(f"no such task: {', '.join(unknown) or 'none'}. Give some of {', '.join(TASKS)}")
        if self.bootstrap < 0:
            raise EvaluationError(f"bootstrap {self.bootstrap} is not allowed: give 0 or more")

    def given(self) -> dict[str, Any]:
        """What differs from the defaults, by name, for the results."""
        default = EvaluationOptions(self.paths, self.tasks)
        chosen = {name: value for name, value in asdict(self).items() if value != getattr(default, name)}
        chosen.pop("captions", None)
        return {**chosen, **self.captions.given()}

    def open(self, paths: Sequence[str]) -> EvaluationData:
        """Raises `EvaluationError` and `InputError`."""
        needs = any(task in ("captions", "retrieval") for task in self.tasks)
        data = open_image_text_data(
            list(paths),
            image_column=self.image_column,
            caption_column=self.caption_column,
            split=self.split,
            image_folder=self.image_folder,
            need_captions=False,
        )
        seen = EvaluationData.of(data, self.label_column)
        if needs:
            seen.require_references(self.caption_column)
        if any(task in ("zero-shot", "probe") for task in self.tasks):
            seen.label_by_folder()
        return seen


@dataclass
class Evaluation:
    """`results` as they go into a JSON file; the rest is for a report. `failed`: images that could not be read."""

    results: dict[str, Any]
    data: EvaluationData
    made: Made
    details: Details
    failed: list[tuple[str, str]]


def evaluate(
    options: EvaluationOptions,
    choice: ModelChoice | None,
    output: str | None = None,
    *,
    batch_size: int = 16,
    engine: dict[str, Any] | None = None,
    wrap: Callable[[Job], Any] = lambda job: job,
) -> Evaluation:
    """
    Scores of a model, or of `options.candidates` alone where there is none.

    Args:
        output: the file that results go to. Captions and embeddings are kept beside it, in NAME.captions.jsonl and
            NAME.embeddings.npy: the same call continues what ended early, and another task takes what is there.
        engine: further arguments of `batch_inference.run`.
        wrap: around each job.

    Raises:
        EvaluationError: The data, the candidates and the tasks do not fit each other.
        InputError, ModelError, OutputError, RunInterrupted: As of `batch_inference.run`.
    """
    if choice is None and (options.candidates is None or list(options.tasks) != ["captions"]):
        raise EvaluationError("without a model only the captions of --candidates can be scored")
    data = options.open(options.paths)
    with ExitStack() as opened:
        base = (
            os.path.splitext(output)[0]
            if output
            else os.path.join(opened.enter_context(tempfile.TemporaryDirectory()), "run")
        )
        maker = _Maker(options, choice, base, batch_size, engine or {}, wrap)
        made = maker.make(data, options.paths, with_captions="captions" in options.tasks)
        training = None
        if "probe" in options.tasks and options.probe_data is not None:
            train_data = replace(options, tasks=("probe",)).open([options.probe_data])
            made_of = replace(maker, base=f"{base}.probe")
            training = (
                train_data,
                made_of.make(train_data, [options.probe_data], with_captions=False),
            )
        scores, details = _scored(options, data, made, training)
    results = {
        **_facts(options, choice, data),
        "failed": len(maker.failed),
        "tasks": scores,
    }
    return Evaluation(results, data, made, details, maker.failed)


def _scored(
    options: EvaluationOptions,
    data: EvaluationData,
    made: Made,
    training: tuple[EvaluationData, Made] | None,
) -> tuple[dict[str, Any], Details]:
    scores: dict[str, Any] = {}
    details = Details()
    if "captions" in options.tasks:
        scores["captions"], per_image = score_captions(data, made, bootstrap=options.bootstrap, meteor=True)
        details = replace(details, per_image=per_image)
    if "retrieval" in options.tasks:
        scores["retrieval"], missed = score_retrieval(data, made)
        details = replace(details, missed_texts=missed)
    if "zero-shot" in options.tasks:
        scores["zero-shot"], confusions = score_zero_shot(data, made, _class_names(options))
        details = replace(details, confusions=confusions)
    if "probe" in options.tasks:
        scores["probe"] = score_probe(data, made, training)
    return scores, details


@dataclass
class _Maker:
    """Captions and embeddings of a data set, by the engine."""

    options: EvaluationOptions
    choice: ModelChoice | None
    base: str
    batch_size: int
    engine: dict[str, Any]
    wrap: Callable[[Job], Any]
    failed: list[tuple[str, str]] = field(default_factory=list)
    embedder: EmbedTexts | None = None

    def make(self, data: EvaluationData, paths: Sequence[str], *, with_captions: bool) -> Made:
        captions: dict[str, str] = {}
        if with_captions and self.options.candidates is not None:
            captions = read_candidates(self.options.candidates, data)
        if self.choice is None:
            return Made(captions)
        inputs = data.inputs(paths, self.options.split, self.options.image_column)
        if with_captions and self.options.candidates is None:
            file = f"{self.base}.captions.jsonl"
            self._run(inputs, CaptionJob(self.choice, self.options.captions), file)
            captions = {each["image"]: each["caption"] for each in _lines(file) if "caption" in each}
        file = f"{self.base}.embeddings.npy"
        self._run(inputs, EmbedJob(self.choice), file)
        rows = np.load(file)
        embeds = {each["image"]: rows[each["row"]] for each in _lines(f"{file}.jsonl") if "row" in each}
        if not embeds:
            image, reason = self.failed[0]
            raise EvaluationError(f"none of the images could be read, the first of them, {image!r}: {reason}")
        return Made(captions, embeds, self._embedder())

    def _run(self, inputs: Any, job: Job, file: str) -> Summary:
        summary = run(inputs, self.wrap(job), [file], batch_size=self.batch_size, **self.engine)
        self.failed[:] = list(
            dict.fromkeys(
                [
                    *self.failed,
                    *((each.image, each.error or "") for each in summary.failures),
                ]
            )
        )
        return summary

    def _embedder(self) -> EmbedTexts:
        assert self.choice is not None
        if self.embedder is None:
            from .models import text_embedder

            self.embedder = text_embedder(load_model(self.choice, "towers"), load_processor(self.choice))
        return self.embedder


def _lines(path: str) -> list[dict[str, Any]]:
    with open(path, encoding="ascii") as file:
        return [json.loads(line) for line in file]


def _class_names(options: EvaluationOptions) -> ClassNames:
    imagenet = imagenet_facts()
    names = imagenet["class_names"] if options.class_names == IMAGENET else _texts(options.class_names)
    templates = imagenet["templates"] if options.templates == IMAGENET else _texts(options.templates)
    return ClassNames(names, templates or [])


def imagenet_facts() -> dict[str, list[str]]:
    """`class_names`, 1000 in the order of ImageNet-1k's classes, and `templates`, 80 texts with {}."""
    return json.loads(_IMAGENET_FILE.read_text("ascii"))


def _texts(path: str | None) -> list[str] | None:
    if path is None:
        return None
    try:
        return [line.strip() for line in Path(path).read_text("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise EvaluationError(f"cannot read {path!r}: it is not UTF-8 text") from None
    except OSError as error:
        raise EvaluationError(f"cannot read {path!r}: {error_text(error)}") from None


def _facts(options: EvaluationOptions, choice: ModelChoice | None, data: EvaluationData) -> dict[str, Any]:
    packages = ("coca-hf", "numpy") if choice is None else ("coca-hf", "torch", "transformers", "numpy")
    return {
        "format": FORMAT,
        "made": datetime.now().astimezone().isoformat(timespec="seconds"),
        "model": options.candidates if choice is None else choice.name,
        "model_fingerprint": None if choice is None else fingerprint(choice.name),
        "dtype": None if choice is None else choice.dtype,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
        },
        "data": {
            "paths": list(options.paths),
            "images": len(data.ids),
            "captions": sum(map(len, data.references.values())),
            "fingerprint": data.fingerprint,
        },
        "options": options.given(),
    }
