# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What README and documentation show runs, and the site builds without a warning.

Blocks marked `python` and `bash` run as `documented.py` says, against the bundled model, small pictures, and a Hub
on loopback that has tiny checkpoints under the names of real ones. In blocks marked `sh`, which are only shown, the
options of `coca-hf` exist.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import coca_hf
from coca_hf.cli import app
from coca_hf.conversion import export_open_clip
from coca_hf.modeling_coca import CoCaForCaptioning
from documented import ROOT, blocks_of, commands_in, pages
from hub_server import WRITER, serve_hub
from tiny_folder import tiny_model, tiny_processor


RUN = ("python", "bash")
COMMAND = r"(coca-hf|accelerate launch .*-m coca_hf\.cli) (?=[a-z])"
RUNNING_PAGES = [page for page in pages() if any(block.language in RUN for block in blocks_of(page))]
SHOWN = [
    pytest.param(line, id=f"{page}: {line[:50]}")
    for page in pages()
    for block in blocks_of(page)
    if block.language == "sh"
    for line in commands_in(block)
    if re.match(COMMAND, line)
]
CHECKPOINT = "laion/CoCa-ViT-L-14-laion2B-s13B-b90k"


def checkpoint_of_open_clip(folder: Path) -> dict[str, bytes]:
    """The files of a repository as open_clip's are, with a tiny model."""
    config = tiny_model(tiny_processor()).config.to_dict()
    # open_clip's decoder has no other ratio, and its image tokens no other width.
    width = config["text_config"]["hidden_size"]
    config["vision_config"]["pooler_hidden_size"] = width
    config["text_config"]["max_position_embeddings"] = 76
    config["multimodal_config"] |= {"cross_attention_hidden_size": width, "intermediate_size": 4 * width}
    for part in (config, config["vision_config"], config["text_config"]):
        part["projection_dim"] = width
    export_open_clip(CoCaForCaptioning(type(tiny_model(tiny_processor()).config).from_dict(config)), folder)
    tiny_processor().tokenizer.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def documented(tmp_path_factory) -> dict[str, str | None]:
    """What went wrong on each page, or None."""
    root = tmp_path_factory.mktemp("documented")
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_TOKEN": WRITER, "HF_HOME": str(root / "home")}
    environment |= {"OMP_NUM_THREADS": "1"}
    (root / "work").mkdir()
    with serve_hub() as hub:
        hub.add(CHECKPOINT, checkpoint_of_open_clip(root / "checkpoint"))
        command = [sys.executable, str(ROOT / "tests" / "documented.py"), str(root / "work"), *RUNNING_PAGES]
        environment["HF_ENDPOINT"] = hub.endpoint
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    return {outcome["page"]: outcome["error"] for outcome in outcomes}


@pytest.mark.parametrize("page", RUNNING_PAGES)
def test_what_a_page_shows_runs_from_top_to_bottom(documented, page):
    assert documented[page] is None, documented[page]


@pytest.mark.parametrize("line", SHOWN)
def test_a_command_that_is_shown_has_the_options_that_it_is_shown_with(line):
    group: Any = typer.main.get_command(app)
    name, *arguments = shlex.split(re.sub(COMMAND, "", line))
    group.commands[name].make_context(name, arguments)


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "fonts.googleapis.com" not in page
    assert "--num-beam-groups" in (tmp_path / "site" / "reference" / "command.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_what_a_page_outside_the_site_links_to_is_there(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_citation_names_this_version():
    assert f"version: {coca_hf.__version__}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
