# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""CoCa's image transforms: open_clip's pixels from Pillow and numpy, without torchvision."""

# This comes first: it refuses an older transformers in words. It also leads the Hub's loader to the other files.
from .configuration_coca import CoCaConfig  # noqa: F401


# isort: split
import base64
import binascii
import math
import os
import urllib.request
from io import BytesIO
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    ChannelDimension,
    ImageInput,
    PILImageResampling,
    SizeDict,
    infer_channel_dimension_format,
    is_valid_image,
)
from transformers.processing_utils import ImagesKwargs, Unpack


RESIZE_MODES = ("shortest", "longest", "squash")
# Beyond this many pixels an image is resized only where the crop looks: 64 megapixels are 200 MB in RGB. Ordinary
# photographs resized to 224 stay a thousand times below it, extreme shapes such as 100000 x 1 do not.
MAX_RESIZED_PIXELS = 2**26
# A file is decoded at a fraction only if that leaves so many times the size it is resized to. The difference from full
# decoding falls with it: for photographs at 2, 3, 4 and 6 times, a mean of up to 1.6, 0.7, 0.4 and 0.2 levels of 255.
REDUCED_SIZE_RATIO = 4


class CoCaImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """Arguments of `CoCaImageProcessor` beyond those of every image processor.

    resize_mode:
        "shortest" covers the target and crops, "longest" fits into it and fills up, "squash" ignores proportions.
    fill_color:
        Value of the pixels that a crop adds, in the image's own mode, as a number for all channels or one for each.
    do_reduce:
        Whether to decode a JPEG file at 1/2, 1/4 or 1/8 of its size where at least four times the size that it is
        resized to remains.
    """

    resize_mode: Literal["shortest", "longest", "squash"] | None
    fill_color: int | list[int] | tuple[int, ...] | None
    do_reduce: bool | None


def target_size(size: SizeDict) -> tuple[int, int]:
    """(height, width) that `size` asks for."""
    if size.shortest_edge:
        return size.shortest_edge, size.shortest_edge
    return size.height, size.width


def resized_size(image_size: tuple[int, int], target: tuple[int, int], resize_mode: str) -> tuple[int, int]:
    """(height, width) of the image and of the target -> (height, width) to resize to, before any crop.

    open_clip's rounding: down for the long side of a square target (torchvision's Resize), else half to even
    (ResizeKeepRatio). A side that would vanish keeps one pixel.
    """
    if resize_mode == "squash":
        return target
    height, width = image_size
    if resize_mode == "shortest" and target[0] == target[1]:
        short = target[0]
        if width <= height:
            return int(short * height / width), short
        return short, int(short * width / height)
    ratios = (height / target[0], width / target[1])
    ratio = min(ratios) if resize_mode == "shortest" else max(ratios)
    return max(round(height / ratio), 1), max(round(width / ratio), 1)


class Resizing(NamedTuple):
    """How an image gets its size: `target` is (height, width)."""

    target: tuple[int, int]
    mode: str
    resample: int


def open_image(
    source: str | os.PathLike[str], timeout: float | None = None, resizing: Resizing | None = None
) -> Image.Image:
    """An upright image, in the mode in which it is stored.

    transformers' `load_image` converts to RGB here already, which differs from open_clip for images with a palette or
    transparency, and clips 16-bit ones.

    Args:
        source: Path, http(s) URL, data URL or base64 text.
        timeout: Seconds to wait for a URL; None: for ever.
        resizing: What the image is for. A JPEG file that is far larger comes at that size, from a reduced decoding.

    Raises:
        ValueError: `source` is none of these.
        OSError: It cannot be read as an image.
    """
    name = os.fspath(source)
    if name.startswith(("http://", "https://")):
        # Some sites turn away the standard library's own name.
        request = urllib.request.Request(name, headers={"User-Agent": "coca_hf"})
        with urllib.request.urlopen(request, timeout=timeout) as response:
            file: Any = BytesIO(response.read())
    elif os.path.isfile(name):
        file = name
    else:
        encoded = name.split(",", 1)[-1] if name.startswith("data:image/") else name
        try:
            file = BytesIO(base64.b64decode(encoded, validate=True))
        except (binascii.Error, ValueError) as error:
            raise ValueError(
                f"No image at {name[:200]!r}: give the path of an existing file, an http(s) URL or base64 text."
            ) from error
    with Image.open(file) as image:
        if resizing and isinstance(image, JpegImageFile):
            reduced = decode_reduced(image, resizing)
            if reduced is not None:
                return ImageOps.exif_transpose(reduced)
        # In place, since a copy of a large image takes half as long as decoding it.
        ImageOps.exif_transpose(image, in_place=True)
    return image


def decode_reduced(image: JpegImageFile, resizing: Resizing) -> Image.Image | None:
    """An image not yet decoded -> the one that `resizing` makes of it, not yet upright; None if it is not much larger.

    libjpeg scales in its inverse cosine transform, at a fraction of the time of decoding and resizing everything.
    """
    width, height = image.size
    is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    wanted = resized_size((width, height) if is_turned else (height, width), resizing.target, resizing.mode)
    wanted_width, wanted_height = wanted if is_turned else wanted[::-1]
    drafted = image.draft(None, (wanted_width * REDUCED_SIZE_RATIO, wanted_height * REDUCED_SIZE_RATIO))
    if drafted is None or image.size == (width, height):
        return None
    # Where the fraction leaves a remainder, the last pixels lie partly outside the picture.
    _, box = drafted
    return image.resize((wanted_width, wanted_height), resizing.resample, box=box)


def eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grayscale scaled to 8 bits, which Pillow's conversion to RGB would clip; other images unchanged.

    Mode "I" is 32-bit, but holds 16-bit files (all of them before Pillow 11, PNM still); one that fits into 8 bits is
    left to Pillow.
    """
    if not image.mode.startswith("I"):
        return image
    levels = np.asarray(image)
    if image.mode == "I" and levels.max(initial=0) <= 255:
        return image
    return Image.fromarray(np.rint(np.clip(levels, 0, 65535) / 257).astype(np.uint8))


def array_to_image(array: np.ndarray, input_data_format: str | ChannelDimension | None) -> tuple[Image.Image, bool]:
    """(height, width), (height, width, channels) or (channels, height, width) -> image, and whether values were 0..1.

    Floats are rounded to 8 bits, since that is what Pillow resizes.

    Raises:
        ValueError: Values or number of channels are those of no image.
    """
    if array.ndim == 3:
        if input_data_format is None:
            input_data_format = infer_channel_dimension_format(array, num_channels=(1, 2, 3, 4))
        if ChannelDimension(input_data_format) == ChannelDimension.FIRST:
            array = np.moveaxis(array, 0, -1)
        if array.shape[-1] == 1:
            array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] > 4):
        raise ValueError(f"An image has 2 dimensions, or 3 with 1 to 4 channels; this array has shape {array.shape}.")
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    unit_range = array.dtype == bool or (np.issubdtype(array.dtype, np.floating) and low >= 0 and high <= 1)
    if unit_range:
        array = array * 255.0
    elif array.dtype == np.uint16:
        array = array / 257
    elif not (low >= 0 and high <= 255):
        raise ValueError(
            f"Pixels of type {array.dtype} lie between {low} and {high}. Give 0 to 255, 0 to 1 as floats, or uint16; "
            "undo any normalisation, which is this processor's work."
        )
    return Image.fromarray(np.ascontiguousarray(np.rint(array).astype(np.uint8))), bool(unit_range)


def resize(image: Image.Image, size: tuple[int, int], resample: int, crop: tuple[int, int] | None) -> Image.Image:
    """`image` at `size` (height, width); of an enormous `size` only the middle that a centred `crop` can see.

    Pillow takes the nearest pixel for palette and 1-bit images, and weighs colours by alpha, whatever `resample` says.
    """
    height, width = size
    if crop is None or height * width <= MAX_RESIZED_PIXELS:
        return image.resize((width, height), resample)
    across, down = image.width / width, image.height / height
    left, right = visible_span(width, crop[1], across)
    top, bottom = visible_span(height, crop[0], down)
    x, y = int(left * across), int(top * down)
    # Cut out first: Pillow swaps its two passes, which changes pixels, for a tall image that gets lower.
    part = image.crop((x, y, math.ceil(right * across), math.ceil(bottom * down)))
    box = (left * across - x, top * down - y, right * across - x, bottom * down - y)
    return part.resize((right - left, bottom - top), resample, box=box)


def visible_span(length: int, crop: int, scale: float) -> tuple[int, int]:
    """Symmetric part of 0..`length` that holds a centred `crop` and what the resampling filter sees around it.

    `scale` is the length of one resized pixel in pixels of the original, of which a bicubic filter sees two or more.
    """
    margin = math.ceil(3 * max(1 / scale, 1)) + 1
    cut = max((length - crop) // 2 - margin, 0)
    return cut, length - cut


def center_crop(
    image: Image.Image, size: tuple[int, int], fill_color: int | list[int] | tuple[int, ...]
) -> Image.Image:
    """The middle of `image` at exactly `size` (height, width), filled up where the image is smaller.

    Filling happens in the image's own mode (open_clip's center_crop_or_pad): 0 is black in RGB, the first palette
    entry in a palette image, white in CMYK. The offset is rounded half to even, which floor division is not.
    """
    height, width = size
    missing_x, missing_y = max(width - image.width, 0), max(height - image.height, 0)
    if missing_x or missing_y:
        bands = len(image.getbands())
        fill = [fill_color] * bands if isinstance(fill_color, int) else list(fill_color)
        if len(fill) != bands:
            image = image.convert("RGB")
        border = (missing_x // 2, missing_y // 2, (missing_x + 1) // 2, (missing_y + 1) // 2)
        image = ImageOps.expand(image, border, fill[0] if len(fill) == 1 else tuple(fill))
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


class CoCaImageProcessor(PilBackend):
    """Resize, crop, RGB, rescale, normalise: open_clip's preprocessing to the bit, on any image Pillow opens.

    The order matters: images are resized and cropped as they are stored and become RGB last, so that palettes,
    transparency and CMYK come out as in open_clip. 16-bit grayscale is scaled to 8 bits first (open_clip clips it).
    Files and URLs are turned upright by their orientation tag; images already opened are taken as they are.

    `size` is the target: `{"shortest_edge": n}` for n x n, or `{"height": h, "width": w}`. `resize_mode` says how to
    reach it: "shortest" covers it, "longest" fits into it, and `crop_size` cuts or fills up what differs; "squash"
    hits it exactly. With "shortest" and a target that is not square, open_clip always resizes bicubically.

    Arrays hold 0..255, or 0..1 as floats, which are then not rescaled again whatever `do_rescale` says.

    The one exception from equal pixels, and only for JPEG files that are given by path, URL or base64: one of at least
    eight times the size it is resized to (12 megapixels for 224) is decoded at 1/2, 1/4 or 1/8, which leaves at least
    four times that size and takes about a third of the time. Measured with the bundled model, photographs and drawings
    differ by at most 0.5 levels of 255 on average and 7 in a pixel, their embeddings by less than 2e-5 in cosine; a
    page of black print on white, where full decoding clips what overshoots white, by 1.4, 15 and 2e-4. Hence the
    default, which leaves images already opened, all that open_clip takes, to the bit. `do_reduce=False` decodes in
    full.

    Raises:
        ValueError: On construction or call, a `size` that does not say what `resize_mode` needs.
    """

    _auto_class = "AutoImageProcessor"
    valid_kwargs = CoCaImageProcessorKwargs
    model_input_names = ["pixel_values"]

    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"shortest_edge": 224}
    default_to_square = False
    crop_size = {"height": 224, "width": 224}
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    resize_mode = "shortest"
    fill_color = 0
    do_reduce = True

    def __init__(self, **kwargs: Unpack[CoCaImageProcessorKwargs]) -> None:
        super().__init__(**kwargs)
        if self.do_resize:
            self._validate_resizing(self.size, self.resize_mode)

    @staticmethod
    def _validate_resizing(size: SizeDict, resize_mode: str) -> None:
        if resize_mode not in RESIZE_MODES:
            raise ValueError(f"resize_mode={resize_mode!r} is not one of {', '.join(map(repr, RESIZE_MODES))}.")
        keys = set(dict(size))
        if keys == {"height", "width"} or (keys == {"shortest_edge"} and resize_mode == "shortest"):
            return
        needed = (
            "{'shortest_edge': n} or {'height': h, 'width': w}"
            if resize_mode == "shortest"
            else ("{'height': h, 'width': w}")
        )
        raise ValueError(f"size={dict(size)} does not go with resize_mode={resize_mode!r}, which needs {needed}.")

    def _validate_preprocess_kwargs(
        self, do_resize: bool | None = None, size: SizeDict | None = None, resize_mode: str = "shortest", **kwargs: Any
    ) -> None:
        super()._validate_preprocess_kwargs(do_resize=do_resize, size=size, **kwargs)
        if do_resize:
            self._validate_resizing(size, resize_mode)

    def fetch_images(self, image_url_or_urls: Any, resizing: Resizing | None = None) -> Any:
        """Images in place of the paths (`str` or `os.PathLike`) and URLs in nested lists; images stay as they are.

        `resizing` as in `open_image`.
        """
        if isinstance(image_url_or_urls, (list, tuple)):
            return [self.fetch_images(item, resizing) for item in image_url_or_urls]
        if isinstance(image_url_or_urls, (str, os.PathLike)):
            return open_image(image_url_or_urls, resizing=resizing)
        if not is_valid_image(image_url_or_urls):
            raise TypeError(
                f"An image of type {type(image_url_or_urls).__name__} is not supported: give a path, a URL, or an "
                "image as PIL.Image, numpy array or torch tensor."
            )
        if not isinstance(image_url_or_urls, Image.Image) and image_url_or_urls.ndim == 2:
            return image_url_or_urls[None]
        return image_url_or_urls

    @property
    def resizing(self) -> Resizing | None:
        """What `open_image` needs to read a file as this processor would."""
        return self._resizing(self.do_reduce, self.do_resize, self.size, self.resize_mode, self.resample)

    @staticmethod
    def _resizing(
        do_reduce: bool, do_resize: bool, size: SizeDict, resize_mode: str, resample: int, **kwargs: Any
    ) -> Resizing | None:
        if not do_reduce or not do_resize or resample == PILImageResampling.NEAREST:
            return None
        return Resizing(target_size(size), resize_mode, resample)

    def _prepare_image_like_inputs(self, images: Any, *args: Any, **kwargs: Any) -> list[Any]:
        # The library fetches without saying what for; it finds images in place of the paths then.
        images = self.fetch_images(images, self._resizing(**kwargs))
        return super()._prepare_image_like_inputs(images, *args, **kwargs)

    def process_image(
        self, image: ImageInput, input_data_format: str | ChannelDimension | None = None, **kwargs: Any
    ) -> tuple[Image.Image, bool]:
        """Any image -> a Pillow image of 8 bits a channel, and whether its values came as 0..1."""
        if isinstance(image, Image.Image):
            return eight_bit(image), False
        if isinstance(image, torch.Tensor):
            image = image.detach().cpu()
            image = (image.float() if image.is_floating_point() else image).numpy()
        return array_to_image(image, input_data_format)

    def _preprocess(
        self,
        images: list[tuple[Image.Image, bool]],
        return_tensors: str | None = None,
        do_pad: bool | None = None,
        pad_size: SizeDict | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        arrays = [self._transform(image, unit_range, **kwargs) for image, unit_range in images]
        if do_pad:
            arrays = self.pad(arrays, pad_size=pad_size)
        return BatchFeature(data={"pixel_values": arrays}, tensor_type=return_tensors)

    def _transform(
        self,
        image: Image.Image,
        unit_range: bool,
        *,
        do_resize: bool,
        size: SizeDict,
        resize_mode: str,
        resample: int,
        do_center_crop: bool,
        crop_size: SizeDict,
        fill_color: int | list[int],
        do_convert_rgb: bool,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | tuple[float, ...],
        image_std: float | tuple[float, ...],
        data_format: str | ChannelDimension | None,
        **kwargs: Any,
    ) -> np.ndarray:
        """One image -> float32 (channels, height, width), or (height, width, channels) if `data_format` is last."""
        crop = (crop_size.height, crop_size.width) if do_center_crop else None
        if do_resize:
            wanted = resized_size((image.height, image.width), target_size(size), resize_mode)
            image = resize(image, wanted, resample, crop)
        if crop:
            image = center_crop(image, crop, fill_color)
        if do_convert_rgb:
            image = image.convert("RGB")
        levels = np.atleast_3d(np.asarray(image))
        # Channels first, and in place: several times as fast as arithmetic on rows of three values.
        pixels = np.moveaxis(levels, -1, 0).astype(np.float32, order="C")
        if unit_range:
            pixels /= np.float32(255)
        elif do_rescale:
            # Division, because open_clip divides by 255 in float32 and a product rounds otherwise.
            pixels /= np.float32(1 / rescale_factor)
        if do_normalize:
            self._normalize(pixels, image_mean, image_std)
        last = data_format is not None and ChannelDimension(data_format) == ChannelDimension.LAST
        return np.ascontiguousarray(np.moveaxis(pixels, 0, -1)) if last else pixels

    @staticmethod
    def _normalize(pixels: np.ndarray, mean: float | tuple[float, ...], std: float | tuple[float, ...]) -> None:
        """(channels, height, width), by channel, in place."""
        shift, scale = np.asarray(mean, dtype=np.float32), np.asarray(std, dtype=np.float32)
        for name, values in (("image_mean", shift), ("image_std", scale)):
            if values.ndim and len(values) != len(pixels):
                raise ValueError(f"{name} has {len(values)} values, but the image has {len(pixels)} channels.")
        pixels -= shift.reshape(-1, 1, 1)
        pixels /= scale.reshape(-1, 1, 1)


__all__ = ["CoCaImageProcessor"]
