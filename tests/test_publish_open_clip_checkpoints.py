# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""LAION's checkpoints are converted and published by one script; here they are tiny, and on a server on loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from coca_hf.conversion import export_open_clip
from coca_hf.conversion.sources import CONFIG_NAME
from coca_hf.modeling_coca import CoCaForCaptioning
from coca_hf.publishing.plan import CODE
from hub_server import WRITER, serve_hub
from tiny_folder import tiny_model, tiny_processor


pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parents[1] / "scripts" / "publishing"
THERE, MISSING = "CoCa-ViT-B-32-laion2B-s13B-b90k", "CoCa-ViT-L-14-laion2B-s13B-b90k"

PUBLISH_ALL = f"""
import dataclasses, json, sys
from pathlib import Path
sys.path.insert(0, {str(SCRIPTS)!r})
import publish_open_clip_checkpoints as script
from coca_hf.publishing.laion import CHECKPOINTS
preset, tokenizer, work = sys.argv[1:]
tiny = [
    dataclasses.replace(c, architecture=dataclasses.replace(c.architecture, preset=preset)) for c in CHECKPOINTS[1::-1]
]
failed = script.publish_all(tiny, "someone", Path(work), private=True, dry_run=False, tokenizer=tokenizer)
print(json.dumps(failed))
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """What the script said and did about two checkpoints, one of which the Hub does not have."""
    root = tmp_path_factory.mktemp("published")
    processor = tiny_processor()
    processor.save_pretrained(root / "tokenizer")
    config = tiny_model(processor).config.to_dict()
    # open_clip's decoder has no other ratio, and its image tokens no other width.
    width = config["text_config"]["hidden_size"]
    config["vision_config"]["pooler_hidden_size"] = width
    config["multimodal_config"] |= {"cross_attention_hidden_size": width, "intermediate_size": 4 * width}
    for part in (config, config["vision_config"], config["text_config"]):
        part["projection_dim"] = width
    export_open_clip(CoCaForCaptioning(type(tiny_model(processor).config).from_dict(config)), root / "theirs")
    preset = root / "theirs" / CONFIG_NAME
    with serve_hub() as hub:
        hub.add(f"laion/{THERE}", {path.name: path.read_bytes() for path in (root / "theirs").iterdir()})
        environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": WRITER}
        done = subprocess.run(
            [sys.executable, "-c", PUBLISH_ALL, str(preset), str(root / "tokenizer"), str(root / "work")],
            capture_output=True,
            text=True,
            check=False,
            env=environment | {"HF_HOME": str(root / "home"), "OMP_NUM_THREADS": "1"},
        )
        yield hub, done, root


def test_a_checkpoint_is_published_under_the_namespace_in_one_commit(published):
    hub, done, _ = published
    assert f"someone/{THERE}: {hub.endpoint}/someone/{THERE}/commit/" in done.stderr, done.stderr
    repository = hub.repositories[f"someone/{THERE}"]
    assert repository.private
    assert len(repository.history()) == 1
    assert {*CODE, "README.md", "model.safetensors", "tokenizer.json"} <= hub.files(f"someone/{THERE}").keys()


def test_its_card_is_that_of_the_checkpoint_and_names_the_new_repository(published):
    card = published[0].files(f"someone/{THERE}")["README.md"].decode()
    assert f"base_model: laion/{THERE}" in card
    assert "reported upstream" in card
    assert f'model="someone/{THERE}"' in card
    assert "OWNER/NAME" not in card


def test_one_that_fails_is_named_and_keeps_no_other_back(published):
    hub, done, root = published
    assert json.loads(done.stdout.splitlines()[-1]) == [MISSING]
    assert f"someone/{MISSING}: Cannot read the Hub repository 'laion/{MISSING}'" in done.stderr
    assert f"someone/{MISSING}" not in hub.repositories
    assert not (root / "work" / MISSING).exists()
