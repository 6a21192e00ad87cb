# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Maps of words: where they point in scenes whose shapes are known, and what preprocessing did, undone."""

import re

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageDraw

import coca_hf
import scenes
from coca_hf import CoCaForCaptioning, CoCaImageProcessor, CoCaModel, CoCaProcessor
from coca_hf.seeing.placement import place_patches


CAPTION = "Two small Red circles, left of a big blue heart"
NOUNS = re.compile("|".join(f"{shape}(e?s)?" for shape in scenes.SHAPES))


@pytest.fixture(scope="module")
def model():
    return CoCaForCaptioning.from_pretrained(coca_hf.bundled_model()).eval()


@pytest.fixture(scope="module")
def processor():
    return CoCaProcessor.from_pretrained(coca_hf.bundled_model())


def picture(width, height):
    """Noise, so that every place is another one."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def boxes(scene):
    """For each group of shapes (left, top, right, bottom), as shares of the side."""
    first = 0
    for group in scene.facts.groups:
        shapes = scene.shapes[first : first + group.count]
        first += group.count
        yield (
            min(shape.centre[0] - 1.1 * shape.radius for shape in shapes),
            min(shape.centre[1] - 1.1 * shape.radius for shape in shapes),
            max(shape.centre[0] + 1.1 * shape.radius for shape in shapes),
            max(shape.centre[1] + 1.1 * shape.radius for shape in shapes),
        )


def named_groups(scene, words):
    """(index of a noun among the words, index of the group that it names) of a right caption."""
    nouns = [index for index, word in enumerate(words) if NOUNS.fullmatch(word)]
    order = [NOUNS.fullmatch(words[index])[0] for index in nouns]
    plain = [scenes._noun(group) for group in scene.facts.groups]
    return [(index, plain.index(word)) for index, word in zip(nouns, order, strict=True)]


def pointing(model, processor, side):
    """Shares of nouns whose map has its peak, and of their heat that is, in the box of the group that they name."""
    chosen = [scene for scene in scenes.scenes("test", 90, start=40_000) if len(scene.facts.groups) == 2]
    chosen = [scene for scene in chosen if len({scenes._noun(group) for group in scene.facts.groups}) == 2][:30]
    all_maps = coca_hf.word_maps(model, processor, [scenes.render(scene, side) for scene in chosen])
    peaks, energy = [], []
    for scene, maps in zip(chosen, all_maps, strict=True):
        if scenes.parse_caption(" ".join(word for word, _ in maps)) != scene.facts:
            continue  # a wrong caption names what is not there
        group_boxes = list(boxes(scene))
        for index, group in named_groups(scene, [word for word, _ in maps]):
            heat = maps[index].heat
            left, top, right, bottom = (share * side for share in group_boxes[group])
            y, x = np.unravel_index(heat.argmax(), heat.shape)
            peaks.append(left <= x + 0.5 <= right and top <= y + 0.5 <= bottom)
            inside = np.zeros_like(heat, dtype=bool)
            inside[round(max(top, 0)) : round(bottom), round(max(left, 0)) : round(right)] = True
            energy.append(heat[inside].sum())
    return len(peaks), np.mean(peaks), np.mean(energy)


def test_nouns_point_at_the_group_that_they_name(model, processor):
    number, peaks, energy = pointing(model, processor, side=80)
    assert number > 40
    assert peaks >= 0.95
    assert energy >= 0.5


@pytest.mark.parametrize("size", [(160, 80), (37, 91), (5, 3), (1, 40), (333, 2), (80, 80)], ids=str)
def test_a_map_has_the_pixels_of_its_image_and_adds_up(model, processor, size):
    maps = coca_hf.word_maps(model, processor, picture(*size), text=CAPTION)
    assert [word for word, _ in maps] == CAPTION.split()
    for _, heat in maps:
        assert heat.dtype == np.float32
        assert heat.shape == size[::-1]
        assert heat.min() >= 0
        assert heat.sum(dtype=np.float64) == pytest.approx(1, abs=1e-5)


def test_what_was_cropped_is_cold_and_the_rest_is_not(model, processor):
    heat = coca_hf.word_maps(model, processor, picture(160, 80), text=CAPTION)[3].heat
    assert not heat[:, :40].any()
    assert not heat[:, 120:].any()
    heat = coca_hf.word_maps(model, processor, picture(75, 301), text=CAPTION)[3].heat
    assert not heat[:113].any()
    assert not heat[188:].any()
    assert (heat[114:187].sum(axis=1) > 0).all()


SETTINGS = [
    {},
    {"size": {"height": 80, "width": 80}, "resize_mode": "longest"},
    {"size": {"height": 80, "width": 80}, "resize_mode": "squash", "do_center_crop": False},
    {"size": {"shortest_edge": 100}},
    {"do_resize": False},
    {"size": {"height": 60, "width": 70}, "resize_mode": "squash", "do_center_crop": False}
    | {"do_pad": True, "pad_size": {"height": 80, "width": 80}},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("size", [(211, 97), (90, 250), (64, 64), (80, 83)], ids=str)
def test_a_patch_lies_where_the_processor_puts_what_is_there(settings, size):
    # A bright mark in the picture, found again in the pixels that the model gets.
    processor = CoCaImageProcessor(
        **{"size": {"shortest_edge": 80}, "crop_size": {"height": 80, "width": 80}, **settings}
    )
    width, height = size
    mark = (width // 2 + width // 7, height // 2 - height // 9)
    image = Image.new("RGB", size)
    ImageDraw.Draw(image).ellipse((mark[0] - 6, mark[1] - 6, mark[0] + 6, mark[1] + 6), fill="white")
    pixels = processor(images=image, do_normalize=False, return_tensors="np")["pixel_values"][0].mean(axis=0)
    grid = pixels.reshape(20, 4, 20, 4).mean(axis=(1, 3))
    placement = place_patches((height, width), processor, (80, 80), (20, 20), (4, 4))
    heat = placement.heat(grid)
    y, x = np.indices(heat.shape)
    found = (x * heat).sum(), (y * heat).sum()
    cell = 4 * max(width, height) / 80
    assert np.hypot(found[0] - mark[0], found[1] - mark[1]) < 0.3 * cell
    assert heat.shape == (height, width)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_map_of_a_turned_photograph_is_in_its_stored_pixels(model, processor, orientation, tmp_path):
    upright = picture(120, 90)
    expected = coca_hf.word_maps(model, processor, upright, text="a red circle")[1].heat
    tagged = Image.Exif()
    tagged[ExifTags.Base.Orientation] = orientation
    stored = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270, 3: Image.Transpose.ROTATE_180}
    stored |= {2: Image.Transpose.FLIP_LEFT_RIGHT, 4: Image.Transpose.FLIP_TOP_BOTTOM}
    stored |= {5: Image.Transpose.TRANSPOSE, 7: Image.Transpose.TRANSVERSE}
    turned = upright.transpose(stored[orientation]) if orientation in stored else upright
    turned.save(tmp_path / "turned.png", exif=tagged)
    with Image.open(tmp_path / "turned.png") as image:
        heat = coca_hf.word_maps(model, processor, tmp_path / "turned.png", text="a red circle")[1].heat
        assert heat.shape == (image.height, image.width)
        shown = coca_hf.overlay(image, heat)
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(coca_hf.overlay(upright, expected)))


def test_a_batch_gives_what_each_image_gives_alone(model, processor):
    images = [picture(120, 80), picture(80, 80), picture(31, 77)]
    texts = ["a red circle", CAPTION, None]
    together = coca_hf.word_maps(model, processor, images, text=texts)
    for image, text, maps in zip(images, texts, together, strict=True):
        alone = coca_hf.word_maps(model, processor, image, text=text)
        assert [word for word, _ in maps] == [word for word, _ in alone]
        for one, other in zip(maps, alone, strict=True):
            np.testing.assert_allclose(one.heat, other.heat, atol=1e-6)


def test_a_caption_of_its_own_is_the_one_that_the_model_writes(model, processor):
    image = coca_hf.example_images()[0]
    written = model.generate(**processor(images=image, return_tensors="pt"))
    caption = processor.batch_decode(written, skip_special_tokens=True)[0]
    assert " ".join(word for word, _ in coca_hf.word_maps(model, processor, image)) == caption


def test_the_row_before_a_word_is_shown(model, processor):
    # What follows a word does not change its attention: the plain map is the same whatever comes behind.
    image = picture(80, 80)
    short = coca_hf.word_maps(model, processor, image, text="a red circle", method="attention")
    long = coca_hf.word_maps(model, processor, image, text="a red heart above it", method="attention")
    np.testing.assert_allclose(short[2].heat, long[2].heat, atol=1e-7)


def test_half_precision_points_at_the_same_places(processor):
    model = CoCaForCaptioning.from_pretrained(coca_hf.bundled_model(), dtype=torch.bfloat16)
    _, peaks, energy = pointing(model, processor, side=80)
    assert peaks >= 0.95
    assert energy >= 0.5


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_attention_implementation_is_the_one_it_was(processor, implementation, monkeypatch):
    model = CoCaForCaptioning.from_pretrained(coca_hf.bundled_model(), attn_implementation=implementation).train()
    model.set_attn_implementation({"text_config": "eager"})
    image = picture(80, 80)

    def implementations():
        parts = (model.config, model.config.vision_config, model.config.text_config, model.config.multimodal_config)
        return [part._attn_implementation for part in parts]

    before = implementations()
    coca_hf.word_maps(model, processor, image, text="a red circle")
    assert implementations() == before
    assert model.training

    def fails(*args, **kwargs):
        raise RuntimeError("no")

    monkeypatch.setattr(model.decoder, "forward", fails)
    with pytest.raises(RuntimeError, match="no"):
        coca_hf.word_maps(model, processor, image, text="a red circle")
    assert implementations() == before
    assert model.training


def test_a_model_that_was_made_fast_shows_the_same(model, processor):
    fast = coca_hf.optimize_for_inference(CoCaForCaptioning.from_pretrained(coca_hf.bundled_model()))
    image = picture(80, 80)
    expected = coca_hf.word_maps(model, processor, image, text=CAPTION)
    for one, other in zip(coca_hf.word_maps(fast, processor, image, text=CAPTION), expected, strict=True):
        np.testing.assert_allclose(one.heat, other.heat, atol=1e-6)
    with pytest.raises(ValueError, match="optimised for inference"):
        coca_hf.similarity_map(fast, processor, image, "a red circle")


@pytest.mark.parametrize(
    ("pooling", "changes"),
    [
        ("single", {}),
        ("single", {"pool_type": "mean"}),
        ("single", {"num_hidden_layers": 0}),
        ("parallel", {}),
        ("cascade", {}),
        ("separate", {"contrastive_pooler_hidden_size": 64}),
    ],
)
def test_every_pooling_that_has_a_map_shows_it(processor, pooling, changes):
    config = coca_hf.CoCaConfig.from_pretrained(coca_hf.bundled_model()).to_dict()
    config["vision_config"] |= {"attentional_pooling": pooling, **changes}
    torch.manual_seed(0)
    model = CoCaForCaptioning(coca_hf.CoCaConfig(**config)).eval()
    maps = coca_hf.word_maps(model, processor, picture(120, 80), text="a red circle")
    similarity = coca_hf.similarity_map(model, processor, picture(120, 80), "a red circle")
    for heat in (*(heat for _, heat in maps), similarity):
        assert heat.shape == (80, 120)
        assert heat.sum(dtype=np.float64) == pytest.approx(1, abs=1e-5)
        assert not heat[:, :20].any()
        assert heat.std() > 0


def test_a_texts_similarity_comes_from_what_it_names(processor):
    towers = CoCaModel.from_pretrained(coca_hf.bundled_model())
    chosen = [scene for scene in scenes.scenes("test", 90, start=50_000) if len(scene.facts.groups) == 2][:30]
    texts = [scenes.label(scene.facts.groups[0], "colour and shape") for scene in chosen]
    with torch.inference_mode():  # which the maps leave
        heats = coca_hf.similarity_map(towers, processor, [scenes.render(scene) for scene in chosen], texts)
    hits = []
    for scene, heat in zip(chosen, heats, strict=True):
        left, top, right, bottom = next(iter(boxes(scene)))
        y, x = (place / 80 for place in np.unravel_index(heat.argmax(), heat.shape))
        hits.append(left <= x <= right and top <= y <= bottom)
    assert np.mean(hits) >= 0.95


def test_what_has_no_map_is_refused_in_a_sentence(model, processor):
    image = picture(80, 80)
    for text in ("", " ", "... !"):
        with pytest.raises(ValueError, match="has no words"):
            coca_hf.word_maps(model, processor, image, text=text)
        with pytest.raises(ValueError, match="has no words"):
            coca_hf.similarity_map(model, processor, image, text)
    for show in (coca_hf.word_maps, coca_hf.similarity_map):
        with pytest.raises(ValueError, match="one pixel"):
            show(model, processor, Image.new("RGB", (1, 1)), text="a red circle")
    with pytest.raises(ValueError, match="context is 48 long"):
        coca_hf.word_maps(model, processor, image, text="red " * 60)
    with pytest.raises(ValueError, match="has no decoder"):
        coca_hf.word_maps(CoCaModel.from_pretrained(coca_hf.bundled_model()), processor, image)
    with pytest.raises(ValueError, match="not one of 'contrast', 'attention'"):
        coca_hf.word_maps(model, processor, image, method="magic")
    with pytest.raises(ValueError, match="2 texts do not go with 1 images"):
        coca_hf.word_maps(model, processor, [image], text=["a", "b"])
    config = coca_hf.CoCaConfig.from_pretrained(coca_hf.bundled_model()).to_dict()
    config["vision_config"]["attentional_pooling"] = "none"
    without = CoCaForCaptioning(coca_hf.CoCaConfig(**config))
    for show in (coca_hf.word_maps, coca_hf.similarity_map):
        with pytest.raises(ValueError, match="no attentional pooler"):
            show(without, processor, image, text="a red circle")


def test_a_picture_shows_the_map_over_the_image():
    image = Image.new("RGBA", (20, 10), (255, 255, 255, 0))
    heat = np.zeros((10, 20), np.float32)
    heat[2, 15] = 1
    shown = coca_hf.overlay(image, heat)
    assert (shown.mode, shown.size) == ("RGB", (20, 10))
    brightness = np.asarray(shown.convert("L")).astype(int)
    assert np.unravel_index(brightness.argmax(), brightness.shape) == (2, 15)
    with pytest.raises(ValueError, match="an image of 10 x 20 pixels, but this one has 20 x 10"):
        coca_hf.overlay(image, heat.T)


def test_a_map_goes_over_the_file_that_it_is_of(tmp_path):
    image = Image.new("RGB", (20, 10), "gray")
    image.save(tmp_path / "gray.png")
    heat = np.full((10, 20), 1 / 200, np.float32)
    for path in (tmp_path / "gray.png", str(tmp_path / "gray.png")):
        np.testing.assert_array_equal(
            np.asarray(coca_hf.overlay(path, heat)), np.asarray(coca_hf.overlay(image, heat))
        )
    with pytest.raises(TypeError, match="An image of type ndarray is not supported"):
        coca_hf.overlay(np.zeros((10, 20, 3)), heat)
