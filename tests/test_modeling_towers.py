# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The towers as models of their own: what they load from, what they save, and what they return."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel

from coca_hf.modeling_coca import (
    CoCaForCaptioning,
    CoCaModel,
    CoCaTextModel,
    CoCaTextModelWithProjection,
    CoCaVisionModel,
    CoCaVisionModelWithProjection,
)
from coca_hf.positions_coca import sincos_positions
from tiny import END, PAD, START, tiny_captioner, tiny_config


TOWERS = [CoCaVisionModel, CoCaVisionModelWithProjection, CoCaTextModel, CoCaTextModelWithProjection]
every_tower = pytest.mark.parametrize("tower_class", TOWERS)
IDS = torch.tensor([[START, 5, 6, END, PAD], [START, 7, 8, 9, END], [START, 4, END, PAD, PAD]])


@pytest.fixture(scope="module")
def captioner():
    return tiny_captioner(text_config={"projection_type": "linear_bias"})


@pytest.fixture(scope="module", params=["captioner", "towers"])
def folder(request, captioner, tmp_path_factory):
    """What a captioner saves, and what its two towers save together."""
    path = tmp_path_factory.mktemp(request.param)
    model = captioner
    if request.param == "towers":
        model = CoCaModel(captioner.config)
        model.load_state_dict(captioner.model.state_dict())
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pixel_values():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def part_of(captioner, tower_class):
    """The weights of `captioner` that make up a tower, by the tower's own names."""
    whole = captioner.model.state_dict()
    part = "vision_model." if "Vision" in tower_class.__name__ else "text_model."
    if tower_class in (CoCaVisionModel, CoCaTextModel):
        return {name.removeprefix(part): value for name, value in whole.items() if name.startswith(part)}
    projection = "visual_projection." if "Vision" in tower_class.__name__ else "text_projection."
    return {name: value for name, value in whole.items() if name.startswith((part, projection))}


def assert_weights_are(model, expected):
    found = model.state_dict()
    assert found.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert different == []


def load(tower_class, folder):
    """A model that took all that it has, and nothing else, from a folder."""
    model, info = tower_class.from_pretrained(folder, output_loading_info=True)
    problems = {name: found for name, found in info.items() if found}
    assert problems == {}
    return model.eval()


@every_tower
def test_a_tower_loads_from_the_folder_of_a_whole_model_bit_for_bit(captioner, folder, tower_class):
    assert_weights_are(load(tower_class, folder), part_of(captioner, tower_class))


@every_tower
def test_a_saved_tower_loads_again_and_through_automodel(captioner, folder, tower_class, tmp_path):
    load(tower_class, folder).save_pretrained(tmp_path)
    expected = part_of(captioner, tower_class)
    assert_weights_are(load(tower_class, tmp_path), expected)
    model = load(AutoModel, tmp_path)
    assert type(model) is tower_class
    assert_weights_are(model, expected)


@pytest.mark.parametrize(
    ("tower_class", "alone"),
    [(CoCaVisionModelWithProjection, CoCaVisionModel), (CoCaTextModelWithProjection, CoCaTextModel)],
)
def test_a_tower_loads_from_the_folder_of_one_with_a_projection(captioner, folder, tower_class, alone, tmp_path):
    load(tower_class, folder).save_pretrained(tmp_path)
    assert_weights_are(load(alone, tmp_path), part_of(captioner, alone))


@pytest.mark.parametrize(("model_class", "whole"), [(CoCaModel, "model."), (CoCaForCaptioning, "")])
def test_a_whole_model_loads_from_a_captioners_folder(captioner, model_class, whole, tmp_path):
    captioner.save_pretrained(tmp_path)
    expected = captioner.model.state_dict() if whole else captioner.state_dict()
    assert_weights_are(load(model_class, tmp_path), expected)


def test_the_projected_towers_give_the_embeddings_of_the_whole_model(captioner, folder, pixel_values):
    with torch.no_grad():
        expected = captioner(pixel_values=pixel_values, input_ids=IDS)
        image_embeds = load(CoCaVisionModelWithProjection, folder)(pixel_values).image_embeds
        text_embeds = load(CoCaTextModelWithProjection, folder)(IDS).text_embeds
    torch.testing.assert_close(F.normalize(image_embeds, dim=-1), expected.image_embeds, rtol=0, atol=1e-6)
    torch.testing.assert_close(F.normalize(text_embeds, dim=-1), expected.text_embeds, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tower_class", [CoCaVisionModel, CoCaTextModel])
def test_automodel_makes_a_tower_of_its_configuration(tower_class):
    config = tiny_config().vision_config if tower_class is CoCaVisionModel else tiny_config().text_config
    assert type(AutoModel.from_config(config)) is tower_class


# --- fixed positions ---


def test_sine_cosine_positions_stay_as_they_are_through_loading_and_training(tmp_path, pixel_values):
    tiny_captioner(vision_config={"position_embedding_type": "sincos"}).save_pretrained(tmp_path)
    model = CoCaForCaptioning.from_pretrained(tmp_path).train()
    table = model.model.vision_model.embeddings.position_embedding.weight
    expected = sincos_positions(32, (4, 4))
    torch.testing.assert_close(table, expected, rtol=0, atol=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        model(pixel_values=pixel_values, input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(table, expected, rtol=0, atol=0)


def test_sine_cosine_positions_encode_columns_in_the_first_half_and_rows_in_the_second():
    table = sincos_positions(8, (2, 3))
    assert table.shape == (7, 8)
    assert not table[0].any()
    row, column = 1, 2
    frequencies = torch.tensor([1.0, 0.01])  # 10000 ** -(0, 1) / 2
    halves = [torch.cat([(place * frequencies).sin(), (place * frequencies).cos()]) for place in (column, row)]
    torch.testing.assert_close(table[1 + row * 3 + column], torch.cat(halves), rtol=0, atol=1e-6)


# --- what they return ---


@pytest.mark.parametrize("pool_type", ["cls", "first", "last", "argmax", "eos", "none"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_hidden_states_and_attentions_of_a_text_have_its_length(pool_type, side):
    model = tiny_captioner(text_config={"pool_type": pool_type}, attn_implementation="eager").model.text_model
    model.set_attn_implementation("eager")
    ids = IDS if side == "right" else IDS.flip(1)
    outputs = model(ids, (ids != PAD).long(), output_hidden_states=True, output_attentions=True)
    assert [tuple(states.shape) for states in outputs.hidden_states] == [(3, 5, 16)] * 3
    assert [tuple(weights.shape) for weights in outputs.attentions] == [(3, 4, 5, 5)] * 2


def test_a_tower_without_projection_width_cannot_project():
    config = tiny_config().vision_config
    config.projection_dim = None
    with pytest.raises(ValueError, match="projection_dim is missing"):
        CoCaVisionModelWithProjection(config)


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_towers_compile_without_a_graph_break(captioner, pixel_values, dynamic):
    torch._dynamo.reset()
    model = captioner.model
    vision = torch.compile(model.vision_model, backend="eager", fullgraph=True, dynamic=dynamic)
    text = torch.compile(model.text_model, backend="eager", fullgraph=True, dynamic=dynamic)
    mask = (IDS != PAD).long()
    with torch.no_grad():
        for rows in (2, 3):
            expected = model.vision_model(pixel_values[:rows]).pooler_output
            torch.testing.assert_close(vision(pixel_values[:rows]).pooler_output, expected, rtol=0, atol=1e-6)
            expected = model.text_model(IDS[:rows], mask[:rows]).pooler_output
            torch.testing.assert_close(text(IDS[:rows], mask[:rows]).pooler_output, expected, rtol=0, atol=1e-6)
