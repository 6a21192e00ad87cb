# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""An optimised model gives what the plain one gives, up to rounding, and refuses in words what it cannot do."""

import copy
import pickle
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForImageTextToText, StaticCache

import coca_hf
from coca_hf import optimization, optimize_for_inference, optimize_for_training
from coca_hf.optimization import PackedLinear, undo_optimizations
from tiny import END, START, tiny_captioner


LENGTHS = (6, 4, 8, 5)
PARTS = ("vision_config", "text_config", "multimodal_config")
# The library's loss is of float32 even in a model of float64.
ROUNDING = {"rtol": 1e-5, "atol": 1e-7}
# Heads of 16 channels, so that texts of 8 tokens are short.
FEW_HEADS = {"multimodal_config": {"num_attention_heads": 1}}

needs_bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bfloat16 products"
)


def make_batch(texts_per_image: int = 1) -> dict[str, torch.Tensor]:
    """Captions of different lengths, of four images or of fewer; in the labels, start and padding are -100."""
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(1, 90, (4, 8), generator=generator)
    attention_mask = (torch.arange(8) < torch.tensor(LENGTHS)[:, None]).long()
    input_ids[:, 0] = START
    input_ids[torch.arange(4), torch.tensor(LENGTHS) - 1] = END
    input_ids = input_ids * attention_mask
    return {
        "pixel_values": torch.randn(4 // texts_per_image, 3, 16, 16, generator=generator),
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": input_ids.masked_fill((attention_mask == 0) | (input_ids == START), -100),
    }


def loss_and_gradients(model, batch):
    model.zero_grad()
    outputs = model(**{**batch, "pixel_values": batch["pixel_values"].to(model.dtype)})
    outputs.loss.backward()
    named = ((name, parameter.grad) for name, parameter in model.named_parameters())
    return outputs.loss.detach(), {name: None if gradient is None else gradient.clone() for name, gradient in named}


def assert_trains_alike(model, batch, **tolerance):
    """The loss and every gradient of `model` are the same after `optimize_for_training`."""
    expected = loss_and_gradients(model, batch)
    found = loss_and_gradients(optimize_for_training(model), batch)
    torch.testing.assert_close(found, expected, **tolerance)


def counted(monkeypatch, cls, name):
    """The list to which each call of a method of `cls` adds its first argument, the module."""
    calls, method = [], getattr(cls, name)
    monkeypatch.setattr(
        cls, name, lambda self, *args, **kwargs: (calls.append(self), method(self, *args, **kwargs))[1]
    )
    return calls


@pytest.fixture(scope="module")
def saved_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    tiny_captioner(**FEW_HEADS).save_pretrained(folder)
    return folder


def from_its_own_code(folder):
    """A model whose classes come from the folder's files, as for those who do not have this package."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    cls = get_class_from_dynamic_module("modeling_coca.CoCaForCaptioning", str(folder))
    assert cls is not coca_hf.CoCaForCaptioning
    return cls.from_pretrained(folder)


# --- training ---


@pytest.mark.parametrize("texts_per_image", [1, 2])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_training_has_the_same_loss_and_gradients(implementation, texts_per_image):
    model = tiny_captioner(**FEW_HEADS)
    model.set_attn_implementation(implementation)
    assert_trains_alike(model.double().train(), make_batch(texts_per_image), **ROUNDING)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_differs_by_rounding_in_the_models_own_type(dtype):
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 6e-2}[dtype]
    model, batch = tiny_captioner(**FEW_HEADS).to(dtype).train(), make_batch()
    loss, expected = loss_and_gradients(model, batch)
    found_loss, found = loss_and_gradients(optimize_for_training(model), batch)
    torch.testing.assert_close(found_loss, loss, rtol=tolerance, atol=0)
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=tolerance * scale, msg=name)


def test_a_model_of_a_saved_folders_own_code_is_optimised(saved_folder):
    model = from_its_own_code(saved_folder).train()
    assert_trains_alike(model.double(), make_batch(), **ROUNDING)
    assert model(**make_batch() | {"pixel_values": make_batch()["pixel_values"].double()}).logits is None
    packed = optimize_for_inference(from_its_own_code(saved_folder))
    assert not any(type(module) is nn.Linear for module in packed.modules())


def test_all_that_optimisation_promises_happens(monkeypatch):
    model = optimize_for_training(tiny_captioner(**FEW_HEADS)).train()
    chunked = counted(monkeypatch, optimization._ChunkedScore, "_chunked_loss")
    remade = counted(monkeypatch, optimization._RemadeActivation, "_activate_and_project")
    products = []
    cross_attention = model.decoder.layers[0].cross_attention_layer.cross_attn
    monkeypatch.setattr(
        nn.Linear, "forward", lambda self, x: (products.append(self), F.linear(x, self.weight, self.bias))[1]
    )
    outputs = model(**make_batch())
    assert outputs.logits is None
    assert len(chunked) == 1
    once = len(remade)
    assert cross_attention.q_proj in products
    assert cross_attention.k_proj not in products
    assert cross_attention.v_proj not in products
    assert model.lm_head not in products
    outputs.loss.backward()
    assert len(remade) == 2 * once


def test_evaluation_and_passes_without_gradients_are_plain():
    model, batch = tiny_captioner(), make_batch()
    expected = model(**batch)
    optimize_for_training(model)
    assert torch.equal(model(**batch).logits, expected.logits)
    with torch.no_grad():
        assert model.train()(**batch).logits.shape == expected.logits.shape


def test_parameters_keep_their_names_and_a_saved_model_is_plain(tmp_path):
    model = tiny_captioner()
    names = list(model.state_dict())
    optimize_for_training(model).save_pretrained(tmp_path)
    assert list(model.state_dict()) == names
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(loaded) is coca_hf.CoCaForCaptioning
    torch.testing.assert_close(loaded(**make_batch()).loss, model(**make_batch()).loss)


def test_it_can_be_done_twice_and_undone():
    model = tiny_captioner().train()
    classes = [type(module) for module in model.modules()]
    optimize_for_training(optimize_for_training(model))
    assert [type(module) for module in model.modules()] != classes
    assert isinstance(model, coca_hf.CoCaForCaptioning)
    assert [type(module) for module in undo_optimizations(model).modules()] == classes
    assert model(**make_batch()).logits is not None


def test_copies_and_pickles_stay_optimised():
    model = optimize_for_training(tiny_captioner().train())
    expected = model(**make_batch()).loss
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        outputs = other(**make_batch())
        assert outputs.logits is None
        torch.testing.assert_close(outputs.loss, expected)
        assert type(undo_optimizations(other)) is coca_hf.CoCaForCaptioning


@pytest.mark.parametrize("num_items_in_batch", [None, 40, torch.tensor(40)])
@pytest.mark.parametrize(("min_logits", "max_chunks"), [(99, 1000), (7 * 99, 1000), (99, 3), (2**23, 16)])
def test_the_loss_in_chunks_of_any_size_is_the_same(monkeypatch, min_logits, max_chunks, num_items_in_batch):
    monkeypatch.setattr(optimization, "MIN_LOGITS_AT_ONCE", min_logits)
    monkeypatch.setattr(optimization, "MAX_LOGITS_CHUNKS", max_chunks)
    batch = {**make_batch(), "num_items_in_batch": num_items_in_batch}
    assert_trains_alike(tiny_captioner().double().train(), batch, **ROUNDING)


def test_the_loss_in_chunks_is_torchs_cross_entropy():
    model, batch = tiny_captioner().train(), make_batch()
    logits = model(**{**batch, "labels": None}).logits
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    torch.testing.assert_close(optimize_for_training(model)(**batch).caption_loss, expected)


@pytest.mark.parametrize(
    "keywords",
    [
        {"ignore_index": 5},
        {"shift_labels": F.pad(make_batch()["labels"][:, 1:], (0, 1), value=-100)},
        {"logits_to_keep": torch.arange(8)},
    ],
    ids=["ignore_index", "shift_labels", "logits_to_keep"],
)
def test_arguments_of_the_loss_reach_it(keywords):
    batch = {**make_batch(), **keywords}
    if "ignore_index" in keywords:
        batch["labels"] = batch["labels"].masked_fill(batch["labels"] == -100, 5)
    assert_trains_alike(tiny_captioner().double().train(), batch, **ROUNDING)


def test_a_loss_function_of_ones_own_is_called_once_with_all_logits():
    model, batch, shapes = optimize_for_training(tiny_captioner().train()), make_batch(), []

    def loss_function(logits, labels, **kwargs):
        shapes.append(logits.shape)
        return logits.square().mean().sqrt()

    model.loss_function = loss_function
    assert model(**batch).logits is None
    assert shapes == [(4, 8, 99)]


@pytest.mark.parametrize(
    "case", ["autocast, bfloat16", "autocast, float16", "a hook", "a frozen head", "frozen towers", "no labels count"]
)
def test_training_is_the_same_whatever_holds_the_weights(monkeypatch, case):
    monkeypatch.setattr(optimization, "MIN_LOGITS_AT_ONCE", 7 * 99)
    model, batch = tiny_captioner().train(), make_batch()
    tolerance = {"rtol": 2e-2, "atol": 2e-3} if "autocast" in case else {"rtol": 1e-4, "atol": 1e-6}
    if case == "a hook":
        model.lm_head.register_forward_hook(lambda module, inputs, output: 2 * output)
    elif case == "a frozen head":
        model.lm_head.requires_grad_(False)
    elif case == "frozen towers":
        model.requires_grad_(False).lm_head.requires_grad_(True)
    elif case == "no labels count":
        batch |= {"labels": torch.full_like(batch["labels"], -100), "num_items_in_batch": 7}
    with torch.autocast("cpu", getattr(torch, case.split()[-1], None), enabled="autocast" in case):
        assert_trains_alike(model, batch, **tolerance)


def test_a_second_backward_pass_gives_the_same_gradients():
    model = optimize_for_training(tiny_captioner().double().train())
    batch = make_batch() | {"pixel_values": make_batch()["pixel_values"].double()}
    loss = model(**batch).loss
    passes = [torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for _ in range(2)]
    torch.testing.assert_close(*passes, rtol=0, atol=0)


def test_what_the_loss_keeps_can_be_kept_elsewhere():
    model, batch, packed = optimize_for_training(tiny_captioner().train()), make_batch(), []
    expected = loss_and_gradients(model, batch)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: packed.append(x.shape) or x.clone(), lambda x: x):
        found = loss_and_gradients(model, batch)
    assert model.lm_head.weight.shape in packed
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(use_reentrant):
    model = optimize_for_training(tiny_captioner(**FEW_HEADS).double().train())
    expected = loss_and_gradients(model, make_batch())
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    found = loss_and_gradients(model, make_batch())
    torch.testing.assert_close(found, expected, **ROUNDING)


def test_a_compiled_training_step_has_no_graph_break():
    model = optimize_for_training(tiny_captioner(**FEW_HEADS).double().train())
    expected = loss_and_gradients(model, make_batch())
    # The "eager" backend traces as any other does and needs no C++ compiler.
    model.forward = torch.compile(model.forward, backend="eager", fullgraph=True)
    torch.testing.assert_close(loss_and_gradients(model, make_batch()), expected, **ROUNDING)


@pytest.mark.parametrize("is_optimised_first", [True, False])
def test_adapters_train(is_optimised_first):
    model = tiny_captioner(**FEW_HEADS).double()
    config = LoraConfig(r=2, target_modules=[r"k_proj", r"v_proj", r"fc2", "lm_head"], init_lora_weights=False)
    if is_optimised_first:
        optimize_for_training(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = get_peft_model(model, config).double().train()
    expected = loss_and_gradients(undo_optimizations(copy.deepcopy(tuned)), make_batch())
    found = loss_and_gradients(optimize_for_training(tuned), make_batch())
    torch.testing.assert_close(found, expected, **ROUNDING)
    adapters = [gradient for name, gradient in found[1].items() if "lora_B" in name and "cross_attn" in name]
    assert adapters
    assert all(gradient.abs().sum() > 0 for gradient in adapters)


@pytest.mark.parametrize("name", ["lm_head", "decoder.layers.0.cross_attention_layer.cross_attn.v_proj"])
def test_offloaded_weights_train(name):
    """As accelerate offloads: weights are on the meta device until the layer's own `forward` brings them in."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    model = tiny_captioner(**FEW_HEADS).train()
    expected, _ = loss_and_gradients(model, make_batch())
    layer = model.get_submodule(name)
    weights = {key: value.detach().clone() for key, value in layer.state_dict().items()}
    add_hook_to_module(layer, AlignDevicesHook(execution_device="cpu", offload=True, weights_map=weights))
    assert layer.weight.is_meta
    torch.testing.assert_close(optimize_for_training(model)(**make_batch()).loss.detach(), expected)


def test_int8_weights_train_their_adapters():
    torchao = pytest.importorskip("torchao.quantization")
    model = tiny_captioner(**FEW_HEADS)
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).train()
    expected = model(**make_batch()).loss
    loss = optimize_for_training(model)(**make_batch()).loss
    torch.testing.assert_close(loss, expected)
    loss.backward()


@pytest.mark.parametrize("what", ["nothing of CoCa", "a packed model"])
def test_what_cannot_be_trained_faster_is_refused(what):
    model = nn.Linear(2, 2) if what == "nothing of CoCa" else optimize_for_inference(tiny_captioner())
    message = "contains no part of CoCa" if what == "nothing of CoCa" else "load it again to train it"
    with pytest.raises(ValueError, match=message):
        optimize_for_training(model)


# --- attention to image tokens ---

IMAGES, TOKENS, CONTEXT, HIDDEN, HEADS = 3, 7, 48, 64, 2
HEAD_DIM = HIDDEN // HEADS


def make_attention():
    config = coca_hf.CoCaMultimodalConfig(hidden_size=HIDDEN, num_attention_heads=HEADS)
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    return coca_hf.modeling_coca.CoCaCrossAttention(config, HIDDEN, HEADS, CONTEXT).double()


def attend(attention, rows, length):
    """-> outputs, gradients of inputs and parameters."""
    generator = torch.Generator().manual_seed(1)
    kind = {"dtype": torch.double, "generator": generator, "requires_grad": True}
    states, context = torch.randn(rows, length, HIDDEN, **kind), torch.randn(IMAGES, TOKENS, CONTEXT, **kind)
    outputs, _ = attention(states, context)
    inputs = [states, context, *attention.parameters()]
    return outputs, torch.autograd.grad((outputs * torch.linspace(-1, 1, HIDDEN)).square().sum(), inputs)


@pytest.mark.parametrize(("rows", "length"), [(3, 5), (6, 4), (3, HEAD_DIM // 2), (3, HEAD_DIM), (1, 5)])
def test_attention_without_keys_and_values_gives_the_same(rows, length):
    attention = make_attention().train()
    expected = attend(attention, rows, length)
    found = attend(optimize_for_training(attention), rows, length)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_few_queries_need_no_keys_and_values(monkeypatch):
    attention = optimize_for_training(make_attention()).train()
    monkeypatch.setattr(attention, "_keys_and_values", None)
    attend(attention, IMAGES, 5)
    with pytest.raises(TypeError):
        attend(attention, IMAGES, HEAD_DIM)


def test_hooks_of_the_projections_run():
    attention, seen = optimize_for_training(make_attention()).train(), []
    attention.v_proj.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].shape))
    attend(attention, IMAGES, 5)
    assert seen == [(IMAGES, TOKENS, CONTEXT)]


# --- inference: packed weights ---

IDS = torch.tensor([[START, 5, 9, 13], [START, 7, 2, 98]])
PIXELS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), pytest.param(torch.bfloat16, 5e-2, marks=needs_bfloat16)]
)
def test_packed_weights_change_outputs_by_rounding_only(dtype, tolerance, activation):
    model = tiny_captioner(**{part: {"hidden_act": activation} for part in PARTS}).to(dtype)
    with torch.inference_mode():
        expected = model(PIXELS.to(dtype), IDS)
        found = optimize_for_inference(model)(PIXELS.to(dtype), IDS)
    for name in ("logits", "image_embeds", "text_embeds"):
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=tolerance * scale, msg=name)


def test_a_packed_model_writes_the_same_captions():
    model = coca_hf.CoCaForCaptioning.from_pretrained(coca_hf.bundled_model())
    processor = coca_hf.CoCaProcessor.from_pretrained(coca_hf.bundled_model())
    images = [Image.open(path) for path in coca_hf.example_images()[:4]]
    inputs = processor(images=images, return_tensors="pt")
    expected = model.generate(**inputs, num_beams=3, max_new_tokens=16)
    assert optimize_for_inference(model).generate(**inputs, num_beams=3, max_new_tokens=16).equal(expected)


def test_towers_without_a_decoder_can_be_packed():
    towers = tiny_captioner().model
    expected = towers(IDS, PIXELS).logits_per_image
    found = optimize_for_inference(towers)(IDS, PIXELS).logits_per_image
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_every_linear_layer_is_packed_in_evaluation_mode_whatever_was_done_for_training():
    model = optimize_for_inference(optimize_for_training(tiny_captioner().train()))
    assert [name for name, module in model.named_modules() if type(module) is nn.Linear] == []
    joined = [name for name, module in model.named_modules() if name.endswith("qkv_proj")]
    assert len(joined) == 6
    assert sum(isinstance(module, PackedLinear) for module in model.modules()) > 20
    assert not model.training
    assert optimize_for_inference(model) is model


def test_layers_with_adapters_or_hooks_are_left_alone():
    tuned = get_peft_model(
        tiny_captioner(), LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False)
    ).eval()
    seen = []
    tuned.base_model.model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    expected = tuned(pixel_values=PIXELS, input_ids=IDS).logits
    found = optimize_for_inference(tuned)(pixel_values=PIXELS, input_ids=IDS).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert len(seen) == 2


REFUSED = {
    "trained": lambda model, folder: model.train(),
    "moved": lambda model, folder: model.to("meta"),
    "converted": lambda model, folder: model.bfloat16(),
    "saved": lambda model, folder: model.save_pretrained(folder / "saved"),
    "given other weights": lambda model, folder: model.load_state_dict({}),
    "copied": lambda model, folder: copy.deepcopy(model),
    "pickled": lambda model, folder: pickle.dumps(model),
}


@pytest.mark.parametrize("wish", REFUSED)
def test_an_optimised_model_refuses_in_words_and_stays_whole(wish, tmp_path):
    model = optimize_for_inference(tiny_captioner())
    expected = model(PIXELS, IDS).logits
    with pytest.raises(RuntimeError, match=rf"cannot be .*{wish}.*: load it again for that"):
        REFUSED[wish](model, tmp_path)
    assert torch.equal(model(PIXELS, IDS).logits, expected)
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("wish", ["copied", "saved", "moved"])
def test_what_contains_an_optimised_model_refuses_too(wish):
    whole = nn.Sequential(optimize_for_inference(tiny_captioner()))
    wishes = {"copied": copy.deepcopy, "saved": nn.Module.state_dict, "moved": lambda model: model.to("meta")}
    with pytest.raises(RuntimeError, match=wish):
        wishes[wish](whole)


def test_a_pipelines_move_to_the_device_where_the_model_is_is_no_move():
    model = optimize_for_inference(tiny_captioner())
    assert model.to("cpu").float() is model


def test_a_type_that_cannot_be_packed_is_refused_by_name_before_anything_changes():
    model = tiny_captioner().train()
    model.lm_head.half()
    with pytest.raises(ValueError, match=r"lm_head\.weight is torch\.float16"):
        optimize_for_inference(model)
    assert model.training
    assert not any(isinstance(module, PackedLinear) for module in model.modules())
    assert optimize_for_inference(model, dtype=torch.float32).lm_head.packed_weight.dtype == torch.float32


def test_bfloat16_is_refused_on_a_processor_without_it(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(ValueError, match=r"torch\.bfloat16, which this processor has no products for: pass dtype="):
        optimize_for_inference(tiny_captioner(), dtype=torch.bfloat16)


def test_a_quantised_model_is_refused():
    torchao = pytest.importorskip("torchao.quantization")
    model = tiny_captioner()
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    with pytest.raises(ValueError, match="leave a quantised model as it is"):
        optimize_for_inference(model)


def test_offloaded_weights_are_refused():
    model = tiny_captioner()
    model.lm_head.to("meta")
    with pytest.raises(ValueError, match=r"lm_head\.weight has no values here"):
        optimize_for_inference(model)


def test_another_choice_and_an_undoing_are_refused():
    model = optimize_for_inference(tiny_captioner())
    with pytest.raises(ValueError, match="load it again to have it otherwise"):
        optimize_for_inference(model, compile=True)
    with pytest.raises(ValueError, match="load the model again"):
        undo_optimizations(model)


# --- inference: compiled steps ---


class CountedRuns:
    """A backend of `torch.compile` that counts graphs, and the runs of what it was given."""

    def __init__(self):
        self.graphs = self.runs = 0

    def __call__(self, graph, example_inputs):
        self.graphs += 1

        def run(*inputs):
            self.runs += 1
            return graph(*inputs)

        return run


@pytest.fixture
def backend(monkeypatch):
    torch._dynamo.reset()
    counted_runs = CountedRuns()
    plain = optimization._compile_options
    monkeypatch.setattr(
        optimization,
        "_compile_options",
        lambda device: {
            "backend": counted_runs,
            "fullgraph": True,
            "options": {"guard_filter_fn": plain(device)["options"]["guard_filter_fn"]},
        },
    )
    return counted_runs


# Each with tokens that end some captions early, and in a batch others not.
SEARCHES = {
    "greedy": {"eos_token_id": [85]},
    "beams": {"eos_token_id": list(range(20, 50)), "num_beams": 3, "early_stopping": True},
    "diverse beams": {"eos_token_id": [85], "num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
}


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES.keys())
def test_steps_are_compiled_once_also_where_captions_end_early(backend, search):
    pixel_values = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    search = {"do_sample": False, "max_new_tokens": 15, "pad_token_id": 0, **search}
    model = tiny_captioner()
    expected = model.generate(pixel_values, **search)
    assert (expected != 0).sum(dim=1).min() < 16
    optimize_for_inference(model, compile=True)
    for _ in range(2):
        assert torch.equal(model.generate(pixel_values, **search), expected)
    assert backend.graphs == 2  # the encoder and a step
    assert backend.runs > 2 * 8


def test_padded_prompts_give_the_same_captions_compiled(backend):
    ids = torch.tensor([[0, 0, START, 5], [0, START, 7, 2], [START, 3, 4, 5]])
    call = {"input_ids": ids, "attention_mask": (ids != 0).long(), "max_new_tokens": 8, "min_new_tokens": 8}
    pixel_values = torch.randn(3, 3, 16, 16)
    model = tiny_captioner()
    expected = model.generate(pixel_values, **call)
    assert torch.equal(optimize_for_inference(model, compile=True).generate(pixel_values, **call), expected)
    assert backend.runs == 1 + 7  # the encoder, and all steps but the pass over the prompts


def test_other_calls_of_a_compiled_model_are_plain(backend):
    model = optimize_for_inference(tiny_captioner(), compile=True)
    with torch.no_grad():
        model(PIXELS, IDS)
        model(pixel_values=PIXELS, input_ids=IDS[:, :1], use_cache=True)
        model.get_image_features(PIXELS)
    assert backend.runs == 0


def test_the_librarys_own_compilation_goes_through_the_plain_forward(backend):
    """On a card the library compiles greedy steps: then not twice."""
    model = optimize_for_inference(tiny_captioner(), compile=True)
    outer = CountedRuns()
    whole = torch.compile(model.__call__, backend=outer)
    with torch.no_grad():
        whole(pixel_values=PIXELS)
    assert outer.runs > 0
    assert backend.runs == 0


def test_a_static_cache_that_a_cuda_graph_may_read_is_reordered_in_place():
    model = tiny_captioner()
    cache, other = (StaticCache(model.config, max_cache_len=4) for _ in range(2))
    states = torch.randn(6, 2, 1, 8)
    rows = torch.tensor([3, 3, 0, 5, 4, 4])
    kept = [cache.update(states, 2 * states, layer_idx=idx) for idx in range(len(cache.layers))]
    for idx in range(len(other.layers)):
        other.update(states, 2 * states, layer_idx=idx)
    other.reorder_cache(rows)
    optimization._reorder_in_place(cache, rows)
    for layer, expected, (keys, values) in zip(cache.layers, other.layers, kept, strict=True):
        assert layer.keys is keys
        assert layer.values is values
        assert torch.equal(layer.keys, expected.keys)
        assert torch.equal(layer.values, expected.values)


def test_compiling_needs_a_model_that_generates():
    with pytest.raises(ValueError, match=r"compile=True compiles generate\(\), which CoCaModel lacks"):
        optimize_for_inference(tiny_captioner().model, compile=True)
