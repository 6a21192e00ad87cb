# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Importing the package is enough for transformers' Auto classes, whatever is imported first."""

import json
import subprocess
import sys

import pytest
import torch
import transformers

import coca_hf
from tiny import tiny_config
from tiny_folder import save_tiny_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_folder(tmp_path_factory.mktemp("auto") / "tiny")


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize(
    ("auto_class", "expected"),
    [
        ("AutoConfig", "CoCaConfig"),
        ("AutoModel", "CoCaModel"),
        ("AutoModelForZeroShotImageClassification", "CoCaModel"),
        ("AutoModelForImageTextToText", "CoCaForCaptioning"),
        ("AutoModelForMultimodalLM", "CoCaForCaptioning"),
        ("AutoProcessor", "CoCaProcessor"),
        ("AutoTokenizer", "CoCaTokenizer"),
        ("AutoImageProcessor", "CoCaImageProcessor"),
    ],
)
def test_each_auto_class_loads_the_packages_own_class(folder, auto_class, expected):
    loaded = getattr(transformers, auto_class).from_pretrained(folder)
    assert type(loaded) is getattr(coca_hf, expected)


@pytest.mark.parametrize("auto_class", ["AutoModel", "AutoModelForImageTextToText"])
def test_models_are_made_from_a_configuration(folder, auto_class):
    config = transformers.AutoConfig.from_pretrained(folder)
    assert getattr(transformers, auto_class).from_config(config).config is config


@pytest.mark.parametrize("part", ["vision", "text", "multimodal"])
def test_the_configurations_of_the_parts_are_known_by_their_model_type(part):
    config = transformers.AutoConfig.for_model(f"coca_{part}_model")
    assert type(config) is getattr(coca_hf, f"CoCa{part.capitalize()}Config")


def test_the_towers_alone_load_from_the_captioners_folder(folder):
    towers = coca_hf.CoCaModel.from_pretrained(folder)
    captioner = coca_hf.CoCaForCaptioning.from_pretrained(folder)
    torch.testing.assert_close(towers.state_dict(), captioner.model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("part", ["vision", "text"])
def test_a_tower_is_made_from_its_configuration(part):
    config = getattr(tiny_config(), f"{part}_config")
    tower = transformers.AutoModel.from_config(config)
    assert type(tower) is getattr(coca_hf, f"CoCa{part.capitalize()}Model")
    assert tower.config is config


@pytest.mark.parametrize("part", ["vision", "text"])
def test_a_saved_tower_loads_as_it_was(folder, part, tmp_path):
    tower = getattr(coca_hf.CoCaModel.from_pretrained(folder), f"{part}_model")
    tower.save_pretrained(tmp_path)
    loaded = transformers.AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is type(tower)
    torch.testing.assert_close(loaded.state_dict(), tower.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("part", ["Vision", "Text"])
def test_a_saved_tower_with_its_projection_loads_with_it(folder, part, tmp_path):
    tower = getattr(coca_hf, f"CoCa{part}ModelWithProjection").from_pretrained(folder)
    tower.save_pretrained(tmp_path)
    loaded = transformers.AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is type(tower)
    torch.testing.assert_close(loaded.state_dict(), tower.state_dict(), rtol=0, atol=0)


IMPORTS = {
    "package first": "import coca_hf; from transformers import AutoModel",
    "transformers first": "from transformers import AutoModel; import coca_hf",
    "untouched transformers first": "import transformers, coca_hf; from transformers import AutoModel",
    "a module of the package first": "import coca_hf.modeling_coca; from transformers import AutoModel",
    "a class of the package first": "from coca_hf import CoCaProcessor; from transformers import AutoModel",
    "transformers' pipelines first": "import coca_hf; from transformers import pipeline, AutoModel",
    "a part of transformers first": (
        "import coca_hf; import transformers.generation.utils; from transformers import AutoModel"
    ),
    "the package twice": "import coca_hf, importlib; from transformers import AutoModel; importlib.reload(coca_hf)",
    "in a thread": (
        "import coca_hf, threading\n"
        "thread = threading.Thread(target=__import__, args=['transformers.models.auto.modeling_auto'])\n"
        "thread.start(); thread.join(); from transformers import AutoModel"
    ),
}


# What transformers itself imports takes longest, and is the same for all.
IN_COPIES = """
import json, os, sys
import huggingface_hub, safetensors.torch, tokenizers, torch, PIL.Image
import torch._dynamo, torch.distributed.checkpoint, torch.distributed.tensor, torch.export

printed = {}
for name, code in json.loads(sys.argv[1]).items():
    ours, theirs = os.pipe()
    if os.fork() == 0:
        os.dup2(theirs, 1)
        exec(code, {})
        sys.stdout.flush()
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as stream:
        printed[name] = stream.read().strip()
    os.wait()
print(json.dumps(printed))
"""


def test_the_order_of_imports_does_not_matter(folder):
    make = f"print(type(AutoModel.from_pretrained({str(folder)!r})))"
    codes = json.dumps({order: f"{imports}; {make}" for order, imports in IMPORTS.items()})
    done = subprocess.run([sys.executable, "-c", IN_COPIES, codes], capture_output=True, text=True, check=False)
    made = json.loads(done.stdout.splitlines()[-1])
    assert made == dict.fromkeys(IMPORTS, "<class 'coca_hf.modeling_coca.CoCaModel'>"), done.stderr


def test_the_packages_names_are_what_its_page_lists():
    names = {
        "CoCaConfig",
        "CoCaVisionConfig",
        "CoCaTextConfig",
        "CoCaMultimodalConfig",
        "CoCaVisionModel",
        "CoCaTextModel",
        "CoCaVisionModelWithProjection",
        "CoCaTextModelWithProjection",
        "CoCaModel",
        "CoCaForCaptioning",
        "CoCaImageProcessor",
        "CoCaProcessor",
        "CoCaTokenizer",
        "ImageToTextPipeline",
        "optimize_for_inference",
        "optimize_for_training",
        "pipeline",
        "bundled_model",
        "example_images",
        "word_maps",
        "WordMap",
        "similarity_map",
        "overlay",
        "export",
        "load",
        "conversion",
        "open_clip",
        "publishing",
        "training",
        "evaluation",
        "search",
        "seeing",
    }
    assert set(coca_hf.__all__) == names
    assert set(dir(coca_hf)) == {*names, "__version__"}
    assert all(hasattr(coca_hf, name) for name in names)


@pytest.mark.parametrize("name", ["conversion", "open_clip", "publishing", "training", "evaluation", "search"])
def test_a_part_of_the_package_needs_no_import_of_its_own(name):
    assert run(f"import coca_hf; print(coca_hf.{name}.__name__)") == f"coca_hf.{name}"


def test_what_exporting_offers_stays_what_it_is_once_it_was_asked_for():
    code = "from coca_hf import exporting as e; print([callable(getattr(e, n)) for n in ('load', 'export') * 2])"
    assert run(f"{code}; import coca_hf; print(callable(coca_hf.load))").split("\n") == [str([True] * 4), "True"]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'CoCaForNothing'"):
        _ = coca_hf.CoCaForNothing
