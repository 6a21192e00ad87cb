# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Models behind the page: loaded when they are first asked for, and asked by one caller at a time."""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import coca_hf

from ..batch_inference.errors import BatchInferenceError, ModelError, OptionError
from ..batch_inference.images import read_image
from ..batch_inference.jobs import CaptionOptions
from ..batch_inference.models import ModelChoice, check_model, load_model, load_processor
from ..batch_inference.tasks import text_embeds
from ..runtimes.folder import is_exported
from ..seeing.maps import see_words


@dataclass(frozen=True)
class Captioned:
    """A caption, and for each of its words the map over the picture as a grey PNG file; none where there are none."""

    caption: str
    maps: tuple[tuple[str, bytes], ...]
    seconds: float


class PageModel:
    """
    One model. Its methods may be called from any thread: each waits until the model is free.

    They raise `BatchInferenceError`, whose text is a sentence for who looks at the page.
    """

    def __init__(self, choice: ModelChoice):
        self.choice = choice
        self._lock = threading.RLock()
        self._loaded: tuple[Any, Any] | None = None

    def load(self) -> tuple[Any, Any]:
        """The model and its processor."""
        with self._lock:
            if self._loaded is None:
                check_model(self.choice.name, captions=True)
                self._loaded = load_model(self.choice, "captioner"), load_processor(self.choice)
            return self._loaded

    def captions(self, picture: str, options: CaptionOptions, number: int = 1) -> tuple[Image.Image, list[Captioned]]:
        """
        The picture, upright, and captions of it, the likeliest first, no two alike.

        Args:
            picture: Path of a file.
            options: As of `coca-hf caption`.
            number: Captions that are wanted. Several are sampled, or else written by diverse beam search.
        """
        image = _read(picture)
        with self._lock:
            model, processor = self.load()
            start = time.monotonic()
            texts = self._written(model, processor, image, options, number)
            seconds = time.monotonic() - start
            has_maps = model.config.vision_config.attentional_pooling != "none" and not is_exported(self.choice.name)
            texts_with_words = [text for text in texts if any(map(str.isalnum, text))] if has_maps else []
            try:
                seen = see_words(model, processor, [image] * len(texts_with_words), texts_with_words)
            except ValueError:  # a caption that does not fit into the context once it is encoded again
                seen = []
            maps = dict(zip(texts_with_words, (tuple(each.small_maps()) for each in seen), strict=False))
        return image, [Captioned(text, maps.get(text, ()), seconds) for text in texts]

    def _written(
        self, model: Any, processor: Any, image: Image.Image, options: CaptionOptions, number: int
    ) -> list[str]:
        inputs = processor(images=image, text=options.prompt, return_tensors="pt").to(model.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        arguments = options.generation_arguments()
        if number > 1 and options.samples:
            arguments["num_return_sequences"] = number
        elif number > 1:
            beams = number * max(1, -(-(options.num_beams or 1) // number))
            arguments |= {"num_beams": beams, "num_beam_groups": number, "num_return_sequences": number}
            arguments["diversity_penalty"] = 1.0
        context = model.config.text_config.max_position_embeddings
        if options.prompt is not None and inputs["input_ids"].shape[1] > context - 1:
            raise OptionError(f"The prompt is too long: the model reads {context} tokens, its caption among them.")
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            if options.seed is not None:
                torch.manual_seed(options.seed)
            written = model.generate(**inputs, **arguments)
        texts = processor.batch_decode(written, skip_special_tokens=True)
        return list(dict.fromkeys(" ".join(text.split()) for text in texts))

    def probabilities(self, picture: str, labels: Sequence[str], templates: Sequence[str]) -> dict[str, float]:
        """Of each label; a label's vector is the mean over templates, whose "{}" is where it goes."""
        image = _read(picture)
        with self._lock, torch.inference_mode():
            model, processor = self.load()
            if "none" in (model.config.vision_config.pool_type, model.config.text_config.pool_type):
                raise ModelError("This model gives no single vector for an image or a text, so it knows no labels.")
            pixel_values = processor(images=image, return_tensors="pt")["pixel_values"].to(model.device, model.dtype)
            image_embeds = F.normalize(
                model.get_image_features(pixel_values=pixel_values).pooler_output.float(), dim=-1
            )
            embeds = [_label_embed(model, processor, label, templates) for label in labels]
            logits = model.similarity(image_embeds, torch.stack(embeds))[0]
        return dict(zip(labels, logits.float().softmax(dim=-1).tolist(), strict=True))


def _label_embed(model: Any, processor: Any, label: str, templates: Sequence[str]) -> Tensor:
    """-> (dim,), L2-normalised."""
    texts = [template.replace("{}", label) for template in templates]
    return F.normalize(text_embeds(model, processor, texts).mean(dim=0), dim=-1)


def _read(picture: str | None) -> Image.Image:
    if picture is None:
        raise OptionError("Choose a picture first: upload, paste or photograph one, or take an example.")
    try:
        return read_image(picture)
    except BatchInferenceError as error:
        raise type(error)(f"This file cannot be used: {error}.") from error


def _shown(name: str) -> str:
    return os.path.basename(os.path.abspath(name)) if os.path.isdir(name) else name


class Models:
    """All models of a page by name. The first one is what the tabs use; others are loaded when they are compared."""

    def __init__(self, choices: Sequence[ModelChoice]):
        self.first = choices[0]
        self._models = {choice.name: PageModel(choice) for choice in choices}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[tuple[str, str]]:
        """Of each model what a visitor reads, which is no place on this computer, and its name."""
        bundled = str(coca_hf.bundled_model())
        return [("bundled model" if name == bundled else _shown(name), name) for name in self._models]

    def get(self, name: str, *, may_load: bool) -> PageModel:
        """The model of that name, with `may_load` also one that the page did not begin with."""
        name = name.strip()
        with self._lock:
            if name not in self._models:
                if not may_load or not name:
                    raise ModelError("Choose one of this page's models.")
                check_model(name, captions=True)
                self._models[name] = PageModel(ModelChoice(name, self.first.device, self.first.dtype))
            return self._models[name]
