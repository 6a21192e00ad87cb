# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Heat maps of words and of texts, from attention weights; docs/seeing.md has what was tried, and how well it points.

H, Q, K in shapes: heads, image tokens, tokens of the vision tower (class token and patches).
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Weights, kept_weights
from .pictures import opened, small_map
from .placement import Placement, obeyed_orientation, place_patches
from .words import Words, split_words, written_words


Method = Literal["contrast", "attention"]

# Memory of a large model's attention weights, and no more speed beyond.
IMAGES_AT_ONCE = 16

# Pixels of the longer side of a map that is stretched over a picture: twice as many as patches in a large model.
_SMALL_SIDE = 48

# How much of the mean over a caption's words is taken from each of them. With all of it, words that look at the same
# place, as those of "red circle" do, would be left with nothing but noise.
_SHARE_OF_MEAN = 0.75


class WordMap(NamedTuple):
    """
    Where a model looked for a word: `word` as the caption has it, and `heat`, float32 (height, width) in the pixels of
    the image as it was given, not negative, with the sum 1.
    """

    word: str
    heat: np.ndarray


class Seen(NamedTuple):
    """The words of one image's caption, and for each the values of the patches: float32 (words, rows, columns)."""

    words: tuple[str, ...]
    grids: np.ndarray
    placement: Placement

    def maps(self) -> list[WordMap]:
        return [WordMap(word, self.placement.heat(grid)) for word, grid in zip(self.words, self.grids, strict=True)]

    def small_maps(self) -> list[tuple[str, bytes]]:
        """Each word, and its map of the upright image as `small_map` makes a file of it."""
        height, width = self.placement.upright_size
        scale = min(1, _SMALL_SIDE / max(height, width))
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        return [
            (word, small_map(self.placement.upright_heat(grid, size)))
            for word, grid in zip(self.words, self.grids, strict=True)
        ]


def word_maps(
    model: Any,
    processor: Any,
    image: Any,
    text: str | Sequence[str | None] | None = None,
    method: Method = "contrast",
) -> Any:
    """
    Where a captioner looks for each word of a caption.

    A word's map is that of the row that predicts it, which is the one before it; tokens of a word are averaged.

    Args:
        model: `CoCaForCaptioning` with attentional pooling of any kind, on any device and in any dtype. Its attention
            implementation is changed while this runs and is what it was afterwards.
        processor: Its `CoCaProcessor`.
        image: An image (PIL) or the path of one, or a list of them, which go through the model in batches.
        text: The caption; of a list of images, one for all or one for each. By default, and where one is None, the
            model writes it.
        method: "contrast", which points best at what a word names: attention of the decoder (mean of layers and
            heads), by that of the pooler, by half of that of the vision tower's last layer, less three quarters of the
            mean over all words of the caption. "attention": of the decoder's last layer, by that of the pooler, and
            nothing else; better for words that name the background.

    Returns:
        A list of `WordMap`, one for each word of the caption, in its order; of a list of images, a list of such lists.
        `heat` is zero where preprocessing cropped the image. A caption without words, written by the model, has none.

    Raises:
        ValueError: The text has no words, or more tokens than the context; the image has one pixel; or the model has
            no decoder, or no attentional pooler.

    Example:

    ```python
    >>> import coca_hf
    >>> from coca_hf import CoCaForCaptioning, CoCaProcessor

    >>> model = CoCaForCaptioning.from_pretrained(coca_hf.bundled_model())
    >>> processor = CoCaProcessor.from_pretrained(coca_hf.bundled_model())
    >>> maps = coca_hf.word_maps(model, processor, coca_hf.example_images()[0], text="blue hearts")
    >>> [(word, heat.shape) for word, heat in maps]
    [('blue', (240, 320)), ('hearts', (240, 320))]
    ```"""
    is_list = isinstance(image, (list, tuple))
    images = list(image) if is_list else [image]
    seen = [each.maps() for each in see_words(model, processor, images, _texts(text, len(images)), method)]
    return seen if is_list else seen[0]


def see_words(
    model: Any, processor: Any, images: Sequence[Any], texts: Sequence[str | None], method: Method = "contrast"
) -> list[Seen]:
    """`word_maps` of a list of images before their patches become pixels, which a large photograph has many of."""
    if method not in get_args(Method):
        raise ValueError(f"method={method!r} is not one of {', '.join(map(repr, get_args(Method)))}.")
    captioner = _part(model, "CoCaForCaptioning")
    if captioner is None:
        raise ValueError(f"{type(model).__name__} has no decoder that shows where it looks: use CoCaForCaptioning.")
    _check_has_pooler(captioner.config)
    # Before any work: a wrong text among many is not found out at the end.
    split = [None if text is None else split_words(text, processor.tokenizer) for text in texts]
    for words in split:
        _check_length(words, captioner.config)
    seen: list[Seen] = []
    for start in range(0, len(images), IMAGES_AT_ONCE):
        chunk = slice(start, start + IMAGES_AT_ONCE)
        seen += _see_batch(captioner, processor, [_opened(each) for each in images[chunk]], split[chunk], method)
    return seen


def similarity_map(model: Any, processor: Any, image: Any, text: str | Sequence[str]) -> Any:
    """
    What of an image makes it similar to a text: where the contrastive score of the two comes from.

    The map is the pooler's attention by its gradient of the score, summed over heads, what raises the score only, by
    half of the attention of the vision tower's last layer.

    Args:
        model: `CoCaModel` or `CoCaForCaptioning` with attentional pooling, not made fast by `optimize_for_inference`,
            whose layers have no gradients.
        processor: Its `CoCaProcessor`.
        image: An image (PIL) or the path of one, or a list of them.
        text: What to look for; of a list of images, one for all or one for each.

    Returns:
        float32 (height, width) in the pixels of the image as it was given, not negative, with the sum 1, zero where
        preprocessing cropped it; of a list of images, a list of them.

    Raises:
        ValueError: The text has no words or is too long; the image has one pixel; or the model has no attentional
            pooler, no single vector for an image, or no gradients.
    """
    towers = _part(model, "CoCaModel")
    if towers is None:
        raise ValueError(f"{type(model).__name__} compares no images with texts: use CoCaModel or CoCaForCaptioning.")
    _check_has_pooler(towers.config)
    if "none" in (towers.config.vision_config.pool_type, towers.config.text_config.pool_type):
        raise ValueError(
            "The model gives no single vector for an image or a text, so there is no score: pool_type='none'."
        )
    if not all(
        isinstance(layer, nn.Linear) for layer in (towers.visual_projection, _attention_of_vector(towers).k_proj)
    ):
        raise ValueError(
            "The model is optimised for inference, and has no gradients: load it again for similarity_map."
        )
    is_list = isinstance(image, (list, tuple))
    images = [_opened(each) for each in (image if is_list else [image])]
    texts = _texts(text, len(images))
    for each in texts:
        split_words(each or "", processor.tokenizer)
    heats: list[np.ndarray] = []
    for start in range(0, len(images), IMAGES_AT_ONCE):
        chunk = slice(start, start + IMAGES_AT_ONCE)
        heats += _similarity_batch(towers, processor, images[chunk], texts[chunk])
    return heats if is_list else heats[0]


# --- what is given ---


def _texts(text: Any, num_images: int) -> list[Any]:
    if text is None or isinstance(text, str):
        return [text] * num_images
    if len(text) != num_images:
        raise ValueError(f"{len(text)} texts do not go with {num_images} images: give one for all, or one for each.")
    return list(text)


def _opened(image: Any) -> Image.Image:
    image = opened(image)
    if image.width * image.height == 1:
        raise ValueError("The image has one pixel, so there is nowhere to look: give a larger one.")
    return image


def _part(model: Any, name: str) -> Any:
    """The first module of that class, whose file may be a saved folder's own, and which may be wrapped."""
    named = (each for each in model.modules() if any(base.__name__ == name for base in type(each).__mro__))
    return next(named, None)


def _check_has_pooler(config: Any) -> None:
    if config.vision_config.attentional_pooling == "none":
        raise ValueError(
            "The model has no attentional pooler (attentional_pooling='none'), so it has no attention to show."
        )


def _check_length(words: Words | None, config: Any) -> None:
    context = config.text_config.max_position_embeddings
    if words is not None and len(words.token_ids) > context:
        raise ValueError(
            f"The text has {len(words.token_ids)} tokens, but the model's context is {context} long: shorten it."
        )


def _pixel_values(processor: Any, images: list[Image.Image], towers: Any) -> Tensor:
    pixel_values = processor(images=images, return_tensors="pt")["pixel_values"]
    return pixel_values.to(towers.device, towers.dtype)


def _placements(
    processor: Any, images: list[Image.Image], pixel_values: Tensor, vision_config: Any
) -> Iterator[Placement]:
    for image in images:
        # Turned as it loads, where it is a TIFF file.
        orientation = obeyed_orientation(image)
        yield place(processor, (image.height, image.width), pixel_values, vision_config, orientation)


def place(
    processor: Any, size: tuple[int, int], pixel_values: Tensor, vision_config: Any, orientation: int = 1
) -> Placement:
    """Of an image of `size` (height, width) that `processor` made a row of `pixel_values` of."""
    patch = vision_config.patch_size
    patch_size = (patch, patch) if isinstance(patch, int) else (patch[0], patch[1])
    pixels = (pixel_values.shape[-2], pixel_values.shape[-1])
    image_processor = getattr(processor, "image_processor", processor)
    return place_patches(size, image_processor, pixels, vision_config.grid_size, patch_size, orientation)


# --- words ---


def _see_batch(
    captioner: Any, processor: Any, images: list[Image.Image], split: Sequence[Words | None], method: Method
) -> list[Seen]:
    pixel_values = _pixel_values(processor, images, captioner)
    captions = _captions(captioner, processor, pixel_values, split)
    placements = _placements(processor, images, pixel_values, captioner.config.vision_config)
    return see_pixels(captioner, pixel_values, captions, list(placements), method)


def see_pixels(
    captioner: Any,
    pixel_values: Tensor,
    captions: Sequence[Words],
    placements: Sequence[Placement],
    method: Method = "contrast",
) -> list[Seen]:
    """`see_words` of images that are prepared, in one batch: (images, channels, height, width)."""
    with torch.no_grad():
        attention = _attention_to_patches(captioner, pixel_values, captions, method)  # (images, text, K - 1)
    grids = (_word_grids(*each, method) for each in zip(attention, captions, placements, strict=True))
    return [Seen(*each) for each in zip((words.words for words in captions), grids, placements, strict=True)]


def _captions(captioner: Any, processor: Any, pixel_values: Tensor, split: Sequence[Words | None]) -> list[Words]:
    """The words of the captions that are given, and of those that the model writes."""
    missing = [index for index, words in enumerate(split) if words is None]
    captions = dict(enumerate(split))
    if missing:
        written = captioner.generate(pixel_values=pixel_values[missing])
        for index, text in zip(missing, processor.batch_decode(written, skip_special_tokens=True), strict=True):
            context = captioner.config.text_config.max_position_embeddings
            captions[index] = written_words(text, processor.tokenizer, context)
    return [words for words in captions.values() if words is not None]


def _attention_to_patches(captioner: Any, pixel_values: Tensor, all_words: Sequence[Words], method: Method) -> Tensor:
    """-> float32 (images, text, patches), each row of it what the next token was predicted from."""
    longest = max(len(words.token_ids) for words in all_words)
    input_ids = torch.zeros(len(all_words), longest, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, words in enumerate(all_words):
        input_ids[row, : len(words.token_ids)] = torch.tensor(words.token_ids)
        attention_mask[row, : len(words.token_ids)] = 1
    vision, layers = captioner.model.vision_model, captioner.decoder.layers
    crossing = [layer.cross_attention_layer.cross_attn for layer in layers]
    if method == "attention":
        crossing = crossing[-1:]
    with kept_weights(captioner, [*crossing, *_vision_attentions(vision)]) as weights:
        captioner(
            pixel_values=pixel_values,
            input_ids=input_ids.to(pixel_values.device),
            attention_mask=attention_mask.to(pixel_values.device),
            use_cache=False,
        )
    device = pixel_values.device
    to_image_tokens = torch.stack([_mean_of_heads(weights[each]).to(device) for each in crossing]).mean(dim=0)
    to_tokens = to_image_tokens @ _image_token_attention(vision, weights).to(device)  # (images, text, K)
    if method == "contrast":
        to_tokens = to_tokens @ _last_layer(vision, weights).to(device)
    return to_tokens[..., 1:].cpu()


def _word_grids(rows: Tensor, words: Words, placement: Placement, method: Method) -> np.ndarray:
    """(text, patches) -> float32 (words, rows, columns), the sum of each 1."""
    covered = placement.covered
    if not words.words:
        return np.zeros((0, *covered.shape), np.float32)
    # A token is predicted by the row before it.
    grids = torch.stack([rows[first - 1 : end - 1].mean(dim=0) for first, end in words.spans]).numpy()
    grids = _normalised(grids.reshape(-1, *covered.shape), covered)
    if method == "contrast":
        grids = _normalised((grids - _SHARE_OF_MEAN * grids.mean(axis=0)).clip(min=0), covered)
    return grids


def _normalised(grids: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Nothing on padding, and the sum of each (rows, columns) 1; never nothing at all, which half precision gives."""
    grids = (grids + np.finfo(np.float32).tiny) * covered
    return (grids / grids.sum(axis=(-2, -1), keepdims=True)).astype(np.float32)


# --- the vision tower ---


def _vision_attentions(vision: Any) -> list[nn.Module]:
    return [vision.pooler.attn, *(layer.self_attn for layer in vision.layers[-1:])]


def _mean_of_heads(weights: Tensor) -> Tensor:
    """(images, H, queries, keys) -> float32 (images, queries, keys)."""
    return weights.detach().float().mean(dim=1)


def _image_token_attention(vision: Any, weights: Weights) -> Tensor:
    """Of the tokens that the decoder sees: -> (images, Q, K)."""
    pooler = _mean_of_heads(weights[vision.pooler.attn])
    has_vector = vision.contrastive_pooler is None and vision.config.pool_type != "none"
    return pooler[:, 1:] if has_vector else pooler


def _last_layer(vision: Any, weights: Weights) -> Tensor:
    """What a token of the tower's output is made of: half itself, half what the last layer attends to: (images, K, K).

    Attention rollout (arXiv 2005.00928) over one layer: over more of them maps grow wide, for tokens mix everywhere.
    """
    attended = _mean_of_heads(weights[vision.layers[-1].self_attn]) if len(vision.layers) else None
    if attended is None:
        return torch.eye(1 + vision.config.grid_size[0] * vision.config.grid_size[1])[None]
    return (attended + torch.eye(attended.shape[-1], device=attended.device)) / 2


# --- similarity ---


def _attention_of_vector(towers: Any) -> Any:
    """The attention that the contrastive vector comes from."""
    vision = towers.vision_model
    return (vision.pooler if vision.contrastive_pooler is None else vision.contrastive_pooler).attn


def _similarity_batch(
    towers: Any, processor: Any, images: list[Image.Image], texts: Sequence[str]
) -> Iterator[np.ndarray]:
    vision, attention = towers.vision_model, _attention_of_vector(towers)
    # Gradients of weights, whatever the caller has switched off.
    with torch.inference_mode(False), torch.enable_grad():
        pixel_values = _pixel_values(processor, images, towers)
        encoded = processor(text=list(texts), padding=True, return_tensors="pt").to(towers.device)
        with kept_weights(vision, {attention, *_vision_attentions(vision)}) as weights:
            image_embeds = F.normalize(towers.get_image_features(pixel_values=pixel_values).pooler_output, dim=-1)
        text_embeds = F.normalize(towers.get_text_features(**encoded).pooler_output, dim=-1)
        (gradient,) = torch.autograd.grad((image_embeds * text_embeds).sum(), weights[attention])
    raised = (weights[attention].detach() * gradient).float().sum(dim=1).clamp(min=0).sum(dim=1)  # (images, keys)
    to_tokens = raised[:, None]
    if vision.config.attentional_pooling == "cascade":  # whose keys are the image tokens
        to_tokens = to_tokens @ _image_token_attention(vision, weights)
    to_patches = (to_tokens @ _last_layer(vision, weights).to(to_tokens.device))[:, 0, 1:].cpu().numpy()
    for values, placement in zip(to_patches, _placements(processor, images, pixel_values, vision.config), strict=True):
        covered = placement.covered
        yield placement.heat(_normalised(values.reshape(covered.shape), covered))
