# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A file becomes an upright image of bounded size, or one line that says why not."""

import re
import resource
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from coca_hf.batch_inference import images
from coca_hf.batch_inference.errors import ImageError
from coca_hf.batch_inference.images import read_image


SUFFIXES = ["jpg", "png", "webp", "gif", "bmp", "tif", "ppm", "avif", "jp2"]


def picture(width: int = 40, height: int = 30) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def save(path, image: Image.Image | None = None, **options) -> str:
    (image or picture()).save(path, **options)
    return str(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_named_format_is_read(tmp_path, suffix):
    assert read_image(save(tmp_path / f"x.{suffix}")).size == (40, 30)


def test_photographs_of_phones_are_read_where_their_library_is(tmp_path):
    assert "HEIF" in images.known_formats()
    found = read_image(save(tmp_path / "x.heic", Image.new("RGB", (64, 48), "red")))
    assert found.size == (64, 48)
    assert found.convert("RGB").getpixel((5, 5))[0] > 200


@pytest.mark.parametrize(("side", "expected"), [(800, 800), (1600, 800), (1599, 1599), (6400, 800)])
def test_a_jpeg_file_far_larger_than_it_is_wanted_is_decoded_at_a_fraction(tmp_path, side, expected):
    """At least four times the size that it is resized to remains."""
    path = save(tmp_path / "x.jpg", Image.new("RGB", (side, side), "teal"))
    assert read_image(path, resized_size=lambda size: (200, 200)).size == (expected, expected)
    assert read_image(path).size == ((side, side) if side < 4097 else (3200, 3200))


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_other_files_are_decoded_in_full(tmp_path, suffix):
    path = save(tmp_path / f"x.{suffix}", Image.new("RGB", (1600, 1600), "teal"))
    assert read_image(path, resized_size=lambda size: (200, 200)).size == (1600, 1600)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm"])
def test_pixels_are_those_of_the_file(tmp_path, suffix):
    np.testing.assert_array_equal(read_image(save(tmp_path / f"x.{suffix}")), picture())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_an_image_keeps_its_mode(tmp_path, mode):
    assert read_image(save(tmp_path / "x.png", picture().convert(mode))).mode == mode


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_tag_is_honoured(tmp_path, suffix, orientation):
    upright = Image.new("RGB", (64, 48), "white")
    upright.paste("black", (0, 0, 32, 24))
    lying = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"x.{suffix}", upright if lying is None else upright.transpose(lying), exif=exif)
    image = read_image(path).convert("L")
    assert image.size == (64, 48)
    assert [image.getpixel(at) > 128 for at in ((8, 8), (56, 8), (8, 40), (56, 40))] == [False, True, True, True]


def test_metadata_that_cannot_be_parsed_does_not_matter(tmp_path):
    path = save(tmp_path / "x.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    assert read_image(path).size == (40, 30)


@pytest.mark.parametrize("suffix", ["gif", "webp", "tif", "png"])
def test_the_first_frame_of_an_animation_is_read(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black", "black")]
    path = save(tmp_path / f"x.{suffix}", frames[0], save_all=True, append_images=frames[1:])
    assert read_image(path).convert("L").getpixel((4, 4)) > 200


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_truncated_file_is_an_error(tmp_path, suffix, share):
    path = tmp_path / f"x.{suffix}"
    save(path, picture(400, 300))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ImageError):
        read_image(str(path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"some text", "not a readable image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not a readable image of a known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a readable image of a known format"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "not a readable image of a known format"),
    ],
    ids=["empty", "text", "PostScript", "SVG", "broken"],
)
def test_what_is_not_an_image_says_so(tmp_path, content, reason):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=f"^{reason}"):
        read_image(str(path))


def test_a_file_that_went_away_is_an_error(tmp_path):
    with pytest.raises(ImageError, match=r"^no such file or folder$"):
        read_image(str(tmp_path / "gone.jpg"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_large_image_is_reduced_in_proportion(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    image = Image.new(mode, (200, 100)) if mode == "I;16" else picture(200, 100).convert(mode)
    width, height = read_image(save(tmp_path / "x.png", image)).size
    assert (width, height) == (40, 20)


@pytest.mark.parametrize("max_pixels", [100, 10_000])
def test_sixteen_bit_values_survive(tmp_path, monkeypatch, max_pixels):
    monkeypatch.setattr(images, "MAX_PIXELS", max_pixels)
    path = save(tmp_path / "x.png", Image.fromarray(np.full((64, 64), 40_000, np.uint16)))
    assert np.unique(read_image(path)).tolist() == [40_000]


def test_a_palette_is_not_averaged_as_if_it_were_a_scale(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    image = Image.new("P", (40, 40), 0)
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.paste(2, (0, 0, 20, 40))
    reduced = read_image(save(tmp_path / "x.png", image))
    assert {colour for _, colour in reduced.getcolors()} == {(255, 0, 0), (0, 0, 255)}


def test_a_strip_is_read(tmp_path):
    assert read_image(save(tmp_path / "x.png", Image.new("L", (1, 60_000)))).size == (1, 60_000)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_pillows_limit_stays_on(tmp_path, monkeypatch, suffix):
    path = save(tmp_path / f"x.{suffix}", picture(100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(ImageError, match="pixels"):
        read_image(path)


def test_a_jpeg_may_reach_the_size_at_which_pillow_raises(tmp_path, monkeypatch):
    path = save(tmp_path / "x.jpg", picture(100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)
    assert read_image(path).size == (100, 100)


def test_a_webp_has_a_limit_of_its_own(tmp_path, monkeypatch):
    path = save(tmp_path / "x.webp", picture(100, 100))
    monkeypatch.setitem(images.FORMAT_LIMITS, "WEBP", 6000)
    with pytest.raises(ImageError, match=r"^100 x 100 pixels are too many for a WEBP file$"):
        read_image(path)


def test_a_huge_photograph_is_never_in_memory_as_a_whole(tmp_path):
    path = save(tmp_path / "x.jpg", Image.new("RGB", (12_000, 12_000), "teal"))
    script = (
        "import resource, sys\n"
        "from coca_hf.batch_inference.images import read_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "image = read_image(sys.argv[1])\n"
        "print(image.width, image.height, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    result = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    width, height, megabytes = map(int, result.stdout.split())
    assert (width, height) == (3000, 3000)
    # As a whole it would be 576.
    assert megabytes < 150


def test_nothing_is_left_open(tmp_path):
    path = save(tmp_path / "x.png")
    broken = tmp_path / "broken.png"
    broken.write_bytes((tmp_path / "x.png").read_bytes()[:200])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        for _ in range(300):
            read_image(path)
            with pytest.raises(ImageError):
                read_image(str(broken))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("originals")
    for suffix in SUFFIXES:
        save(folder / f"x.{suffix}")
    return {suffix: (folder / f"x.{suffix}").read_bytes() for suffix in SUFFIXES}


def outcome(path: str) -> str:
    try:
        return f"{read_image(path).width} wide"
    except ImageError as error:
        return str(error)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from(SUFFIXES),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_a_mutated_file_is_an_image_or_one_line(tmp_path, originals, suffix, changes):
    content = bytearray(originals[suffix])
    for place, value in changes:
        content[int(place * len(content))] = value
    path = tmp_path / "mutated"
    path.write_bytes(content)
    assert re.fullmatch(r"(?!.*0x).+", outcome(str(path)))
