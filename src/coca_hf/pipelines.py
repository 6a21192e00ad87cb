# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`transformers.pipeline` with the task "image-to-text", which transformers 5 no longer has."""

from pathlib import Path
from typing import Any

import transformers
from PIL import Image

from . import bundled_model
from .pipeline_coca import ImageToTextPipeline


def _is_image(value: Any) -> bool:
    return isinstance(value, (str, Image.Image))


class ImageTextToTextPipeline(transformers.ImageTextToTextPipeline):
    """transformers' pipeline, which also takes images without a text: a caption from its beginning."""

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> Any:
        """See `transformers.ImageTextToTextPipeline`."""
        if text is None and _is_image(images):
            text = ""
        elif text is None and isinstance(images, (list, tuple)) and images and all(map(_is_image, images)):
            text = [""] * len(images)
        return super().__call__(images, text, **kwargs)


class ImageFeatureExtractionPipeline(transformers.ImageFeatureExtractionPipeline):
    """transformers' pipeline, for which the pooled output of `CoCaModel` is the image's embedding."""

    def postprocess(self, model_outputs: Any, pool: bool | None = None, return_tensors: bool = False) -> Any:
        """See `transformers.ImageFeatureExtractionPipeline`."""
        if pool and "pooler_output" not in model_outputs and "image_embeds" in model_outputs:
            pool = False
            model_outputs = (model_outputs["image_embeds"],)
        return super().postprocess(model_outputs, pool, return_tensors)


PIPELINE_CLASSES = {
    "image-to-text": ImageToTextPipeline,
    "image-text-to-text": ImageTextToTextPipeline,
    "image-feature-extraction": ImageFeatureExtractionPipeline,
}
TOWER_TASKS = ("zero-shot-image-classification", "image-feature-extraction")


def pipeline(task: str | None = None, model: Any = None, *args: Any, **kwargs: Any) -> transformers.Pipeline:
    """`transformers.pipeline`, plus the task "image-to-text" for CoCa and whatever else describes images.

    The classes come from this package, so no task needs `trust_remote_code`.

    Args:
        task: "image-to-text", or a task of transformers. None: what `model` is for, which is "image-to-text" for a
            CoCa folder or captioner and "zero-shot-image-classification" for a `CoCaModel`.
        model: Folder, Hub id or model; a captioner serves the tasks of its towers, too. None: for "image-to-text" the
            bundled model, else transformers' default.
        args, kwargs: All other arguments of `transformers.pipeline`. A `processor` stands for its tokenizer and image
            processor.

    Returns:
        An `ImageToTextPipeline`, or transformers' own pipeline for the task.
    """
    if isinstance(model, Path):
        model = str(model)
    if model is None and task == "image-to-text":
        model = str(bundled_model())
    if task is None and model is not None:
        task = _task_of(model, kwargs)
    if task in TOWER_TASKS and _is_captioner(model):
        model = model.base_model
    processor = kwargs.get("processor")
    for part in ("tokenizer", "image_processor"):
        if kwargs.get(part) is None and hasattr(processor, part):
            kwargs[part] = getattr(processor, part)
    if task in PIPELINE_CLASSES:
        kwargs.setdefault("pipeline_class", PIPELINE_CLASSES[task])
    # Under its own name, transformers takes the task for another, and warns of it.
    made = transformers.pipeline("image-text-to-text" if task == "image-to-text" else task, model, *args, **kwargs)
    made.task = task or made.task
    return made


def _is_captioner(model: Any) -> bool:
    return getattr(getattr(model, "config", None), "model_type", None) == "coca" and model.can_generate()


def _task_of(model: Any, kwargs: dict[str, Any]) -> str | None:
    """The task of a CoCa model, object, folder or Hub id; None for any other model, which transformers knows about."""
    if not isinstance(model, str):
        if getattr(model.config, "model_type", None) != "coca":
            return None
        return "image-to-text" if model.can_generate() else "zero-shot-image-classification"
    hub = {name: kwargs[name] for name in ("revision", "token", "trust_remote_code") if name in kwargs}
    config = transformers.AutoConfig.from_pretrained(model, **hub)
    return "image-to-text" if config.model_type == "coca" else None
