# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The pipeline "image-to-text" as transformers 4 had it."""

# This comes first: it refuses an older transformers in words. It also leads the Hub's loader to the other files.
from .configuration_coca import CoCaConfig  # noqa: F401


# isort: split
import os
from typing import Any

import torch
from PIL import Image, ImageOps
from transformers.pipelines.base import Pipeline

from .image_processing_coca import open_image


class ImageToTextPipeline(Pipeline):
    """Captions of images.

    `pipeline(images)` takes an image (PIL, path or URL), a list of them, or a dataset or generator that yields them,
    and gives `[{"generated_text": caption}, ...]` for each, one record per returned sequence.

    Arguments of the call, or of the pipeline for every call:

    - `max_new_tokens` (`int`): at most so many tokens;
    - `generate_kwargs` (`dict`): all other arguments of `generate()`;
    - `prompt` (`str`): what the captions continue, and begin with;
    - `timeout` (`float`): seconds to wait for a URL, for ever by default;
    - `batch_size` (`int`): images that go through the model together, 1 by default.
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # The library's factory hands it on to every pipeline.
        kwargs.pop("local_files_only", None)
        super().__init__(*args, **kwargs)
        if not self.model.can_generate():
            raise ValueError(
                f"{type(self.model).__name__} has no decoder, so it cannot caption: load the model with "
                "AutoModelForImageTextToText."
            )

    def _sanitize_parameters(
        self,
        max_new_tokens: int | None = None,
        generate_kwargs: dict[str, Any] | None = None,
        prompt: str | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if kwargs:
            raise ValueError(
                f"{', '.join(map(repr, sorted(kwargs)))}: no argument of this pipeline. It takes max_new_tokens, "
                "generate_kwargs, prompt, timeout and batch_size; put arguments of generate() into generate_kwargs."
            )
        preprocessing = {"prompt": prompt, "timeout": timeout}
        generation = dict(generate_kwargs or {})
        if max_new_tokens is not None:
            if "max_new_tokens" in generation:
                raise ValueError("max_new_tokens is given twice: once by itself, once in generate_kwargs.")
            generation["max_new_tokens"] = max_new_tokens
        return {name: value for name, value in preprocessing.items() if value is not None}, generation, {}

    def __call__(self, inputs: Any = None, **kwargs: Any) -> Any:
        """See the class. `images` is another name for `inputs`."""
        inputs = kwargs.pop("images", inputs)
        if inputs is None:
            raise ValueError("There is no image to caption: give a path, a URL, an image, or several of them.")
        return super().__call__(inputs, **kwargs)

    def preprocess(self, image: Any, prompt: str | None = None, timeout: float | None = None) -> Any:
        if isinstance(image, (str, os.PathLike)):
            image = open_image(image, timeout, getattr(self.image_processor, "resizing", None))
        elif isinstance(image, Image.Image):
            image = ImageOps.exif_transpose(image)
        model_inputs = self.image_processor(images=image, return_tensors="pt").to(dtype=self.dtype)
        if prompt is not None:
            model_inputs.update(self.tokenizer(prompt, return_tensors="pt"))
        return model_inputs

    def _forward(self, model_inputs: dict[str, torch.Tensor], **generate_kwargs: Any) -> dict[str, torch.Tensor]:
        """-> "sequences": (images, captions of each, text)."""
        generated = self.model.generate(**model_inputs, **generate_kwargs)
        sequences = getattr(generated, "sequences", generated)
        return {"sequences": sequences.reshape(len(model_inputs["pixel_values"]), -1, sequences.shape[-1])}

    def postprocess(self, model_outputs: dict[str, torch.Tensor]) -> list[dict[str, str]]:
        captions = self.tokenizer.batch_decode(model_outputs["sequences"].flatten(0, 1), skip_special_tokens=True)
        return [{"generated_text": caption} for caption in captions]


__all__ = ["ImageToTextPipeline"]
