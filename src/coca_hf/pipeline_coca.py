# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The pipeline "image-to-text" as transformers 4 had it."""

# This comes first: it refuses an older transformers in words. It also leads the Hub's loader to the other files.
from .configuration_coca import CoCaConfig  # noqa: F401


# isort: split
import difflib
import inspect
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.pipelines.base import Pipeline

from .image_processing_coca import open_image


OWN_ARGUMENTS = ("generate_kwargs", "prompt", "timeout", "batch_size", "num_workers")


def generation_arguments(model: Any) -> set[str]:
    """Names of the arguments that `model.generate()` takes."""
    settings = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    return settings.union(
        *(
            inspect.signature(owner.generate).parameters
            for owner in type(model).__mro__[:-1]
            if hasattr(owner, "generate")
        )
    ) - {"self", "inputs", "kwargs"}


def nearest(name: str, known: set[str]) -> str:
    """A sentence that names the argument that was likely meant, if there is one."""
    close = difflib.get_close_matches(name, [*known, *OWN_ARGUMENTS], n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


class ImageToTextPipeline(Pipeline):
    """Captions of images.

    `pipeline(images)` takes an image (PIL, path or URL), a list of them, or a dataset or generator that yields them,
    and gives `[{"generated_text": caption}, ...]` for each, one record per returned sequence.

    Arguments of the call, or of the pipeline for every call:

    - `max_new_tokens`, `num_beams` and all other arguments of `generate()`;
    - `generate_kwargs` (`dict`): more of them, as transformers 4 had it;
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
        generate_kwargs: dict[str, Any] | None = None,
        prompt: str | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        known = generation_arguments(self.model)
        for name in kwargs:
            if name not in known:
                raise ValueError(f"{name!r} is no argument of this pipeline or of generate().{nearest(name, known)}")
        generation = dict(generate_kwargs or {})
        twice = sorted(generation.keys() & kwargs.keys())
        if twice:
            raise ValueError(f"{', '.join(twice)}: given twice, once by itself and once in generate_kwargs.")
        preprocessing = {"prompt": prompt, "timeout": timeout}
        preprocessing = {name: value for name, value in preprocessing.items() if value is not None}
        return preprocessing, generation | kwargs, {}

    def __call__(self, inputs: Any = None, **kwargs: Any) -> Any:
        """See the class. `images` is another name for `inputs`."""
        inputs = kwargs.pop("images", inputs)
        if inputs is None:
            raise ValueError("There is no image to caption: give a path, a URL, an image, or several of them.")
        return super().__call__(inputs, **kwargs)

    def preprocess(self, image: Any, prompt: str | None = None, timeout: float | None = None) -> Any:
        if isinstance(image, str) and image.startswith(("http://", "https://")):
            image = open_image(image, timeout)
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
