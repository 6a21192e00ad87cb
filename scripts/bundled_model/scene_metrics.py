# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How well a model captions, retrieves and labels rendered scenes: a right fact is counted, nothing is judged."""

import random
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional as F

from coca_hf import CoCaForCaptioning, CoCaProcessor
from scenes import (
    COLOURS,
    LABEL_KINDS,
    SHAPES,
    Facts,
    Group,
    Scene,
    Split,
    caption,
    label,
    parse_caption,
    render,
    scenes,
)


BATCH_SIZE = 100


class SceneModel:
    """A captioner and its processor, used as anyone would use them: pictures and texts go through the processor."""

    def __init__(self, model: CoCaForCaptioning, processor: CoCaProcessor) -> None:
        self.model = model.eval()
        self.processor = processor

    @classmethod
    def load(cls, folder: str) -> "SceneModel":
        return cls(CoCaForCaptioning.from_pretrained(folder), CoCaProcessor.from_pretrained(folder))

    @torch.no_grad()
    def captions(self, images: Iterable[Image]) -> list[str]:
        texts: list[str] = []
        for batch in _batches(images):
            inputs = self.processor(images=batch, return_tensors="pt")
            texts += self.processor.batch_decode(self.model.generate(**inputs), skip_special_tokens=True)
        return texts

    @torch.no_grad()
    def image_embeds(self, images: Iterable[Image]) -> Tensor:
        """(images, dim), L2-normalised."""
        outputs = [
            self.model.get_image_features(**self.processor(images=batch, return_tensors="pt")).pooler_output
            for batch in _batches(images)
        ]
        return F.normalize(torch.cat(outputs), dim=-1)

    @torch.no_grad()
    def text_embeds(self, texts: Iterable[str]) -> Tensor:
        """(texts, dim), L2-normalised."""
        options: dict[str, Any] = {"padding": True, "truncation": True, "return_tensors": "pt"}
        outputs = [
            self.model.get_text_features(**self.processor(text=batch, **options)).pooler_output
            for batch in _batches(texts)
        ]
        return F.normalize(torch.cat(outputs), dim=-1)


def _batches(items: Iterable) -> Iterator[list]:
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH_SIZE)):
        yield batch


def caption_accuracy(model: SceneModel, split: Split, count: int) -> float:
    """Share of captions that state every fact of their scene, and only true ones."""
    return 1 - len(wrong_captions(model, split, count)) / count


def wrong_captions(model: SceneModel, split: Split, count: int) -> list[tuple[Facts, str]]:
    """The facts and the caption of each scene whose caption is not wholly right."""
    facts = [scene.facts for scene in scenes(split, count)]
    captions = model.captions(map(render, scenes(split, count)))
    return [(fact, text) for fact, text in zip(facts, captions, strict=True) if parse_caption(text) != fact]


def distinct_scenes(split: Split, count: int, start: int = 0) -> tuple[list[Scene], int]:
    """`count` scenes of which no two have the same facts, and the index after the last one looked at."""
    chosen: dict[Facts, Scene] = {}
    while len(chosen) < count:
        scene = next(scenes(split, 1, start))
        chosen.setdefault(scene.facts, scene)
        start += 1
    return list(chosen.values()), start


def retrieval_recall(model: SceneModel, num_sets: int, set_size: int = 100) -> dict[str, float]:
    """R@1 from text to image and back among `set_size` scenes with distinct facts, averaged over sets.

    Each text is one caption in words chosen at random from the grammar.
    """
    rng = random.Random("retrieval")
    hits, start = torch.zeros(2), 0
    for _ in range(num_sets):
        chosen, start = distinct_scenes("test", set_size, start)
        texts = model.text_embeds([caption(scene.facts, rng) for scene in chosen])
        similarity = model.image_embeds(map(render, chosen)) @ texts.t()  # (images, texts)
        own = torch.arange(set_size)
        hits += torch.stack([(similarity.argmax(dim) == own).float().mean() for dim in (0, 1)])
    text_to_image, image_to_text = (hits / num_sets).tolist()
    return {"text_to_image": text_to_image, "image_to_text": image_to_text}


def zero_shot_accuracy(model: SceneModel, count: int) -> dict[str, float]:
    """Share of one-group scenes whose label is ranked first: among 8 shapes, 8 colours and all 64 pairs of them."""
    groups = [scene.facts.groups[0] for scene in scenes("single", count)]
    images = model.image_embeds(map(render, scenes("single", count)))
    accuracy = {}
    for kind in LABEL_KINDS:
        labels = list(dict.fromkeys(label(Group(1, "", c, s), kind) for c in COLOURS for s in SHAPES))
        texts = model.text_embeds(labels)
        own = torch.tensor([labels.index(label(group, kind)) for group in groups])
        accuracy[kind] = ((images @ texts.t()).argmax(1) == own).float().mean().item()
    return accuracy
