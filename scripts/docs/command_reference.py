# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A hook of MkDocs: writes the reference of the `coca-hf` command from the command itself, hidden options included."""

from collections.abc import Iterator
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import coca_hf_command  # noqa: F401  the command does not wait for torch: neither does the site
from coca_hf.cli import app


PAGE = "reference/command.md"
HEAD = """# The command

Made from what `coca-hf COMMAND --help` and `--help-more` say. Every command exits with 0 when all is done, with 1 when
some inputs failed (each is named with its reason, and everything else is written), with 2 when the command line is
wrong, before any work, and with 130 when it was interrupted.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the page to the site."""
    files.append(File.generated(config, PAGE, content=reference()))
    return files


def reference() -> str:
    """The page, in Markdown: a section for each command, in the order of `coca-hf --help`."""
    group: Any = typer.main.get_command(app)
    sections = [HEAD]
    for name, command in group.commands.items():
        sections += section(f"coca-hf {name}", command)
    return "\n".join(sections)


def section(path: str, command: Any) -> Iterator[str]:
    """Heading, sentence, usage and tables of one command, and the same of the commands below it."""
    yield f"## {path}\n\n{command.help or ''}\n"
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from section(f"{path} {name}", below)
        return
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    places = [each.metavar or each.name.upper() for each in arguments]
    yield f"```text\n{' '.join([path, *places, '[OPTIONS]'])}\n```\n"
    options = [each for each in command.params if each.param_type_name == "option"]
    yield table("Option", [each for each in options if not each.hidden])
    hidden = [each for each in options if each.hidden]
    if hidden:
        yield "And for many images, as `--help-more` lists them:\n"
        yield table("Option", hidden)


def table(title: str, options: list[Any]) -> str:
    rows = [f"| {title} | |", "| --- | --- |"]
    for each in options:
        names = ", ".join(f"`{name}`" for name in [*each.opts, *each.secondary_opts])
        value = "" if each.is_flag else f" `{each.metavar or each.type.name.upper()}`"
        rows.append(f"| {names}{value} | {escaped(each.help or '')} |")
    return "\n".join(rows) + "\n"


def escaped(text: str) -> str:
    """Text as it is, within a cell of a table in Markdown."""
    for character in "\\|<*_[":
        text = text.replace(character, "\\" + character)
    return text
