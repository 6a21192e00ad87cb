# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf push`."""

import logging
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ..captioning.text import count, printable
from . import console
from .options import Quiet, option


if TYPE_CHECKING:
    from ..publishing import Publication


def push(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Saved model and processor.")],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="Where to: owner/name.")],
    private: Annotated[bool, option("For its owner's eyes only.", None, "--private")] = False,
    revision: Annotated[str | None, option("Branch (default: main).", "BRANCH")] = None,
    message: Annotated[str | None, option("Title of the commit.", "TEXT")] = None,
    dry_run: Annotated[bool, option("Show files and card; send nothing.", None, "--dry-run")] = False,
    quiet: Quiet = False,
) -> None:
    """Publish a saved folder on the Hugging Face Hub, in one commit.

    The token is that of 'hf auth login', or of HF_TOKEN. The folder is loaded first, in a process
    that has transformers only. The same command again continues what failed.
    """
    from ..publishing.errors import PublishingError
    from ..publishing.plan import plan_publication

    try:
        publication = plan_publication(folder, repo_id)
    except PublishingError as error:
        raise console.UsageError(str(error).rstrip(".")) from error

    from ..publishing.check import check_loads
    from ..publishing.push import MAIN, MESSAGE, check_login, publish

    console.silence_libraries()
    _quieten(quiet)
    try:
        if not dry_run:
            check_login(repo_id)
        check_loads(publication)
        if dry_run:
            _show(publication, f"{'private, ' if private else ''}branch {revision or MAIN}: {message or MESSAGE}")
            return
        published = publish(publication, private=private, revision=revision, message=message)
    except PublishingError as error:
        console.complain(str(error))
        raise typer.Exit(1) from error
    if not quiet:
        files = count(len(publication.sizes), "file")
        console.complain(f"{files}, {sum(publication.sizes.values()):,} bytes, are in {repo_id}")
    typer.echo(published.url)


def _quieten(quiet: bool) -> None:
    """The client keeps its bars, on a terminal. What it says besides is for programmers, and holds signatures."""
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils import logging as client_logging

    client_logging.set_verbosity_error()
    if quiet or not sys.stderr.isatty():
        disable_progress_bars()
    waits = logging.getLogger("coca_hf.publishing")
    waits.addHandler(logging.NullHandler() if quiet else _Complaints())
    waits.propagate = False


class _Complaints(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        console.complain(record.getMessage())


def _show(publication: "Publication", heading: str) -> None:
    """What would be sent, and the card."""
    sizes = publication.sizes
    width = len(f"{sum(sizes.values()):,}")
    typer.echo(f"{publication.repo_id}, {printable(heading)}")
    for name, size in sizes.items():
        typer.echo(f"{size:>{width},}  {name}")
    typer.echo(f"{sum(sizes.values()):>{width},}  bytes in {count(len(sizes), 'file')}")
    if publication.left_out:
        typer.echo(f"not sent: {', '.join(map(printable, publication.left_out))}")
    typer.echo(f"\n{publication.card}")
