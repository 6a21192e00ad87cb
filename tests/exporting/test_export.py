# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Exporting: what is refused before work is lost, and models that are not the bundled one."""

import importlib.util
import json
import sys
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch.export import Dim

import coca_hf
from coca_hf.cli import main
from coca_hf.exporting import folder
from coca_hf.exporting.components import Component, components
from coca_hf.exporting.errors import ExportError
from coca_hf.exporting.forms import FORMS
from coca_hf.runtimes.programs import ExecutorchProgram
from tiny_folder import tiny_model, tiny_processor


class Doubling(torch.nn.Module):
    def forward(self, pixel_values):
        return {"doubled": 2 * pixel_values}


DOUBLING = Component(
    Doubling(), lambda *sizes: {"pixel_values": torch.ones(sizes[0], 3)}, {"pixel_values": {0: Dim("n")}}
)


@pytest.fixture(scope="session")
def processor():
    return tiny_processor()


@pytest.fixture(scope="session")
def towers(processor):
    return tiny_model(processor).model


def test_towers_without_a_decoder_are_exported_in_int8(towers, processor, tmp_path):
    towers.config.multimodal_config.num_hidden_layers = 0
    towers.save_pretrained(tmp_path / "towers")
    processor.save_pretrained(tmp_path / "towers")
    coca_hf.export(tmp_path / "towers", tmp_path / "int8", int8=True)
    model = coca_hf.load(tmp_path / "int8")
    assert not hasattr(model, "generate") or not model.can_generate()
    pixel_values = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    texts = processor(text=["a red cube", "two green balls on a table"], padding=True, return_tensors="pt")
    with torch.no_grad():
        pairs = [
            (model.get_image_features(pixel_values), towers.get_image_features(pixel_values)),
            (model.get_text_features(**texts), towers.get_text_features(**texts)),
        ]
    for found, expected in pairs:
        cosine = torch.nn.functional.cosine_similarity(found.pooler_output, expected.pooler_output)
        assert cosine.min() > 0.99
        assert not torch.allclose(found.pooler_output, expected.pooler_output, rtol=0, atol=1e-5)


def test_openvino_computes_what_pytorch_does(processor, tmp_path):
    component = components(tiny_model(processor))["image_memory"]
    _, exact = folder._write_program(component, tmp_path, "exact", "openvino", int8=False)
    _, rounded = folder._write_program(component, tmp_path, "rounded", "openvino", int8=True)
    assert exact <= 1e-5 < rounded < 0.1
    assert sorted(path.name for path in tmp_path.glob("exact.*")) == ["exact.bin", "exact.xml"]


def test_executorch_computes_what_pytorch_does(processor, tmp_path):
    pytest.importorskip("executorch", reason="the extra [executorch] is not installed")
    component = components(tiny_model(processor))["image_memory"]
    _, difference = folder._write_program(component, tmp_path, "memory", "executorch", int8=False)
    assert difference <= 1e-5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["memory.names.json", "memory.pte"]


def test_executorch_gets_images_for_each_row_and_no_more_rows_than_it_has_memory_for(tmp_path):
    class Method:
        sizes: ClassVar[list] = []

        def execute(self, given):
            rows, images, positions = given
            self.sizes.append((len(rows), len(images), len(positions)))
            return [rows + images]

    method = Method()
    runtime = SimpleNamespace(get=lambda: runtime, load_program=lambda path: runtime, load_method=lambda name: method)
    names = {"inputs": ["input_ids", "image_keys.0", "logit_positions"], "outputs": ["logits"]}
    (tmp_path / "step.names.json").write_text(json.dumps(names))
    program = ExecutorchProgram(tmp_path / "step.pte", SimpleNamespace(Runtime=runtime))
    rows, images = torch.arange(70.0)[:, None], torch.tensor([[100.0], [200.0]])
    found = program({"input_ids": rows, "image_keys.0": images, "logit_positions": torch.arange(3)})
    assert torch.equal(found["logits"], rows + images.repeat_interleave(35, dim=0))
    assert method.sizes == [(32, 32, 3), (32, 32, 3), (6, 6, 3)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "made"], "no model at 'nowhere'"),
        ([str(coca_hf.bundled_model()), "made", "--format", "gguf"], "no such format: 'gguf'"),
        ([str(coca_hf.bundled_model()), "full"], "'full' is there already"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_loaded(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert main(["export", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full"]


def test_a_runtime_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", str(coca_hf.bundled_model()), str(tmp_path / "made")]) == 2
    assert "needs onnxscript, which is not installed: pip install 'coca-hf[export]'" in capsys.readouterr().err


def test_executorch_is_an_extra_of_its_own_and_float32_only(tmp_path, monkeypatch, capsys):
    export = ["export", str(coca_hf.bundled_model()), str(tmp_path / "made"), "--format", "executorch"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(export) == 2
    assert "needs executorch, which is not installed: pip install 'coca-hf[executorch]'" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert main([*export, "--int8"]) == 2
    assert "weights of 8 bits are made for onnx, openvino and web" in capsys.readouterr().err


def test_a_program_that_differs_from_pytorch_is_not_kept(towers, processor, tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "components", lambda model: {"vision": DOUBLING})
    monkeypatch.setattr(folder, "_difference", lambda *arguments: 1e-3)
    with pytest.raises(ExportError, match=r"vision in onnx differs from PyTorch by 1\.0e-03"):
        coca_hf.export(towers, tmp_path / "made", processor=processor)
    assert not list(tmp_path.iterdir())


def test_a_quantiser_that_refuses_leaves_nothing_behind(towers, processor, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise RuntimeError("no weights\nhere.")

    monkeypatch.setattr(folder, "components", lambda model: {"vision": DOUBLING})
    monkeypatch.setattr(FORMS["onnx"], "int8", refuse)
    with pytest.raises(ExportError, match="vision cannot be made int8: no weights here"):
        coca_hf.export(towers, tmp_path / "made", processor=processor, int8=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("iostream\nerror")])
def test_a_full_disk_and_a_folder_below_a_file_are_one_sentence(towers, processor, tmp_path, monkeypatch, error):
    def refuse(*arguments):
        raise error

    monkeypatch.setattr(folder, "components", lambda model: {"vision": DOUBLING})
    monkeypatch.setattr(FORMS["onnx"], "save", refuse)
    with pytest.raises(ExportError, match=r"cannot write '.*made': no space left|into onnx: iostream error$"):
        coca_hf.export(towers, tmp_path / "made", processor=processor)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="cannot write"):
        coca_hf.export(towers, tmp_path / "file" / "made", processor=processor)


def test_an_adapter_is_to_be_merged_first(tmp_path, capsys):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    assert main(["export", str(tmp_path / "adapter"), str(tmp_path / "made")]) == 2
    assert "holds an adapter: merge it into its model" in capsys.readouterr().err


def test_an_exported_folder_is_not_exported_again(tmp_path, capsys):
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "config.json").write_text(json.dumps({"model_type": "coca"}))
    (tmp_path / "exported" / "coca_export.json").write_text("{}")
    assert main(["export", str(tmp_path / "exported"), str(tmp_path / "again")]) == 2
    assert "version" in capsys.readouterr().err
