# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The page as a visitor uses it, in a browser: its four tabs, what goes wrong, and two visitors at once."""

import os
import re
import shutil
from pathlib import Path

import pytest

import coca_hf


gradio = pytest.importorskip("gradio", reason="the page needs Gradio")
sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright to open the page with")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: set CHROMIUM to its path")

on_both = pytest.mark.parametrize("visitor", ["desktop", "phone"], indirect=True)
EXAMPLES = {path.stem: str(path) for path in coca_hf.example_images()}


@pytest.fixture(scope="module")
def address():
    from coca_hf.app import launch

    page, address, _ = launch(quiet=True, prevent_thread_lock=True)
    yield address
    page.get_blocks().close(verbose=False)


class Visitor:
    """A visitor's window, all that it asked the network for, and what its console said."""

    def __init__(self, browser, address, **options):
        self.page = browser.new_context(**options).new_page()
        self.page.set_default_timeout(120_000)
        self.elsewhere, self.errors = [], []
        self.page.on("request", lambda request: self._note(request.url, address))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(address)
        self.button("Caption").wait_for()

    def close(self):
        """A page that stays open draws on, and takes a tenth of a processor for as long as the browser is there."""
        self.page.context.close()

    def _note(self, url, address):
        if not url.startswith((address, "data:", "blob:")):
            self.elsewhere.append(url)

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    def tab(self, name):
        """Where a narrow window has no room for all tabs, the rest is in a menu behind them."""
        tab, menu = self.page.get_by_role("tab", name=name), self.page.locator(".overflow-menu > button")
        if not tab.is_visible() and menu.is_visible():
            menu.click()
            self.page.locator(".overflow-dropdown button", has_text=name).click()
        else:
            tab.click()

    def upload(self, path):
        with self.page.expect_response(lambda response: "/upload" in response.url):
            self.page.locator("[role=tabpanel]:visible input[type=file]").last.set_input_files(path)
        self.page.wait_for_timeout(500)  # until the page knows it, too

    def text(self, place, holds):
        """What stands in the part `place` as soon as it holds the pattern."""
        found = self.page.locator(place).filter(has_text=re.compile(holds))
        found.wait_for()
        return found.inner_text()


@pytest.fixture
def visitor(browser, address, request):
    """A visitor on a desk; on a phone where the test asks for one."""
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "color_scheme": "dark"}
    visitor = Visitor(browser, address, **(phone if getattr(request, "param", "") == "phone" else {}))
    yield visitor
    fits = visitor.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    visitor.close()
    # However the tab is used: nothing leaves the machine, nothing goes wrong unseen, and the page fits its window.
    assert visitor.elsewhere == []
    assert visitor.errors == []
    assert fits


@on_both
def test_a_caption_lights_up_where_each_word_looks(visitor):
    visitor.upload(EXAMPLES["blue-hearts-left-of-orange-rings"])
    visitor.button("Caption").click()
    assert "blue hearts to the left of two medium orange rings" in visitor.text("#captions", "Written in")
    word = visitor.page.locator("#captions .coca-word", has_text="hearts")
    shown = "word => getComputedStyle(word, '::before').opacity"
    assert word.evaluate(shown) == "0"
    word.focus()  # as the tab key does
    visitor.page.wait_for_function("getComputedStyle(document.activeElement, '::before').opacity === '1'")
    map_box, picture_box = word.evaluate(
        """word => {
            const [style, picture] = [getComputedStyle(word, '::before'), document.querySelector('.coca-picture')];
            return [[parseFloat(style.width), parseFloat(style.height)], [picture.clientWidth, picture.clientHeight]];
        }"""
    )
    assert map_box == pytest.approx(picture_box, abs=1)


def test_several_captions_and_a_beginning(visitor):
    visitor.upload(EXAMPLES["red-circle"])
    visitor.page.get_by_label("Begins with").fill("this is a photo of")
    visitor.page.get_by_role("spinbutton", name=re.compile("Captions")).first.fill("3")
    visitor.button("Caption").click()
    visitor.text("#captions", "Written in")
    captions = visitor.page.locator("#captions .coca-caption").all_inner_texts()
    assert len(captions) == len(set(captions)) == 3
    assert all(caption.startswith("this is a photo of") for caption in captions)


def test_what_a_visitor_does_wrong_is_told_in_a_sentence(visitor, tmp_path):
    visitor.button("Caption").click()
    assert "Choose a picture first: upload, paste" in visitor.text("#captions", "Choose")
    (tmp_path / "broken.png").write_bytes(b"this is no picture")
    visitor.upload(str(tmp_path / "broken.png"))
    visitor.button("Caption").click()
    assert "This file cannot be used: not a readable image" in visitor.text("#captions", "cannot")
    visitor.tab("Labels")
    visitor.page.get_by_label("Labels, separated").fill("circle")
    visitor.button("Label").click()
    assert visitor.text("#label-state", "two labels") == "Give two labels or more, separated by commas."
    visitor.tab("Search")
    visitor.button("Search").click()
    assert visitor.text("#search-state", "Index") == "Index a folder or some pictures first."
    visitor.page.get_by_label("Folder on this computer").fill(str(tmp_path / "nowhere"))
    visitor.button("Index").click()
    assert "nowhere" in visitor.text("#index-state", "nowhere")


def test_labels_of_ones_own(visitor):
    visitor.tab("Labels")
    visitor.upload(EXAMPLES["red-circle"])
    visitor.page.get_by_label("Labels, separated").fill("blue square, red circle\ngreen heart")
    visitor.button("Label").click()
    shown = visitor.text("#labels", "%")
    assert shown.index("red circle") < shown.index("blue square")


def test_two_models_side_by_side(visitor):
    visitor.tab("Compare")
    visitor.upload(EXAMPLES["three-yellow-stars"])
    visitor.button("Compare").click()
    for place in ("#compared-1", "#compared-2"):
        assert "three medium yellow stars" in visitor.text(place, "Written in")


@on_both
def test_search_in_a_folder_by_words_and_by_a_picture(visitor, tmp_path):
    for path in EXAMPLES.values():
        shutil.copy(path, tmp_path)
    visitor.tab("Search")
    visitor.page.get_by_label("Folder on this computer").fill(str(tmp_path))
    visitor.button("Index").click()
    assert visitor.text("#index-state", "can be searched") == "12 pictures can be searched."
    visitor.page.get_by_label("Search for").fill("green rings")
    visitor.page.keyboard.press("Enter")
    visitor.text("#search-state", "picture.* in")
    assert visitor.page.locator("#found .caption-label, #found figcaption, #found .caption").first.inner_text()
    visitor.page.get_by_label("Search for").fill("")
    visitor.upload(EXAMPLES["two-pink-hearts"])
    visitor.button("Search").click()
    visitor.text("#found", "pink hearts")


def test_two_visitors_at_once_do_not_mix(browser, address):
    visitors = [Visitor(browser, address) for _ in range(2)]
    for visitor, name in zip(visitors, ("red-circle", "purple-cross"), strict=True):
        visitor.upload(EXAMPLES[name])
    for visitor in visitors:
        visitor.button("Caption").click()
    assert "red circle" in visitors[0].text("#captions", "Written in")
    assert "purple cross" in visitors[1].text("#captions", "Written in")
    for visitor in visitors:
        visitor.close()


def test_a_public_page_reads_no_folder_and_loads_no_other_model(tmp_path):
    from coca_hf.app import make_page
    from coca_hf.app.models import Models
    from coca_hf.app.page import _make_index
    from coca_hf.batch_inference.errors import ModelError
    from coca_hf.batch_inference.models import ModelChoice

    models = Models([ModelChoice(str(coca_hf.bundled_model()))])
    said, index = _make_index(models, True, str(Path(EXAMPLES["red-circle"]).parent), None, None)
    assert "upload pictures first" in said
    assert index is None
    with pytest.raises(ModelError, match="one of this page's models"):
        models.get(str(tmp_path), may_load=False)
    blocks = make_page(is_public=True).blocks.values()
    (folder,) = (block for block in blocks if getattr(block, "label", "") == "Folder on this computer")
    assert not folder.visible
