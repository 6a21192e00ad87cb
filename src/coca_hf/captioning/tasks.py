# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a CoCa model does with images: captions, embeddings, labels. Importing this imports torch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from .decoding import CaptionOptions
from .errors import ModelError
from .models import ModelChoice, load_config, load_model, load_processor


# Thousands of labels are possible, and a batch of all of them is not.
_TEXTS_AT_ONCE = 256


@contextmanager
def _inference(num_images: int) -> Iterator[None]:
    """No gradients, and `ModelError` where the device's memory is too small for so many images."""
    try:
        with torch.inference_mode():
            yield
    except torch.OutOfMemoryError:
        held = "one image" if num_images == 1 else f"{num_images} images at once; give a smaller --batch-size"
        raise ModelError(f"the device has not enough memory for {held}") from None


class _ImageTask:
    """Images through the model's processor, one at a time."""

    processor: Any
    model: Any

    def prepare(self, image: Image.Image) -> Tensor:
        """-> (channels, height, width) in float32."""
        return self.processor(images=[image], return_tensors="pt")["pixel_values"][0]

    def pixel_values(self, prepared: list[Tensor]) -> Tensor:
        """-> (images, channels, height, width) where and as the model takes it."""
        return torch.stack(prepared).to(self.model.device, self.model.dtype)


class CaptionTask(_ImageTask):
    """Captions as `str`. Raises `ModelError`, also where the prompt leaves no room for what is asked."""

    def __init__(self, choice: ModelChoice, options: CaptionOptions):
        config = load_config(choice)
        self.processor = load_processor(choice)
        self.arguments = options.generation_arguments()
        prompt_length = 1
        if options.prompt is not None:
            encoded = self.processor(text=[options.prompt], return_tensors="pt")
            self.arguments["input_ids"], self.arguments["attention_mask"] = encoded.input_ids, encoded.attention_mask
            # Generation drops the end token.
            prompt_length = int(encoded.attention_mask.sum()) - 1
        room = config.text_config.max_position_embeddings - prompt_length
        if room < (options.max_new_tokens or 1):
            raise ModelError(_no_room(options, prompt_length, config.text_config.max_position_embeddings))
        self.model = load_model(choice, "captioner")
        own = self.model.generation_config
        if options.max_new_tokens is None and (own.max_length is None or options.prompt is not None):
            self.arguments["max_new_tokens"] = min(own.max_new_tokens or room, room)
        if options.seed is not None:
            torch.manual_seed(options.seed)

    def process(self, prepared: list[Tensor]) -> list[str]:
        with _inference(len(prepared)):
            ids = self.model.generate(pixel_values=self.pixel_values(prepared), **self._arguments_on_device())
        captions = self.processor.batch_decode(ids, skip_special_tokens=True)
        return [" ".join(caption.split()) for caption in captions]

    def _arguments_on_device(self) -> dict[str, Any]:
        device = self.model.device
        return {
            name: value.to(device) if isinstance(value, Tensor) else value for name, value in self.arguments.items()
        }


def _no_room(options: CaptionOptions, prompt_length: int, context: int) -> str:
    asked = f"max-new-tokens {options.max_new_tokens}" if options.max_new_tokens else "a caption"
    behind = "" if options.prompt is None else f" behind a prompt of {prompt_length} tokens"
    return f"{asked} does not fit{behind}: the model's context is {context} tokens, the start token among them"


class _TowersTask(_ImageTask):
    def __init__(self, choice: ModelChoice):
        _require_one_vector(choice, load_config(choice))
        self.processor = load_processor(choice)
        self.model = load_model(choice, "towers")

    def image_embeds(self, prepared: list[Tensor]) -> Tensor:
        """-> (images, dimensions), L2-normalised, float32 whatever the model's type."""
        features = self.model.get_image_features(pixel_values=self.pixel_values(prepared)).pooler_output
        return F.normalize(features.float(), dim=-1)


class EmbedTask(_TowersTask):
    """L2-normalised image embeddings, float32 arrays (dimensions,). Raises `ModelError`."""

    def process(self, prepared: list[Tensor]) -> list[np.ndarray]:
        with _inference(len(prepared)):
            return list(self.image_embeds(prepared).cpu().numpy())


class ClassifyTask(_TowersTask):
    """For each image the probability of each label, highest first. Raises `ModelError`."""

    def __init__(self, choice: ModelChoice, labels: Sequence[str], template: str):
        super().__init__(choice)
        self.labels = list(labels)
        texts = [template.replace("{}", label) for label in labels]
        pieces = (texts[start : start + _TEXTS_AT_ONCE] for start in range(0, len(texts), _TEXTS_AT_ONCE))
        self.text_embeds = torch.cat([self._text_embeds(piece) for piece in pieces])

    def _text_embeds(self, texts: list[str]) -> Tensor:
        """-> (texts, dimensions), L2-normalised, in float32."""
        encoded = self.processor(text=texts, padding=True, truncation=True, return_tensors="pt").to(self.model.device)
        with torch.inference_mode():
            return F.normalize(self.model.get_text_features(**encoded).pooler_output.float(), dim=-1)

    def process(self, prepared: list[Tensor]) -> list[dict[str, float]]:
        with _inference(len(prepared)):
            logits = self.model.similarity(self.image_embeds(prepared), self.text_embeds)
        return [self._ranked(row) for row in logits.float().softmax(dim=-1).cpu().tolist()]

    def _ranked(self, probabilities: list[float]) -> dict[str, float]:
        pairs = zip(self.labels, probabilities, strict=True)
        return dict(sorted(pairs, key=lambda pair: pair[1], reverse=True))


def _require_one_vector(choice: ModelChoice, config: Any) -> None:
    for part in ("vision", "text"):
        if getattr(config, f"{part}_config").pool_type == "none":
            raise ModelError(f"the model {choice.name!r} gives no single vector: its {part} pool_type is 'none'")
