# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""open_clip's zero-shot classifier."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F


@torch.no_grad()
def build_zero_shot_classifier(
    model: Any,
    tokenizer: Callable[[list[str]], torch.Tensor],
    classnames: Sequence[str],
    templates: Sequence[Callable[[str], str] | str],
    num_classes_per_batch: int | None = 10,
    device: str | torch.device = "cpu",
    use_tqdm: bool = False,
) -> torch.Tensor:
    """
    Weights (embed_dim, classes) whose product with image features ranks the classes, as open_clip's function.

    Args:
        model: A [`CoCa`], or anything with its `encode_text`.
        tokenizer: Texts -> ids, as `get_tokenizer` returns it.
        classnames: Names of the classes.
        templates: What is said of a class: texts with "{}" for its name, or functions of its name. A class has the
            normalised mean of the features of all of them.
        num_classes_per_batch: Classes that are encoded at a time; None for all.
        device: Where the model is.
        use_tqdm: Whether to show a progress bar.

    Raises:
        ValueError: There are no classes or no templates.
    """
    if not classnames or not templates:
        raise ValueError("build_zero_shot_classifier needs at least one class name and one template.")
    size = num_classes_per_batch or len(classnames)
    starts: Any = range(0, len(classnames), size)
    if use_tqdm:
        from tqdm import tqdm

        starts = tqdm(starts)
    weights = []
    for start in starts:
        names = classnames[start : start + size]
        texts = [each.format(name) if isinstance(each, str) else each(name) for name in names for each in templates]
        features = model.encode_text(tokenizer(texts).to(device), normalize=True)
        means = features.unflatten(0, (len(names), len(templates))).mean(dim=1)
        weights.append(F.normalize(means, dim=-1).T)
    return torch.cat(weights, dim=1)
