# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""
Checkpoints of Trainer, from a run with FSDP to one without and back.

Trainer writes two kinds, and reads the one of its present setup. With FSDP there are the weights once more
(`pytorch_model_fsdp.bin`), and what the optimizer remembers goes by the names of parameters (`optimizer.bin`). Without
it, that goes by their numbers (`optimizer.pt`). What they hold is the same.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


SHARDED_WEIGHTS, SHARDED_OPTIMIZER, PLAIN_OPTIMIZER = "pytorch_model_fsdp.bin", "optimizer.bin", "optimizer.pt"
WEIGHTS = "model.safetensors"
State = dict[str, Any]


def _by_name(state: State, names: Sequence[Sequence[str]]) -> State:
    """An optimizer's state with the names of each group's parameters in place of their numbers."""
    flat = [name for group in names for name in group]
    groups = [{**group, "params": list(own)} for group, own in zip(state["param_groups"], names, strict=True)]
    return {"state": {flat[number]: value for number, value in state["state"].items()}, "param_groups": groups}


def _by_number(state: State) -> State:
    flat = [name for group in state["param_groups"] for name in group["params"]]
    numbers = {name: number for number, name in enumerate(flat)}
    groups = [{**group, "params": [numbers[name] for name in group["params"]]} for group in state["param_groups"]]
    return {"state": {numbers[name]: value for name, value in state["state"].items()}, "param_groups": groups}


def is_of_other_kind(folder: Path, is_sharded: bool) -> bool:
    """Whether Trainer could not read the checkpoint, but for [`converted`]; those of adapters are of one kind."""
    missing, other = (SHARDED_OPTIMIZER, PLAIN_OPTIMIZER) if is_sharded else (PLAIN_OPTIMIZER, SHARDED_OPTIMIZER)
    return (folder / WEIGHTS).exists() and (folder / other).exists() and not (folder / missing).exists()


@contextlib.contextmanager
def converted(
    folder: Path, names: Sequence[Sequence[str]], is_sharded: bool, is_first: bool, wait: Callable[[], None]
) -> Iterator[Path]:
    """
    A folder beside a checkpoint, with all that it holds, as Trainer reads it; gone afterwards.

    Args:
        names: Of the parameters that are trained, of each of the optimizer's groups.
        is_sharded: Whether FSDP is to read it.
        is_first: Whether this process writes it.
        wait: Waits for the other processes.
    """
    other = folder.with_name(f".{folder.name}-converted")
    if is_first:
        shutil.rmtree(other, ignore_errors=True)
        other.mkdir()
        for path in folder.iterdir():
            if path.name not in (SHARDED_WEIGHTS, SHARDED_OPTIMIZER, PLAIN_OPTIMIZER):
                os.symlink(path.resolve(), other / path.name)
        present = SHARDED_OPTIMIZER if not is_sharded else PLAIN_OPTIMIZER
        state = torch.load(folder / present, map_location="cpu", weights_only=True)
        if is_sharded:
            torch.save(_by_name(state, names), other / SHARDED_OPTIMIZER)
            torch.save(load_file(folder / WEIGHTS), other / SHARDED_WEIGHTS)
        else:
            torch.save(_by_number(state), other / PLAIN_OPTIMIZER)
    wait()
    try:
        yield other
    finally:
        if is_first:
            shutil.rmtree(other, ignore_errors=True)


__all__ = ["converted", "is_of_other_kind"]
