# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The library's Trainer at work on a run."""

import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback

from ..batch_inference.errors import InputError
from .errors import DivergedError, TrainingError, TrainingOptionError
from .held_out import HeldOut
from .parts import RunParts
from .reading import batch_loader
from .report import write_training_report
from .saving import with_plain_weights
from .starting_model import is_quantized, starting_model
from .trainer import CoCaTrainer


_MOST_WORKERS = 8
_DEFAULT_SAVE_EVERY = 500


class RunTrainer(CoCaTrainer):
    """The library's Trainer with the data, the log, the checkpoints and the measurements of a parts."""

    control: TrainerControl

    def __init__(self, parts: RunParts, model: nn.Module):
        super().__init__(
            model=model,
            args=parts.arguments,
            train_dataset=parts.batches,
            callbacks=[_StepByStep(self)],
            processing_class=None,
        )
        self.remove_callback(PrinterCallback)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
                # By default it is among the checkpoints, which go at the end.
                callback.logging_dir = str(parts.folder.path / "tensorboard")
        self.parts = parts
        self.held_out: HeldOut | None = None
        self.stops = False
        self.first_step = 0
        self.waited = self.busy = 0.0
        self.taken_at = 0.0
        self.names: list[str] = []
        self.samples = self.truncated = 0
        self.skipped: dict[str, tuple[int, str]] = {}
        self.unwritten: list[dict[str, Any]] = []
        self.last_loss = math.nan
        self.averaged: AveragedModel | None = None
        if parts.options.ema is not None:
            if self.is_fsdp_enabled:
                raise TrainingOptionError("--ema does not go with FSDP, whose weights are in parts: leave one out")
            # In float32 on the device of the weights; only what is trained moves.
            self.averaged = AveragedModel(
                self.accelerator.unwrap_model(model).to(self.args.device),
                multi_avg_fn=get_ema_multi_avg_fn(parts.options.ema),
            )

    # --- data ---

    def get_train_dataloader(self) -> Any:
        """From the step on at which the run is; see `Plan`."""
        parts = self.parts
        workers = parts.options.workers
        if workers is None:
            workers = 1 if parts.options.streaming else min(os.cpu_count() or 1, _MOST_WORKERS)
        return batch_loader(parts.batches, parts.plan, self.first_step, parts.steps, workers)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | int | None]:
        """The micro-batches of a step, of which the trainer's own class sees what the model does."""
        now = time.perf_counter()
        if self.taken_at:
            self.busy += now - self.taken_at
        self.names = []
        found = super().get_batch_samples(map(self._noted, epoch_iterator), num_batches, device)
        self.taken_at = time.perf_counter()
        if self.busy:  # the first batch waits for its workers to start
            self.waited += self.taken_at - now
            self.busy += self.taken_at - now
        return found

    def _noted(self, batch: dict[str, Any]) -> dict[str, Any]:
        if "failure" in batch:
            raise InputError(batch["failure"])
        about = batch["about"]
        self.names += about["names"]
        self.samples += len(about["names"])
        self.truncated += about["truncated"]
        for name, reason in about["skipped"]:
            if self.parts.options.strict:
                raise TrainingError(f"--strict: {name}: {reason}")
            if name not in self.skipped:
                self.skipped[name] = (self.state.global_step, reason)
                self.unwritten.append({"step": self.state.global_step + 1, "image": name, "error": reason})
        return {name: value for name, value in batch.items() if name != "about"}

    # --- steps ---

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """As the library's; raises `DivergedError` before weights follow a loss that is no number."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise self.diverged("the loss", self.state.global_step + 1)
        return loss

    def diverged(self, what: str, step: int) -> DivergedError:
        names = ", ".join(self.names[:3]) + (f" and {len(self.names) - 3} more" if len(self.names) > 3 else "")
        steps = self.parts.folder.complete_steps()
        kept = f"; the checkpoint of step {steps[-1]:,} is kept in {self.parts.folder.checkpoints}" if steps else ""
        return DivergedError(
            f"{what} is no number any more at step {step:,}, whose images are {names}. Try a smaller --learning-rate, "
            f"a longer --warmup-steps, --dtype float32, or look at these images{kept}"
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """A line of training goes into `log.jsonl` as well."""
        if "loss" in logs:
            super().log(logs, start_time)
            counters = self.counted()
            names = ("loss", "caption_loss", "contrastive_loss", "learning_rate")
            row = {"step": self.state.global_step, **{name: float(logs[name]) for name in names}}
            self.last_loss = row["loss"]
            if self.parts.is_main:
                self.parts.folder.append("log.jsonl", [{**row, "samples": counters["samples"]}])
        elif any(name.startswith("eval_") for name in logs):
            super().log(logs, start_time)

    def counted(self) -> dict[str, int]:
        """Samples seen, captions cut and images left out so far, in all processes; called in all of them."""
        rows = gather_object(self.unwritten)
        self.unwritten = []
        found = gather_object([(self.samples, self.truncated, list(self.skipped))])
        samples, truncated, names = zip(*found, strict=True)
        if self.parts.is_main and rows:
            known = {row["image"] for row in self.parts.folder.rows("skipped.jsonl")}
            self.parts.folder.append("skipped.jsonl", [row for row in rows if row["image"] not in known])
        skipped = len({name for each in names for name in each})
        return {"samples": sum(samples), "truncated": sum(truncated), "skipped": skipped}

    # --- measuring ---

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measures what would be saved now, and keeps it where it is the best."""
        parts = self.parts
        model = self.weights_to_save()
        scores, captions = self.measured(model)
        earlier = parts.folder.rows("evaluations.jsonl") if parts.is_main else []
        step = self.state.global_step
        if parts.is_main:
            parts.folder.append("evaluations.jsonl", [{"step": step, **scores, "captions": captions}])
            best = parts.options.best
            if best is not None and scores[best] > max((row[best] for row in earlier), default=-math.inf):
                self._keep_best(model)
            self.write_report()
        metrics = {f"eval_{name}": value for name, value in scores.items()}
        self.log(metrics)
        # Otherwise the library would ask for it once more.
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def measured(self, model: Any) -> tuple[dict[str, float], list[str]]:
        """As `HeldOut.measure`, whatever mode the model is in."""
        assert self.held_out is not None
        was_training = model.training
        found = self.held_out.measure(model.eval())
        model.train(was_training)
        return found

    def write_report(self, facts: dict[str, Any] | None = None) -> None:
        examples = [] if self.held_out is None else self.held_out.examples
        write_training_report(self.parts.folder, self.parts.options, self.parts.steps, examples, facts)

    def _keep_best(self, model: nn.Module) -> None:
        target = self.parts.folder.checkpoints / "best.safetensors"
        aside = target.with_suffix(".aside")
        save_file(_tensors(model), str(aside))
        os.replace(aside, target)

    def weights_to_save(self) -> Any:
        """The model as it is trained, or its moving average."""
        return self.averaged.module if self.averaged is not None else self.accelerator.unwrap_model(self.model)

    # --- beginning and end ---

    def restore(self, step: int) -> None:
        """What the library does not restore from the checkpoint of a step."""
        self.first_step = step
        if not step:
            return
        folder = self.parts.folder.checkpoint(step)
        if self.parts.is_main:
            counters = json.loads((folder / "counters.json").read_text("utf-8"))
            self.samples, self.truncated = counters["samples"], counters["truncated"]
            rows = self.parts.folder.rows("skipped.jsonl")
            self.skipped = {row["image"]: (row["step"], row["error"]) for row in rows if row["step"]}
        if self.averaged is not None:
            self.averaged.load_state_dict(load_file(str(folder / "average.safetensors")))

    def save_own_state(self) -> None:
        """Beside what the library saves; called in all processes."""
        counters = self.counted()
        if self.parts.is_main:
            folder = self.parts.folder.checkpoint(self.state.global_step)
            (folder / "counters.json").write_text(json.dumps(counters), "utf-8")
            if self.averaged is not None:
                state = {name: value.clone() for name, value in self.averaged.state_dict().items()}
                save_file(state, str(folder / "average.safetensors"))
        # Every process has written its part.
        self.accelerator.wait_for_everyone()
        if self.parts.is_main:
            self.parts.folder.mark_complete(self.state.global_step, self.parts.options.keep)

    def trained_model(self) -> Any:
        """What is to be saved: a captioner with its whole weights, on this process's device."""
        options = self.parts.options
        model = self.weights_to_save()
        best = self.parts.folder.checkpoints / "best.safetensors"
        if options.best is not None and best.exists():
            model.load_state_dict(load_file(str(best)), strict=False)
        if self.is_fsdp_enabled:
            # The parts of all processes, put into a plain model.
            state = self.accelerator.get_state_dict(self.model)
            model, _ = starting_model(options)
            if state:
                model.load_state_dict(state)
            model.to(self.args.device)
        if options.lora is not None:
            base = model.get_base_model()
            model = with_plain_weights(base.eval()) if is_quantized(base) else model.merge_and_unload()
        if options.average_with_start is not None:
            start = starting_model(options)[0]
            start = with_plain_weights(start) if is_quantized(start) else start
            _mix_in(model, start, options.average_with_start)
        return model


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Of parameters and buffers, without those that share memory with others."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, value in model.state_dict().items():
        found.setdefault(value.data_ptr(), (name, value.contiguous()))
    return dict(found.values())


@torch.no_grad()
def _mix_in(model: nn.Module, start: nn.Module, share: float) -> None:
    beginning = dict(start.named_parameters())
    for name, parameter in model.named_parameters():
        parameter.lerp_(beginning[name].to(parameter.device), share)


class _StepByStep(TrainerCallback):
    """When to log, measure, save and stop."""

    def __init__(self, trainer: RunTrainer):
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0 and self.trainer.held_out is not None:
            with self.trainer.parts.progress.aside():
                self.trainer.evaluate()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        trainer, parts = self.trainer, self.trainer.parts
        options, step = parts.options, state.global_step
        # The library takes the whole run for one epoch, for its data has one beginning and one end.
        state.epoch = step / parts.plan.steps_per_epoch
        if trainer.averaged is not None:
            trainer.averaged.update_parameters(trainer.accelerator.unwrap_model(trainer.model))
        is_last = step >= parts.steps
        trainer.stops = self._anyone_stops()
        control.should_log = is_last or step % options.log_every == 0
        every = options.evaluate_every or parts.plan.steps_per_epoch
        control.should_evaluate = trainer.held_out is not None and (is_last or step % every == 0)
        control.should_save = is_last or trainer.stops or step % (options.save_every or _DEFAULT_SAVE_EVERY) == 0
        control.should_training_stop = is_last or trainer.stops
        if control.should_save:
            self._check_weights(step)
        parts.progress.note(f"loss {trainer.last_loss:.3f}" if math.isfinite(trainer.last_loss) else "")
        parts.progress.advance(1)

    def _anyone_stops(self) -> bool:
        """The signal may reach processes in different steps; they must stop in the same."""
        trainer = self.trainer
        if trainer.accelerator.num_processes == 1:
            return trainer.stops
        flag = torch.tensor([float(trainer.stops)], device=trainer.args.device)
        return bool(trainer.accelerator.reduce(flag, "sum").item())

    def _check_weights(self, step: int) -> None:
        """A checkpoint of weights that are no numbers would take the place of a good one."""
        for name, parameter in self.trainer.model.named_parameters():
            if parameter.requires_grad and not torch.isfinite(parameter).all():
                raise self.trainer.diverged(f"a weight of {name}", step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.trainer.save_own_state()


@contextmanager
def interruptible(trainer: RunTrainer) -> Iterator[None]:
    """The first Ctrl-C or request to end lets the step end and saves it; the second stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: Any) -> None:
        if trainer.stops:
            raise KeyboardInterrupt
        trainer.stops = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
