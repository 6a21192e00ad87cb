# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Which map of a word points at what the word names: the table of docs/seeing.md.

    python benchmarks/word_maps.py --scenes 1000 --output benchmarks/word_maps.json

Scenes with two groups of shapes, none of which the bundled model was trained on, with captions that say all of each
scene in words chosen at random; the box of a group is that of the pixels that its shapes cover. A map's peak is inside
or outside the box of the group that its word belongs to ("background" and its colour: on no shape, or on one), and so
is a share of its heat. For nouns, a third number ranks pixels by heat against those that the shapes cover (average
precision), which no power of the map changes.
"""

import argparse
import itertools
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

import coca_hf
import scenes as world
from coca_hf import CoCaForCaptioning, CoCaProcessor
from coca_hf.seeing.attention import kept_weights
from coca_hf.seeing.maps import see_words
from coca_hf.seeing.placement import Axis


SIDE = 80
BATCH = 20
KINDS = ("noun", "colour", "size", "count", "place", "background")
PLACES = frozenset(
    " ".join(map(str, itertools.chain(*world.RELATION_WORDS.values(), *world.PLACE_WORDS.values()))).split()
)
PLACES |= frozenset(" ".join(itertools.chain(*world.REVERSED_RELATION_WORDS.values())).split())
PLACES -= {"to", "the", "of", "on", "at"}
_UP = torch.from_numpy(Axis(SIDE, 0, SIDE, 10, 8).matrix(SIDE))


# --- what is known of a scene ---


def mask_of(scene: world.Scene, index: int) -> np.ndarray:
    """Pixels that the shapes of a group cover: bool (side, side)."""
    counts = [group.count for group in scene.facts.groups]
    first = sum(counts[:index])
    picture = Image.new("RGB", (3 * SIDE, 3 * SIDE))
    draw = ImageDraw.Draw(picture)
    for shape in scene.shapes[first : first + counts[index]]:
        world._draw_shape(draw, replace(shape, rgb=(255, 255, 255)), 3 * SIDE)
    return np.asarray(picture.reduce(3))[..., 0] > 127


def box_of(mask: np.ndarray) -> np.ndarray:
    ys, xs = np.where(mask)
    box = np.zeros_like(mask)
    box[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] = True
    return box


def kinds_of(caption: str, facts: world.Facts) -> list[tuple[str, int | None]]:
    """For each word of a right caption what it says, and of which group."""
    phrases: list[tuple[int, int, int]] = []
    for pattern in world._GROUPS:
        for match in pattern.finditer(caption):
            parsed = world._parse_group(match.group())
            assert parsed is not None, "a phrase that the pattern found"
            phrases.append((match.start(), match.end(), facts.groups.index(parsed)))
    found = []
    for match in re.finditer(r"\S+", caption):
        word = match.group().strip(",")
        group = next((index for start, end, index in phrases if start <= match.start() < end), None)
        found.append((_kind(word, group is not None), group))
    return found


def _kind(word: str, in_group: bool) -> str:
    if in_group:
        words: dict[str, Any] = {
            "noun": world._NOUNS,
            "colour": world.COLOURS,
            "count": world._COUNTS,
            "size": world._SIZES,
        }
        return next((kind for kind, known in words.items() if word in known), "other")
    if word in (*world.BACKGROUND_NOUNS, *world._BACKGROUNDS):
        return "background"
    return "place" if word in PLACES else "other"


# --- methods ---


@dataclass
class Word:
    """What one word is predicted from. H: heads, Q: image tokens, K: class token and patches.

    `g_...` are gradients of the word's log-probability.
    """

    row: int
    cross: list[Tensor]  # of each decoder layer (H, text, Q)
    pooler: Tensor  # (H, queries, K), the first query the contrastive one
    vision: list[Tensor]  # of each layer (H, K, K)
    norms: Tensor  # lengths of the values of image tokens in the last decoder layer (H, Q)
    g_cross: list[Tensor]
    g_pooler: Tensor
    g_vision: list[Tensor]
    g_states: list[Tensor]  # of the vision tower's states before, between and behind its layers (K, hidden)
    states: list[Tensor]

    def decoder(self, layer: int = -1) -> Tensor:
        return self.cross[layer][:, self.row].mean(dim=0)

    def to_tokens(self) -> Tensor:
        return self.pooler[:, 1:].mean(dim=0)

    def rollout(self, layers: int) -> Tensor:
        product = torch.eye(self.vision[0].shape[-1])
        for weights in self.vision[len(self.vision) - layers :]:
            product = (weights.mean(dim=0) + torch.eye(weights.shape[-1])) / 2 @ product
        return product

    def chefer(self) -> Tensor:
        """Transformer-explainability's rule (arXiv 2103.15679) from the word through all stacks to the patches."""
        chain = torch.eye(self.vision[0].shape[-1])
        for weights, gradient in zip(self.vision, self.g_vision, strict=True):
            chain = chain + (weights * gradient).clamp(min=0).mean(dim=0) @ chain
        pooler = (self.pooler * self.g_pooler).clamp(min=0).mean(dim=0)[1:]
        cross = sum((w * g).clamp(min=0).mean(dim=0).sum(dim=0) for w, g in zip(self.cross, self.g_cross, strict=True))
        return cross @ pooler @ chain


def _mean_decoder(word: Word) -> Tensor:
    return torch.stack([word.decoder(layer) for layer in range(len(word.cross))]).mean(dim=0)


def _grad_cross(word: Word) -> Tensor:
    return (word.cross[-1] * word.g_cross[-1])[:, word.row].clamp(min=0).mean(dim=0)


Rows = Callable[[Word], Tensor]
"""A word -> (K,)"""

METHODS: dict[str, Rows] = {
    "row of the word itself, last layer": lambda w: w.cross[-1][:, w.row + 1].mean(dim=0) @ w.to_tokens(),
    "last layer": lambda w: w.decoder() @ w.to_tokens(),
    "first layer": lambda w: w.decoder(0) @ w.to_tokens(),
    "mean of layers": lambda w: _mean_decoder(w) @ w.to_tokens(),
    "product of layers": lambda w: (w.decoder(0) * w.decoder()) @ w.to_tokens(),
    "largest head": lambda w: w.cross[-1][:, w.row].amax(dim=0) @ w.to_tokens(),
    "by length of values": lambda w: (w.cross[-1][:, w.row] * w.norms).mean(dim=0) @ w.to_tokens(),
    "last layer, rollout 1": lambda w: w.decoder() @ w.to_tokens() @ w.rollout(1),
    "mean of layers, rollout 1": lambda w: _mean_decoder(w) @ w.to_tokens() @ w.rollout(1),
    "mean of layers, rollout 2": lambda w: _mean_decoder(w) @ w.to_tokens() @ w.rollout(2),
    "mean of layers, rollout of all": lambda w: _mean_decoder(w) @ w.to_tokens() @ w.rollout(len(w.vision)),
    "product of layers, rollout 1": lambda w: (w.decoder(0) * w.decoder()) @ w.to_tokens() @ w.rollout(1),
    "gradient x attention of the decoder": lambda w: _grad_cross(w) @ w.to_tokens(),
    "gradient x attention of the decoder, rollout 1": lambda w: _grad_cross(w) @ w.to_tokens() @ w.rollout(1),
    "gradient x attention of the pooler": lambda w: (w.pooler * w.g_pooler)[:, 1:].clamp(min=0).sum(dim=(0, 1)),
    "Chefer's rule": Word.chefer,
    "gradient x state, last": lambda w: (w.g_states[-1] * w.states[-1]).sum(dim=-1).clamp(min=0),
    "length of gradient, last": lambda w: w.g_states[-1].norm(dim=-1),
    "length of gradient, middle": lambda w: w.g_states[len(w.g_states) // 2].norm(dim=-1),
}

Posts = dict[str, Callable[[Tensor], Tensor]]
POSTS: Posts = {
    "": lambda maps: maps,
    "squared": lambda maps: maps**2,
    "less 1/2 mean": lambda maps: (maps - maps.mean(dim=0) / 2).clamp(min=0),
    "less 3/4 mean": lambda maps: (maps - 0.75 * maps.mean(dim=0)).clamp(min=0),
    "less mean": lambda maps: (maps - maps.mean(dim=0)).clamp(min=0),
    "by ratio to mean": lambda maps: maps * maps / maps.mean(dim=0),
}
# What is done to the maps of a caption is tried on these; on the others, nothing.
WITH_POSTS = {"last layer", "mean of layers", "last layer, rollout 1", "mean of layers, rollout 1"}
WITH_POSTS |= {"product of layers, rollout 1", "length of gradient, middle"}


# --- measuring ---


class Scores:
    """Of each method and kind of word: peak inside, heat inside, average precision."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, list[tuple[float, ...]]]] = defaultdict(lambda: defaultdict(list))

    def add(self, name: str, heats: np.ndarray, kinds: list[tuple[str, int | None]], masks: list[np.ndarray]) -> None:
        """`heats` (words, side, side)."""
        boxes = [box_of(mask) for mask in masks]
        for heat, (kind, group) in zip(heats, kinds, strict=True):
            if kind == "background":
                box = mask = ~(masks[0] | masks[1])
            elif kind == "place":
                box, mask = boxes[0] | boxes[1], masks[0] | masks[1]
            elif kind in KINDS and group is not None:
                box, mask = boxes[group], masks[group]
            else:
                continue
            share = float(heat[box].sum() / max(heat.sum(), 1e-30))
            row: tuple[float, ...] = (float(box.flat[heat.argmax()]), share)
            # Takes most of the time.
            self.found[name][kind].append((*row, _average_precision(heat, mask)) if kind == "noun" else row)

    def table(self) -> dict[str, dict[str, Any]]:
        names = ("peak", "energy", "average_precision")
        return {
            name: {
                kind: {"words": len(rows), **dict(zip(names, np.mean(rows, axis=0).round(4).tolist(), strict=False))}
                for kind, rows in kinds.items()
            }
            for name, kinds in self.found.items()
        }


def _average_precision(heat: np.ndarray, mask: np.ndarray) -> float:
    hits = mask.ravel()[np.argsort(-heat.ravel(), kind="stable")]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def _pixels(maps: Tensor) -> np.ndarray:
    """(words, K - 1) -> (words, side, side)."""
    return (_UP @ maps.unflatten(-1, (10, 10)) @ _UP.t()).numpy()


def words_of_batch(model: Any, processor: Any, images: list[Image.Image], captions: list[str]) -> Iterator[list[Word]]:
    """For each image the words of its caption. Each word of the bundled model's captions is one token."""
    vision, layers = model.model.vision_model, model.decoder.layers
    crossing = [layer.cross_attention_layer.cross_attn for layer in layers]
    looking = [layer.self_attn for layer in vision.layers]
    inputs = processor(
        images=images, text=[text.replace(",", "") for text in captions], padding=True, return_tensors="pt"
    )
    states: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda module, given, output: states.append(output))
        for layer in (vision.pre_layernorm, *vision.layers)
    ]
    with kept_weights(model, [vision.pooler.attn, *crossing, *looking]) as kept:
        logits = model(**inputs, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    pooler, cross, seen = kept[vision.pooler.attn], [kept[each] for each in crossing], [kept[each] for each in looking]
    projected = model.decoder.layers[-1].cross_attention_layer
    value = crossing[-1].v_proj(projected.context_norm(vision(inputs["pixel_values"]).image_tokens))
    heads = value.unflatten(-1, (-1, crossing[-1].head_dim))  # (images, Q, H, head size)
    weight = crossing[-1].out_proj.weight.unflatten(1, (-1, crossing[-1].head_dim))
    norms = torch.einsum("bqhd,ohd->bhqo", heads, weight).norm(dim=-1).detach()
    ids, scores = inputs["input_ids"], logits.log_softmax(dim=-1)
    gradients = []
    for place in range(1, ids.shape[1]):
        target = scores[torch.arange(len(ids)), place - 1, ids[:, place]].sum()
        gradients.append(torch.autograd.grad(target, [pooler, *cross, *seen, *states], retain_graph=True))
    for image, count in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
        words = []
        for row in range(count - 2):
            parts = iter([gradient[image] for gradient in gradients[row]])
            words.append(
                Word(
                    row,
                    [each[image].detach() for each in cross],
                    pooler[image].detach(),
                    [each[image].detach() for each in seen],
                    norms[image],
                    g_pooler=next(parts),
                    g_cross=[next(parts) for _ in cross],
                    g_vision=[next(parts) for _ in seen],
                    g_states=[next(parts) for _ in states],
                    states=[each[image].detach() for each in states],
                )
            )
        yield words


def measure(number: int, start: int) -> dict[str, Any]:
    model = CoCaForCaptioning.from_pretrained(coca_hf.bundled_model()).eval()
    processor = CoCaProcessor.from_pretrained(coca_hf.bundled_model())
    candidates = (world.make_scene("test", index) for index in itertools.count(start))
    chosen = list(itertools.islice((each for each in candidates if each.facts.relation), number))
    rng, scores, right = random.Random("maps"), Scores(), 0
    for first in range(0, number, BATCH):
        batch = chosen[first : first + BATCH]
        images = [world.render(scene, SIDE) for scene in batch]
        captions = [world.caption(scene.facts, rng) for scene in batch]
        masks = [[mask_of(scene, index) for index in (0, 1)] for scene in batch]
        all_kinds = [kinds_of(text, scene.facts) for text, scene in zip(captions, batch, strict=True)]
        for words, kinds, group_masks in zip(
            words_of_batch(model, processor, images, captions), all_kinds, masks, strict=True
        ):
            for name, rows in METHODS.items():
                maps = torch.stack([rows(word)[1:] for word in words])
                maps = maps / maps.sum(dim=1, keepdim=True).clamp(min=1e-30)
                for post, change in POSTS.items() if name in WITH_POSTS else [("", POSTS[""])]:
                    scores.add(", ".join(filter(None, (name, post))), _pixels(change(maps)), kinds, group_masks)
        for method in ("contrast", "attention"):
            shown = see_words(model, processor, images, captions, method)
            for seen, kinds, group_masks in zip(shown, all_kinds, masks, strict=True):
                heats = np.stack([each.heat for each in seen.maps()])
                scores.add(f"coca_hf.word_maps, {method!r}", heats, kinds, group_masks)
        for seen, scene, group_masks in zip(
            see_words(model, processor, images, [None] * len(images)), batch, masks, strict=True
        ):
            caption = " ".join(seen.words)
            if world.parse_caption(caption) == scene.facts:
                right += 1
                heats = np.stack([each.heat for each in seen.maps()])
                kinds = kinds_of(caption, scene.facts)
                scores.add("coca_hf.word_maps of the model's own captions", heats, kinds, group_masks)
        for index in (0, 1):
            texts = [world.label(scene.facts.groups[index], "colour and shape") for scene in batch]
            heats = coca_hf.similarity_map(model, processor, images, texts)
            for heat, group_masks in zip(heats, masks, strict=True):
                scores.add("coca_hf.similarity_map", heat[None], [("noun", index)], group_masks)
        print(f"{first + len(batch)} scenes", flush=True)
    return {"scenes": number, "first": start, "right_captions_of_its_own": right, "methods": scores.table()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first scene")
    parser.add_argument("--output", required=True)
    options = parser.parse_args()
    result = measure(options.scenes, options.first)
    with open(options.output, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
