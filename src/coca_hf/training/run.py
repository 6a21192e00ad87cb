# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A training run from its options to a saved folder: `train`."""

import errno
import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback

from ..batch_inference.errors import InputError, ModelError
from ..batch_inference.models import fingerprint
from ..batch_inference.progress import Progress
from ..batch_inference.wording import count
from ..image_text_data import ImageTextData, open_image_text_data
from .errors import DivergedError, TrainingError, TrainingFolderError, TrainingInterrupted, TrainingOptionError
from .folder import RunFolder
from .held_out import HeldOut
from .options import TrainingOptions, read_yaml
from .reading import Batches, ChangeBatch, batch_loader
from .report import write_training_report
from .samples import Plan, Samples
from .saving import save_trained, with_plain_weights
from .starting_model import is_quantized, prepare_for_training, starting_model
from .trainer import CoCaTrainer


_MOST_WORKERS = 8
_DEFAULT_SAVE_EVERY = 500


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
    return _Run(chosen, folder, progress or Progress(), say, change_batch).result()


def _finished(folder: RunFolder) -> TrainingResult:
    facts = json.loads((folder.path / "result.json").read_text("utf-8"))
    return TrainingResult(output=str(folder.path), was_finished=True, **facts)


class _Run:
    """All that a run consists of, made in the order in which things can go wrong cheaply."""

    def __init__(
        self,
        options: TrainingOptions,
        folder: RunFolder,
        progress: Progress,
        say: Callable[[str], None],
        change_batch: ChangeBatch | None,
    ):
        self.options, self.folder, self.progress, self.say = options, folder, progress, say
        self.data = _opened(options, options.data)
        self.evaluated = None if options.evaluate is None else _opened(options, (options.evaluate,))
        self.model, self.processor = starting_model(options)
        context = min(self.model.config.text_config.max_position_embeddings, self.processor.tokenizer.model_max_length)
        self.arguments = _arguments(options, folder)
        samples = Samples(self.data, options.captions, options.shuffle, options.seed)
        processes, rank = self.arguments.world_size, self.arguments.process_index
        self.plan = Plan(samples, options.batch_size, options.accumulate, processes, rank)
        self.steps = options.max_steps or (options.epochs or 1) * self.plan.steps_per_epoch
        self._complete_arguments()
        self.batches = Batches(
            self.data,
            self.processor,
            context=context,
            crop=options.augment == "crop",
            seed=options.seed,
            change_batch=change_batch,
        )
        prepared = prepare_for_training(self.model, options)
        self._check_disk(prepared)
        try:
            self.trainer = RunTrainer(self, prepared)
        except (RuntimeError, ImportError, ValueError) as error:
            if not options.report_to:
                raise
            # The library says which of its reporters is unknown to it or not installed.
            raise TrainingOptionError(f"--report-to: {' '.join(str(error).split())}") from error
        self.held_out = None
        if self.evaluated is not None:
            self.held_out = HeldOut(
                self.evaluated, self.processor, context, options.batch_size, self.trainer.accelerator
            )

    def _complete_arguments(self) -> None:
        self.arguments.max_steps = self.steps
        warmup = self.options.warmup_steps
        self.arguments.warmup_steps = min(1000, self.steps // 10) if warmup is None else warmup

    @property
    def is_main(self) -> bool:
        return self.arguments.process_index == 0

    def facts(self) -> dict[str, Any]:
        """What must be the same when the run is continued, beside the options."""
        facts: dict[str, Any] = {"number of records": len(self.data), "number of samples a step": self.plan.step_size}
        if self.options.init is None:
            try:
                facts["model"] = fingerprint(self.options.starting_model)
            except ModelError as error:
                raise TrainingError(str(error)) from None
        return facts

    def _check_disk(self, model: nn.Module) -> None:
        """Before work is lost: the model once, and the checkpoints with what the optimizer remembers."""
        weights = sum(parameter.numel() * 4 for parameter in model.parameters())
        trained = sum(parameter.numel() * 4 for parameter in model.parameters() if parameter.requires_grad)
        checkpoint = (weights if self.options.lora is None else trained) + 2 * trained
        checkpoint += weights if self.options.ema is not None else 0
        needed = weights + checkpoint * (self.options.keep + 1) + (weights if self.options.best else 0)
        place = os.path.abspath(self.folder.path)
        while not os.path.exists(place):
            place = os.path.dirname(place)
        free = shutil.disk_usage(place).free
        if free < needed:
            raise TrainingFolderError(
                f"no space on the disk of {str(self.folder.path)!r}: model and checkpoints need {_size(needed)}, "
                f"{_size(free)} are free"
            )

    def result(self) -> TrainingResult:
        self.trainer.accelerator.wait_for_everyone()
        with ExitStack() as opened:
            if self.is_main:
                self.folder.begin(self.facts())
                opened.enter_context(self.folder.locked(self.say))
                self.folder.remove_incomplete()
            return self._trained()

    def _trained(self) -> TrainingResult:
        trainer = self.trainer
        trainer.accelerator.wait_for_everyone()
        step = max(self.folder.complete_steps(), default=0)
        if step:
            self.folder.check_checkpoint(step)
        if self.is_main:
            # Of a run that begins anew, the measurement before it goes, too.
            self.folder.cut_back(step or -1)
        trainer.accelerator.wait_for_everyone()
        trainer.restore(step)
        self._say_what_begins(step)
        started = time.monotonic()
        with self.progress, _interruptible(trainer):
            self.progress.begin(self.steps, step)
            with self._disk_watched():
                trainer.train(resume_from_checkpoint=str(self.folder.checkpoint(step)) if step else None)
        if trainer.state.global_step < self.steps:
            raise TrainingInterrupted(trainer.state.global_step, self.steps)
        with self._disk_watched():
            return self._finish(time.monotonic() - started)

    def _say_what_begins(self, step: int) -> None:
        if not self.is_main:
            return
        if step:
            self.say(f"Resuming after step {step:,} of {self.steps:,}")
            return
        left_out = self.data.skipped
        if left_out:
            self.folder.append("skipped.jsonl", [{"step": 0, "image": name, "error": why} for name, why in left_out])
            self.say(f"{count(len(left_out), 'record')} cannot be used; the first, {left_out[0][0]}: {left_out[0][1]}")
        if left_out and self.options.strict:
            raise TrainingError(f"--strict: {left_out[0][0]}: {left_out[0][1]}")
        samples = len(self.plan.samples)
        per_epoch = self.plan.steps_per_epoch
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
        if self.held_out is not None and self.options.saves_other_weights:
            after, _ = trainer.measured(model)
        counters = trainer.counted()
        facts: dict[str, Any] = {"steps": self.steps, **counters, "before": before, "after": after}
        if self.is_main:
            save_trained(model, self.processor, self.folder.path, self.options, facts, len(self.data))
            self.folder.write("result.json", json.dumps(facts, indent=2))
            self.write_report(facts)
            self.folder.finish()
        trainer.accelerator.wait_for_everyone()
        waiting = trainer.waited / max(trainer.busy, 1e-9)
        rank = self.arguments.process_index
        return TrainingResult(str(self.folder.path), **facts, seconds=seconds, waiting_share=waiting, rank=rank)

    def write_report(self, facts: dict[str, Any] | None = None) -> None:
        examples = [] if self.held_out is None else self.held_out.examples
        write_training_report(self.folder, self.options, self.steps, examples, facts)


def _scores(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name not in ("step", "captions")}


def _size(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def _opened(options: TrainingOptions, paths: Sequence[str]) -> ImageTextData:
    return open_image_text_data(
        paths,
        image_column=options.image_column,
        caption_column=options.caption_column,
        split=options.split,
        image_folder=options.image_folder,
        streaming=options.streaming,
    )


def _arguments(options: TrainingOptions, folder: RunFolder) -> TrainingArguments:
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    available["xpu"] = torch.xpu.is_available()
    if not available.get(options.device, True):
        raise TrainingOptionError(f"there is no {options.device} device here. Leave --device out, or give cpu")
    use_cpu = options.device == "cpu" or not any(available.values())
    dtype = options.dtype
    if dtype == "auto":
        dtype = "bfloat16" if not use_cpu and available["cuda"] and torch.cuda.is_bf16_supported() else "float32"
    if dtype == "float16" and use_cpu:
        raise TrainingOptionError("--dtype float16 is for cards: give bfloat16 or float32")
    return TrainingArguments(
        output_dir=str(folder.checkpoints),
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.accumulate,
        max_steps=1,  # known once the number of processes is
        learning_rate=options.peak_learning_rate,
        lr_scheduler_type="constant_with_warmup" if options.scheduler == "constant" else options.scheduler,
        weight_decay=options.weight_decay,
        adam_beta1=options.beta1,
        adam_beta2=options.beta2,
        adam_epsilon=options.adam_epsilon,
        max_grad_norm=options.clip_norm,
        bf16=dtype == "bfloat16",
        fp16=dtype == "float16",
        seed=options.seed,
        use_cpu=use_cpu,
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        # What is logged, measured and saved when is decided below.
        logging_strategy="no",
        eval_strategy="no",
        save_strategy="no",
        logging_nan_inf_filter=False,
        ignore_data_skip=True,  # the plan begins where the run does
        disable_tqdm=True,
        report_to=list(options.report_to) or "none",
        run_name=folder.path.name,
        project=folder.path.name,
    )


class RunTrainer(CoCaTrainer):
    """The library's Trainer with the data, the log, the checkpoints and the measurements of a run."""

    control: TrainerControl

    def __init__(self, run: _Run, model: nn.Module):
        super().__init__(
            model=model,
            args=run.arguments,
            train_dataset=run.batches,
            callbacks=[_StepByStep(self)],
            processing_class=None,
        )
        self.remove_callback(PrinterCallback)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
                # By default it is among the checkpoints, which go at the end.
                callback.logging_dir = str(run.folder.path / "tensorboard")
        self.run = run
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
        if run.options.ema is not None:
            if self.is_fsdp_enabled:
                raise TrainingOptionError("--ema does not go with FSDP, whose weights are in parts: leave one out")
            # In float32 on the device of the weights; only what is trained moves.
            self.averaged = AveragedModel(
                self.accelerator.unwrap_model(model).to(self.args.device),
                multi_avg_fn=get_ema_multi_avg_fn(run.options.ema),
            )

    # --- data ---

    def get_train_dataloader(self) -> Any:
        """From the step on at which the run is; see `Plan`."""
        run = self.run
        workers = run.options.workers
        if workers is None:
            workers = 1 if run.options.streaming else min(os.cpu_count() or 1, _MOST_WORKERS)
        return batch_loader(run.batches, run.plan, self.first_step, run.steps, workers)

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
            if self.run.options.strict:
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
        steps = self.run.folder.complete_steps()
        kept = f"; the checkpoint of step {steps[-1]:,} is kept in {self.run.folder.checkpoints}" if steps else ""
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
            if self.run.is_main:
                self.run.folder.append("log.jsonl", [{**row, "samples": counters["samples"]}])
        elif any(name.startswith("eval_") for name in logs):
            super().log(logs, start_time)

    def counted(self) -> dict[str, int]:
        """Samples seen, captions cut and images left out so far, in all processes; called in all of them."""
        rows = gather_object(self.unwritten)
        self.unwritten = []
        found = gather_object([(self.samples, self.truncated, list(self.skipped))])
        samples, truncated, names = zip(*found, strict=True)
        if self.run.is_main and rows:
            known = {row["image"] for row in self.run.folder.rows("skipped.jsonl")}
            self.run.folder.append("skipped.jsonl", [row for row in rows if row["image"] not in known])
        skipped = len({name for each in names for name in each})
        return {"samples": sum(samples), "truncated": sum(truncated), "skipped": skipped}

    # --- measuring ---

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measures what would be saved now, and keeps it where it is the best."""
        run = self.run
        model = self.weights_to_save()
        scores, captions = self.measured(model)
        earlier = run.folder.rows("evaluations.jsonl") if run.is_main else []
        step = self.state.global_step
        if run.is_main:
            run.folder.append("evaluations.jsonl", [{"step": step, **scores, "captions": captions}])
            best = run.options.best
            if best is not None and scores[best] > max((row[best] for row in earlier), default=-math.inf):
                self._keep_best(model)
            run.write_report()
        metrics = {f"eval_{name}": value for name, value in scores.items()}
        self.log(metrics)
        # Otherwise the library would ask for it once more.
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def measured(self, model: Any) -> tuple[dict[str, float], list[str]]:
        """As `HeldOut.measure`, whatever mode the model is in."""
        assert self.run.held_out is not None
        was_training = model.training
        found = self.run.held_out.measure(model.eval())
        model.train(was_training)
        return found

    def _keep_best(self, model: nn.Module) -> None:
        target = self.run.folder.checkpoints / "best.safetensors"
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
        folder = self.run.folder.checkpoint(step)
        if self.run.is_main:
            counters = json.loads((folder / "counters.json").read_text("utf-8"))
            self.samples, self.truncated = counters["samples"], counters["truncated"]
            rows = self.run.folder.rows("skipped.jsonl")
            self.skipped = {row["image"]: (row["step"], row["error"]) for row in rows if row["step"]}
        if self.averaged is not None:
            self.averaged.load_state_dict(load_file(str(folder / "average.safetensors")))

    def save_own_state(self) -> None:
        """Beside what the library saves; called in all processes."""
        counters = self.counted()
        if self.run.is_main:
            folder = self.run.folder.checkpoint(self.state.global_step)
            (folder / "counters.json").write_text(json.dumps(counters), "utf-8")
            if self.averaged is not None:
                state = {name: value.clone() for name, value in self.averaged.state_dict().items()}
                save_file(state, str(folder / "average.safetensors"))
        # Every process has written its part.
        self.accelerator.wait_for_everyone()
        if self.run.is_main:
            self.run.folder.mark_complete(self.state.global_step, self.run.options.keep)

    def trained_model(self) -> Any:
        """What is to be saved: a captioner with its whole weights, on this process's device."""
        options = self.run.options
        model = self.weights_to_save()
        best = self.run.folder.checkpoints / "best.safetensors"
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
        if state.global_step == 0 and self.trainer.run.held_out is not None:
            with self.trainer.run.progress.aside():
                self.trainer.evaluate()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        trainer, run = self.trainer, self.trainer.run
        options, step = run.options, state.global_step
        # The library takes the whole run for one epoch, for its data has one beginning and one end.
        state.epoch = step / run.plan.steps_per_epoch
        if trainer.averaged is not None:
            trainer.averaged.update_parameters(trainer.accelerator.unwrap_model(trainer.model))
        is_last = step >= run.steps
        trainer.stops = self._anyone_stops()
        control.should_log = is_last or step % options.log_every == 0
        every = options.evaluate_every or run.plan.steps_per_epoch
        control.should_evaluate = run.held_out is not None and (is_last or step % every == 0)
        control.should_save = is_last or trainer.stops or step % (options.save_every or _DEFAULT_SAVE_EVERY) == 0
        control.should_training_stop = is_last or trainer.stops
        if control.should_save:
            self._check_weights(step)
        run.progress.note(f"loss {trainer.last_loss:.3f}" if math.isfinite(trainer.last_loss) else "")
        run.progress.advance(1)

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
def _interruptible(trainer: RunTrainer) -> Iterator[None]:
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
