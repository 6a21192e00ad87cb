# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""`coca-hf push`."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ..batch_inference.wording import count, printable
from . import console
from .options import Quiet, option


if TYPE_CHECKING:
    from ..publishing import Publication


def push(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Saved model and processor.")],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="Where to: owner/name.")],
    private: Annotated[bool, option("Make a new repository private.", None, "--private")] = False,
    revision: Annotated[str | None, option("Branch (default: main).", "BRANCH")] = None,
    message: Annotated[str | None, option("Title of the commit.", "TEXT")] = None,
    endpoint: Annotated[bool, option("With a handler for Inference Endpoints.", None, "--endpoint")] = False,
    dry_run: Annotated[bool, option("Show files and card; send nothing.", None, "--dry-run")] = False,
    space: Annotated[bool, option("As a Space: the page of coca-hf demo, the model beside.", None, "--space")] = False,
    quiet: Quiet = False,
) -> None:
    """Publish a saved folder on the Hugging Face Hub, in one commit.

    The token is that of 'hf auth login', or of HF_TOKEN. The folder is loaded first, in a process
    that has transformers only. The same command again continues what failed.
    """
    from ..publishing.errors import PublishingError
    from ..publishing.plan import check_branch, plan_publication, with_endpoint
    from ..publishing.space import check_starts, plan_space

    if space and endpoint:
        raise console.UsageError("--space and --endpoint exclude each other")
    try:
        publication = (plan_space if space else plan_publication)(folder, repo_id)
        if endpoint:
            publication = with_endpoint(publication)
        check_branch(revision)
    except PublishingError as error:
        raise console.UsageError(str(error).rstrip(".")) from error

    from ..publishing.check import check_loads
    from ..publishing.push import MAIN, MESSAGE, check_login, publish

    console.silence_libraries()
    watched = sys.stderr.isatty() and not quiet
    _let_the_client_speak(quiet, bars=watched)
    try:
        if not dry_run:
            check_login(repo_id)
        if watched:
            console.complain("loading it where only transformers is installed ...")
        check_loads(plan_publication(folder, repo_id) if space else publication)
        if space:
            if watched:
                console.complain("starting the page ...")
            check_starts(publication)
        if dry_run:
            _show(publication, f"{'private, ' if private else ''}branch {revision or MAIN}: {message or MESSAGE}")
            return
        with _stopping_at_once():
            published = publish(publication, private=private, revision=revision, message=message)
    except PublishingError as error:
        console.complain(str(error))
        raise typer.Exit(1) from error
    if not quiet:
        files = count(len(publication.sizes), "file")
        console.complain(f"{files}, {sum(publication.sizes.values()):,} bytes, are in {repo_id}")
        if published.removed:
            console.complain(f"removed there, as parts of an earlier model: {', '.join(published.removed)}")
    typer.echo(published.url)


@contextmanager
def _stopping_at_once() -> Iterator[None]:
    """Ctrl-C ends the process: the client would first wait for its threads, each with a file to send to the end."""

    def stop(*_: object) -> None:
        console.complain("stopped; the same command goes on where it stopped")
        os._exit(130)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _let_the_client_speak(quiet: bool, *, bars: bool) -> None:
    """What it and we wait for is said, a line each, as is what it warns of."""
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
    from huggingface_hub.utils import logging as client_logging

    # transformers, told to be silent, has switched them off.
    (enable_progress_bars if bars else disable_progress_bars)()
    for logger in (client_logging.get_logger(), logging.getLogger("coca_hf.publishing")):
        logger.handlers = [logging.NullHandler() if quiet else _Complaints()]
        logger.propagate = False


class _Complaints(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        from huggingface_hub.utils import tqdm

        from ..publishing.push import without_secrets

        with tqdm.external_write_mode(file=sys.stderr):
            console.complain(without_secrets(record.getMessage()))


def _show(publication: "Publication", heading: str) -> None:
    """What would be sent, and the card."""
    sizes = publication.sizes
    width = len(f"{sum(sizes.values()):,}")
    typer.echo(f"{publication.repo_id}, {printable(heading)}")
    for name, size in sizes.items():
        typer.echo(f"{size:>{width},}  {printable(name)}")
    typer.echo(f"{sum(sizes.values()):>{width},}  bytes in {count(len(sizes), 'file')}")
    if publication.left_out:
        typer.echo(f"not sent: {', '.join(map(printable, publication.left_out))}")
    typer.echo(f"\n{publication.card}")
