# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The exported page, in a browser without a network: its tokens are PyTorch's."""

import base64
import functools
import http.server
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

import coca_hf
from live_demo import make


# What a browser decodes as Pillow does.
PICTURES = [path for path in coca_hf.example_images() if path.suffix in (".png", ".jpg", ".bmp")][:6]
PALETTE = next(path for path in PICTURES if Image.open(path).mode == "P")
LABELS = ["a red circle", "two blue squares", "it's a star!"]

SEE = """async ([bytes, labels]) => {
    const file = new Blob([Uint8Array.from(atob(bytes), (each) => each.charCodeAt(0))]);
    const seen = await coca.look(file);
    return [await coca.captionIds(seen), await coca.compare(seen, labels), Array.from(seen.embed),
            await coca.caption(seen)];
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="session")
def page_folder(exported, tmp_path_factory):
    """The documentation's demo, below a site of other pages."""
    site = tmp_path_factory.mktemp("site")
    (site / "docs").mkdir()
    return make(site / "docs" / "demo", exported)


@pytest.fixture(scope="module")
def page(page_folder, browser):
    """The page, opened; every request for anything but its own server fails the test."""
    sync_api = pytest.importorskip("playwright.sync_api")
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=page_folder.parents[1])
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = f"http://127.0.0.1:{server.server_port}/docs/demo/"
    opened = browser.new_page()
    opened.asked, opened.problems = [], []
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.on("console", lambda message: opened.problems.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: opened.problems.append(str(error)))
    opened.goto(home)
    sync_api.expect(opened.locator("#status")).to_have_text("Ready.", timeout=60_000)
    yield opened
    opened.close()
    assert all(url.startswith((home, "blob:", "data:")) for url in opened.asked)
    assert opened.problems == []
    server.shutdown()


@pytest.fixture(scope="session")
def plain():
    return coca_hf.load(coca_hf.bundled_model(), dtype="float32")


@pytest.fixture(scope="session")
def processor():
    return AutoProcessor.from_pretrained(coca_hf.bundled_model())


@pytest.fixture(scope="module")
def seen(page):
    """What the page answers for a picture: ids, scores, embedding, caption."""
    return functools.cache(lambda path: page.evaluate(SEE, [base64.b64encode(path.read_bytes()).decode(), LABELS]))


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_the_page_writes_the_tokens_that_pytorch_writes(seen, plain, processor, path):
    ids, _, _, caption = seen(path)
    expected = plain.generate(**processor(images=Image.open(path), return_tensors="pt"), num_beams=1)[0]
    assert ids == expected.tolist()
    assert caption == processor.decode(expected, skip_special_tokens=True).strip()


def photograph(path, size=(4000, 3000)):
    Image.open(PICTURES[0]).resize(size).save(path, quality=92)


def turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(PICTURES[0]).rotate(90, expand=True).save(path, exif=exif, quality=95)


def transparent(path):
    image = Image.open(PICTURES[0]).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(path)


@pytest.mark.parametrize(("make", "name"), [(photograph, "12.jpg"), (turned, "turned.jpg"), (transparent, "a.png")])
def test_photographs_turned_and_transparent_pictures_are_seen_as_by_pytorch(
    seen, plain, processor, tmp_path, make, name
):
    make(tmp_path / name)
    ids, _, embed, _ = seen(tmp_path / name)
    inputs = processor(images=Image.open(tmp_path / name), return_tensors="pt")
    assert ids == plain.generate(**inputs, num_beams=1)[0].tolist()
    expected = torch.nn.functional.normalize(plain.get_image_features(**inputs).pooler_output, dim=-1)
    assert np.dot(embed, expected[0].detach().numpy()) > 0.9999


# Pillow resizes the indices of a palette, and not its colours, which the tokens above survive.
@pytest.mark.parametrize("path", [path for path in PICTURES if path != PALETTE], ids=lambda path: path.name)
def test_the_page_ranks_labels_as_pytorch_does(seen, plain, processor, path):
    _, scores, embed, _ = seen(path)
    texts = [f"This is a photo of {label}." for label in LABELS]
    with torch.no_grad():
        image_embed, text_embeds = (
            torch.nn.functional.normalize(features.pooler_output, dim=-1)
            for features in (
                plain.get_image_features(**processor(images=Image.open(path), return_tensors="pt")),
                plain.get_text_features(**processor(text=texts, padding=True, return_tensors="pt")),
            )
        )
        logits = plain.similarity(image_embed, text_embeds)
    assert np.dot(embed, image_embed[0].numpy()) > 0.9999
    assert np.abs(np.array(scores) - logits.softmax(dim=-1)[0].numpy()).max() < 0.01


def test_a_visitor_chooses_a_picture_and_types_labels(page):
    path = next(path for path in coca_hf.example_images() if path.name == "red-circle.jpg")
    page.set_input_files("#file", str(path))
    page.wait_for_selector("#status:has-text('seconds')", timeout=60_000)
    assert "red circle" in page.inner_text("#caption")
    page.fill("#labels", "a blue square, a red circle")
    page.click("#classify button")
    page.wait_for_selector("#scores li")
    assert page.inner_text("#scores li:first-child").startswith("a red circle")


def test_a_file_that_is_no_picture_is_said_to_be_none(page, tmp_path):
    (tmp_path / "notes.png").write_text("not a picture")
    page.set_input_files("#file", str(tmp_path / "notes.png"))
    page.wait_for_selector("#status.wrong", timeout=60_000)
    assert "notes.png cannot be read as a picture" in page.inner_text("#status")
    assert page.is_visible("#hint")
    assert not page.is_visible("#picture")


def test_a_picture_of_the_page_is_tried_with_the_keyboard(page):
    page.focus("#examples button:first-child")
    page.keyboard.press("Enter")
    page.wait_for_selector("#picture[alt*='hearts to the left of']", timeout=60_000)
    assert page.inner_text("#caption") == page.get_attribute("#picture", "alt")
    assert page.locator("#examples button").count() > 5


def test_everything_that_the_page_needs_is_in_its_folder(page_folder):
    names = {path.relative_to(page_folder).as_posix() for path in page_folder.rglob("*") if path.is_file()}
    assert {"index.html", "page.json", "tokenizer.json", "vision.onnx", "decoder_step.onnx", "ort/LICENSE"} <= names
    assert (page_folder / "ort" / "ort-wasm-simd-threaded.wasm").stat().st_size > 10**7
