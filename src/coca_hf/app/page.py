# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The page's four tabs. A function behind a button is given all it needs, so visitors never share anything."""

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any

import coca_hf

from ..batch_inference.errors import BatchInferenceError, OptionError
from ..batch_inference.images import read_image
from ..batch_inference.jobs import CaptionOptions
from ..batch_inference.models import ModelChoice
from ..batch_inference.progress import Progress
from ..batch_inference.wording import count, duration, printable
from .models import Models
from .words import shown_captions, shown_trouble


try:
    import gradio as gr
except ImportError:
    raise ImportError("The page needs Gradio: pip install 'coca-hf[demo]'") from None


# Nothing is fetched from elsewhere, so the page has the fonts of who looks at it.
_FONTS: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
# Small words in grey, and those on the button that is pointed at, have 4.5 times the lightness of what is behind them.
_CONTRAST = {"body_text_color_subdued": "*neutral_500", "button_primary_background_fill_hover": "*primary_600"}
# Setting any of a theme's colours sets this one back.
_CONTRAST |= {"background_fill_primary": "*neutral_50"}
_SIDE = 360  # of a found picture, in pixels
_LABELS = "circle, square, triangle, diamond, star, cross, heart, ring"
_TEMPLATES = "{}\na picture of {}"


def _picture(label: str = "Picture") -> gr.Image:
    """A picture as the path of its file: what cannot be read is told in words by who reads it."""
    picture = gr.Image(type="filepath", sources=["upload", "webcam", "clipboard"], label=label, height=320)
    # Not in a subclass, beside whose file Gradio would write another one.
    picture.__dict__["preprocess"] = lambda payload: None if payload is None else payload.path
    return picture


def make_page(models: Sequence[ModelChoice] | None = None, *, is_public: bool = False) -> gr.Blocks:
    """
    The page, to be launched by `launch`.

    Args:
        models: The tabs use the first; all of them can be compared. By default the bundled one.
        is_public: Whether strangers can reach it: then no other models are loaded and no folders of this machine are
            indexed, only pictures that are uploaded.
    """
    known = Models(models or [ModelChoice(str(coca_hf.bundled_model()))])
    with gr.Blocks(title="CoCa", analytics_enabled=False) as page:
        gr.Markdown("# CoCa\nCaptions, search and labels for pictures, and where the model looks.")
        with gr.Tab("Caption"):
            _caption_tab(known)
        with gr.Tab("Search"):
            _search_tab(known, is_public)
        with gr.Tab("Labels"):
            _labels_tab(known)
        with gr.Tab("Compare"):
            _compare_tab(known, is_public)
    return page


def launch(
    models: Sequence[ModelChoice] | None = None, *, share: bool = False, port: int | None = None, **options: Any
) -> Any:
    """
    Serves the page; `options` are those of Gradio's `launch`.

    Args:
        models: As in `make_page`.
        share: Whether to make a public address for it, by Gradio's servers.
        port: By default the first free one from 7860 on.
    """
    is_public = options.pop("is_public", share)
    page = make_page(models, is_public=is_public)
    return page.queue(default_concurrency_limit=4).launch(
        share=share,
        server_port=port,
        theme=gr.themes.Soft(**_FONTS).set(**_CONTRAST),
        css=Path(__file__).with_name("page.css").read_text("utf-8"),
        footer_links=[],
        **options,
    )


def _in_words(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a visitor did wrong becomes a sentence in the first output; the others stay as they are."""

    @wraps(function)
    def wrapped(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except BatchInferenceError as error:
            return shown_trouble(str(error))

    return wrapped


# --- caption ---


def _caption_tab(models: Models) -> None:
    with gr.Row():
        with gr.Column():
            picture = _picture()
            prompt = gr.Textbox(label="Begins with", placeholder="the model begins by itself", max_lines=1)
            number = gr.Slider(1, 5, value=1, step=1, label="Captions")
            with gr.Accordion("How it is written", open=False):
                beams = gr.Slider(1, 10, value=1, step=1, label="Beams")
                samples = gr.Checkbox(label="Sample instead")
                temperature = gr.Slider(0.1, 2.0, value=1.0, step=0.1, label="Temperature")
                top_p = gr.Slider(0.05, 1.0, value=0.9, step=0.05, label="Top p")
                seed = gr.Number(value=0, precision=0, minimum=0, maximum=2**32 - 1, label="Seed")
            button = gr.Button("Caption", variant="primary")
        with gr.Column():
            shown = gr.HTML(label="Captions", elem_id="captions")
    inputs = [picture, prompt, number, beams, samples, temperature, top_p, seed]
    button.click(_in_words(partial(_caption, models)), inputs, shown)
    prompt.submit(_in_words(partial(_caption, models)), inputs, shown)
    gr.Examples([str(path) for path in coca_hf.example_images()], picture, label="Examples", examples_per_page=12)


def _caption(
    models: Models,
    picture: str | None,
    prompt: str,
    number: int,
    beams: int,
    samples: bool,
    temperature: float,
    top_p: float,
    seed: int | None,
) -> str:
    drawing: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "seed": seed} if samples else {}
    options = CaptionOptions(prompt=prompt.strip() or None, num_beams=beams if beams > 1 else None, **drawing)
    model = models.get(models.first.name, may_load=False)
    image, captions = model.captions(picture or _missing(), options, int(number))
    return shown_captions(image, captions, f"Written in {duration(captions[0].seconds)}.")


def _missing() -> str:
    raise OptionError("Choose a picture first: upload, paste or photograph one, or take an example")


# --- search ---


class _Bar(Progress):
    """A run's progress as Gradio shows it."""

    def __init__(self, bar: Any):
        self.bar = bar
        self.done = 0
        self.total: int | None = None

    def begin(self, total: int | None, done: int = 0) -> None:
        self.total, self.done = total, done
        self.advance(0)

    def advance(self, number: int) -> None:
        self.done += number
        self.bar((self.done, self.total), desc="Looking at the pictures", unit="pictures")


class _Indexed:
    """One visitor's index and the folder that it is in, which goes when the visitor does."""

    def __init__(self, folder: str, index: Any):
        self.folder = folder
        self.index = index

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _search_tab(models: Models, is_public: bool) -> None:
    indexed = gr.State(None, time_to_live=3600, delete_callback=lambda state: state and state.remove())
    with gr.Row():
        with gr.Column():
            folder = gr.Textbox(label="Folder on this computer", max_lines=1, visible=not is_public)
            files = gr.File(label="Or pictures from here", file_count="multiple", type="filepath", height=140)
            make = gr.Button("Index")
            state = gr.HTML(elem_id="index-state")
        with gr.Column():
            text = gr.Textbox(label="Search for", placeholder="two red circles", max_lines=1)
            picture = _picture("Or pictures like this one")
            search = gr.Button("Search", variant="primary")
            found = gr.HTML(elem_id="search-state")
    gallery = gr.Gallery(label="Found", columns=3, height="auto", object_fit="contain", elem_id="found")
    make.click(partial(_make_index, models, is_public), [folder, files, indexed], [state, indexed])
    inputs = [text, picture, indexed]
    search.click(_search, inputs, [found, gallery])
    text.submit(_search, inputs, [found, gallery])


def _make_index(
    models: Models,
    is_public: bool,
    folder: str | None,
    files: list[str] | None,
    before: _Indexed | None,
    progress: gr.Progress = gr.Progress(),  # noqa: B008, Gradio finds it by its default
) -> tuple[str, Any]:
    from ..search import Index, build_index

    paths = list(files or [])
    if folder and folder.strip() and not is_public:
        paths.append(str(Path(folder.strip()).expanduser()))
    place = tempfile.mkdtemp(prefix="coca-hf-index-")
    try:
        if not paths:
            raise OptionError("Name a folder or upload pictures first")
        model = models.first
        summary = build_index(paths, str(Path(place, "index")), choice=model, progress=_Bar(progress))
        if not summary.photos:
            first = next(iter(summary.failures), None)
            raise OptionError(f"{first.image}: {first.error}" if first else "There are no pictures")
        index = Index.open(str(Path(place, "index")))
    except BatchInferenceError as error:
        shutil.rmtree(place, ignore_errors=True)
        return shown_trouble(str(error)), before
    if before is not None:
        before.remove()
    failed = f" {count(summary.failed, 'file')} could not be read." if summary.failed else ""
    return f'<p class="coca-note">{count(summary.photos, "picture")} can be searched.{failed}</p>', _Indexed(
        place, index
    )


def _search(text: str, picture: str | None, indexed: _Indexed | None) -> tuple[str, Any]:
    try:
        if indexed is None:
            raise OptionError("Index a folder or some pictures first")
        if not text.strip() and picture is None:
            raise OptionError("Say what to look for, or give a picture")
        query = text.strip() or read_image(picture or "")
        start = time.monotonic()
        hits = indexed.index.search(query, top=24)
        seconds = time.monotonic() - start
    except BatchInferenceError as error:
        return shown_trouble(str(error)), []
    if not hits:
        return '<p class="coca-note">Nothing matches.</p>', []
    tiles = [(_small(hit.path), f"{hit.score:.2f}  {printable(hit.caption or Path(hit.path).name)}") for hit in hits]
    return f'<p class="coca-note">{count(len(hits), "picture")} in {duration(seconds)}.</p>', tiles


def _small(path: str) -> Any:
    """A copy to show: the page serves no file of this computer itself."""
    image = read_image(path)
    image.thumbnail((_SIDE, _SIDE))
    return image.convert("RGB")


# --- labels ---


def _labels_tab(models: Models) -> None:
    with gr.Row():
        with gr.Column():
            picture = _picture()
            labels = gr.Textbox(label="Labels, separated by commas or lines", value=_LABELS, lines=3)
            templates = gr.Textbox(label="Templates, one a line; {} is where a label goes", value=_TEMPLATES, lines=3)
            button = gr.Button("Label", variant="primary")
        with gr.Column():
            trouble = gr.HTML(elem_id="label-state")
            shown = gr.Label(label="Probabilities", num_top_classes=10, elem_id="labels")
    button.click(partial(_label, models), [picture, labels, templates], [trouble, shown])
    gr.Examples([str(path) for path in coca_hf.example_images()[:6]], picture, label="Examples")


def _label(models: Models, picture: str | None, labels: str, templates: str) -> tuple[str, Any]:
    names = list(dict.fromkeys(" ".join(name.split()) for line in labels.splitlines() for name in line.split(",")))
    names = [name for name in names if name]
    forms = [form.strip() for form in templates.splitlines() if form.strip()] or ["{}"]
    try:
        if len(names) < 2:
            raise OptionError("Give two labels or more, separated by commas")
        wrong = next((form for form in forms if form.count("{}") != 1), None)
        if wrong is not None:
            raise OptionError(f"The template {wrong!r} needs one {{}}, where the label goes")
        model = models.get(models.first.name, may_load=False)
        return "", model.probabilities(picture or _missing(), names, forms)
    except BatchInferenceError as error:
        return shown_trouble(str(error)), None


# --- compare ---


def _compare_tab(models: Models, is_public: bool) -> None:
    names = models.names
    picture = _picture()
    button = gr.Button("Compare", variant="primary")
    shown, choices = [], []
    with gr.Row():
        for index in range(2):
            with gr.Column():
                choices.append(
                    gr.Dropdown(
                        names,
                        value=names[min(index, len(names) - 1)][1],
                        label=("First model", "Second model")[index],
                        info=None if is_public else "Or a saved folder or Hub id",
                        allow_custom_value=not is_public,
                    )
                )
                shown.append(gr.HTML(elem_id=f"compared-{index + 1}"))
    button.click(partial(_compare, models, is_public), [picture, *choices], shown)
    gr.Examples([str(path) for path in coca_hf.example_images()[:6]], picture, label="Examples")


def _compare(models: Models, is_public: bool, picture: str | None, *names: str | None) -> list[str]:
    def one(name: str | None) -> str:
        model = models.get(name or "", may_load=not is_public)
        image, captions = model.captions(picture or _missing(), CaptionOptions())
        return shown_captions(image, captions, f"Written in {duration(captions[0].seconds)}.")

    return [_in_words(one)(name) for name in names]
