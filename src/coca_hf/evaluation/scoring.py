# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""From what a model made of a data set to the scores of the tasks, and to what a report shows of them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..batch_inference.wording import count
from .captions import caption_scores
from .classification import class_embeds, classification_scores, linear_probe
from .clip_score import PROMPT, clip_scores
from .data import EvaluationData
from .errors import EvaluationError
from .retrieval import nearest, retrieval_recall


TASKS = ("captions", "retrieval", "zero-shot", "probe")

EmbedTexts = Callable[[list[str]], np.ndarray]
"""Texts -> (texts, dim), normalised."""


@dataclass(frozen=True)
class Made:
    """What a model, or another system, made of images, by their names."""

    captions: Mapping[str, str] = field(default_factory=dict)
    image_embeds: Mapping[str, np.ndarray] = field(default_factory=dict)
    embed_texts: EmbedTexts | None = None


@dataclass(frozen=True)
class ClassNames:
    """What classes are called, in the order of the labels, and what is said of them; None: as the labels are."""

    names: Sequence[str] | None
    templates: Sequence[str]


@dataclass(frozen=True)
class Details:
    """What a report shows besides the scores."""

    per_image: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    missed_texts: Sequence[tuple[str, str, str]] = ()
    """(text, its image, the image found first), the text farthest from its image first."""
    confusions: Sequence[tuple[str, str, int]] = ()
    """(class, class taken for it, images), the most frequent first."""


def score_captions(
    data: EvaluationData, made: Made, *, bootstrap: int, meteor: bool
) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """Scores of the whole, and of each image. Raises `EvaluationError`."""
    references = {path: data.references[path] for path in data.references if path in made.captions}
    candidates = {path: made.captions[path] for path in references}
    scores = caption_scores(candidates, references, per_image=True, bootstrap=bootstrap, meteor=meteor)
    per_image = scores.pop("per_image")
    if made.embed_texts is not None and all(path in made.image_embeds for path in candidates):
        for name, values in _clip_scores(candidates, references, made, made.embed_texts).items():
            scores[name] = float(values.mean())
            for path, value in zip(candidates, values.tolist(), strict=True):
                per_image[path][name] = value
    return scores, per_image


def _clip_scores(
    candidates: Mapping[str, str], references: Mapping[str, Sequence[str]], made: Made, embed: EmbedTexts
) -> dict[str, np.ndarray]:
    texts = dict.fromkeys([*candidates.values(), *(text for each in references.values() for text in each)])
    rows = dict(zip(texts, embed([PROMPT + text for text in texts]), strict=True))
    return clip_scores(
        np.stack([made.image_embeds[path] for path in candidates]),
        np.stack([rows[text] for text in candidates.values()]),
        [np.stack([rows[text] for text in references[path]]) for path in candidates],
    )


def score_retrieval(data: EvaluationData, made: Made) -> tuple[dict[str, float], list[tuple[str, str, str]]]:
    """Scores, and the texts whose image was not found first. Raises `EvaluationError`."""
    images = [path for path in data.references if path in made.image_embeds]
    pairs = [(text, row) for row, path in enumerate(images) for text in data.references[path]]
    image_embeds = np.stack([made.image_embeds[path] for path in images])
    text_embeds = _embedder(made)([text for text, _ in pairs])
    owners = [row for _, row in pairs]
    scores = retrieval_recall(image_embeds, text_embeds, owners)
    first = nearest(text_embeds, image_embeds, 1)[:, 0]
    similarity = (text_embeds * image_embeds[owners]).sum(axis=1)
    missed = [row for row in np.argsort(similarity).tolist() if first[row] != owners[row]]
    return scores, [(pairs[row][0], images[owners[row]], images[first[row]]) for row in missed]


def score_zero_shot(
    data: EvaluationData, made: Made, classes: ClassNames
) -> tuple[dict[str, float], list[tuple[str, str, int]]]:
    """Scores, and which classes were taken for which. Raises `EvaluationError`."""
    labels = data.classes()
    names = list(labels if classes.names is None else classes.names)
    by_name = all(label in names for label in labels)
    if not by_name and len(names) != len(labels):
        told = f"there are {count(len(names), 'class name')} for {count(len(labels), 'label')} of the data"
        raise EvaluationError(f"{told}: give a name for each")
    if len(names) < 2:
        raise EvaluationError(f"all images have the class {names[0]!r}, so there is nothing to tell apart")
    number = {label: names.index(label) if by_name else place for place, label in enumerate(labels)}
    paths = [path for path in data.labels if path in made.image_embeds]
    wanted = [number[data.labels[path]] for path in paths]
    images = np.stack([made.image_embeds[path] for path in paths])
    scores = images @ class_embeds(_embedder(made), names, classes.templates).T
    found = classification_scores(scores, wanted)
    taken = Counter(
        (names[true], names[best]) for true, best in zip(wanted, scores.argmax(axis=1).tolist(), strict=True)
    )
    wrong = [(true, best, times) for (true, best), times in taken.most_common() if true != best]
    return found, wrong


def score_probe(data: EvaluationData, made: Made, training: tuple[EvaluationData, Made] | None) -> dict[str, float]:
    """
    Scores of a linear probe, trained on another data set, or on four fifths of this one and scored on the rest.

    Raises:
        EvaluationError: There are less than two classes, or labels that the training does not have.
    """
    paths = [path for path in data.labels if path in made.image_embeds]
    if training is None:
        # Every fifth image of a class, so that classes are on both sides wherever images of them lie.
        seen: Counter[str] = Counter()
        held_out = []
        for path in paths:
            seen[data.labels[path]] += 1
            held_out.append(seen[data.labels[path]] % 5 == 0)
        train_data, train_made = data, made
        train_paths = [path for path, out in zip(paths, held_out, strict=True) if not out]
        paths = [path for path, out in zip(paths, held_out, strict=True) if out]
    else:
        train_data, train_made = training
        train_paths = [path for path in train_data.labels if path in train_made.image_embeds]
    if not paths or not train_paths:
        raise EvaluationError("a probe needs labelled images to learn from and others to be scored on: 5 of a class")
    train_labels = [train_data.labels[path] for path in train_paths]
    names = sorted(set(train_labels))
    unknown = sorted({data.labels[path] for path in paths} - set(names))
    if unknown:
        raise EvaluationError(f"the class {unknown[0]!r} is not among those that the probe learns")
    scores = linear_probe(
        np.stack([train_made.image_embeds[path] for path in train_paths]),
        train_labels,
        np.stack([made.image_embeds[path] for path in paths]),
    )
    return classification_scores(scores, [names.index(data.labels[path]) for path in paths])


def _embedder(made: Made) -> EmbedTexts:
    if made.embed_texts is None:
        raise EvaluationError("this needs a model, which embeds texts")
    return made.embed_texts
