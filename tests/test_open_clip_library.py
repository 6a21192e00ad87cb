# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The functions around open_clip's `CoCa`: a program that used open_clip's gets the same from ours."""

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import coca_hf
import coca_hf.open_clip as open_clip
from coca_hf.conversion import ConversionError
from coca_hf.conversion.weights import entries
from fixtures.open_clip import recipe
from fixtures.open_clip_library import cases
from tiny_folder import save_tiny_folder, tiny_processor


FIXTURES = Path(cases.__file__).parent
RECORDED = load_file(FIXTURES / "library.safetensors")
FACTS = json.loads((FIXTURES / "library.json").read_text(encoding="utf-8"))
CLIP_MERGES = FIXTURES.parent / "processing" / "clip_merges.txt.gz"


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def weights_of(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The recipe's weights, as the recorded models had them."""
    model = open_clip.CoCa(**{field: value for field, value in config.items() if field != "custom_text"})
    return recipe.state_dict({name: list(tensor.shape) for name, tensor in model.state_dict().items()})


def model_of(name: str) -> open_clip.CoCa:
    config = recipe.CONFIGS[name]
    model = open_clip.CoCa(**{field: value for field, value in config.items() if field != "custom_text"})
    model.load_state_dict(weights_of(config))
    return model.eval()


@pytest.fixture
def tiny_name(tmp_path, monkeypatch) -> str:
    """A model's name with the recipe's base configuration; its weights are in `weights.pt` beside."""
    monkeypatch.setattr("coca_hf.open_clip.factory._added", {})
    (tmp_path / "tiny.json").write_text(json.dumps(recipe.BASE_CONFIG))
    open_clip.add_model_config(tmp_path)
    weights = {f"module.{name}": tensor for name, tensor in weights_of(recipe.BASE_CONFIG).items()}
    torch.save({"epoch": 1, "state_dict": weights}, tmp_path / "weights.pt")
    return "tiny"


@pytest.fixture
def theirs(tmp_path) -> Path:
    """A folder of open_clip's layout, with a tokenizer of the tiny vocabulary."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    sizes = {"vocab_size": 560, "context_length": 24}
    config = recipe.variant(text=sizes, multimodal=sizes)
    save_file(weights_of(config), folder / "open_clip_model.safetensors")
    content = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "resize_mode": "squash"}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    tiny_processor().tokenizer.save_pretrained(folder)
    return folder


def same_pixels(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal but for one level of 255, by which releases of Pillow differ; exact pixels are tested elsewhere."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1.01 / 255 / 0.2)


DESCRIBED = {name.removesuffix(".__init__"): signature for name, signature in FACTS["signatures"].items()}


@pytest.mark.parametrize("name", DESCRIBED)
def test_arguments_and_defaults_are_open_clips(name):
    function: Any = open_clip
    for part in name.split("."):
        function = getattr(function, part)
    parameters = list(inspect.signature(function).parameters.values())
    is_method = "self" in DESCRIBED[name]
    ours = {p.name: p.default for p in parameters if p.name != "self"}
    expected = {key: default for key, default in DESCRIBED[name].items() if not (is_method and key == "self")}
    assert list(ours) == list(expected)
    assert {k: v for k, v in ours.items() if v is not inspect.Parameter.empty} == {
        k: v for k, v in expected.items() if v != "required"
    }


def intermediate_cases() -> list[tuple[str, str, dict[str, Any]]]:
    named = [(name, *case) for name in cases.INTERMEDIATE_CONFIGS for case in cases.INTERMEDIATE_CASES.items()]
    arguments = {"normalize_intermediates": True, "image_indices": 1, "text_indices": 1}
    return named + [(name, "normalized", arguments) for name in cases.NORMALIZED_INTERMEDIATE_CONFIGS]


@pytest.mark.parametrize(("name", "case", "arguments"), intermediate_cases())
def test_forward_intermediates_gives_what_open_clips_gives(name, case, arguments):
    model = model_of(name)
    with torch.no_grad():
        output = model.forward_intermediates(recipe.images(2, 24, 24), recipe.captions("padded", 12)[:2], **arguments)
        again = model.encode_image(recipe.images(2, 24, 24))
    ours = {}
    for key, value in output.items():
        ours |= {key: value} if isinstance(value, torch.Tensor) else {f"{key}/{i}": x for i, x in enumerate(value)}
    prefix = f"intermediates/{name}/{case}/"
    expected = {key.removeprefix(prefix): t for key, t in RECORDED.items() if key.startswith(prefix)}
    assert ours.keys() == expected.keys()
    for key, tensor in expected.items():
        close(ours[key], tensor)
    close(again, model_of(name).encode_image(recipe.images(2, 24, 24)).detach())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"image_indices": 3}, "The last 3 layers were asked for, of 2"),
        ({"text_indices": [2]}, "Layer 2 was asked for, of 2"),
        ({"image_output_fmt": "NHWC"}, "NCHW or NLC, not 'NHWC'"),
        ({"text_output_fmt": "NCHW"}, "NLC, not 'NCHW'"),
        ({"output_logits": True}, "output_logits=True is not supported"),
        ({"normalize_intermediates": True}, "as wide as the layers"),
    ],
)
def test_intermediates_that_cannot_be_had_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        model_of("base").forward_intermediates(
            recipe.images(1, 24, 24), recipe.captions("padded", 12)[:1], **arguments
        )


def trainable(model: open_clip.CoCa) -> list[str]:
    names = {id(p): name for name, p in model.captioner.named_parameters() if p.requires_grad}
    ours = set(names.values())
    return [entry.theirs for entry in entries(model.captioner.config) if ours.issuperset(entry.ours)]


@pytest.mark.parametrize("name", cases.LOCK_CONFIGS)
@pytest.mark.parametrize("number", cases.UNLOCKED)
def test_locking_leaves_trainable_what_open_clip_leaves(name, number):
    model = model_of(name)
    model.lock_image_tower(unlocked_groups=number)
    model.lock_text_tower(unlocked_layers=number)
    assert sorted(trainable(model)) == sorted(FACTS["trainable"][f"{name}/{number}"])


def test_locking_again_unlocks_what_was_locked_and_never_fixed_positions():
    model = model_of("base")
    model.visual.lock()
    model.visual.lock(9)
    assert "visual.proj" in trainable(model)
    config = recipe.CONFIGS["sin_cos"]
    fixed = open_clip.CoCa(**{field: value for field, value in config.items() if field != "custom_text"})
    fixed.visual.lock(9)
    assert "visual.positional_embedding" not in trainable(fixed)
    assert "visual.conv1.weight" in trainable(fixed)


def test_a_lock_that_does_not_exist_is_refused():
    model = model_of("base")
    with pytest.raises(ValueError, match="-1 groups cannot be unlocked"):
        model.visual.lock(-1)
    with pytest.raises(ValueError, match="freeze_layer_norm=False"):
        model.text.lock(freeze_layer_norm=False)


def assert_recorded(prefix: str, losses: tuple[torch.Tensor, ...], inputs: dict[str, torch.Tensor]) -> None:
    sum(losses).backward()
    for index, loss in enumerate(losses):
        close(loss.detach().float(), RECORDED[f"{prefix}/{index}"].float())
    expected = {name for name in RECORDED if name.startswith(f"{prefix}/grad/")}
    assert expected == {f"{prefix}/grad/{name}" for name, tensor in inputs.items() if tensor.grad is not None}
    for name in expected:
        close(inputs[name.rsplit("/", 1)[-1]].grad, RECORDED[name])


@pytest.mark.parametrize("name", cases.LOSS_CASES)
def test_losses_and_gradients_are_open_clips(name):
    inputs = cases.loss_inputs(name)
    assert_recorded(f"loss/{name}", open_clip.CoCaLoss(**cases.LOSS_CASES[name])(**inputs), inputs)


def test_the_contrastive_loss_takes_a_bias():
    inputs = cases.loss_inputs("clip")
    del inputs["logits"], inputs["labels"]
    assert_recorded("loss/clip", (open_clip.ClipLoss()(**inputs, logit_bias=torch.tensor(-2.0)),), inputs)


def test_losses_come_by_name_on_request():
    by_name = open_clip.CoCaLoss(2.0, 1.0)(**cases.loss_inputs("paper"), output_dict=True)
    assert list(by_name) == ["contrastive_loss", "caption_loss"]
    close(by_name["caption_loss"], RECORDED["loss/paper/1"])


ONE_RANK = """
import sys
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from coca_hf.open_clip import CoCaLoss
from fixtures.open_clip_library import cases

def one_rank(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for index, arguments in enumerate(cases.DISTRIBUTED_LOSS_CASES):
        inputs = cases.loss_inputs(f"rank{rank}")
        losses = CoCaLoss(2.0, 1.0, rank=rank, world_size=2, **arguments)(**inputs)
        sum(losses).backward()
        values = {str(number): loss.detach() for number, loss in enumerate(losses)}
        values |= {f"grad/{name}": t.grad for name, t in inputs.items() if t.grad is not None}
        torch.save(values, f"{folder}/{index}.{rank}.pt")
    dist.destroy_process_group()

if __name__ == "__main__":
    mp.spawn(one_rank, (sys.argv[1],), nprocs=2)
"""


def test_losses_and_gradients_of_two_processes_are_open_clips(tmp_path):
    (tmp_path / "ranks.py").write_text(ONE_RANK)
    paths = [str(Path(coca_hf.__file__).parents[1]), str(Path(__file__).parent)]
    command = [sys.executable, str(tmp_path / "ranks.py"), str(tmp_path)]
    subprocess.run(command, check=True, env={"PYTHONPATH": ":".join(paths), "OMP_NUM_THREADS": "1"}, timeout=300)
    for index in range(len(cases.DISTRIBUTED_LOSS_CASES)):
        for rank in range(2):
            prefix = f"distributed/{index}/rank{rank}/"
            expected = {name.removeprefix(prefix): t for name, t in RECORDED.items() if name.startswith(prefix)}
            ours = torch.load(tmp_path / f"{index}.{rank}.pt")
            assert ours.keys() == expected.keys()
            for name, tensor in expected.items():
                close(ours[name], tensor)


@pytest.mark.parametrize(("case", "size"), [("batched", 2), ("at_once", None)])
def test_a_zero_shot_classifier_has_open_clips_weights(case, size):
    weights = open_clip.build_zero_shot_classifier(
        model_of("base"), cases.small_tokenizer, cases.CLASSNAMES, cases.TEMPLATES, num_classes_per_batch=size
    )
    close(weights, RECORDED[f"zero_shot/{case}"])
    functions = [lambda name, template=template: template.format(name) for template in cases.TEMPLATES]
    close(
        open_clip.build_zero_shot_classifier(model_of("base"), cases.small_tokenizer, cases.CLASSNAMES, functions),
        weights,
    )


def test_a_zero_shot_classifier_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one class name and one template"):
        open_clip.build_zero_shot_classifier(model_of("base"), cases.small_tokenizer, [], ["{}"])


@pytest.mark.parametrize("size", cases.PICTURE_SIZES, ids=str)
@pytest.mark.parametrize("name", cases.TRANSFORM_CASES)
def test_transforms_give_open_clips_pixels(name, size):
    transform = open_clip.image_transform(is_train=False, **cases.TRANSFORM_CASES[name])
    same_pixels(transform(cases.picture(*size)), RECORDED[f"transform/{name}/{size[0]}x{size[1]}"])


@pytest.mark.parametrize("size", cases.PICTURE_SIZES, ids=str)
@pytest.mark.parametrize("name", cases.TRAIN_TRANSFORM_CASES)
def test_training_transforms_draw_what_open_clips_draw_from_the_same_seed(name, size):
    torch.manual_seed(cases.TRAIN_SEED)
    transform = open_clip.image_transform(is_train=True, **cases.TRAIN_TRANSFORM_CASES[name])
    expected = RECORDED[f"train_transform/{name}/{size[0]}x{size[1]}"]
    same_pixels(torch.stack([transform(cases.picture(*size)) for _ in expected]), expected)


def test_an_augmentation_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"aug_cfg.color_jitter is not supported: of aug_cfg only scale is"):
        open_clip.image_transform(24, is_train=True, aug_cfg={"color_jitter": 0.4})


@pytest.fixture
def tokenizer(monkeypatch) -> open_clip.SimpleTokenizer:
    monkeypatch.setattr("coca_hf.open_clip.tokenizer.clip_vocabulary", lambda *_: CLIP_MERGES)
    monkeypatch.setattr(open_clip.tokenizer, "_default", open_clip.tokenizer._default.__wrapped__)
    return open_clip.get_tokenizer("coca_ViT-L-14")


def test_tokens_are_open_clips(tokenizer):
    for length, ids in FACTS["tokens"]["ids"].items():
        assert tokenizer(list(cases.TEXTS), int(length)).tolist() == ids
        assert open_clip.tokenize(list(cases.TEXTS), int(length)).tolist() == ids
    assert tokenizer("a cat").shape == (1, 76)
    assert (tokenizer.sot_token_id, tokenizer.eot_token_id, tokenizer.vocab_size) == (49406, 49407, 49408)


def test_ids_become_open_clips_texts_again(tokenizer):
    texts = [open_clip.decode(torch.tensor(ids)) for ids in FACTS["tokens"]["ids"]["77"]]
    assert texts == FACTS["tokens"]["decoded"]
    assert tokenizer.decode(tokenizer.encode("a photo of a cat")) == "a photo of a cat "


@pytest.mark.parametrize(
    "arguments", [{"clean": "whitespace"}, {"reduction_mask": "random"}, {"additional_special_tokens": ["<x>"]}]
)
def test_a_tokenizer_of_another_kind_is_refused(tokenizer, arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}=.* is not supported"):
        open_clip.get_tokenizer("coca_ViT-L-14", **arguments)


def test_a_named_model_with_a_file_of_weights_is_open_clips(tiny_name, tmp_path):
    model, train, preprocess = open_clip.create_model_and_transforms(
        tiny_name, pretrained=str(tmp_path / "weights.pt")
    )
    weights = weights_of(recipe.BASE_CONFIG)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert model.visual.preprocess_cfg["size"] == (24, 24)
    for transform in (train, preprocess):
        assert transform(cases.picture(40, 30)).shape == (3, 24, 24)


@pytest.mark.parametrize("name", cases.IMAGE_SIZES)
def test_another_image_size_gives_open_clips_features_and_preprocessing(tiny_name, tmp_path, name):
    size = cases.IMAGE_SIZES[name]
    model, _, preprocess = open_clip.create_model_and_transforms(
        tiny_name, str(tmp_path / "weights.pt"), force_image_size=size, image_mean=(0.5, 0.4, 0.3)
    )
    height, width = (size, size) if isinstance(size, int) else size
    with torch.no_grad():
        close(model.eval().encode_image(recipe.images(2, height, width)), RECORDED[f"resized/{name}/image_features"])
    close(model.state_dict()["visual.positional_embedding"], RECORDED[f"resized/{name}/positions"])
    assert preprocess(cases.picture(40, 30)).shape == (3, height, width)
    assert json.loads(json.dumps(model.visual.preprocess_cfg)) == FACTS["preprocess_cfg"][name]


def test_another_context_length_gives_open_clips_features(tiny_name, tmp_path):
    model = open_clip.create_model(
        tiny_name, str(tmp_path / "weights.pt"), force_context_length=cases.CONTEXT_LENGTH
    ).eval()
    close(model.state_dict()["text.positional_embedding"], RECORDED["resized/context/positions"])
    with torch.no_grad():
        features = model.encode_text(recipe.captions("padded", cases.CONTEXT_LENGTH))
    close(features, RECORDED["resized/context/text_features"])


def test_a_folder_of_open_clips_layout_gives_model_preprocessing_and_tokenizer(theirs):
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{theirs}")
    assert model.visual.image_mean == [0.5, 0.4, 0.3]
    assert model.visual.preprocess_cfg["resize_mode"] == "squash"
    tokenizer = open_clip.get_tokenizer(f"local-dir:{theirs}")
    ids = tokenizer(["a photo of one red cube", "two"])
    assert ids.shape == (2, 24)
    features = model.eval().encode_image(preprocess(cases.picture(40, 30))[None])
    assert (features @ model.encode_text(ids).T * model.logit_scale.exp()).shape == (1, 2)
    assert model.generate(preprocess(cases.picture(40, 30))[None], seq_len=8).shape[0] == 1


def test_a_folder_that_this_package_saved_gives_the_same(tmp_path):
    folder = save_tiny_folder(tmp_path / "ours")
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}", force_image_size=24)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    assert preprocess(cases.picture(40, 30)).shape == (3, 24, 24)
    assert tokenizer("a photo").shape == (1, 24)
    assert model.encode_image(preprocess(cases.picture(40, 30))[None]).shape == (1, 12)
    with pytest.raises(ValueError, match="force_quick_gelu is not supported for a folder saved by coca_hf"):
        open_clip.create_model(f"local-dir:{folder}", force_quick_gelu=True)


def test_a_captioner_of_another_vocabulary_captions_with_its_own_tokens():
    captioner = coca_hf.CoCaForCaptioning.from_pretrained(coca_hf.bundled_model())
    processor = coca_hf.CoCaProcessor.from_pretrained(coca_hf.bundled_model())
    pixels = processor(images=cases.picture(64, 64), return_tensors="pt")["pixel_values"]
    ids = open_clip.CoCa.from_captioner(captioner).generate(pixels)
    assert ids[0, 0] == captioner.config.text_config.bos_token_id
    assert captioner.config.text_config.eos_token_id in ids[0]


@pytest.mark.parametrize("precision", ["bf16", "pure_fp16"])
def test_a_precision_is_that_of_all_parameters(tiny_name, precision):
    model = open_clip.create_model(tiny_name, precision=precision)
    expected = torch.bfloat16 if precision == "bf16" else torch.float16
    assert {parameter.dtype for parameter in model.parameters()} == {expected}


def test_one_towers_weights_are_loaded_last(tiny_name, tmp_path):
    weights = weights_of(recipe.BASE_CONFIG)
    tower = {name.removeprefix("visual."): t + 1 for name, t in weights.items() if name.startswith("visual.")}
    torch.save(tower, tmp_path / "tower.pt")
    model = open_clip.create_model(
        tiny_name, str(tmp_path / "weights.pt"), pretrained_image_path=str(tmp_path / "tower.pt")
    )
    state = model.state_dict()
    assert torch.equal(state["visual.proj"], weights["visual.proj"] + 1)
    assert torch.equal(state["text.text_projection"], weights["text.text_projection"])


def test_names_of_models_and_weights_are_open_clips():
    assert {"coca_ViT-B-32", "coca_ViT-L-14", "coca_base"} <= set(open_clip.list_models())
    assert ("coca_ViT-L-14", "mscoco_finetuned_laion2b_s13b_b90k") in open_clip.list_pretrained()
    assert open_clip.get_model_config("coca_ViT-L-14")["embed_dim"] == 768
    assert open_clip.get_model_config("ViT-B-32") is None


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"model_name": "ViT-B-32"}, RuntimeError, "Model config for 'ViT-B-32' not found.*coca_ViT-L-14"),
        ({"pretrained": "openai"}, RuntimeError, "pretrained='openai' is neither a file nor a tag of 'coca_base'"),
        ({"model_name": "local-dir:nowhere"}, FileNotFoundError, "No folder at 'nowhere'"),
        ({"jit": True}, ValueError, r"jit=True is not supported: use torch.compile"),
        ({"precision": "int8"}, ValueError, "precision='int8' is not one of fp32, amp"),
        ({"temperature": 1}, TypeError, "temperature is an argument neither of create_model nor of CoCa"),
        ({"force_context_length": 200}, ConversionError, "text_cfg.context_length=200"),
        ({"require_pretrained": True}, RuntimeError, "No pretrained weights for model_name='coca_base'"),
    ],
)
def test_a_model_that_cannot_be_had_is_refused_in_words(arguments, error, says):
    with pytest.raises(error, match=says):
        open_clip.create_model(**{"model_name": "coca_base", **arguments})
