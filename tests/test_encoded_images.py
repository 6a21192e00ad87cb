# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Images are encoded once: for many texts, for many beams, for an assistant of another size."""

import pytest
import torch

from coca_hf.modeling_coca import CoCaForCaptioning
from tiny import END, START, tiny_captioner


IDS = torch.tensor([[START, 5, 6, 7, END], [START, 8, 9, 10, END]])
LENGTHS = {"max_new_tokens": 6, "min_new_tokens": 6}
MODES = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "several samples": {"do_sample": True, "num_return_sequences": 3},
    "diverse beams": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
}
every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())


@pytest.fixture(scope="module")
def captioner():
    return tiny_captioner()


@pytest.fixture(scope="module")
def pixel_values():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def rows_seen(captioner):
    """The number of rows that each call of a module received, by the module's name."""
    seen, hooks = {}, []
    for name, module in captioner.named_modules():
        is_image_side = name == "model.vision_model" or name.endswith(("cross_attn.k_proj", "cross_attn.v_proj"))
        if is_image_side:
            calls = seen.setdefault(name, [])
            hooks.append(
                module.register_forward_hook(lambda module, args, output, calls=calls: calls.append(rows(output)))
            )
    yield seen
    for hook in hooks:
        hook.remove()


def rows(output):
    return (output if isinstance(output, torch.Tensor) else output.last_hidden_state).shape[0]


@every_mode
def test_the_keys_and_values_of_an_image_are_made_once_whatever_the_rows(captioner, pixel_values, rows_seen, mode):
    captioner.generate(pixel_values, **LENGTHS, **mode)
    assert list(rows_seen.values()) == [[2]] * len(rows_seen)
    assert len(rows_seen) == 1 + 2 * 2


@every_mode
def test_images_encoded_before_give_the_captions_of_their_pixels(captioner, pixel_values, rows_seen, mode):
    encoded = captioner.encode_images(pixel_values)
    for prompt in (None, IDS[:, :2], IDS[:, :4]):
        torch.manual_seed(0)
        found = captioner.generate(encoded_images=encoded, input_ids=prompt, **LENGTHS, **mode)
        torch.manual_seed(0)
        assert torch.equal(found, captioner.generate(pixel_values, input_ids=prompt, **LENGTHS, **mode))
    assert rows_seen["model.vision_model"] == [2] * 4


@torch.no_grad()
def test_images_encoded_before_score_texts_as_their_pixels_do(captioner, pixel_values):
    encoded = captioner.encode_images(pixel_values)
    expected = captioner(pixel_values=pixel_values, input_ids=IDS, labels=IDS)
    found = captioner(encoded_images=encoded, input_ids=IDS, labels=IDS)
    for name in (
        "loss",
        "caption_loss",
        "contrastive_loss",
        "logits",
        "image_embeds",
        "text_embeds",
        "logits_per_image",
    ):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("given", [{}, {"pixel_values": True, "encoded_images": True}], ids=["none", "both"])
def test_images_are_given_in_one_form(captioner, pixel_values, given):
    values = {"pixel_values": pixel_values, "encoded_images": captioner.encode_images(pixel_values)}
    given = {name: values[name] for name in given}
    with pytest.raises(ValueError, match="pixel_values"):
        captioner(input_ids=IDS, **given)
    with pytest.raises(ValueError, match="pixel_values"):
        captioner.generate(**given)


@torch.no_grad()
def test_a_filled_cache_needs_no_images(captioner, pixel_values):
    expected = captioner(pixel_values=pixel_values, input_ids=IDS).logits
    cache = captioner(pixel_values=pixel_values, input_ids=IDS[:, :2], use_cache=True).cache
    found = captioner(input_ids=IDS[:, 2:], cache=cache).logits
    torch.testing.assert_close(found, expected[:, 2:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [24, 16])
def test_an_assistant_takes_images_of_another_size(captioner, size):
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(3))
    arguments = {"interpolate_pos_encoding": True, "do_sample": False, **LENGTHS}
    expected = captioner.generate(images, **arguments)
    found = captioner.generate(images, **arguments, assistant_model=tiny_captioner(seed=5))
    assert torch.equal(found, expected)


# --- weights that are not where they are computed with ---


def offload_to_cpu(model, folder):
    from accelerate import cpu_offload

    return cpu_offload(model, execution_device=torch.device("cpu"))


def offload_to_disk(model, folder):
    from accelerate import disk_offload

    return disk_offload(model, str(folder), execution_device=torch.device("cpu"))


def offload_on_loading(model, folder):
    model.save_pretrained(folder)
    on_disk = dict.fromkeys(["decoder", "lm_head", "model.text_model"], "disk")
    rest = dict.fromkeys(
        ["model.vision_model", "model.visual_projection", "model.text_projection", "model.logit_scale"], "cpu"
    )
    return CoCaForCaptioning.from_pretrained(folder, device_map={**on_disk, **rest}, offload_folder=folder / "offload")


@pytest.mark.parametrize("offload", [offload_to_cpu, offload_to_disk, offload_on_loading])
@torch.no_grad()
def test_offloaded_weights_compute_what_those_in_memory_do(captioner, pixel_values, offload, tmp_path):
    model = offload(tiny_captioner(), tmp_path).eval()
    # First: nothing has brought the weights in yet.
    assert torch.equal(model.generate(pixel_values, **LENGTHS), captioner.generate(pixel_values, **LENGTHS))
    beams = {**LENGTHS, "num_beams": 3}
    encoded = model.encode_images(pixel_values)
    assert torch.equal(model.generate(encoded_images=encoded, **beams), captioner.generate(pixel_values, **beams))
    expected = captioner(pixel_values=pixel_values, input_ids=IDS, labels=IDS)
    found = model(pixel_values=pixel_values, input_ids=IDS, labels=IDS)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.loss, expected.loss, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_device_map_of_the_librarys_choice_computes_the_same(captioner, pixel_values, tmp_path):
    captioner.save_pretrained(tmp_path)
    model = CoCaForCaptioning.from_pretrained(tmp_path, device_map="auto", max_memory={"cpu": "1GB"})
    assert torch.equal(model.generate(pixel_values, **LENGTHS), captioner.generate(pixel_values, **LENGTHS))
