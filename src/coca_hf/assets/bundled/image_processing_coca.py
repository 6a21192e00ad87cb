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
from collections.abc import Iterable
from io import BytesIO
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature, get_size_dict
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


# Each file of a saved model reaches all others by imports, so that a copy of one brings the rest along.


RESIZE_MODES = ("shortest", "longest", "squash")
# Beyond this many pixels an image is resized only where the crop looks: 64 megapixels are 200 MB in RGB. Ordinary
# photographs resized to 224 stay a thousand times below it, extreme shapes such as 100000 x 1 do not.
MAX_RESIZED_PIXELS = 2**26
# How far rounding may take a float image out of 0..1, as undoing a normalisation does.
UNIT_RANGE_TOLERANCE = 1e-3
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
        Whether to decode JPEG files at a fraction of their size where that leaves at least four times the size that
        they are resized to. False by default; see the class.
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
    """An image as it is stored: in its own mode, not yet turned by its orientation tag.

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
                return reduced
        image.load()
    return image


def decode_reduced(image: JpegImageFile, resizing: Resizing) -> Image.Image | None:
    """An image not yet decoded -> the one that `resizing` makes of it; None if it is not much larger.

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


def upright(image: Image.Image) -> Image.Image:
    """`image` turned as its orientation tag says; the same object where there is nothing to turn."""
    # PNG may hold the tag behind the pixels, and TIFF is turned, its tag dropped, as it loads.
    image.load()
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # metadata broken in any way leaves the image as it is
        return image
    return image if orientation == 1 else ImageOps.exif_transpose(image)


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


def channels_last(image: Any, input_data_format: str | ChannelDimension | None) -> np.ndarray:
    """Array or tensor (height, width), (height, width, channels) or (channels, height, width) -> with channels last.

    Raises:
        ValueError: The shape is that of no image.
    """
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    array = np.asarray(image)
    if array.ndim == 2:
        return array[..., None]
    if array.ndim == 3:
        if input_data_format is None:
            # Two channels are the least likely: a colour image of two rows is no such image.
            usual = {1, 3, 4}.intersection((array.shape[0], array.shape[-1]))
            input_data_format = infer_channel_dimension_format(array, num_channels=(1, 3, 4) if usual else (2,))
        if ChannelDimension(input_data_format) == ChannelDimension.FIRST:
            array = np.moveaxis(array, 0, -1)
    if array.ndim != 3 or array.shape[-1] > 4:
        raise ValueError(f"An image has 2 dimensions, or 3 with 1 to 4 channels; this array has shape {array.shape}.")
    return array


def image_of_levels(levels: np.ndarray) -> Image.Image:
    """(height, width, channels) of 0..255 -> Pillow image of 8 bits."""
    levels = np.ascontiguousarray(levels[..., 0] if levels.shape[-1] == 1 else levels, dtype=np.uint8)
    return Image.fromarray(levels)


def integers_to_image(array: np.ndarray) -> Image.Image:
    """Integers 0..255, uint16 0..65535 or booleans (height, width, channels) -> Pillow image of 8 bits.

    Raises:
        ValueError: A value lies outside of 0..255.
    """
    if array.dtype == bool:
        return image_of_levels(array * np.uint8(255))
    if array.dtype == np.uint16:
        return image_of_levels(np.rint(array / 257))
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if low < 0 or high > 255:
        raise ValueError(
            f"Pixels of type {array.dtype} hold 0 to 255 (uint16: 0 to 65535), but these lie between {low} and {high}."
        )
    return image_of_levels(array)


def unit_floats(array: np.ndarray) -> np.ndarray:
    """Floats 0..1, of any precision, as float32. What rounding put outside of 0..1 is clipped.

    Raises:
        ValueError: A value lies outside of 0..1 by more than `UNIT_RANGE_TOLERANCE`, or is not a number.
    """
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if not (low >= -UNIT_RANGE_TOLERANCE and high <= 1 + UNIT_RANGE_TOLERANCE):
        raise ValueError(
            f"Pixels of a float type hold 0 to 1, but these, of type {array.dtype}, lie between {low} and {high}. "
            "Divide levels by 255 or convert them to uint8; undo any normalisation, which is this processor's work."
        )
    return np.clip(array, 0, 1).astype(np.float32)


def resize_visible(
    image: Image.Image, size: tuple[int, int], resample: int, crop: tuple[int, int] | None
) -> Image.Image:
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
    image: Image.Image, size: tuple[int, int], fill_color: float | list[int] | tuple[int, ...]
) -> Image.Image:
    """The middle of `image` at exactly `size` (height, width), filled up where the image is smaller.

    Filling happens in the image's own mode (open_clip's center_crop_or_pad): 0 is black in RGB, the first palette
    entry in a palette image, white in CMYK. The offset is rounded half to even, which floor division is not.
    """
    height, width = size
    missing_x, missing_y = max(width - image.width, 0), max(height - image.height, 0)
    if missing_x or missing_y:
        bands = len(image.getbands())
        fill: list[Any] = [fill_color] * bands if isinstance(fill_color, (int, float)) else list(fill_color)
        if len(fill) != bands:
            image = image.convert("RGB")
        border = (missing_x // 2, missing_y // 2, (missing_x + 1) // 2, (missing_y + 1) // 2)
        image = ImageOps.expand(image, border, fill[0] if len(fill) == 1 else tuple(fill))
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def check_resizing(size: SizeDict, resize_mode: str) -> None:
    """Raises `ValueError` where `size` does not say what `resize_mode` needs."""
    if resize_mode not in RESIZE_MODES:
        raise ValueError(f"resize_mode={resize_mode!r} is not one of {', '.join(map(repr, RESIZE_MODES))}.")
    keys = set(dict(size))
    if keys == {"height", "width"} or (keys == {"shortest_edge"} and resize_mode == "shortest"):
        return
    needed = "{'height': h, 'width': w}"
    if resize_mode == "shortest":
        needed = "{'shortest_edge': n} or " + needed
    raise ValueError(f"size={dict(size)} does not go with resize_mode={resize_mode!r}, which needs {needed}.")


class CoCaImageProcessor(PilBackend):
    """Resize, crop, RGB, rescale, normalise: open_clip's preprocessing to the bit, on any image Pillow opens.

    The order matters: images are resized and cropped as they are stored and become RGB last, so that palettes,
    transparency and CMYK come out as in open_clip. 16-bit grayscale is scaled to 8 bits first (open_clip clips it).
    Images are turned upright by their orientation tag, whether they are given as files or opened.

    `size` is the target: `{"shortest_edge": n}` for n x n, or `{"height": h, "width": w}`. `resize_mode` says how to
    reach it: "shortest" covers it, "longest" fits into it, and `crop_size` cuts or fills up what differs; "squash"
    hits it exactly. With "shortest" and a target that is not square, open_clip always resizes bicubically.

    The type of an array says what its values mean, never the values themselves: integers hold 0..255 (uint16 0..65535)
    and are rescaled; floats hold 0..1 and are not rescaled, whatever `do_rescale` says. Resizing rounds floats to 8
    bits, since that is what Pillow resizes; without resizing they keep their precision.

    `do_reduce=True` decodes JPEG files of at least eight times the size they are resized to (12 megapixels for 224) at
    1/2, 1/4 or 1/8, in about a third of the time. It concerns files given by path, URL or base64, not opened images.
    Measured with the bundled model, photographs and drawings differ by at most 0.5 levels of 255 on average and 7 in a
    pixel, their embeddings by less than 2e-5 in cosine; a page of black print on white, where full decoding clips what
    overshoots white, by 1.4, 15 and 2e-4.

    Raises:
        ValueError: On construction or call, a `size` that does not say what `resize_mode` needs; on call, an image
            without pixels, or values that its type does not hold.
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
    do_reduce = False

    def __init__(self, **kwargs: Unpack[CoCaImageProcessorKwargs]) -> None:
        super().__init__(**kwargs)
        if self.do_resize:
            check_resizing(self.size, self.resize_mode)

    def preprocess(self, images: ImageInput, *args: Any, **kwargs: Unpack[CoCaImageProcessorKwargs]) -> BatchFeature:
        """Images, paths or URLs, one or several -> `pixel_values`.

        Args:
            images: An image (PIL, numpy or torch), a path or URL, a list of them, or a batch as one array.
            kwargs: What shall differ from the processor's own settings, and `return_tensors`.

        Returns:
            `pixel_values`: float32 (images, channels, height, width).
        """
        if kwargs.get("do_reduce", self.do_reduce):
            images = self.fetch_images(images, self._resizing(**kwargs))
        return super().preprocess(images, *args, **kwargs)

    def _resizing(self, **kwargs: Any) -> Resizing | None:
        """What a call with `kwargs` will do to the images that it opens; None if a reduced decoding does not serve."""
        given = {name: value for name, value in kwargs.items() if value is not None}
        do_resize, resample, mode, size = (
            given.get(name, getattr(self, name)) for name in ("do_resize", "resample", "resize_mode", "size")
        )
        if not do_resize or resample == PILImageResampling.NEAREST:
            return None
        size = SizeDict(**get_size_dict(size, default_to_square=self.default_to_square))
        check_resizing(size, mode)
        return Resizing(target_size(size), mode, resample)

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

    def process_image(
        self,
        image: ImageInput,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """One image -> its pixels (channels, height, width), resized, cropped and in RGB as far as the arguments ask.

        Images get their shape here, not in `_preprocess`, since an array cannot hold palettes and transparency.

        Args:
            image: PIL, numpy or torch.
            do_convert_rgb: Whether to convert to RGB, last.
            input_data_format: Where an array has its channels; by default it is inferred.
            kwargs: The arguments of a call, such as `do_resize`, `size`, `do_center_crop` and `crop_size`.

        Returns:
            uint8, or float32 of 0..1 for an image of floats.
        """
        if isinstance(image, Image.Image):
            return self._shaped(eight_bit(upright(image)), do_convert_rgb, **kwargs)
        array = channels_last(image, input_data_format)
        if not np.issubdtype(array.dtype, np.floating):
            return self._shaped(integers_to_image(array), do_convert_rgb, **kwargs)
        array = unit_floats(array)
        if kwargs.get("do_resize"):
            levels = self._shaped(image_of_levels(np.rint(array * 255)), do_convert_rgb, **kwargs)
            return self.rescale(levels, 1 / 255)
        return self._shaped_floats(np.moveaxis(array, -1, 0), do_convert_rgb, **kwargs)

    def _shaped(
        self,
        image: Image.Image,
        do_convert_rgb: bool | None,
        do_resize: bool | None = None,
        size: SizeDict | None = None,
        do_center_crop: bool | None = None,
        crop_size: SizeDict | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Pillow image of 8 bits -> uint8 (channels, height, width)."""
        if 0 in image.size:
            raise ValueError(f"The image has no pixels: it is {image.width} x {image.height}.")
        if do_resize:
            image = self.resize(image, size, visible=crop_size if do_center_crop else None, **kwargs)
        if do_center_crop:
            image = self.center_crop(image, crop_size, **kwargs)
        if do_convert_rgb:
            image = image.convert("RGB")
        return np.ascontiguousarray(np.moveaxis(np.atleast_3d(np.asarray(image)), -1, 0))

    def _shaped_floats(
        self,
        pixels: np.ndarray,
        do_convert_rgb: bool | None,
        do_center_crop: bool | None = None,
        crop_size: SizeDict | None = None,
        fill_color: int | list[int] | tuple[int, ...] | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """The same for floats (channels, height, width) that are not resized, one channel at a time."""
        if 0 in pixels.shape:
            raise ValueError(f"The image has no pixels: its channels, height and width are {pixels.shape}.")
        if do_convert_rgb:
            pixels = pixels[:3] if len(pixels) >= 3 else pixels[[0, 0, 0]]
        if not do_center_crop:
            return pixels
        fill = np.broadcast_to(np.asarray(fill_color or 0, dtype=np.float32) / 255, len(pixels)).tolist()
        channels = [
            self.center_crop(Image.fromarray(np.ascontiguousarray(channel)), crop_size, value)
            for channel, value in zip(pixels, fill, strict=True)
        ]
        return np.stack([np.asarray(channel) for channel in channels])

    def resize(
        self,
        image: Image.Image,
        size: SizeDict,
        resample: int | None = None,
        resize_mode: str | None = None,
        visible: SizeDict | None = None,
        **kwargs: Any,
    ) -> Image.Image:
        """A Pillow image in its own mode -> at the size that `size` and `resize_mode` ask for.

        `visible` is the centred crop that follows: of an enormous image, only what it can see is made.
        """
        mode = self.resize_mode if resize_mode is None else resize_mode
        check_resizing(size, mode)
        wanted = resized_size((image.height, image.width), target_size(size), mode)
        crop = None if visible is None else (visible.height, visible.width)
        return resize_visible(image, wanted, self.resample if resample is None else resample, crop)

    def center_crop(
        self,
        image: Image.Image,
        size: SizeDict,
        fill_color: float | list[int] | tuple[int, ...] | None = None,
        **kwargs: Any,
    ) -> Image.Image:
        """The middle of a Pillow image at exactly `size`, filled up with `fill_color` where the image is smaller."""
        return center_crop(image, (size.height, size.width), self.fill_color if fill_color is None else fill_color)

    def rescale(self, image: np.ndarray, scale: float, **kwargs: Any) -> np.ndarray:
        """`image * scale` as float32."""
        # Division, because open_clip divides by 255 in float32 and a product rounds otherwise.
        return np.divide(image, np.float32(1 / scale), dtype=np.float32)

    def normalize(
        self, image: np.ndarray, mean: float | Iterable[float], std: float | Iterable[float], **kwargs: Any
    ) -> np.ndarray:
        """`(image - mean) / std` by channel, of and as float32 (channels, height, width).

        Raises:
            ValueError: `mean` or `std` has another number of values than the image has channels.
        """
        shift, scale = np.asarray(mean, dtype=np.float32), np.asarray(std, dtype=np.float32)
        for name, values in (("image_mean", shift), ("image_std", scale)):
            if values.ndim and len(values) != len(image):
                raise ValueError(f"{name} has {len(values)} values, but the image has {len(image)} channels.")
        normalized = image - shift.reshape(-1, 1, 1)
        normalized /= scale.reshape(-1, 1, 1)
        return normalized

    def _preprocess(
        self,
        images: list[np.ndarray],
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | tuple[float, ...],
        image_std: float | tuple[float, ...],
        do_pad: bool | None = None,
        pad_size: SizeDict | None = None,
        data_format: str | ChannelDimension | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """What `process_image` made -> `pixel_values`."""
        processed = []
        for image in images:
            if do_rescale and image.dtype == np.uint8:
                image = self.rescale(image, rescale_factor)
            image = image.astype(np.float32, copy=False)
            processed.append(self.normalize(image, image_mean, image_std) if do_normalize else image)
        if do_pad:
            processed = self.pad(processed, pad_size=pad_size)
        if data_format is not None and ChannelDimension(data_format) == ChannelDimension.LAST:
            processed = [np.ascontiguousarray(np.moveaxis(image, 0, -1)) for image in processed]
        return BatchFeature(data={"pixel_values": processed}, tensor_type=return_tensors)


__all__ = ["CoCaImageProcessor"]
