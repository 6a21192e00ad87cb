# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Who shares the work of a run: processes that a launcher started, or a Ray cluster."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class RayOptions:
    """A cluster's address, None for one of this run's own, and what each of `workers` models gets there.

    `gpus` None is 1 where the cluster has GPUs, else 0.
    """

    address: str | None = None
    workers: int = 1
    gpus: float | None = None
    cpus: int = 1


def processes() -> tuple[int, int]:
    """This process's number and how many there are, as `accelerate launch` and torchrun tell them."""
    try:
        return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    except ValueError:
        return 0, 1


def processes_here() -> int:
    """How many of them are on this machine."""
    here = os.environ.get("LOCAL_WORLD_SIZE", "")
    return int(here) if here.isdigit() and int(here) else processes()[1]
