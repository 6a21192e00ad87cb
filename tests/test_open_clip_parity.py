# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Our model computes what open_clip 3.3.0 computed: the recordings of scripts/fixtures/record_open_clip_fixtures.py.

`python tests/test_open_clip_parity.py` prints the table of worst differences.
"""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from coca_hf.conversion.model_config import open_clip_config
from coca_hf.conversion.weights import Entry, entries, from_open_clip, to_open_clip
from coca_hf.modeling_coca import CoCaForCaptioning
from fixtures.open_clip import recipe
from fixtures.open_clip.recording import Recording


FIXTURES = Path(recipe.__file__).parent
TOLERANCE = 1e-5

# A vector needs a pooled text; an image and a text that were not pooled cannot be compared.
UNPOOLED_IMAGE = {"pooler_none", "unpooled_none", "final_ln_after_pool_none"}
UNPOOLED_TEXT = {"plain_text_none"}


@functools.cache
def recorded(name: str) -> Recording:
    return Recording(FIXTURES / "models" / f"{name}.safetensors")


def built(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> tuple[CoCaForCaptioning, list[Entry]]:
    """Our model of open_clip's configuration and weights, in evaluation mode."""
    ours = open_clip_config(config)
    table = entries(ours)
    model = CoCaForCaptioning(ours)
    model.load_state_dict(from_open_clip(table, weights))
    return model.eval(), table


@functools.cache
def model_of(name: str) -> tuple[CoCaForCaptioning, list[Entry]]:
    return built(recipe.CONFIGS[name], recorded(name).weights())


def pixel_values(name: str) -> torch.Tensor:
    size = recipe.CONFIGS[name]["vision_cfg"]["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    return recipe.images(len(recipe.CAPTION_LENGTHS), height, width)


def labels_of(model: CoCaForCaptioning, input_ids: torch.Tensor) -> torch.Tensor:
    """open_clip's loss ignores the padding id wherever it stands."""
    return input_ids.masked_fill(input_ids == model.config.text_config.pad_token_id, -100)


def text_features(name: str, input_ids: torch.Tensor, **arguments: Any) -> torch.Tensor:
    with torch.no_grad():
        return F.normalize(model_of(name)[0].get_text_features(input_ids, **arguments).pooler_output, dim=-1)


@functools.cache
def outputs(name: str) -> dict[str, torch.Tensor]:
    """Ours, under the names of the recording."""
    model, _ = model_of(name)
    scale = model.model.logit_scale.exp()
    found: dict[str, torch.Tensor] = {"logit_scale_exp": scale.reshape(recorded(name)["logit_scale_exp"].shape)}
    with torch.no_grad():
        image = model.get_image_features(pixel_values(name))
        found["image_features_raw"] = image.pooler_output
        found["image_features"] = F.normalize(image.pooler_output, dim=-1)
        found["image_tokens"] = image.image_tokens
        for kind in recipe.CAPTION_KINDS:
            ids = recorded(name)[f"{kind}.input_ids"]
            text = model.get_text_features(ids)
            found[f"{kind}.text_features_raw"] = text.pooler_output
            found[f"{kind}.text_features"] = F.normalize(text.pooler_output, dim=-1)
            found[f"{kind}.text_tokens"] = text.last_hidden_state
            out = model(pixel_values(name), ids, labels=labels_of(model, ids))
            found[f"{kind}.logits"] = out.logits
            found[f"{kind}.caption_loss"] = model.config.caption_loss_weight * out.caption_loss
            found[f"{kind}.contrastive_loss"] = out.contrastive_loss
            found[f"{kind}.logits_per_image"] = model.model(ids, pixel_values(name)).logits_per_image
    return found


@functools.cache
def gradients(name: str) -> torch.Tensor:
    """(open_clip's parameters, recipe.GRADIENT_PROJECTIONS + 1), NaN where the loss does not reach a parameter."""
    model, table = built(recipe.CONFIGS[name], recorded(name).weights())
    ids = recorded(name)["padded.input_ids"]
    model(pixel_values(name), ids, labels=labels_of(model, ids)).loss.backward()
    found = {parameter: p.grad for parameter, p in model.named_parameters() if p.grad is not None}
    reached = [entry for entry in table if all(parameter in found for parameter in entry.ours)]
    theirs = to_open_clip(reached, found)
    return torch.stack([recipe.gradient_summary(n, theirs.get(n)) for n in recorded(name).facts["shapes"]])


def names_of_outputs(config: str) -> list[str]:
    """What the recording of `config` has to hold; whatever is missing there fails its test."""
    per_caption = ["text_features", "text_features_raw", "text_tokens", "logits", "caption_loss"]
    if config not in UNPOOLED_IMAGE | UNPOOLED_TEXT:
        per_caption += ["contrastive_loss", "logits_per_image"]
    per_image = ["image_features", "image_features_raw", "image_tokens", "logit_scale_exp"]
    return per_image + [f"{kind}.{name}" for kind in recipe.CAPTION_KINDS for name in per_caption]


def of_one_process(config: str, *values: Any) -> Any:
    """A set of parameters whose test runs in the process of all tests of `config`, where its model is made once."""
    return pytest.param(config, *values, marks=pytest.mark.xdist_group(f"open_clip's {config}"))


every_config = pytest.mark.parametrize("config", [of_one_process(name) for name in recipe.CONFIGS])
every_pooled_text = pytest.mark.parametrize(
    "config", [of_one_process(name) for name in recipe.CONFIGS if name not in UNPOOLED_TEXT]
)


def expected(config: str, name: str) -> torch.Tensor:
    """The recording, without the length-one axis that open_clip leaves in the features of its second pooler."""
    tensor = recorded(config)[name]
    second_pooler = recipe.CONFIGS[config]["vision_cfg"]["attentional_pool"] in ("parallel", "cascade")
    return tensor.squeeze(1) if second_pooler and name.startswith("image_features") else tensor


@pytest.mark.parametrize(
    ("config", "name"), [of_one_process(c, n) for c in recipe.CONFIGS for n in names_of_outputs(c)]
)
def test_output_is_open_clips(config, name):
    torch.testing.assert_close(outputs(config)[name], expected(config, name), rtol=0, atol=TOLERANCE)


@every_config
def test_gradient_of_every_parameter_is_open_clips(config):
    theirs, ours = recorded(config)["padded.gradients"], gradients(config)
    # open_clip leaves the bias out of its loss, which does not depend on it: here its gradient is zero, not None.
    is_left_out = theirs.isnan() & ~ours.isnan()
    theirs = theirs.masked_fill(is_left_out, 0)
    # A gradient's size depends on the parameter: large ones are compared relative to their norm.
    size = theirs[:, -1:].nan_to_num(1.0).clamp(min=1.0)
    torch.testing.assert_close(ours / size, theirs / size, rtol=0, atol=TOLERANCE, equal_nan=True)


@every_pooled_text
def test_text_trimmed_to_the_longest_of_its_batch_has_the_features_of_the_padded_text(config):
    ids = recorded(config)["padded.input_ids"][:, : max(recipe.CAPTION_LENGTHS)]
    torch.testing.assert_close(
        text_features(config, ids), recorded(config)["padded.text_features"], rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize("masked", [False, True], ids=["without_mask", "with_mask"])
@pytest.mark.parametrize("row", range(len(recipe.CAPTION_LENGTHS)))
@every_pooled_text
def test_text_trimmed_to_its_own_length_has_the_features_of_the_padded_text(config, row, masked):
    ids = recorded(config)["padded.input_ids"][row : row + 1, : recipe.CAPTION_LENGTHS[row]]
    mask = torch.ones_like(ids) if masked else None
    padded = recorded(config)["padded.text_features"][row : row + 1]
    torch.testing.assert_close(text_features(config, ids, attention_mask=mask), padded, rtol=0, atol=TOLERANCE)


@every_config
def test_weights_go_to_our_model_and_come_back_bit_for_bit(config):
    model, table = model_of(config)
    back = to_open_clip(table, model.state_dict())
    theirs = recorded(config).weights()
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], theirs[name]) for name in theirs)


def test_sin_cos_positions_are_open_clips_without_being_loaded():
    fresh = CoCaForCaptioning(open_clip_config(recipe.CONFIGS["sin_cos"]))
    table = fresh.model.vision_model.embeddings.position_embedding.weight
    assert torch.equal(table, recorded("sin_cos")["frozen.visual.positional_embedding"])


@pytest.fixture(scope="module")
def full_size():
    recording = Recording(FIXTURES / "full_size.safetensors")
    model, _ = built(recording.facts["config"], recording.weights())
    ids = recording["input_ids"]
    with torch.no_grad():
        out = model(recipe.images(2, 224, 224), ids, labels=labels_of(model, ids))
        image = out.image_outputs
    found = {
        "image_features": out.image_embeds,
        "image_features_raw": image.pooler_output,
        "image_tokens": image.image_tokens[:, ::32, ::4],
        "text_features": out.text_embeds,
        "text_features_raw": out.text_model_output.pooler_output,
        "logits": out.logits[:, ::15, ::97],
        "contrastive_loss": out.contrastive_loss,
        "caption_loss": model.config.caption_loss_weight * out.caption_loss,
    }
    return recording, found


FULL_SIZE_OUTPUTS = (
    "image_features",
    "image_features_raw",
    "image_tokens",
    "text_features",
    "text_features_raw",
    "logits",
    "contrastive_loss",
    "caption_loss",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_SIZE_OUTPUTS)
def test_full_size_output_is_open_clips(full_size, name):
    recording, found = full_size
    torch.testing.assert_close(found[name], recording[name], rtol=0, atol=TOLERANCE)


def print_table() -> None:
    """Worst absolute difference of each group of outputs; gradients relative to norms above one."""
    groups = {
        "image features": ("image_features", "image_features_raw"),
        "image tokens": ("image_tokens",),
        "text features": ("text_features", "text_features_raw"),
        "text tokens": ("text_tokens",),
        "logits": ("logits",),
        "similarity": ("logits_per_image",),
        "caption loss": ("caption_loss",),
        "contrastive loss": ("contrastive_loss",),
    }
    print("| configuration |", " | ".join(groups), "| gradients |\n|" + " --- |" * (len(groups) + 2))
    for config in recipe.CONFIGS:
        cells = []
        for members in groups.values():
            names = [n for n in names_of_outputs(config) if n.rsplit(".", 1)[-1] in members]
            worst = [(outputs(config)[n] - expected(config, n)).abs().max().item() for n in names]
            cells.append(f"{max(worst):.1e}" if worst else "-")
        theirs = recorded(config)["padded.gradients"]
        size = theirs[:, -1:].nan_to_num(1.0).clamp(min=1.0)
        cells.append(f"{((gradients(config) - theirs) / size).nan_to_num(0).abs().max().item():.1e}")
        print(f"| {config} |", " | ".join(cells), "|")


if __name__ == "__main__":
    torch.set_num_threads(1)
    print_table()
