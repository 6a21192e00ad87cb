# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The image processor against open_clip's recorded pixels, on every input it takes, and in transformers' own tests."""

import base64
import http.server
import json
import resource
import subprocess
import sys
import threading
import unittest
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import ExifTags, Image, ImageOps
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling
from transformers_tests.test_image_processing_common import ImageProcessingTester, ImageProcessingTestMixin

from coca_hf.batch_inference.images import read_image
from coca_hf.image_processing_coca import CoCaImageProcessor, center_crop, resized_size


FIXTURES = Path(__file__).parent / "fixtures" / "processing"
IMAGES = FIXTURES / "images"
CASES = json.loads((FIXTURES / "preprocessing.json").read_text(encoding="utf-8"))["cases"]
RESAMPLING = {"bicubic": PILImageResampling.BICUBIC, "bilinear": PILImageResampling.BILINEAR}


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    return dict(np.load(FIXTURES / "preprocessing.npz"))


def processor_like(
    size: int | list[int],
    interpolation: str = "bicubic",
    resize_mode: str = "shortest",
    fill_color: int = 0,
    mean: tuple[float, ...] = OPENAI_CLIP_MEAN,
    std: tuple[float, ...] = OPENAI_CLIP_STD,
) -> CoCaImageProcessor:
    """The processor for an open_clip `preprocess_cfg`."""
    height, width = np.broadcast_to(size, 2).tolist()
    return CoCaImageProcessor(
        size={"height": height, "width": width},
        crop_size={"height": height, "width": width},
        resample=RESAMPLING[interpolation],
        resize_mode=resize_mode,
        fill_color=fill_color,
        image_mean=mean,
        image_std=std,
    )


ONE_LEVEL = 1 / 255 / min(OPENAI_CLIP_STD)
# The pixels were recorded with Pillow 13. Earlier ones, with open_clip as well, resize tall images one level off, and
# transparent ones, whose colours they divide by alpha, further.
IS_PILLOW_13 = int(PIL.__version__.partition(".")[0]) >= 13
PARITY_TOLERANCE = 1e-5 if IS_PILLOW_13 else 1.01 * ONE_LEVEL
PARITY_CASES = [case for case in CASES if IS_PILLOW_13 or case["key"] != "rgba.webp/2"]


@pytest.mark.parametrize("case", PARITY_CASES, ids=[case["key"] for case in PARITY_CASES])
def test_pixels_equal_open_clips(case, recorded):
    processor = processor_like(**case["preprocess_cfg"])
    image = Image.open(IMAGES / case["image"])
    # open_clip takes opened images as they are stored.
    image.getexif().pop(ExifTags.Base.Orientation, None)
    pixels = processor(image, return_tensors="np").pixel_values[0]
    np.testing.assert_allclose(pixels, recorded[case["key"]], rtol=0, atol=PARITY_TOLERANCE)
    assert pixels.dtype == np.float32


def test_defaults_are_clips():
    processor = CoCaImageProcessor()
    photo = Image.open(IMAGES / "rgb.png")
    assert processor(photo, return_tensors="pt").pixel_values.shape == (1, 3, 224, 224)
    assert (list(processor.image_mean), list(processor.image_std)) == (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    assert dict(processor.size) == {"shortest_edge": 224}


def test_height_and_width_of_a_square_mean_the_same_as_its_shortest_edge():
    photo = Image.open(IMAGES / "rgb.png")
    crop_size = {"height": 20, "width": 20}
    by_edge = CoCaImageProcessor(size={"shortest_edge": 20}, crop_size=crop_size)(photo)
    by_sides = CoCaImageProcessor(size=crop_size, crop_size=crop_size)(photo)
    np.testing.assert_array_equal(by_edge.pixel_values[0], by_sides.pixel_values[0])


@pytest.fixture(scope="module")
def small() -> CoCaImageProcessor:
    return processor_like(16)


def pixels_of(processor: CoCaImageProcessor, image, **kwargs) -> np.ndarray:
    return processor(image, return_tensors="np", **kwargs).pixel_values[0]


RGB = np.asarray(Image.open(IMAGES / "rgb.png"))
AS_INPUT = {
    "numpy, channels last": RGB,
    "numpy, channels first": RGB.transpose(2, 0, 1),
    "torch, channels first": torch.from_numpy(RGB.transpose(2, 0, 1).copy()),
    "torch, floats up to 1": torch.from_numpy(RGB.transpose(2, 0, 1) / 255).float(),
    "numpy, floats up to 1": RGB / 255,
    "numpy, wide integers": RGB.astype(np.int64),
    "path": str(IMAGES / "rgb.png"),
    "path object": IMAGES / "rgb.png",
    "base64": base64.b64encode((IMAGES / "rgb.png").read_bytes()).decode(),
    "data URL": f"data:image/png;base64,{base64.b64encode((IMAGES / 'rgb.png').read_bytes()).decode()}",
}


@pytest.mark.parametrize("name", AS_INPUT)
def test_the_same_picture_gives_the_same_pixels_however_it_is_given(small, name):
    expected = pixels_of(small, Image.open(IMAGES / "rgb.png"))
    np.testing.assert_array_equal(pixels_of(small, AS_INPUT[name]), expected)


def test_all_of_them_in_one_batch(small):
    batch = small(list(AS_INPUT.values()), return_tensors="pt").pixel_values
    assert batch.shape == (len(AS_INPUT), 3, 16, 16)
    assert torch.equal(batch, batch[:1].expand_as(batch))


@pytest.mark.parametrize("path", sorted(IMAGES.iterdir()), ids=lambda path: path.name)
def test_a_file_gives_the_pixels_of_the_opened_image_turned_upright(small, path):
    upright = ImageOps.exif_transpose(Image.open(path))
    np.testing.assert_array_equal(pixels_of(small, path), pixels_of(small, upright))


def without_tags(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image))


@pytest.mark.parametrize(
    "open_image",
    [str, Image.open, lambda path: Image.open(path).convert("RGB")],
    ids=["file", "opened", "converted"],
)
def test_the_orientation_tag_is_honoured(small, open_image):
    path = IMAGES / "rotated.jpg"
    image = open_image(path)
    stored = Image.open(path) if isinstance(image, str) else image
    expected = without_tags(ImageOps.exif_transpose(stored))
    np.testing.assert_array_equal(pixels_of(small, image), pixels_of(small, expected))
    assert not np.array_equal(pixels_of(small, image), pixels_of(small, without_tags(stored)))


def test_the_callers_image_is_not_turned(small):
    image = Image.open(IMAGES / "rotated.jpg")
    small([image, image])
    assert np.array_equal(np.asarray(image), np.asarray(Image.open(IMAGES / "rotated.jpg")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_that_the_commands_reader_turned_is_not_turned_again(small, tmp_path, orientation):
    path = saved_photograph(tmp_path / "x.jpg", (40, 30), orientation=orientation)
    np.testing.assert_array_equal(pixels_of(small, read_image(str(path))), pixels_of(small, path))


def test_an_image_with_broken_metadata_is_taken_as_it_is(small):
    image = Image.open(IMAGES / "rgb.png").convert("RGB")
    image.info["exif"] = b"Exif\x00\x00no TIFF header"
    np.testing.assert_array_equal(pixels_of(small, image), pixels_of(small, RGB))


def photograph(width: int, height: int) -> Image.Image:
    """Shades, edges and grain, different in every corner."""
    random = np.random.default_rng(0)
    shades = Image.fromarray(random.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((width, height))
    shades.paste("navy", (width // 8, height // 8, width // 3, height // 2))
    grain = random.normal(0, 5, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(shades) + grain, 0, 255).astype(np.uint8))


def saved_photograph(path: Path, size: tuple[int, int], mode: str = "RGB", orientation: int = 1, **options) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    photograph(*size).convert(mode).save(path, "JPEG", exif=exif, quality=90, **options)
    return path


def assert_reduced_within_the_promise(processor: CoCaImageProcessor, path: Path, **kwargs) -> None:
    levels = {"do_rescale": False, "do_normalize": False, **kwargs}
    full, reduced = (pixels_of(processor, path, do_reduce=reduce, **levels) for reduce in (False, True))
    difference = np.abs(full - reduced)
    assert 0 < difference.mean() < 0.5
    assert difference.max() <= 7


# 1013 and 771 leave a remainder by every factor, on a side that turning moves.
LARGE = (1013, 771)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [16, 36, 90], ids=["an eighth", "a quarter", "a half"])
def test_a_large_jpeg_file_is_reduced_within_the_promise_however_it_is_turned(tmp_path, orientation, size):
    path = saved_photograph(tmp_path / "x.jpg", LARGE, orientation=orientation)
    assert_reduced_within_the_promise(processor_like(size), path)


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [[20, 48], [48, 20]], ids=["wide", "tall"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_file_is_reduced_within_the_promise_whatever_the_target(tmp_path, resize_mode, size, orientation):
    path = saved_photograph(tmp_path / "x.jpg", LARGE, orientation=orientation)
    assert_reduced_within_the_promise(processor_like(size, resize_mode=resize_mode), path)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("CMYK", 4)])
def test_a_reduced_file_keeps_its_mode(tmp_path, mode, channels):
    path = saved_photograph(tmp_path / "x.jpg", LARGE, mode)
    assert_reduced_within_the_promise(processor_like(36), path, do_convert_rgb=False)
    raw = pixels_of(processor_like(36), path, do_convert_rgb=False, do_normalize=False)
    assert raw.shape == (channels, 36, 36)


def test_a_reduced_file_of_several_pictures_gives_the_first(tmp_path):
    others = [Image.new("RGB", LARGE, "red")]
    photograph(*LARGE).save(tmp_path / "x.mpo", save_all=True, append_images=others, quality=90)
    assert_reduced_within_the_promise(processor_like(36), tmp_path / "x.mpo")


def pixels_in_full(processor: CoCaImageProcessor, path: Path, **kwargs) -> np.ndarray:
    return pixels_of(processor, ImageOps.exif_transpose(Image.open(path)), **kwargs)


@pytest.mark.parametrize(
    ("size", "kwargs"),
    [
        (LARGE, {"do_reduce": False}),
        (LARGE, {}),
        (LARGE, {"do_reduce": True, "do_resize": False, "do_center_crop": False}),
        (LARGE, {"do_reduce": True, "resample": PILImageResampling.NEAREST}),
        ((400, 287), {"do_reduce": True}),
        ((2000, 287), {"do_reduce": True}),
    ],
    ids=["said", "by default", "not resized", "nearest pixel", "less than eight times the target", "and elongated"],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_file_in_full_gives_the_pixels_of_the_opened_image(tmp_path, size, kwargs, orientation):
    path = saved_photograph(tmp_path / "x.jpg", size, orientation=orientation)
    processor = processor_like(36)
    np.testing.assert_array_equal(pixels_of(processor, path, **kwargs), pixels_in_full(processor, path, **kwargs))


def test_a_processor_saved_with_reduction_decodes_at_a_fraction(tmp_path):
    path = saved_photograph(tmp_path / "x.jpg", LARGE)
    CoCaImageProcessor(do_reduce=True, size=36, crop_size=36).save_pretrained(tmp_path)
    loaded = CoCaImageProcessor.from_pretrained(tmp_path)
    assert not np.array_equal(pixels_of(loaded, path), pixels_in_full(loaded, path))
    np.testing.assert_array_equal(pixels_of(loaded, path), pixels_of(processor_like(36), path, do_reduce=True))


def test_files_of_several_frames_are_not_left_open(small, tmp_path):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        images = small.fetch_images([tmp_path / "two.gif"] * 200)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert small(images, return_tensors="np").pixel_values.shape == (200, 3, 16, 16)


@pytest.fixture
def server(monkeypatch):
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(IMAGES))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_a_url_gives_the_pixels_of_its_file(small, server):
    np.testing.assert_array_equal(pixels_of(small, f"{server}/rgba.png"), pixels_of(small, IMAGES / "rgba.png"))


def test_a_missing_url_is_an_error_that_says_so(small, server):
    with pytest.raises(OSError, match="404"):
        small(f"{server}/nothing.png")


@pytest.mark.parametrize("name", ["gray16.png", "gray16.tif"])
def test_sixteen_bits_as_an_array_equal_the_file(small, name):
    levels = np.asarray(Image.open(IMAGES / name))
    np.testing.assert_array_equal(pixels_of(small, levels), pixels_of(small, IMAGES / name))


def test_sixteen_bits_in_a_32_bit_image_are_scaled_and_eight_bits_are_not(small):
    levels = np.asarray(Image.open(IMAGES / "gray16.png"))
    wide = Image.fromarray(levels.astype(np.int32))
    np.testing.assert_array_equal(pixels_of(small, wide), pixels_of(small, IMAGES / "gray16.png"))
    narrow = Image.fromarray((levels // 256).astype(np.int32))
    np.testing.assert_array_equal(pixels_of(small, narrow), pixels_of(small, (levels // 256).astype(np.uint8)))


def test_a_big_endian_sixteen_bit_image_is_scaled(small):
    levels = np.asarray(Image.open(IMAGES / "gray16.png"))
    image = Image.frombytes("I;16B", levels.shape[::-1], levels.astype(">u2").tobytes())
    np.testing.assert_array_equal(pixels_of(small, image), pixels_of(small, IMAGES / "gray16.png"))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_arrays_of_other_channel_counts_equal_the_images_pillow_makes_of_them(small, channels):
    array = np.random.default_rng(0).integers(0, 256, (21, 34, channels), dtype=np.uint8)
    image = Image.fromarray(array.squeeze(-1) if channels == 1 else array)
    np.testing.assert_array_equal(pixels_of(small, array), pixels_of(small, image))


def test_an_array_without_channels_is_gray(small):
    gray = np.random.default_rng(0).integers(0, 256, (21, 34), dtype=np.uint8)
    np.testing.assert_array_equal(pixels_of(small, gray), pixels_of(small, Image.fromarray(gray)))


def test_the_first_frame_of_an_animation_is_taken(small, tmp_path):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(pixels_of(small, tmp_path / "two.gif"), pixels_of(small, frames[0]), atol=1e-5)


def test_a_batch_as_one_array_is_a_batch(small):
    batch = small(torch.randint(0, 256, (5, 3, 20, 30), dtype=torch.uint8), return_tensors="pt").pixel_values
    assert batch.shape == (5, 3, 16, 16)


def test_floats_up_to_one_are_not_rescaled_twice(small):
    floats = torch.from_numpy(RGB.transpose(2, 0, 1) / 255).float()
    expected = pixels_of(small, RGB)
    np.testing.assert_array_equal(pixels_of(small, floats, do_rescale=False), expected)
    np.testing.assert_array_equal(pixels_of(small, floats, do_rescale=True), expected)


UNSHAPED = {"do_resize": False, "do_center_crop": False, "do_normalize": False}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("brightest", [0.002, 0.9, 1.0])
def test_floats_mean_the_same_however_dark_the_image_is(small, dtype, brightest):
    dark = (RGB / 255 * brightest).astype(dtype)
    pixels = pixels_of(small, dark, **UNSHAPED)
    np.testing.assert_array_equal(pixels, dark.transpose(2, 0, 1).astype(np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_integers_mean_the_same_however_dark_the_image_is(small, dtype):
    dark = (RGB > 128).astype(dtype)
    np.testing.assert_allclose(pixels_of(small, dark, **UNSHAPED), dark.transpose(2, 0, 1) / 255, rtol=1e-6)


def test_what_rounding_puts_outside_of_zero_to_one_is_clipped(small):
    mean, std = (np.float32(value) for value in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    undone = (RGB.astype(np.float32) / 255 - mean) / std * std + mean
    undone[0, 0], undone[0, 1] = -1e-6, 1 + 1e-6
    pixels = pixels_of(small, undone, **UNSHAPED)
    assert (pixels.min(), pixels.max()) == (0, 1)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [16, 40], ids=["cut", "filled up"])
def test_floats_that_are_not_resized_are_cropped_as_levels_are_and_keep_their_precision(channels, size):
    levels = np.random.default_rng(0).integers(0, 256, (21, 34, channels), dtype=np.uint8)
    processor = processor_like(size, fill_color=51)
    expected = pixels_of(processor, levels, do_resize=False)
    np.testing.assert_allclose(pixels_of(processor, levels / 255, do_resize=False), expected, rtol=0, atol=1e-5)
    between = (levels / 2 + 60.25) / 255
    kept = pixels_of(processor, between, do_resize=False, do_normalize=False) * 255
    assert not np.allclose(kept, np.rint(kept), atol=0.1)


def test_a_float_image_is_filled_up_with_the_color_of_each_channel():
    processor = processor_like(4, fill_color=[255, 51, 0])
    pixels = pixels_of(processor, np.full((2, 2, 3), 0.5), do_resize=False, do_normalize=False)
    np.testing.assert_allclose(pixels[:, 0, 0], [1, 0.2, 0], rtol=1e-6)
    np.testing.assert_array_equal(pixels[:, 1:3, 1:3], np.full((3, 2, 2), 0.5))


@pytest.mark.parametrize("rows", [2, 5])
def test_a_colour_image_of_few_rows_is_no_image_of_two_channels(small, rows):
    strip = np.random.default_rng(0).integers(0, 256, (rows, 40, 3), dtype=np.uint8)
    np.testing.assert_array_equal(pixels_of(small, strip), pixels_of(small, Image.fromarray(strip)))


def test_booleans_are_black_and_white(small):
    mask = RGB[..., 0] > 128
    np.testing.assert_array_equal(pixels_of(small, mask), pixels_of(small, mask.astype(np.uint8) * 255))


def test_the_steps_can_be_called_and_overridden_one_by_one(small):
    class Brighter(CoCaImageProcessor):
        def rescale(self, image, scale, **kwargs):
            return super().rescale(image, scale, **kwargs) + 1

    plain = small.process_image(Image.open(IMAGES / "palette.png"))
    assert (plain.dtype, plain.shape[0]) == (np.uint8, 1)
    brighter = Brighter(size=16, crop_size=16, do_normalize=False)
    np.testing.assert_array_equal(pixels_of(brighter, RGB), pixels_of(small, RGB, do_normalize=False) + 1)


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("image", [Image.new("RGB", (1, 1), "white"), np.ones((1, 1)), np.full((1, 1), 255)])
def test_a_single_pixel_fills_the_image(resize_mode, image):
    pixels = pixels_of(processor_like(16, resize_mode=resize_mode), image, do_normalize=False)
    np.testing.assert_array_equal(pixels, np.ones((3, 16, 16)))


@pytest.mark.parametrize("do_resize", [True, False])
@pytest.mark.parametrize(
    "image", [Image.new("RGB", (0, 5)), np.zeros((5, 0, 3), np.uint8), np.zeros((0, 5, 3)), torch.zeros(3, 0, 0)]
)
def test_an_image_without_pixels_is_refused(small, image, do_resize):
    with pytest.raises(ValueError, match="The image has no pixels"):
        small(image, do_resize=do_resize)


def test_each_step_can_be_left_out(small):
    raw = pixels_of(small, RGB, do_resize=False, do_center_crop=False, do_rescale=False, do_normalize=False)
    np.testing.assert_array_equal(raw, RGB.transpose(2, 0, 1).astype(np.float32))


def test_channels_can_come_last(small):
    last = pixels_of(small, RGB, data_format="channels_last")
    np.testing.assert_array_equal(last.transpose(2, 0, 1), pixels_of(small, RGB))


def test_a_crop_larger_than_the_image_is_filled_with_the_fill_color():
    image = Image.new("RGB", (2, 2), "white")
    cropped = np.asarray(center_crop(image, (3, 5), [1, 2, 3]))
    assert cropped[0, 1].tolist() == [255, 255, 255]
    assert cropped[2, 4].tolist() == [1, 2, 3]


def test_a_fill_color_by_channel_serves_images_of_other_modes():
    cropped = center_crop(Image.new("L", (2, 2), 255), (2, 4), [1, 2, 3])
    assert np.asarray(cropped)[0].tolist() == [[1, 2, 3], [255] * 3, [255] * 3, [1, 2, 3]]


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1)])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_extreme_shapes_come_out_at_the_right_size(shape, resize_mode):
    processor = processor_like(16, resize_mode=resize_mode)
    assert pixels_of(processor, np.zeros(shape, np.uint8)).shape == (3, 16, 16)


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 0, 2)], ids=["wide", "tall"])
@pytest.mark.parametrize("length", [3000, 3001])
def test_making_only_the_visible_part_of_an_enormous_image_gives_the_same_pixels(monkeypatch, axes, length):
    strip = np.random.default_rng(0).integers(0, 256, (3, length, 3), dtype=np.uint8).transpose(axes)
    processor = processor_like(32)
    whole = pixels_of(processor, strip)
    monkeypatch.setattr("coca_hf.image_processing_coca.MAX_RESIZED_PIXELS", 1000)
    np.testing.assert_allclose(pixels_of(processor, strip), whole, rtol=0, atol=1.01 * ONE_LEVEL)


@pytest.mark.slow
def test_memory_for_an_extreme_shape_is_bounded():
    # Resized as a whole, the strip would take 400 MB.
    code = (
        "import resource; from PIL import Image; from coca_hf.image_processing_coca import CoCaImageProcessor\n"
        "process = CoCaImageProcessor(); process(Image.new('RGB', (300, 200)))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "process(Image.new('RGB', (2000, 1)))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    grown_kilobytes = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(grown_kilobytes) < 100_000


@pytest.mark.parametrize(
    ("image_size", "target", "resize_mode", "expected"),
    [
        ((100, 100), (224, 224), "shortest", (224, 224)),
        ((299, 200), (224, 224), "shortest", (334, 224)),  # 334.88, cut
        ((200, 299), (224, 224), "shortest", (224, 334)),
        ((100, 201), (20, 10), "shortest", (20, 40)),  # 40.2, rounded
        ((100, 203), (20, 10), "shortest", (20, 41)),
        ((100, 201), (20, 10), "longest", (5, 10)),
        ((1, 100), (20, 20), "longest", (1, 20)),
        ((7, 9), (20, 10), "squash", (20, 10)),
    ],
)
def test_sizes_are_rounded_as_open_clip_rounds_them(image_size, target, resize_mode, expected):
    assert resized_size(image_size, target, resize_mode) == expected


@pytest.mark.parametrize("length", [19, 20, 21, 22, 23])
def test_the_crop_offset_is_rounded_half_to_even(length):
    ramp = Image.fromarray(np.arange(length, dtype=np.uint8)[None])
    assert np.asarray(center_crop(ramp, (1, 16), 0))[0, 0] == round((length - 16) / 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resize_mode": "widest"}, "resize_mode='widest' is not one of 'shortest', 'longest', 'squash'"),
        ({"resize_mode": "squash"}, "does not go with resize_mode='squash', which needs {'height': h, 'width': w}"),
        ({"size": {"longest_edge": 20}}, "does not go with resize_mode='shortest'"),
    ],
)
def test_a_size_that_does_not_say_what_its_mode_needs_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CoCaImageProcessor(**arguments)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ("no/such/file.png", ValueError, "No image at 'no/such/file.png'"),
        (None, TypeError, "An image of type NoneType is not supported"),
        ([3], TypeError, "An image of type int is not supported"),
        (RGB.astype(np.float32), ValueError, "float type hold 0 to 1, but these, of type float32, lie between .*255"),
        (np.full((4, 4, 3), 1.5), ValueError, "lie between 1.5 and 1.5. Divide levels by 255"),
        (np.full((4, 4, 3), -1), ValueError, "lie between -1 and -1"),
        (np.full((4, 4, 3), -1.5), ValueError, "lie between -1.5 and -1.5"),
        (np.full((4, 4, 3), np.nan), ValueError, "lie between nan and nan"),
        (np.full((4, 4, 3), 70000), ValueError, "lie between 70000 and 70000"),
    ],
)
def test_what_is_no_image_is_refused_with_its_reason(small, image, error, message):
    with pytest.raises(error, match=message):
        small(image)


def test_a_truncated_file_is_an_error(small, tmp_path):
    (tmp_path / "cut.png").write_bytes((IMAGES / "rgb.png").read_bytes()[:1500])
    with pytest.raises(OSError, match="truncated"):
        small(tmp_path / "cut.png")


def test_a_saved_processor_comes_back_the_same(tmp_path):
    processor = processor_like([12, 21], "bilinear", "longest", 7, (0.5, 0.5, 0.5), (0.5, 0.4, 0.3))
    processor.save_pretrained(tmp_path)
    loaded = CoCaImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    np.testing.assert_array_equal(pixels_of(loaded, RGB), pixels_of(processor, RGB))


def test_a_clip_configuration_reads_as_it_means():
    clips = {"crop_size": 30, "size": 30, "do_center_crop": True, "resample": 3, "feature_extractor_type": "CLIP"}
    processor = CoCaImageProcessor.from_dict(clips)
    assert dict(processor.size) == {"shortest_edge": 30}
    assert dict(processor.crop_size) == {"height": 30, "width": 30}


def test_it_works_without_torchvision():
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from PIL import Image; from coca_hf.image_processing_coca import CoCaImageProcessor\n"
        "print(CoCaImageProcessor()(Image.new('RGB', (30, 20)), return_tensors='pt').pixel_values.shape)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "torch.Size([1, 3, 224, 224])"


class CoCaImageProcessingTester(ImageProcessingTester):
    def __init__(self, parent, **kwargs):
        kwargs.setdefault("size", {"shortest_edge": 20})
        kwargs.setdefault("crop_size", {"height": 18, "width": 18})
        kwargs.setdefault("resize_mode", "shortest")
        super().__init__(parent, **kwargs)

    def _get_image_processing_classes(self):
        return {"pil": CoCaImageProcessor}


class CoCaImageProcessingTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = CoCaImageProcessingTester
    test_cast_dtype = True

    @unittest.skip("There is one backend, Pillow: torchvision's resizing differs from open_clip's pixels")
    def test_new_models_require_torchvision_backend(self):
        pass

    @unittest.skip("Older releases look for the class in a module of transformers; see the test without torchvision")
    def test_pil_can_load_without_torchvision(self):
        pass

    def test_call_numpy_4_channels(self):
        # Older releases do not ask for it in the call, though they expect all four channels back.
        self.image_processor_tester.do_convert_rgb = False
        super().test_call_numpy_4_channels()
