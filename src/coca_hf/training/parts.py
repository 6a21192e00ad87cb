# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a training run is made of, from its options, before anything is written."""

import os
import shutil
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from ..batch_inference.errors import ModelError
from ..batch_inference.models import fingerprint
from ..batch_inference.progress import Progress
from ..image_text_data import ImageTextData, open_image_text_data
from .errors import TrainingError, TrainingFolderError, TrainingOptionError
from .folder import RunFolder
from .options import TrainingOptions
from .reading import Batches, ChangeBatch
from .samples import Plan, Samples
from .starting_model import starting_model


class RunParts:
    """Data, model, plan and the library's arguments, made in the order in which things can go wrong cheaply."""

    def __init__(
        self, options: TrainingOptions, folder: RunFolder, progress: Progress, change_batch: ChangeBatch | None
    ):
        self.options, self.folder, self.progress = options, folder, progress
        self.data = _opened(options, options.data)
        self.evaluated = None if options.evaluate is None else _opened(options, (options.evaluate,))
        self.model, self.processor = starting_model(options)
        longest = self.model.config.text_config.max_position_embeddings
        self.context = min(longest, self.processor.tokenizer.model_max_length)
        self.arguments = _arguments(options, folder)
        samples = Samples(self.data, options.captions, options.shuffle, options.seed)
        processes, rank = self.arguments.world_size, self.arguments.process_index
        self.plan = Plan(samples, options.batch_size, options.accumulate, processes, rank)
        self.steps = options.max_steps or (options.epochs or 1) * self.plan.steps_per_epoch
        self._complete_arguments()
        self.batches = Batches(
            self.data,
            self.processor,
            context=self.context,
            crop=options.augment == "crop",
            seed=options.seed,
            change_batch=change_batch,
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

    def check_disk(self, model: nn.Module) -> None:
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
