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
    yield f"```text\n{' '.join([path, *(place(each) for each in arguments), '[OPTIONS]'])}\n```\n"
    explained = [each for each in arguments if each.help]
    if explained:
        yield table("Argument", [(f"`{place(each)}`", each.help) for each in explained])
    options = [each for each in command.params if each.param_type_name == "option"]
    yield table("Option", [named(each) for each in options if not each.hidden])
    hidden = [each for each in options if each.hidden]
    if hidden:
        yield "More options, which `--help-more` lists:\n"
        yield table("Option", [named(each) for each in hidden])


def place(argument: Any) -> str:
    """How an argument is called in the usage line."""
    word = (argument.metavar or argument.name).upper().strip("[]{}.")
    return f"{word}..." if argument.nargs == -1 else word


def named(option: Any) -> tuple[str, str]:
    """Names, and the word for the value, in code; and what the option is for."""
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else f" `{option.metavar or option.type.name.upper()}`"
    return names + value, option.help or ""


def table(title: str, rows: list[tuple[str, str]]) -> str:
    lines = [f"| {title} | |", "| --- | --- |", *(f"| {name} | {escaped(text)} |" for name, text in rows)]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text as it is, within a cell of a table in Markdown."""
    for character in "\\|<*_[":
        text = text.replace(character, "\\" + character)
    return text
