# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Processes of their own that find the libraries imported, for tests of what happens after their start."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess

import torch
import torch.multiprocessing

from coca_hf.batch_inference.reading import start_early
from coca_hf.cli import main


def run_together(worker: Callable[..., None], arguments: tuple, number: int, seconds: float = 240) -> None:
    """
    Calls `worker(rank, *arguments)` in so many processes at a time, and raises what one of them raises.

    Processes that wait for each other for ever are ended after `seconds`, with a `TimeoutError`.
    """
    start_early()
    context = torch.multiprocessing.start_processes(worker, arguments, number, join=False, start_method="forkserver")
    deadline = time.monotonic() + seconds
    while not context.join(timeout=1):
        if time.monotonic() > deadline:
            waiting = [rank for rank, process in enumerate(context.processes) if process.is_alive()]
            for process in context.processes:
                process.kill()
            raise TimeoutError(f"ranks {waiting} of {number} still run after {seconds} seconds")


def start_command(*arguments: str) -> ForkServerProcess:
    """The command in this folder, in a session of its own; what it says goes into the files `stdout` and `stderr`."""
    start_early()
    process = multiprocessing.get_context("forkserver").Process(target=_run, args=(arguments,))
    process.start()
    return process


def _run(arguments: tuple[str, ...]) -> None:
    os.setsid()
    # The process that it was made from is deaf to Ctrl-C.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), descriptor)
    torch.set_num_threads(1)
    sys.exit(main(arguments))
