# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One file into one upright image of bounded size."""

import math
import os
import re
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache
from io import BytesIO
from typing import BinaryIO

from PIL import ExifTags, Image, UnidentifiedImageError

from ..orientation import UPRIGHT, orientation_of
from .containers import MAX_MEMBER_SIZE
from .errors import ImageError
from .files import check_is_regular_file, error_text
from .inputs import HEIF_SUFFIXES, UNREAD_SUFFIXES, Span, suffix_of


FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "HEIF")
"""The formats that are opened, HEIF where pillow-heif is installed. Pillow knows more, some of which start other
programs (Ghostscript for PostScript)."""

MAX_PIXELS = 1 << 24
"""Images with more pixels are reduced while they are read. Models see a few hundred pixels a side, so a photograph of
16 megapixels is still read exactly, and a batch of the largest inputs stays small."""

FORMAT_LIMITS = {"WEBP": 64_000_000, "JPEG2000": 48_000_000, "HEIF": 64_000_000}
"""Lower limits than Pillow's, in pixels, for the formats whose decoders need 16 bytes a pixel and more: with them,
reading an image takes about a gigabyte at most."""

# Pillow keeps a pointer for each row, which in a narrow image outweighs the pixels.
_MAX_SIDE = 1 << 24

# A short side is not reduced below this, so that reduction never costs detail that a model would see.
_KEPT_SIDE = 1024

_OBJECT_ADDRESS = re.compile(r"\s*<[^<>]* at 0x[0-9a-fA-F]+>")


REDUCED_SIZE_RATIO = 4
"""As `CoCaImageProcessor` with `do_reduce`: the difference from full decoding is then a fraction of a grey level."""

ResizedSize = Callable[[tuple[int, int]], tuple[int, int]]


class LargeImageError(Exception):
    """An image of more than `MAX_PIXELS` came where only smaller ones are read."""


def read_image(
    source: str | bytes | Span, *, large: bool = True, resized_size: ResizedSize | None = None
) -> Image.Image:
    """The first frame of an image, turned as its orientation tag says, in the mode in which it is stored.

    An image of more than `MAX_PIXELS` is reduced by a whole factor, and with `resized_size`, which says for an image's
    (height, width) to what it will be resized, a far larger JPEG file too: at least `REDUCED_SIZE_RATIO` times that
    size remains. Raises `ImageError` where there is no complete image of a known format, or too large a one;
    `LargeImageError` without `large`, where reading would take more memory than a few dozen megabytes.
    """
    try:
        file = _opened(source)
    except OSError as error:
        raise ImageError(error_text(error)) from None
    with file, warnings.catch_warnings():
        # Pillow warns of oddities in metadata, and of sizes that are dealt with here.
        warnings.simplefilter("ignore")
        try:
            return _read(file, large, resized_size)
        except (ImageError, LargeImageError):
            raise
        except Exception as error:  # Pillow lets nearly any exception out of a file that is broken in the right place
            raise ImageError(_reason(error)) from error


def _opened(source: str | bytes | Span) -> BinaryIO:
    if isinstance(source, bytes):
        return BytesIO(source)
    path = source if isinstance(source, str) else source.path
    check_is_regular_file(path)
    size = os.path.getsize(path) if isinstance(source, str) else source.size
    if size == 0:
        raise ImageError("an empty file")
    if isinstance(source, str):
        return open(path, "rb")
    return BytesIO(read_span(source))


def read_span(span: Span) -> bytes:
    """Raises `ImageError` where the file has ended before, or there is more than fits into memory well, `OSError`."""
    if span.size > MAX_MEMBER_SIZE:
        raise ImageError(f"{span.size >> 20:,} MB are too many for an image inside another file")
    with open(span.path, "rb") as file:
        file.seek(span.offset)
        data = file.read(span.size)
    if len(data) < span.size:
        raise ImageError("the file that holds it has been cut off")
    return data


@lru_cache
def known_formats() -> list[str]:
    """Those of `FORMATS` that are read here: AVIF came to Pillow late, HEIF is a library of its own."""
    Image.init()
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    return [name for name in FORMATS if name in Image.OPEN]


def why_unread(name: str) -> str | None:
    """Why a picture of this name is not read here, None where it may be one that is."""
    suffix = suffix_of(name)
    if suffix in UNREAD_SUFFIXES:
        return f"{UNREAD_SUFFIXES[suffix]} files are not read: export it as JPEG, PNG or TIFF"
    if suffix in HEIF_SUFFIXES and "HEIF" not in known_formats():
        return "HEIF files need pillow-heif: pip install 'coca-hf[heif]'"
    if suffix == ".avif" and "AVIF" not in known_formats():
        return "AVIF files need Pillow 11.3 or later"
    return None


def _read(file: BinaryIO, large: bool, resized_size: ResizedSize | None) -> Image.Image:
    image_file = Image.open(file, formats=known_formats())
    _check_size(image_file)
    if not large and image_file.width * image_file.height > MAX_PIXELS:
        raise LargeImageError
    _reduce_while_decoding(image_file, resized_size)
    # libtiff says there what is broken in a file.
    with silent_stderr() if image_file.format == "TIFF" else nullcontext():
        image_file.load()
    orientation = orientation_of(image_file)
    image = _bounded(image_file)
    if orientation not in UPRIGHT:
        return image
    turned = image.transpose(UPRIGHT[orientation])
    # The copy still has the tag, and the image processor would turn it once more.
    turned.getexif()[ExifTags.Base.Orientation] = 1
    return turned


@contextmanager
def silent_stderr() -> Iterator[None]:
    """For libraries in C that write there themselves what their Python side also raises."""
    try:
        kept = os.dup(2)
    except OSError:  # closed, so nothing will be seen
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _check_size(image: Image.Image) -> None:
    """Pillow raises at twice its limit and only warns from the limit on; JPEG alone can be decoded at a fraction."""
    width, height = image.size
    if Image.MAX_IMAGE_PIXELS is None or image.format in ("JPEG", "MPO"):
        return
    limit = min(Image.MAX_IMAGE_PIXELS, FORMAT_LIMITS.get(image.format or "", Image.MAX_IMAGE_PIXELS))
    if width * height > limit or max(width, height) > _MAX_SIDE:
        raise ImageError(f"{width} x {height} pixels are too many for a {image.format} file")


def _reduce_while_decoding(image: Image.Image, resized_size: ResizedSize | None) -> None:
    factor = max(_factor_for_memory(image), _factor_for_speed(image, resized_size))
    if factor > 1:
        # Does something for JPEG only, where it is the scale of the inverse cosine transform.
        image.draft(None, (image.width // factor, image.height // factor))


def _factor_for_memory(image: Image.Image) -> int:
    width, height = image.size
    for factor in (1, 2, 4, 8):
        if width * height <= MAX_PIXELS * factor**2 or min(width, height) // (2 * factor) < _KEPT_SIDE:
            break
    return factor


def _factor_for_speed(image: Image.Image, resized_size: ResizedSize | None) -> int:
    if resized_size is None or image.format not in ("JPEG", "MPO"):
        return 1
    # The image is turned upright after it is decoded, which matters where the target is not square.
    wanted_height, wanted_width = resized_size((image.height, image.width))
    ratio = min(image.height / wanted_height, image.width / wanted_width)
    return next((factor for factor in (8, 4, 2) if ratio >= factor * REDUCED_SIZE_RATIO), 1)


def _bounded(image: Image.Image) -> Image.Image:
    pixels = image.width * image.height
    if pixels <= MAX_PIXELS:
        return image
    return _averageable(image).reduce(math.ceil(math.sqrt(pixels / MAX_PIXELS)))


def _averageable(image: Image.Image) -> Image.Image:
    """The same picture in a mode whose values can be averaged: palette indices and single bits cannot."""
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")
    if image.mode.startswith("I;16"):
        return image.convert("I")
    return image


def _reason(error: Exception) -> str:
    """What an exception of Pillow says, as one line without the addresses of objects."""
    if isinstance(error, UnidentifiedImageError):
        return f"not a readable image of a known format ({', '.join(known_formats())})"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels"
    if isinstance(error, MemoryError):
        return "not enough memory to read it"
    if isinstance(error, OSError) and error.errno is not None:
        return error_text(error)
    text = " ".join(_OBJECT_ADDRESS.sub("", str(error)).split())
    # struct.error, KeyError and the like say nothing about the file in their text.
    known = isinstance(error, (OSError, SyntaxError, ValueError)) and not isinstance(error, struct.error)
    return f"a broken image file: {text}" if known and text else "a broken image file"
