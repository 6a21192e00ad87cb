# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf caption --maps` and the maps in its report, with the model that finds what it names."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import coca_hf
from tiny_folder import save_tiny_folder


EXAMPLES = [str(path) for path in coca_hf.example_images()[:3]]


def test_a_picture_for_each_image_shows_where_its_words_look(coca, folder):
    Path("broken.jpg").write_bytes(b"no image")
    result = coca("caption", EXAMPLES[0], "broken.jpg", *EXAMPLES[1:], "--maps", "maps", "-o", "captions.jsonl")
    assert result.code == 1
    assert "3 pictures of where the words look, in maps" in result.err
    names = sorted(path.name for path in Path("maps").iterdir())
    assert [name[:6] for name in names] == ["000000", "000002", "000003"]
    assert all(Path(path).stem in name for path, name in zip(EXAMPLES, names, strict=True))
    with Image.open(f"maps/{names[0]}") as sheet, Image.open(EXAMPLES[0]) as picture:
        assert sheet.width > 2 * picture.width
    line = json.loads(Path("captions.jsonl").read_text().splitlines()[0])
    assert set(line) == {"image", "caption"}
    # The same again writes nothing new, and one more image is done alone.
    before = Path("captions.jsonl").read_text()
    again = coca("caption", EXAMPLES[0], "broken.jpg", *EXAMPLES[1:], "--maps", "maps", "-o", "captions.jsonl")
    assert Path("captions.jsonl").read_text() == before
    assert again.code == 1


def test_the_report_has_a_map_for_each_word(coca, folder):
    assert coca("caption", *EXAMPLES, "--report", "page.html", "-q").code == 0
    page = Path("page.html").read_text()
    cards = page.split("<article>")[1:]
    words = re.findall(r'class="word" tabindex="0">([^<]+)<.*?image/png;base64,([^"]+)"', cards[0])
    alt = re.search(r'alt="([^"]+)" src="data:image/jpeg', cards[0])[1]
    assert " ".join(word for word, _ in words) == alt
    assert "hearts" in alt
    # Hearts are left of rings in this picture.
    veils = {word: np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for word, data in words}
    warm = {word: veil[..., 3].astype(int) - veil[..., 3].min() for word, veil in veils.items()}
    half = warm["hearts"].shape[1] // 2
    assert warm["hearts"][:, :half].sum() > 3 * warm["hearts"][:, half:].sum()
    assert warm["rings"][:, half:].sum() > 3 * warm["rings"][:, :half].sum()


def test_a_model_without_attention_to_show_is_refused_maps_but_not_a_report(coca, folder, tmp_path_factory):
    model = save_tiny_folder(tmp_path_factory.mktemp("without"))
    config = json.loads((model / "config.json").read_text())
    config["vision_config"]["attentional_pooling"] = "none"
    (model / "config.json").write_text(json.dumps(config))
    refused = coca("caption", EXAMPLES[0], "--model", str(model), "--maps", "maps")
    assert refused.code == 2
    assert "no attentional pooler" in refused.err
    assert not Path("maps").exists()


@pytest.mark.parametrize("place", ["a-file", "a-file/below"])
def test_maps_go_into_a_folder(coca, folder, place):
    Path("a-file").write_text("something")
    refused = coca("caption", EXAMPLES[0], "--maps", place)
    assert refused.code == 2
    assert "cannot write to" in refused.err
