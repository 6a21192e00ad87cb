# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Processes of their own that find the libraries imported, for tests of what happens after their start."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess

import torch
import torch.multiprocessing

from coca_hf.captioning.workers import start_early
from coca_hf.cli import main


def run_together(worker: Callable[..., None], arguments: tuple, number: int) -> None:
    """Calls `worker(rank, *arguments)` in so many processes at a time, and raises what one of them raises."""
    start_early()
    torch.multiprocessing.start_processes(worker, arguments, number, start_method="forkserver")


def start_command(*arguments: str) -> ForkServerProcess:
    """The command in this folder, in a session of its own; what it says goes into the files `stdout` and `stderr`."""
    start_early()
    process = multiprocessing.get_context("forkserver").Process(target=_run, args=(arguments,))
    process.start()
    return process


def _run(arguments: tuple[str, ...]) -> None:
    os.setsid()
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), descriptor)
    torch.set_num_threads(1)
    sys.exit(main(arguments))
