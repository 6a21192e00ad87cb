# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A saved folder is complete: it loads and works where this package is not installed, and so does its own copy."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from transformers.dynamic_module_utils import get_relative_import_files

import coca_hf
from coca_hf import CoCaForCaptioning, CoCaModel, CoCaProcessor
from coca_hf.configuration_coca import CoCaConfig
from tiny_folder import save_tiny_folder, tiny_processor


PACKAGE = Path(coca_hf.__file__).parent
IMAGE = Path(__file__).parent / "fixtures" / "processing" / "images" / "rgba.png"
PROMPT = "a photo of"
LABELS = ["red cube", "blue ball"]

# Runs where neither this package nor its optional helpers can be imported.
STRANGER = """
import json, sys
from pathlib import Path
for name in ("coca_hf", "ftfy", "torchvision"):
    sys.modules[name] = None
import torch
import transformers as t
from PIL import Image
torch.set_num_threads(1)

folder, again, image, prompt, *labels = sys.argv[1:]
image = Image.open(image).convert("RGB")
trust = {"trust_remote_code": True}
loaded = {name: getattr(t, name).from_pretrained(folder, **trust) for name in (
    "AutoConfig", "AutoModel", "AutoModelForZeroShotImageClassification", "AutoModelForImageTextToText",
    "AutoProcessor", "AutoTokenizer", "AutoImageProcessor",
)}
processor, captioner, towers = (loaded[name] for name in ("AutoProcessor", "AutoModelForImageTextToText", "AutoModel"))
inputs = processor(images=image, text=prompt, return_tensors="pt")
pipes = {task: t.pipeline(task, folder, device="cpu", **trust) for task in (
    "image-to-text", "image-text-to-text", "zero-shot-image-classification", "image-feature-extraction",
)}
results = {
    "classes": {name: [type(value).__module__[:20], type(value).__name__] for name, value in loaded.items()},
    "ids": captioner.generate(**inputs, max_new_tokens=6).tolist(),
    "beams": captioner.generate(
        **inputs, max_new_tokens=6, num_beams=4, num_beam_groups=2, diversity_penalty=0.5
    ).tolist(),
    "embeds": towers(**inputs).text_embeds.tolist(),
    "image-to-text": pipes["image-to-text"](image, prompt=prompt, max_new_tokens=6),
    "image-text-to-text": pipes["image-text-to-text"](image, text=prompt, max_new_tokens=6),
    "zero-shot": pipes["zero-shot-image-classification"](image, candidate_labels=labels),
    "features": pipes["image-feature-extraction"](image),
}
captioner.save_pretrained(again)
processor.save_pretrained(again)

tuned = Path(again).with_name(Path(again).name + "-tuned")
optimizer = torch.optim.SGD(captioner.parameters(), lr=0.1)
captioner(**inputs, labels=inputs["input_ids"]).loss.backward()
optimizer.step()
captioner.save_pretrained(tuned)
processor.save_pretrained(tuned)
loaded = t.AutoModelForImageTextToText.from_pretrained(tuned, **trust)
results["ids after tuning"] = captioner.generate(**inputs, max_new_tokens=6).tolist()
results["ids after loading what was tuned"] = loaded.generate(**inputs, max_new_tokens=6).tolist()
print(json.dumps(results))
"""

# The same without trust.
CAUTIOUS = """
import json, sys
for name in ("coca_hf", "ftfy", "torchvision"):
    sys.modules[name] = None
import transformers as t

(folder,) = sys.argv[1:]
said = {}
for name in (
    "AutoConfig", "AutoModel", "AutoModelForZeroShotImageClassification", "AutoModelForImageTextToText",
    "AutoProcessor", "AutoTokenizer", "AutoImageProcessor",
):
    try:
        getattr(t, name).from_pretrained(folder)
        said[name] = "loaded"
    except Exception as error:
        said[name] = str(error)
for task in ("image-to-text", "image-text-to-text", "zero-shot-image-classification"):
    try:
        t.pipeline(task, folder)
        said[task] = "loaded"
    except Exception as error:
        said[task] = str(error)
# On a line of its own, after the questions that nobody answers.
print("\\n" + json.dumps(said))
"""
AUTO_CLASSES = [
    "AutoConfig",
    "AutoModel",
    "AutoModelForZeroShotImageClassification",
    "AutoModelForImageTextToText",
    "AutoProcessor",
    "AutoTokenizer",
    "AutoImageProcessor",
]


# The same with a release of transformers that says it is older than it is.
OUTDATED = """
import json, sys
for name in ("coca_hf", "ftfy", "torchvision"):
    sys.modules[name] = None
import transformers.processing_utils  # it makes another `transformers` of the library, which would say its own version
import transformers as t
t.__version__ = "5.23.0"

(folder,) = sys.argv[1:]
said = {}
for name in (
    "AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor", "AutoTokenizer", "AutoImageProcessor",
):
    try:
        getattr(t, name).from_pretrained(folder, trust_remote_code=True)
        said[name] = "loaded"
    except ImportError as error:
        said[name] = str(error)
print("\\n" + json.dumps(said))
"""
NEEDS_NEWER = (
    "CoCa needs transformers 5.24 or newer, and transformers 5.23.0 is installed: "
    "run pip install --upgrade transformers."
)

# Loads a part that was saved alone, and says what it gives.
TOWER = """
import json, sys
for name in ("coca_hf", "ftfy", "torchvision"):
    sys.modules[name] = None
import torch
import transformers as t

folder, again = sys.argv[1:]
tower = t.AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
inputs = torch.ones(1, 3, 16, 16) if tower.main_input_name == "pixel_values" else torch.tensor([[1, 2, 3]])
tower.save_pretrained(again)
print(json.dumps({"class": type(tower).__name__, "output": tower(inputs).pooler_output.tolist()}))
"""


def load_as_a_stranger(folder: Path, again: Path, home: Path) -> dict:
    return run_alone(home, STRANGER, folder, again, IMAGE, PROMPT, *LABELS)


def run_alone(home: Path, script: str, *arguments: Path | str) -> dict:
    """What the script prints, in a process with caches of its own, and without a network."""
    environment = {
        **os.environ,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }
    result = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def download(folder: Path, repository: str, home: Path) -> None:
    """Lays out the cache as if `repository` held the folder and had been downloaded."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = home / "hub" / f"models--{repository.replace('/', '--')}"
    shutil.copytree(folder, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder, its copy saved by a stranger, and what strangers found in either and in a Hub repository."""
    root = tmp_path_factory.mktemp("saved")
    first = save_tiny_folder(root / "first")
    found = load_as_a_stranger(first, root / "again", root / "home")
    found_again = load_as_a_stranger(root / "again", root / "third", root / "other_home")
    download(first, "someone/tiny", root / "third_home")
    found_on_hub = load_as_a_stranger("someone/tiny", root / "fourth", root / "third_home")
    return {
        "first": first,
        "saved from the folder": root / "again",
        "saved from the Hub": root / "fourth",
        "tuned from the folder": root / "again-tuned",
        "tuned from the Hub": root / "fourth-tuned",
        "found": found,
        "found again": found_again,
        "found on the Hub": found_on_hub,
    }


@pytest.fixture(scope="module")
def expected(saved):
    """The same results from this package."""
    captioner, towers = CoCaForCaptioning.from_pretrained(saved["first"]), CoCaModel.from_pretrained(saved["first"])
    processor = CoCaProcessor.from_pretrained(saved["first"])
    inputs = processor(images=Image.open(IMAGE).convert("RGB"), text=PROMPT, return_tensors="pt")
    ids = captioner.generate(**inputs, max_new_tokens=6)
    groups = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}
    with torch.no_grad():
        embeds = towers(**inputs).text_embeds
    image = Image.open(IMAGE).convert("RGB")
    folder = str(saved["first"])
    zero_shot = coca_hf.pipeline("zero-shot-image-classification", folder, device="cpu")
    features = coca_hf.pipeline("image-feature-extraction", folder, device="cpu")
    return {
        "ids": ids.tolist(),
        "beams": captioner.generate(**inputs, max_new_tokens=6, **groups).tolist(),
        "embeds": embeds.tolist(),
        "caption": processor.decode(ids[0], skip_special_tokens=True),
        "zero-shot": zero_shot(image, candidate_labels=LABELS),
        "features": features(image),
    }


every_generation = pytest.mark.parametrize("generation", ["found", "found again", "found on the Hub"])


def test_the_folder_holds_every_file(saved):
    assert {path.name for path in saved["first"].iterdir()} == {
        *(path.name for path in PACKAGE.glob("*_coca.py")),
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_the_python_files_are_the_packages_own(saved):
    for path in PACKAGE.glob("*_coca.py"):
        assert (saved["first"] / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["saved from the folder", "saved from the Hub"])
def test_a_folder_saved_by_a_stranger_is_as_complete(saved, name):
    first, again = contents(saved["first"]), contents(saved[name])
    assert again.keys() == first.keys()
    # A loaded configuration also names the dtype in its parts.
    assert {file for file in first if first[file] != again[file]} <= {"config.json"}
    configs = [json.loads(files["config.json"]) for files in (first, again)]
    for entry in ("auto_map", "custom_pipelines", "architectures", "model_type"):
        assert configs[0][entry] == configs[1][entry]


@every_generation
def test_a_stranger_loads_every_auto_class_from_the_folder(saved, generation):
    assert saved[generation]["classes"] == {
        "AutoConfig": ["transformers_modules", "CoCaConfig"],
        "AutoModel": ["transformers_modules", "CoCaModel"],
        "AutoModelForZeroShotImageClassification": ["transformers_modules", "CoCaModel"],
        "AutoModelForImageTextToText": ["transformers_modules", "CoCaForCaptioning"],
        "AutoProcessor": ["transformers_modules", "CoCaProcessor"],
        "AutoTokenizer": ["transformers_modules", "CoCaTokenizer"],
        "AutoImageProcessor": ["transformers_modules", "CoCaImageProcessor"],
    }


@every_generation
def test_a_stranger_gets_the_same_ids_and_embeddings_bit_for_bit(saved, expected, generation):
    found = saved[generation]
    assert found["ids"] == expected["ids"]
    assert found["beams"] == expected["beams"]
    assert found["embeds"] == expected["embeds"]


@every_generation
def test_a_strangers_pipelines_give_what_the_packages_give(saved, expected, generation):
    found = saved[generation]
    assert found["image-to-text"] == [{"generated_text": expected["caption"]}]
    assert found["image-text-to-text"] == [{"input_text": PROMPT, "generated_text": expected["caption"]}]
    assert found["zero-shot"] == expected["zero-shot"]
    assert found["features"] == expected["features"]


@every_generation
def test_what_a_stranger_tuned_loads_as_it_was(saved, generation):
    found = saved[generation]
    assert found["ids after loading what was tuned"] == found["ids after tuning"]
    assert found["ids after tuning"] != found["ids"]


@pytest.mark.parametrize("name", ["tuned from the folder", "tuned from the Hub"])
def test_what_a_stranger_tuned_keeps_the_code_beside_the_weights(saved, name):
    first, tuned = contents(saved["first"]), contents(saved[name])
    assert tuned.keys() == first.keys()
    code = [file for file in first if file.endswith(".py")]
    assert [tuned[file] for file in code] == [first[file] for file in code]
    assert tuned["model.safetensors"] != first["model.safetensors"]


def test_without_trust_a_stranger_is_told_what_to_give(saved, tmp_path):
    said = run_alone(tmp_path, CAUTIOUS, saved["first"])
    assert said.keys() == {
        *AUTO_CLASSES,
        "image-to-text",
        "image-text-to-text",
        "zero-shot-image-classification",
    }
    assert {name: "trust_remote_code=True" in words for name, words in said.items()} == dict.fromkeys(said, True)


@pytest.mark.parametrize("auto_class", AUTO_CLASSES)
def test_with_the_package_no_trust_is_needed(saved, auto_class):
    loaded = getattr(transformers, auto_class).from_pretrained(saved["first"])
    assert type(loaded).__module__.startswith("coca_hf.")


@pytest.mark.parametrize("task", ["image-to-text", "image-text-to-text", "zero-shot-image-classification"])
def test_with_the_package_pipelines_need_no_trust(saved, task):
    made = coca_hf.pipeline(task, saved["first"], device="cpu")
    assert type(made.model).__module__ == "coca_hf.modeling_coca"


@pytest.mark.parametrize("part", ["CoCaProcessor", "CoCaTokenizer", "CoCaImageProcessor", "CoCaConfig"])
def test_a_part_saved_alone_brings_the_files_it_needs(part, tmp_path, saved):
    getattr(coca_hf, part).from_pretrained(saved["first"]).save_pretrained(tmp_path)
    assert {path.name for path in PACKAGE.glob("*_coca.py")} <= {path.name for path in tmp_path.iterdir()}


TOWERS = {
    "AutoConfig": "configuration_coca.CoCaConfig",
    "AutoModel": "modeling_coca.CoCaModel",
    "AutoModelForZeroShotImageClassification": "modeling_coca.CoCaModel",
}
CAPTIONER = {
    **TOWERS,
    "AutoModelForImageTextToText": "modeling_coca.CoCaForCaptioning",
    "AutoModelForMultimodalLM": "modeling_coca.CoCaForCaptioning",
}


@pytest.mark.parametrize(
    ("make", "auto_map"),
    [
        (lambda folder: CoCaForCaptioning.from_pretrained(folder), CAPTIONER),
        (lambda folder: CoCaModel.from_pretrained(folder), TOWERS),
        (lambda folder: CoCaConfig.from_pretrained(folder), CAPTIONER),
        # As with the library's models, a configuration that was read says what its folder said until a model is saved.
        (lambda folder: CoCaModel.from_pretrained(folder).config, CAPTIONER),
        (lambda folder: CoCaConfig(), CAPTIONER),
        (lambda folder: CoCaConfig(multimodal_config={"num_hidden_layers": 0}), TOWERS),
    ],
    ids=["captioner", "towers", "configuration", "towers' configuration", "new configuration", "without a decoder"],
)
def test_what_is_saved_promises_captions_where_it_can_write_them(make, auto_map, tmp_path, saved):
    made = make(saved["first"])
    if isinstance(made, CoCaModel):
        made.save_pretrained(tmp_path / "earlier")
    made.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["auto_map"] == auto_map
    assert ("custom_pipelines" in written) == (auto_map == CAPTIONER)


def test_a_configuration_from_saved_towers_promises_no_captions(tmp_path, saved):
    CoCaModel.from_pretrained(saved["first"]).save_pretrained(tmp_path / "towers")
    CoCaConfig.from_pretrained(tmp_path / "towers").save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["auto_map"] == TOWERS
    assert "custom_pipelines" not in written


@pytest.mark.parametrize("part", ["vision", "text"])
def test_a_tower_saved_alone_loads_where_the_package_is_absent(part, tmp_path, saved):
    tower = getattr(CoCaModel.from_pretrained(saved["first"]), f"{part}_model").eval()
    tower.save_pretrained(tmp_path / "tower")
    found = run_alone(tmp_path / "home", TOWER, tmp_path / "tower", tmp_path / "again")
    inputs = torch.ones(1, 3, 16, 16) if part == "vision" else torch.tensor([[1, 2, 3]])
    assert found["class"] == type(tower).__name__
    # Another process may sum up in another order.
    torch.testing.assert_close(torch.tensor(found["output"]), tower(inputs).pooler_output, rtol=0, atol=1e-5)
    assert contents(tmp_path / "again") == contents(tmp_path / "tower")


def test_an_older_transformers_is_refused_in_one_sentence_whatever_is_loaded(saved, tmp_path):
    said = run_alone(tmp_path, OUTDATED, saved["first"])
    assert set(said.values()) == {NEEDS_NEWER}


@pytest.mark.parametrize("module", ["coca_hf", "coca_hf.modeling_coca", "coca_hf.conversion"])
def test_the_package_refuses_an_older_transformers_in_the_same_sentence(module):
    code = f"import transformers; transformers.__version__ = '5.23.0'; import {module}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.splitlines()[-1] == f"ImportError: {NEEDS_NEWER}"


def test_every_class_that_is_loaded_first_leads_to_every_file():
    files = {path.name for path in PACKAGE.glob("*_coca.py")}
    for name in ("configuration", "modeling", "image_processing", "tokenization", "processing", "pipeline"):
        path = PACKAGE / f"{name}_coca.py"
        assert {Path(needed).name for needed in get_relative_import_files(str(path))} | {path.name} == files


def test_saving_twice_writes_the_same_folder(tmp_path, saved):
    for name in ("one", "two"):
        CoCaForCaptioning.from_pretrained(saved["first"]).save_pretrained(tmp_path / name)
        tiny_processor().save_pretrained(tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
