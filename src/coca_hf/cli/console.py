# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a command says on stderr, and the state of the three streams."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from ..batch_inference.errors import BatchInferenceError
from ..batch_inference.models import silence_libraries as silence_libraries
from ..batch_inference.progress import Progress, ProgressBar, ProgressLines
from ..batch_inference.wording import printable


PROGRAM = "coca-hf"

_speaker = PROGRAM


class UsageError(Exception):
    """What was asked for cannot be done, whatever the inputs hold. Exit code 2."""


@contextmanager
def as_usage_error() -> Iterator[None]:
    """Problems that show before the work begins are the command line's."""
    try:
        yield
    except BatchInferenceError as error:
        raise UsageError(str(error)) from error


def name_command(command: str) -> None:
    """Messages are from `command` from now on."""
    global _speaker
    _speaker = f"{PROGRAM} {command}"


def complain(message: str) -> None:
    """One line on stderr. Where that is full or gone, the work goes on without."""
    with suppress(OSError):
        print(f"{_speaker}: {printable(message)}", file=sys.stderr, flush=True)


def prepare_streams() -> None:
    """Gives every stream a place to go, and a way to write every character."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            # Closed by the caller. A file that is opened later would get its number, and our output.
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")


def let_go_of_streams() -> None:
    """Where they take nothing more, as with `| head` or a full disk, what is left for them goes nowhere."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            # The interpreter would try again when it ends, complain, and exit with a code of its own.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def progress(quiet: bool) -> Progress:
    """A bar on a terminal, lines in a log."""
    if quiet:
        return Progress()
    return ProgressBar(_speaker, _Unbreakable(sys.stderr)) if sys.stderr.isatty() else ProgressLines(complain)


class _Unbreakable:
    """A stream whose failures do not matter: a bar that cannot be drawn is no reason to end a run."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            return self.stream.write(text)
        return 0

    def flush(self) -> None:
        with suppress(OSError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
