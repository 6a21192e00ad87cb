# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Classification: by the texts of the classes (zero-shot), and by a linear probe on frozen embeddings."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .errors import EvaluationError


def class_embeds(
    embed_texts: Callable[[list[str]], Any], class_names: Sequence[str], templates: Sequence[str]
) -> np.ndarray:
    """
    (classes, dim): for each class the normalised mean of the embeddings of what the templates say of it.

    Args:
        embed_texts: texts -> (texts, dim), normalised.
        templates: texts with a place, `{}` or `{c}`, for a class's name.

    Raises:
        EvaluationError: There are no classes or templates, or a template has no place for a name.
    """
    if not class_names or not templates:
        raise EvaluationError("zero-shot classification needs a class name and a template at least")
    for template in templates:
        if "{}" not in template and "{c}" not in template:
            raise EvaluationError(f"the template {template!r} has no {{}}, where the name of a class goes")
    rows = []
    for name in class_names:
        texts = [template.replace("{c}", name).replace("{}", name) for template in templates]
        mean = np.asarray(embed_texts(texts), np.float32).mean(axis=0)
        rows.append(mean / np.linalg.norm(mean))
    return np.stack(rows)


def classification_scores(scores: Any, labels: Sequence[int]) -> dict[str, float]:
    """
    Accuracy of scores (images, classes) for `labels` (images,), class numbers.

    Returns:
        {"top_1": ..., "top_5": ..., "mean_per_class": ...}, fractions. `mean_per_class` is the mean of the recalls of
        the classes that occur, as CLIP_benchmark's `mean_per_class_recall`; "top_5" is left out below five classes.

    Raises:
        EvaluationError: The two do not fit each other.
    """
    matrix, classes = np.asarray(scores), np.asarray(labels)
    if matrix.ndim != 2 or classes.shape != matrix.shape[:1] or not len(classes):
        raise EvaluationError(f"scores of shape {matrix.shape} and {classes.size:,} labels do not fit each other")
    if classes.min() < 0 or classes.max() >= matrix.shape[1]:
        raise EvaluationError(f"a label is none of the {matrix.shape[1]} classes")
    order = np.argsort(-matrix, axis=1, kind="stable")[:, :5]
    hits = order == classes[:, None]
    found = {"top_1": float(hits[:, 0].mean())}
    if matrix.shape[1] >= 5:
        found["top_5"] = float(hits.any(axis=1).mean())
    found["mean_per_class"] = float(np.mean([hits[classes == each, 0].mean() for each in np.unique(classes)]))
    return found


def linear_probe(
    train_embeds: Any, train_labels: Sequence[Any], embeds: Any, *, max_iterations: int = 1000, strength: float = 0.316
) -> np.ndarray:
    """
    (images, classes): scores of a logistic regression on frozen embeddings, classes in sorted order.

    Args:
        train_embeds, train_labels: (images, dim) and their labels.
        embeds: (images, dim), what is scored.
        max_iterations: of L-BFGS.
        strength: C of scikit-learn, the inverse of the regularisation; 0.316 as CLIP's authors used for ImageNet.

    Raises:
        ImportError: scikit-learn is missing.
        EvaluationError: There are less than two classes.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError("a linear probe needs scikit-learn: pip install 'coca-hf[evaluate]'") from error
    if len(set(train_labels)) < 2:
        raise EvaluationError("a linear probe needs images of two classes at least")
    probe = LogisticRegression(C=strength, max_iter=max_iterations)
    probe.fit(np.asarray(train_embeds), np.asarray(train_labels))
    scores = probe.decision_function(np.asarray(embeds))
    return scores if scores.ndim == 2 else np.stack([-scores, scores], axis=1)
