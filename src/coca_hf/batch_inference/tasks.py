# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a CoCa model does with images: captions, embeddings, labels. Importing this imports torch."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..image_processing_coca import CoCaImageProcessor, resized_size, target_size
from ..runtimes.folder import is_exported
from .errors import MemoryOnDeviceError, ModelError
from .jobs import CaptionOptions, Result
from .maps import packed_maps
from .models import ModelChoice, load_config, load_model, load_processor
from .sampling import RandomChoice, seed_of


# Thousands of labels are possible, and a batch of all of them is not.
_TEXTS_AT_ONCE = 256

_SAMPLING = ("temperature", "top_k", "top_p")


@contextmanager
def _inference(num_images: int) -> Iterator[None]:
    """No gradients, and `MemoryOnDeviceError` where the device's memory is too small for so many images."""
    try:
        with torch.inference_mode():
            yield
    except torch.OutOfMemoryError:
        held = "one image" if num_images == 1 else f"{num_images} images at once; give a smaller --batch-size"
        raise MemoryOnDeviceError(f"the device has not enough memory for {held}") from None


class Preparer:
    """Images through a processor, one at a time, in this process or another: holds nothing of the model.

    What comes out is an array (channels, height, width); of bytes where that is all an image has to say, a quarter of
    the floats that `pixel_values` makes of it, for arrays travel between processes. With `exact`, JPEG files are
    decoded in full, however small they become.
    """

    def __init__(self, processor: Any, *, exact: bool = False):
        self.processor = getattr(processor, "image_processor", processor)
        own = self.processor
        may_reduce = isinstance(own, CoCaImageProcessor) and own.do_resize and own.resample != Image.Resampling.NEAREST
        self.resized_size = self._resized_size if may_reduce and not exact else None
        self.in_bytes = isinstance(own, CoCaImageProcessor) and own.do_rescale and own.do_convert_rgb

    def __call__(self, image: Image.Image) -> np.ndarray:
        if not self.in_bytes:
            return self.processor(images=[image], return_tensors="np")["pixel_values"][0]
        options = {"do_rescale": False, "do_normalize": False, "return_tensors": "np"}
        return self.processor(images=[image], **options)["pixel_values"][0].astype(np.uint8)

    def _resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """As `read_image` asks it."""
        return resized_size(size, target_size(self.processor.size), self.processor.resize_mode)

    def pixel_values(self, prepared: list[np.ndarray], device: torch.device) -> Tensor:
        """-> (images, channels, height, width) in float32 on `device`, bit for bit what the processor gives."""
        arrays = torch.from_numpy(np.stack(prepared)).to(device)
        if not self.in_bytes:
            return arrays
        pixels = arrays.float() / np.float32(1 / self.processor.rescale_factor)
        if not self.processor.do_normalize:
            return pixels
        shift, scale = (
            torch.as_tensor(value, dtype=torch.float32, device=device).reshape(-1, 1, 1)
            for value in (self.processor.image_mean, self.processor.image_std)
        )
        return (pixels - shift) / scale


class SizedPreparer(Preparer):
    """As `Preparer`, each array with the (height, width) of its image, which maps of it need."""

    def __call__(self, image: Image.Image) -> Any:
        return super().__call__(image), (image.height, image.width)


class _ImageTask:
    prepare: Preparer
    model: Any

    @property
    def words(self) -> str:
        """How the model runs, for the summary."""
        return str(self.model.inference_words)

    def pixel_values(self, prepared: list[np.ndarray]) -> Tensor:
        """-> (images, channels, height, width) where and as the model takes it."""
        return self.prepare.pixel_values(prepared, self.model.device).to(self.model.dtype)


class CaptionTask(_ImageTask):
    """`{"caption": TEXT}` for each image, with `embeddings` its L2-normalised embedding too, from one pass, and with
    `maps` where each word looks, if the model has attentional pooling.

    Raises `ModelError`, also where the prompt leaves no room for what is asked.
    """

    def __init__(self, choice: ModelChoice, options: CaptionOptions, *, embeddings: bool = False, maps: bool = False):
        config = load_config(choice)
        if embeddings:
            require_one_vector(choice, config, parts=("vision",))
        self.embeddings = embeddings
        self.maps = maps and config.vision_config.attentional_pooling != "none" and not is_exported(choice.name)
        self.processor = load_processor(choice)
        self.prepare = (SizedPreparer if self.maps else Preparer)(self.processor, exact=choice.is_exact)
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
        self.options = options
        # Without a seed a run is to differ from every other.
        self.seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(8), "little")

    def process(self, prepared: list[Any], places: Sequence[tuple[int, int]]) -> list[Result]:
        sizes: Sequence[tuple[int, int]] = ()
        if self.maps:
            prepared, sizes = map(list, zip(*prepared, strict=True))
        with _inference(len(prepared)):
            pixel_values = self.pixel_values(prepared)
            if not self._samples:
                results = [self._generate(pixel_values)]
            elif self._samples_alone:
                results = [self._generate_alone(*each) for each in zip(pixel_values.split(1), places, strict=True)]
            else:
                choose = RandomChoice(self.model.generation_config, self.options, self.seed, places)
                results = [self._generate(pixel_values, logits_processor=[choose], do_sample=False)]
            flat = [result for batch in results for result in batch]
            return self._with_maps(flat, pixel_values, sizes) if self.maps else flat

    def _with_maps(
        self, results: list[Result], pixel_values: Tensor, sizes: Sequence[tuple[int, int]]
    ) -> list[Result]:
        from ..seeing.maps import IMAGES_AT_ONCE, place, see_pixels
        from ..seeing.words import written_words

        config, tokenizer = self.model.config, self.processor.tokenizer
        context = config.text_config.max_position_embeddings
        words = [written_words(str(result.fields["caption"]), tokenizer, context) for result in results]
        placements = [place(self.processor, size, pixel_values, config.vision_config) for size in sizes]
        seen = []
        for start in range(0, len(results), IMAGES_AT_ONCE):
            chunk = slice(start, start + IMAGES_AT_ONCE)
            seen += see_pixels(self.model, pixel_values[chunk], words[chunk], placements[chunk])
        pairs = zip(results, seen, strict=True)
        return [replace(result, maps=packed_maps(each.small_maps())) for result, each in pairs]

    @property
    def _samples(self) -> bool:
        return self.options.samples or bool(self.model.generation_config.do_sample)

    @property
    def _samples_alone(self) -> bool:
        """Whether only the library itself can draw: for beams, and for a model's own rarer settings."""
        own = self.model.generation_config
        rare = (own.min_p, own.typical_p, own.epsilon_cutoff, own.eta_cutoff, own.top_h)
        return (self.options.num_beams or own.num_beams or 1) > 1 or any(value is not None for value in rare)

    def _generate_alone(self, pixel_values: Tensor, place: tuple[int, int]) -> list[Result]:
        """Beams that are sampled draw from one generator for the whole batch: alone, an image has its own."""
        with torch.random.fork_rng(devices=[self.model.device] if self.model.device.type == "cuda" else []):
            torch.manual_seed(seed_of(self.seed, place))
            return self._generate(pixel_values)

    def _generate(self, pixel_values: Tensor, **choices: Any) -> list[Result]:
        arguments = {**self._arguments_on_device(), **choices}
        if not arguments.get("do_sample", True):
            # The choice is made already, and the library warns of settings that a greedy search does not need.
            arguments = {name: value for name, value in arguments.items() if name not in _SAMPLING}
        outputs = self.model.generate(pixel_values=pixel_values, return_dict_in_generate=True, **arguments)
        captions = self.processor.batch_decode(outputs.sequences, skip_special_tokens=True)
        fields = [{"caption": " ".join(caption.split())} for caption in captions]
        if not self.embeddings:
            return [Result(each) for each in fields]
        embeddings = F.normalize(outputs.image_embeds.float(), dim=-1).cpu().numpy()
        return [Result(*pair) for pair in zip(fields, embeddings, strict=True)]

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
        require_one_vector(choice, load_config(choice))
        self.processor = load_processor(choice)
        self.prepare = Preparer(self.processor, exact=choice.is_exact)
        self.model = load_model(choice, "towers")

    def image_embeds(self, prepared: list[np.ndarray]) -> Tensor:
        """-> (images, dimensions), L2-normalised, float32 whatever the model's type."""
        features = self.model.get_image_features(pixel_values=self.pixel_values(prepared)).pooler_output
        return F.normalize(features.float(), dim=-1)


class EmbedTask(_TowersTask):
    """L2-normalised image embeddings, float32 arrays (dimensions,). Raises `ModelError`."""

    def process(self, prepared: list[np.ndarray], places: Sequence[tuple[int, int]]) -> list[Result]:
        with _inference(len(prepared)):
            return [Result({}, embedding) for embedding in self.image_embeds(prepared).cpu().numpy()]


class ClassifyTask(_TowersTask):
    """`{"label": BEST, "scores": {LABEL: PROBABILITY}}` for each image, highest first. Raises `ModelError`."""

    def __init__(self, choice: ModelChoice, labels: Sequence[str], template: str):
        super().__init__(choice)
        self.labels = list(labels)
        self.text_embeds = text_embeds(self.model, self.processor, [template.replace("{}", each) for each in labels])

    def process(self, prepared: list[np.ndarray], places: Sequence[tuple[int, int]]) -> list[Result]:
        with _inference(len(prepared)):
            logits = self.model.similarity(self.image_embeds(prepared), self.text_embeds)
        return [self._ranked(row) for row in logits.float().softmax(dim=-1).cpu().tolist()]

    def _ranked(self, probabilities: list[float]) -> Result:
        pairs = zip(self.labels, probabilities, strict=True)
        scores = dict(sorted(pairs, key=lambda pair: pair[1], reverse=True))
        return Result({"label": next(iter(scores)), "scores": scores})


def text_embeds(model: Any, processor: Any, texts: Sequence[str]) -> Tensor:
    """-> (texts, dimensions), L2-normalised, in float32, on the model's device. Texts are cut to its context."""
    pieces = []
    with torch.inference_mode():
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            piece = list(texts[start : start + _TEXTS_AT_ONCE])
            encoded = processor(text=piece, padding=True, truncation=True, return_tensors="pt").to(model.device)
            pieces.append(F.normalize(model.get_text_features(**encoded).pooler_output.float(), dim=-1))
    return torch.cat(pieces)


def require_one_vector(choice: ModelChoice, config: Any, parts: Sequence[str] = ("vision", "text")) -> None:
    for part in parts:
        if getattr(config, f"{part}_config").pool_type == "none":
            raise ModelError(f"the model {choice.name!r} gives no single vector: its {part} pool_type is 'none'")
