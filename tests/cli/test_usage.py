# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Help is quick and fits a screen; a wrong command line is one line, and nothing is loaded or written for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import coca_hf
from coca_hf.batch_inference import tasks


COMMANDS = [
    "caption",
    "embed",
    "classify",
    "index",
    "search",
    "train",
    "evaluate",
    "convert",
    "export",
    "push",
    "demo",
]


@pytest.fixture(autouse=True)
def no_model(monkeypatch):
    """Usage is checked before anything is loaded."""

    def load(*arguments):
        raise AssertionError("a model was about to be loaded")

    for task in ("CaptionTask", "EmbedTask", "ClassifyTask"):
        monkeypatch.setattr(tasks, task, load)


@pytest.mark.parametrize("arguments", [[], *([command] for command in COMMANDS)])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_fits_a_screen(coca, monkeypatch, arguments, flag):
    monkeypatch.setenv("COLUMNS", "80")
    result = coca(*arguments, flag)
    assert result.code == 0
    lines = result.out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "..." not in result.out.partition("Options:")[2]


def test_help_lists_the_commands(coca):
    commands = coca("--help").out.partition("Commands:\n")[2].split("\n\n")[0]
    assert [line.split()[0] for line in commands.splitlines()] == COMMANDS


@pytest.mark.parametrize(
    "arguments", [["--help"], ["caption", "--help"], ["--version"], ["caption", "x", "--top-k", "0"]]
)
def test_nothing_heavy_is_imported_for_help_and_usage(arguments):
    heavy = ["torch", "transformers", "numpy", "rich", "pyarrow", "safetensors", "huggingface_hub"]
    script = (
        "import sys, coca_hf_command\n"
        f"sys.argv[1:] = {arguments}\n"
        "coca_hf_command.main()\n"
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stderr.splitlines()[-1] == "[]"


def test_version_is_the_installed_one(coca):
    result = coca("--version")
    assert (result.code, result.out) == (0, f"coca-hf {coca_hf.__version__}\n")


def test_the_installed_script_is_this_command():
    script = Path(sys.executable).with_name("coca-hf")
    result = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"coca-hf {coca_hf.__version__}\n"


def test_without_a_command_the_help_is_shown_as_an_error(coca):
    result = coca()
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("Usage: coca-hf")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photograph", "x"], "coca-hf: No such command 'photograph'. 'coca-hf --help' shows what there is."),
        (["paint"], "coca-hf: No such command 'paint'. Did you mean 'train'? 'coca-hf --help' shows what there is."),
        (["caption"], "coca-hf caption: no images were given: name files, folders"),
        (["caption", "x", "--colour"], "coca-hf caption: No such option"),
        (["caption", "x", "--batch-size", "many"], "coca-hf caption: Invalid value for '--batch-size'"),
        (["caption", "x", "--batch-size", "0"], "coca-hf caption: batch-size 0 is not allowed: give 1 or more."),
        (["caption", "x", "--num-beams", "0"], "coca-hf caption: num-beams 0 is not allowed: give 1 or more."),
        (["caption", "x", "--top-p", "2"], "coca-hf caption: top-p 2.0 is not allowed"),
        (["caption", "x", "--num-beam-groups", "2"], "coca-hf caption: num-beam-groups 2 needs num-beams as well"),
        (["caption", "x", "--device", "gpu"], "coca-hf caption: no such device: 'gpu'. Give auto, cpu"),
        (["caption", "x", "--dtype", "int8"], "coca-hf caption: no such type: 'int8'. Give auto, float32"),
        (
            ["caption", "x", "--model", "./nowhere"],
            "coca-hf caption: no model at './nowhere'. Give a saved model's folder",
        ),
        (["caption", "x", "--model", "."], "coca-hf caption: '.' has no config.json"),
        (
            ["caption", "x", "--output", "out.csv"],
            "coca-hf caption: cannot write to 'out.csv': the name has to end in",
        ),
        (
            ["caption", "x", "--output", "no/out.jsonl"],
            "coca-hf caption: cannot write to 'no/out.jsonl': there is no folder",
        ),
        (["caption", "x", "--output", "notes.jsonl"], "coca-hf caption: 'notes.jsonl' exists already."),
        (["caption", "x", "--report", "notes.html"], "coca-hf caption: 'notes.html' exists already."),
        (
            ["caption", "x", "--report", "out.pdf"],
            "coca-hf caption: cannot write to 'out.pdf': the name has to end in",
        ),
        (["embed", "x"], "coca-hf embed: Missing option '--output'"),
        (
            ["embed", "x", "-o", "out.jsonl"],
            "coca-hf embed: cannot write to 'out.jsonl': the name has to end in .npy or",
        ),
        (["classify", "x"], "coca-hf classify: Missing option '--labels'"),
        (["classify", "x", "--labels", "cat"], "coca-hf classify: the only label is 'cat': give two or more"),
        (["classify", "x", "--labels", "cat,,dog"], "coca-hf classify: a label in 'cat,,dog' is empty."),
        (["classify", "x", "--labels", "cat,dog, cat"], "coca-hf classify: the label 'cat' is given more than once."),
        (["classify", "x", "--labels", "a,b", "--template", "a"], "coca-hf classify: the template 'a' needs one {}"),
    ],
)
def test_a_wrong_command_line_is_one_line(coca, arguments, message):
    Path("notes.jsonl").write_text("my notes")
    Path("notes.html").write_text("my notes")
    result = coca(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(message)
    assert result.err.count("\n") == 1
    assert sorted(os.listdir()) == ["notes.html", "notes.jsonl"]
    assert Path("notes.jsonl").read_text() == Path("notes.html").read_text() == "my notes"


def test_control_characters_in_a_message_are_escaped(coca):
    assert coca("caption", "x", "--model", "a\x1b[2J/b/c").err.startswith(
        r"coca-hf caption: no model at 'a\x1b[2J/b/c'"
    )


def test_without_a_model_the_bundled_one_is_checked(coca, monkeypatch, tmp_path):
    monkeypatch.setattr(coca_hf, "bundled_model", lambda: tmp_path / "bundled")
    assert coca("caption", "x").err.startswith(f"coca-hf caption: no model at '{tmp_path}/bundled'")
