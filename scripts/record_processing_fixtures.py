# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Records open_clip 3.3.0's token ids and pixels, for the tests of the tokenizer and of the image processor.

Run it in an environment of its own: torch, torchvision and open_clip_torch==3.3.0:

    python scripts/record_processing_fixtures.py

It writes tests/fixtures/processing/:

- `tokenization.json`: texts, their ids, and what open_clip decodes them to;
- `clip_merges.txt.gz`: the part of open_clip's `bpe_simple_vocab_16e6.txt.gz` that it reads, its first 48,895 lines
  (from https://github.com/openai/CLIP, MIT License, Copyright (c) 2021 OpenAI);
- `images/`: small pictures, one for each way of storing pixels;
- `preprocessing.json`, `preprocessing.npz`: what open_clip makes of them, for each preprocessing configuration.
"""

import contextlib
import gzip
import json
import platform
from io import BytesIO
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import PIL
import regex


with contextlib.suppress(ImportError):
    import oracle_shim  # noqa: F401  lets open_clip import beside a torchvision that has no operators
import open_clip
import torch
import torchvision
from open_clip.tokenizer import SimpleTokenizer, default_bpe
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image, ImageDraw


FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "processing"
SEED = 2205
CONTEXT_LENGTH = 76

TEXTS = [
    "a photo of a cat",
    "",
    "   ",
    "A Photo Of A CAT",
    "two dogs,  one\tcat\nand\r\n a bird",
    "it's the dog's ball; they've said we'll, I'm, you're, he'd, don't",
    "IT'S THE DOG'S BALL",
    "the dog’s ball, ‘so’ “they” said",
    "fish &amp; chips &lt;b&gt; &quot;now&quot; &#39;s &eacute; &nbsp; &hearts;",
    "fish &amp;amp; chips &amp;lt;b&amp;gt; &amp;amp;amp;",
    "schÃ¶n, voilÃ , itâ€™s a naÃ¯ve cafÃ©",
    "naïve café Ångström façade",
    "e\u0301 composes, a&#769; only after the repair",
    "ﬁne ﬂowers, ＦＵＬＬ ｗｉｄｔｈ １２３",
    "\u017fome long e\u017f, the dog'\u017f tail",
    "ΟΔΥΣΣΕΥΣ ΣΑΣ Σ",
    "İstanbul DİYARBAKIR ı",
    "GROSSE STRASSE ẞ ß",
    "日本語の写真、猫と犬。",
    "한국어 사진",
    "صورة قطة ١٢٣",
    "чёрный КОТ",
    "ภาพถ่ายแมว",
    "क्षेत्र में कुत्ता",
    "a 😀 and 👩‍👩‍👧‍👦 with 🇩🇪 ❤️ 👍🏽",
    "1 22 333 4.5 6,789 2nd ½ ² Ⅷ ①",
    "!",
    "wow! a cat!",
    "!!! !!!! !-! !<a> !? ?! ...!... -!-",
    "a!-!b",
    '#nofilter @home $5 100% a_b c/d e\\f (g) [h] {i} ~j ^k |l` "m" <n> o=p+q*r;s:t',
    "http://example.org/a-b_c?d=e&f=g#h",
    "a </w> b</w>c",
    "<start_of_text> a cat <end_of_text>",
    "<START_OF_TEXT>A Cat<End_Of_Text> sat",
    "cat<start_of_text>dog<end_of_text><start_of_text>1<end_of_text>",
    "!<start_of_text> .<end_of_text><start_of_text> <end_of_text>!",
    "a <<end_of_text>> b>< start_of_text >",
    "<|startoftext|> a cat <|endoftext|>",
    "tab\x0bseparated\x0cby\x1call\x1fkinds\x85of\u2028white\u3000space\xa0here",
    "zero\u200bwidth\ufeff joined\u200d soft\xadhyphen",
    "\x07bell \x00null \x1b[31mred\x1b[0m",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "!" * 100,
    "a very long caption about a cat " * 20,
    "word " * 74,
    "word " * 75,
    "word " * 73 + "! end",
]

CONFIGURATIONS: list[dict[str, Any]] = [
    {"size": 16},
    {"size": 17, "interpolation": "bilinear"},
    {"size": 16, "resize_mode": "squash"},
    {"size": 16, "resize_mode": "longest"},
    {"size": 17, "resize_mode": "longest", "fill_color": 200, "interpolation": "bilinear"},
    {"size": (12, 21)},
    {"size": (21, 12), "resize_mode": "squash", "interpolation": "bilinear"},
    {"size": (12, 21), "resize_mode": "longest", "fill_color": 7},
    {"size": 16, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.4, 0.3)},
]


def provenance() -> dict[str, Any]:
    versions = {
        module.__name__: module.__version__ for module in (open_clip, torch, torchvision, PIL, ftfy, regex, np)
    }
    return {
        "script": "scripts/record_processing_fixtures.py",
        "seed": SEED,
        "python": platform.python_version(),
        **versions,
    }


def write_json(name: str, content: dict[str, Any]) -> None:
    text = json.dumps({"provenance": provenance(), **content}, indent=1, ensure_ascii=True)
    (FIXTURES / name).write_text(text + "\n", encoding="utf-8")


def record_tokenization() -> None:
    tokenizer = SimpleTokenizer(context_length=CONTEXT_LENGTH)
    cases = []
    for text in TEXTS:
        ids = tokenizer.encode(text)
        cases.append(
            {
                "text": text,
                "ids": ids,
                "padded": tokenizer([text])[0].tolist(),
                "decoded": tokenizer.decode(ids),
            }
        )
    write_json("tokenization.json", {"context_length": CONTEXT_LENGTH, "cases": cases})
    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[: 49152 - 256 - 2 + 1]
    merges = gzip.compress(("\n".join(lines) + "\n").encode(), compresslevel=9, mtime=0)
    (FIXTURES / "clip_merges.txt.gz").write_bytes(merges)


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Smooth colours, hard edges and noise, so that every step of the preprocessing leaves its mark."""
    rng = np.random.default_rng([SEED, seed])
    y, x = np.mgrid[:height, :width]
    ramps = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], axis=-1)
    noisy = np.clip(ramps + rng.normal(0, 12, ramps.shape), 0, 255).astype(np.uint8)
    image = Image.fromarray(noisy)
    draw = ImageDraw.Draw(image)
    draw.ellipse((width * 0.1, height * 0.2, width * 0.6, height * 0.7), fill=(220, 30, 40))
    draw.rectangle((width * 0.5, height * 0.5, width * 0.9, height * 0.9), fill=(20, 60, 230))
    return image


def with_alpha(image: Image.Image) -> Image.Image:
    """Transparency that varies, fully transparent places included."""
    ramp = np.linspace(-60, 300, image.width * image.height).reshape(image.height, image.width)
    image.putalpha(Image.fromarray(np.clip(ramp, 0, 255).astype(np.uint8)))
    return image


def sixteen_bit(image: Image.Image) -> Image.Image:
    """Grayscale over the whole 16-bit range, its low bytes not zero."""
    gray = np.asarray(image.convert("L")).astype(np.uint32)
    return Image.fromarray((gray * 257 // 2 + gray * 100).clip(0, 65535).astype(np.uint16))


def pictures() -> dict[str, tuple[Image.Image, dict[str, Any]]]:
    """File name -> picture and arguments for saving it."""
    palette = picture(41, 30, 4).quantize(17)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    return {
        "rgb.png": (picture(53, 37, 0), {}),
        "rgb_tall.jpg": (picture(29, 64, 1), {"quality": 90}),
        "rgb_wide.webp": (picture(120, 9, 2), {"lossless": True}),
        "rgb_tiny.bmp": (picture(3, 2, 3), {}),
        "rgb_target_size.png": (picture(16, 16, 12), {}),
        "palette.png": (palette, {}),
        "palette_transparent.png": (palette, {"transparency": 3}),
        "palette.gif": (picture(33, 50, 5).quantize(64), {}),
        "rgba.png": (with_alpha(picture(47, 31, 6)), {}),
        "rgba.webp": (with_alpha(picture(31, 47, 7)), {"lossless": True}),
        "gray.jpg": (picture(40, 27, 8).convert("L"), {"quality": 90}),
        "gray_alpha.png": (with_alpha(picture(35, 35, 9)).convert("LA"), {}),
        "one_bit.png": (picture(45, 28, 10).convert("1"), {}),
        "cmyk.jpg": (picture(38, 51, 11).convert("CMYK"), {"quality": 90}),
        "cmyk.tif": (picture(38, 25, 13).convert("CMYK"), {"compression": "tiff_deflate"}),
        "float.tif": (picture(26, 34, 15).convert("F"), {}),
        "gray16.png": (sixteen_bit(picture(44, 29, 16)), {}),
        "gray16.tif": (sixteen_bit(picture(29, 44, 17)), {"compression": "tiff_deflate"}),
        "rotated.jpg": (picture(50, 34, 18), {"quality": 90, "exif": rotated}),
    }


def opened(path: Path) -> Image.Image:
    """What open_clip is given: what Pillow opens, but 16 bits scaled to 8, since open_clip makes them white."""
    image = Image.open(path)
    if image.mode != "I;16":
        return image
    return Image.fromarray(((np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


def record_preprocessing() -> None:
    folder = FIXTURES / "images"
    folder.mkdir(exist_ok=True)
    pixels = {}
    cases = []
    for name, (image, arguments) in pictures().items():
        buffer = BytesIO()
        image.save(buffer, Image.registered_extensions()[Path(name).suffix], **arguments)
        (folder / name).write_bytes(buffer.getvalue())
        for index, configuration in enumerate(CONFIGURATIONS):
            transform = image_transform_v2(PreprocessCfg(**configuration), is_train=False)
            key = f"{name}/{index}"
            pixels[key] = transform(opened(folder / name)).numpy()
            cases.append({"image": name, "key": key, "preprocess_cfg": configuration})
    np.savez_compressed(FIXTURES / "preprocessing.npz", **pixels)
    write_json("preprocessing.json", {"cases": cases})


def main() -> None:
    FIXTURES.mkdir(parents=True, exist_ok=True)
    record_tokenization()
    record_preprocessing()
    for path in sorted(FIXTURES.rglob("*")):
        print(f"{path.relative_to(FIXTURES)}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
