# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The `coca-hf` command: a module a subcommand, and nothing in them that a program would want to import.

Nothing here imports torch or transformers before a command has checked what it was given.
"""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from .. import __version__
from ..batch_inference.errors import BatchInferenceError
from . import console
from .caption import caption
from .classify import classify
from .convert import convert
from .demo import demo
from .embed import embed
from .evaluate import evaluate
from .export import export
from .index import index
from .push import push
from .search import search
from .train import train


# Releases of Typer differ in whether they use click or carry a copy of it.
_ParseError: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(
    help="CoCa: captions, embeddings and labels for images.",
    epilog="'coca-hf COMMAND --help' shows the options of a command.",
    add_completion=False,
    # Plain help is half as long, which keeps a command's on one screen.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command()(caption)
app.command()(embed)
app.command()(classify)
app.command()(index)
app.command()(search)
app.command(short_help="Train or fine-tune a model on images with captions.")(train)
app.command()(evaluate)
app.command()(convert)
app.command()(export)
app.command()(push)
app.command()(demo)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{console.PROGRAM} {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)
    console.name_command(context.invoked_subcommand)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    0: all done. 1: some inputs failed, or the results could not be written. 2: a usage error. 130: interrupted.
    """
    console.prepare_streams()
    try:
        words = sys.argv[1:] if arguments is None else list(arguments)
        code = app(words, prog_name=console.PROGRAM, standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except _ParseError as error:
        message = error.format_message().rstrip(".")
        end = "" if message.endswith("?") else "."
        console.complain(f"{message}{end} '{_command_path(error)} --help' shows what there is.")
        return 2
    except console.UsageError as error:
        console.complain(f"{error}.")
        return 2
    except BatchInferenceError as error:
        console.complain(f"{error}.")
        return 1
    except (KeyboardInterrupt, typer.Abort):  # older releases of Typer make the one the other
        console.complain("stopped")
        return 130
    except BrokenPipeError:
        return 1
    finally:
        console.let_go_of_streams()


def _command_path(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if context else console.PROGRAM
