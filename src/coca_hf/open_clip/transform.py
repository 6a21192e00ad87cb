# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""open_clip's image transforms, on this package's image processor."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL.Image import Image, Resampling

from ..conversion.preprocessing import PREPROCESS_DEFAULTS, image_processor_for
from ..image_processing_coca import CoCaImageProcessor


Transform = Callable[[Image], torch.Tensor]
_ASPECT_RATIOS = (3 / 4, 4 / 3)
_CROP_ATTEMPTS = 10


@dataclasses.dataclass
class PreprocessCfg:
    """How images are prepared; the same fields and defaults as open_clip's."""

    size: int | tuple[int, int] = 224
    mode: str = "RGB"
    mean: float | tuple[float, ...] = PREPROCESS_DEFAULTS["mean"]
    std: float | tuple[float, ...] = PREPROCESS_DEFAULTS["std"]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0


@dataclasses.dataclass
class AugmentationCfg:
    """How training images are varied. Of open_clip's fields, `scale` alone is supported."""

    scale: tuple[float, float] = (0.9, 1.0)
    ratio: tuple[float, float] | None = None
    color_jitter: float | tuple[float, ...] | None = None
    re_prob: float | None = None
    re_count: int | None = None
    use_timm: bool = False
    color_jitter_prob: float | None = None
    gray_scale_prob: float | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self)[1:]:
            if getattr(self, field.name):
                raise ValueError(f"aug_cfg.{field.name} is not supported: of aug_cfg only scale is.")


def image_transform(
    image_size: int | tuple[int, int],
    is_train: bool,
    mean: float | tuple[float, ...] | None = None,
    std: float | tuple[float, ...] | None = None,
    resize_mode: str | None = None,
    interpolation: str | None = None,
    fill_color: int = 0,
    aug_cfg: Mapping[str, Any] | AugmentationCfg | None = None,
) -> Transform:
    """
    A function from an image to `pixel_values` (3, height, width), with open_clip's pixels.

    Args:
        image_size: Pixels, as one number or (height, width).
        is_train: Whether a random part of the image is taken, as `aug_cfg` says, rather than all of it.
        mean: What is subtracted of each channel; OpenAI's by default.
        std: What each channel is divided by; OpenAI's by default.
        resize_mode: "shortest", "longest" or "squash"; not read in training.
        interpolation: "bicubic", "bilinear", or "random", which is bicubic; bicubic in training.
        fill_color: What fills an image up with "longest".
        aug_cfg: Which parts of training images are taken.

    Raises:
        ConversionError, ValueError: A value that open_clip does not know, or an augmentation that is not supported.
    """
    cfg = {
        "mean": mean or None,
        "std": std or None,
        "interpolation": "bicubic" if is_train or interpolation == "random" else interpolation,
        "resize_mode": "squash" if is_train else resize_mode,
        "fill_color": fill_color,
    }
    processor = image_processor_for(cfg, image_size)
    if not is_train:
        return _Transform(processor)
    aug_cfg = AugmentationCfg(**aug_cfg) if isinstance(aug_cfg, Mapping) else aug_cfg or AugmentationCfg()
    return _TrainTransform(processor, aug_cfg.scale)


def image_transform_v2(
    cfg: PreprocessCfg, is_train: bool, aug_cfg: Mapping[str, Any] | AugmentationCfg | None = None
) -> Transform:
    """[`image_transform`] with its arguments in one object."""
    fields = dataclasses.asdict(cfg)
    if fields.pop("mode") != "RGB":
        raise ValueError(f"mode={cfg.mode!r} is not supported: use 'RGB'.")
    return image_transform(fields.pop("size"), is_train, aug_cfg=aug_cfg, **fields)


class _Transform:
    """Image -> (3, height, width)."""

    def __init__(self, processor: CoCaImageProcessor):
        self.processor = processor

    def __call__(self, image: Any) -> torch.Tensor:
        return self.processor(image, return_tensors="pt")["pixel_values"][0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={dict(self.processor.size)}, resize_mode={self.processor.resize_mode!r})"


class _TrainTransform(_Transform):
    """A random part of an image -> (3, height, width)."""

    def __init__(self, processor: CoCaImageProcessor, scale: tuple[float, float]):
        super().__init__(processor)
        self.scale = scale

    def __call__(self, image: Image) -> torch.Tensor:
        size: Any = self.processor.size
        part = image.crop(random_box(image.size, self.scale))
        return super().__call__(part.resize((size.width, size.height), Resampling.BICUBIC))


def random_box(size: tuple[int, int], scale: tuple[float, float]) -> tuple[int, int, int, int]:
    """
    (left, top, right, bottom) of a random part of an image of `size` (width, height).

    Its share of the area lies in `scale`, its aspect ratio between 3/4 and 4/3; the numbers are drawn from torch's
    generator as torchvision's `RandomResizedCrop` draws them.
    """
    image_width, image_height = size
    log_ratio = torch.log(torch.tensor(_ASPECT_RATIOS))
    for _ in range(_CROP_ATTEMPTS):
        area = image_width * image_height * torch.empty(1).uniform_(scale[0], scale[1]).item()
        ratio = torch.exp(torch.empty(1).uniform_(log_ratio[0], log_ratio[1])).item()
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= image_width and 0 < height <= image_height:
            top = int(torch.randint(0, image_height - height + 1, size=(1,)).item())
            left = int(torch.randint(0, image_width - width + 1, size=(1,)).item())
            return left, top, left + width, top + height
    # No luck: the middle, as much of it as has an allowed aspect ratio.
    width, height = image_width, image_height
    if image_width / image_height < _ASPECT_RATIOS[0]:
        height = round(image_width / _ASPECT_RATIOS[0])
    elif image_width / image_height > _ASPECT_RATIOS[1]:
        width = round(image_height * _ASPECT_RATIOS[1])
    left, top = (image_width - width) // 2, (image_height - height) // 2
    return left, top, left + width, top + height
