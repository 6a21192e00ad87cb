# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A training run from its options to a saved folder: `train`."""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from safetensors import SafetensorError

from ..batch_inference.progress import Progress
from ..batch_inference.wording import count
from .errors import TrainingError, TrainingFolderError, TrainingInterrupted, TrainingOptionError
from .folder import RunFolder
from .held_out import HeldOut
from .options import TrainingOptions, read_yaml
from .parts import RunParts
from .reading import ChangeBatch
from .run_trainer import RunTrainer, interruptible
from .saving import save_trained
from .starting_model import prepare_for_training


@dataclass(frozen=True)
class TrainingResult:
    """What a run made: scores by name, `before` and `after`, are empty without data to measure on."""

    output: str
    steps: int
    samples: int
    skipped: int
    truncated: int
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    waiting_share: float = 0.0
    """Of the time of this call's steps, what the model waited for data."""
    was_finished: bool = False
    """Whether the folder held the finished run already, so that there was nothing to do."""
    rank: int = 0


def train(
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    *,
    config: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda message: None,
    change_batch: ChangeBatch | None = None,
    **options: Any,
) -> TrainingResult:
    """
    Trains a CoCa on captioned images and saves it, as `coca-hf train` does. The same call continues what was stopped.

    Args:
        data: files, folders and Hub data sets, see `open_image_text_data`.
        config: a YAML file of options, over which those given here win.
        progress: is told of each step.
        say: is given sentences about the run: that it is continued, what was left out.
        change_batch: is given each batch and a NumPy generator of its own, and returns the batch that the model is to
            get. A batch has `pixel_values` (images, 3, height, width), `input_ids`, `attention_mask` and `labels`
            (images, text). It is called in the processes that read, so it must be a function of a module. A run
            is continued exactly only with the same function.
        options: the fields of `TrainingOptions` by name; `output` is needed.

    Raises:
        TrainingOptionError: An option is unknown, out of range, or missing.
        TrainingFolderError: The output folder is not this run's, or the disk is full.
        InputError: The data cannot be used.
        TrainingInterrupted: Ctrl-C or a request to end; a checkpoint has been written.
        TrainingError: Anything else that ends the run, among them a loss that is no number.

    Example:

    ```python
    >>> from coca_hf.training import train  # doctest: +SKIP

    >>> train("photos.jsonl", model="me/my-coca", output="fine-tuned", epochs=3)  # doctest: +SKIP
    ```"""
    given = {**options} if data is None else {**options, "data": data}
    chosen = TrainingOptions.of({} if config is None else read_yaml(os.fspath(config)), given)
    chosen.check_ready()
    folder = RunFolder(chosen)
    if folder.is_finished:
        folder.finish()
        return _finished(folder)
    return _Run(RunParts(chosen, folder, progress or Progress(), change_batch), say).result()


def _finished(folder: RunFolder) -> TrainingResult:
    facts = json.loads((folder.path / "result.json").read_text("utf-8"))
    return TrainingResult(output=str(folder.path), was_finished=True, **facts)


class _Run:
    """From the parts to the result."""

    def __init__(self, parts: RunParts, say: Callable[[str], None]):
        self.parts, self.say = parts, say
        self.options, self.folder, self.steps = parts.options, parts.folder, parts.steps
        prepared = prepare_for_training(parts.model, parts.options)
        parts.check_disk(prepared)
        try:
            self.trainer = RunTrainer(parts, prepared)
        except (RuntimeError, ImportError, ValueError) as error:
            if not parts.options.report_to:
                raise
            # The library says which of its reporters is unknown to it or not installed.
            raise TrainingOptionError(f"--report-to: {' '.join(str(error).split())}") from error
        if parts.evaluated is not None:
            self.trainer.held_out = HeldOut(
                parts.evaluated, parts.processor, parts.context, parts.options.batch_size, self.trainer.accelerator
            )

    def result(self) -> TrainingResult:
        self.trainer.accelerator.wait_for_everyone()
        with ExitStack() as opened:
            if self.parts.is_main:
                self.folder.begin(self.parts.facts())
                opened.enter_context(self.folder.locked(self.say))
                self.folder.remove_incomplete()
            return self._trained()

    def _trained(self) -> TrainingResult:
        trainer = self.trainer
        trainer.accelerator.wait_for_everyone()
        step = max(self.folder.complete_steps(), default=0)
        if step:
            self.folder.check_checkpoint(step)
        if self.parts.is_main:
            # Of a run that begins anew, the measurement before it goes, too.
            self.folder.cut_back(step or -1)
        trainer.accelerator.wait_for_everyone()
        trainer.restore(step)
        self._say_what_begins(step)
        started = time.monotonic()
        with self.parts.progress, interruptible(trainer):
            self.parts.progress.begin(self.steps, step)
            with self._disk_watched():
                trainer.train(resume_from_checkpoint=str(self.folder.checkpoint(step)) if step else None)
        if trainer.state.global_step < self.steps:
            raise TrainingInterrupted(trainer.state.global_step, self.steps)
        with self._disk_watched():
            return self._finish(time.monotonic() - started)

    def _say_what_begins(self, step: int) -> None:
        if not self.parts.is_main:
            return
        if step:
            self.say(f"Resuming after step {step:,} of {self.steps:,}")
            return
        left_out = self.parts.data.skipped
        if left_out:
            self.folder.append("skipped.jsonl", [{"step": 0, "image": name, "error": why} for name, why in left_out])
            self.say(f"{count(len(left_out), 'record')} cannot be used; the first, {left_out[0][0]}: {left_out[0][1]}")
        if left_out and self.options.strict:
            raise TrainingError(f"--strict: {left_out[0][0]}: {left_out[0][1]}")
        samples = len(self.parts.plan.samples)
        per_epoch = self.parts.plan.steps_per_epoch
        self.say(
            f"{count(samples, 'sample')}, {count(per_epoch, 'step')} an epoch, {count(self.steps, 'step')} in all"
        )

    @contextmanager
    def _disk_watched(self) -> Iterator[None]:
        """A full disk is no defect of ours, whatever a library makes of it."""
        try:
            yield
        except (OSError, RuntimeError, SafetensorError, TrainingFolderError) as error:
            number = getattr(error, "errno", None)
            is_full = number in (errno.ENOSPC, errno.EDQUOT) or "o space left" in str(error)
            if not is_full and shutil.disk_usage(self.folder.path).free > 1 << 20:
                raise
            steps = self.folder.complete_steps()
            kept = f"the checkpoint of step {steps[-1]:,} is there" if steps else "there is no checkpoint yet"
            raise TrainingFolderError(
                f"no space left on the disk of {str(self.folder.path)!r}; {kept}. Make room, and the same command "
                "continues"
            ) from error

    def _finish(self, seconds: float) -> TrainingResult:
        trainer = self.trainer
        model = trainer.trained_model()
        evaluations = self.folder.rows("evaluations.jsonl")
        before = _scores(evaluations[0]) if evaluations else {}
        after = _scores(evaluations[-1]) if evaluations else {}
        if trainer.held_out is not None and self.options.saves_other_weights:
            after, _ = trainer.measured(model)
        counters = trainer.counted()
        facts: dict[str, Any] = {"steps": self.steps, **counters, "before": before, "after": after}
        if self.parts.is_main:
            save_trained(model, self.parts.processor, self.folder.path, self.options, facts, len(self.parts.data))
            self.folder.write("result.json", json.dumps(facts, indent=2))
            trainer.write_report(facts)
            self.folder.finish()
        trainer.accelerator.wait_for_everyone()
        waiting = trainer.waited / max(trainer.busy, 1e-9)
        rank = self.parts.arguments.process_index
        return TrainingResult(str(self.folder.path), **facts, seconds=seconds, waiting_share=waiting, rank=rank)


def _scores(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name not in ("step", "captions")}
