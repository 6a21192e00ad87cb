# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""transformers' Trainer for CoCa's two losses: micro-batches count as one batch, and open_clip's recipe applies."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import SchedulerType, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..configuration_coca import CoCaConfig
from .accumulation import ExactAccumulation
from .checkpoints import converted, is_of_other_kind
from .optimizer import decays, learning_rate_schedule


# transformers' names of the schedules that open_clip's recipe has: what the rate does after its warm-up.
SCHEDULES = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant",
    "constant_with_warmup": "constant",
}


class ClampLogitScale(TrainerCallback):
    """Limits the scale of the similarities to 100 after each step, as open_clip_train does."""

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        kwargs["model"].clamp_logit_scale()


class CoCaTrainer(Trainer):
    """
    `transformers.Trainer` for a [`CoCaForCaptioning`], also with adapters, in several processes or sharded by FSDP2.

    It takes what Trainer takes. What it does otherwise:

    - With `gradient_accumulation_steps` K, the K micro-batches of a step are one batch for the contrastive loss too:
      see [`ExactAccumulation`].
    - A line of the log has `loss` (the weighted sum), `caption_loss` and `contrastive_loss` of its step's whole batch,
      over all micro-batches and processes.
    - Weight decay leaves out what [`decays`] says; the schedules "cosine", "linear" and "constant" are
      [`learning_rate_schedule`]; the scale of the similarities stays at 100 or below.

    Raises:
        ValueError: `gradient_accumulation_steps` is above 1 with DeepSpeed, which goes backward by itself.
    """

    lr_scheduler: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.is_deepspeed_enabled and self.args.gradient_accumulation_steps > 1:
            raise ValueError(
                "Micro-batches cannot be one batch for the contrastive loss with DeepSpeed: set "
                "gradient_accumulation_steps=1, or shard the model by FSDP2 instead."
            )
        self.add_callback(ClampLogitScale())
        self._micro_batches: list[dict[str, Any]] = []
        self._accumulation: ExactAccumulation | None = None
        # Of the present step, as far as it has come: (2,) caption loss and contrastive loss.
        self._step_losses = torch.zeros(2, device=self.args.device)

    # --- losses ---

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | int | None]:
        """The micro-batches of a step, and the number of their tokens that count."""
        batches, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._micro_batches = batches if self._is_exact(len(batches)) else []
        self._accumulation, self._step_losses = None, torch.zeros_like(self._step_losses)
        return batches, num_items_in_batch

    def _is_exact(self, num_batches: int) -> bool:
        """Whether there is a contrastive loss that micro-batches would change."""
        config = self._config
        has_vectors = "none" not in (config.vision_config.pool_type, config.text_config.pool_type)
        return num_batches > 1 and has_vectors and config.contrastive_loss_weight != 0

    @property
    def _config(self) -> CoCaConfig:
        return self.accelerator.unwrap_model(self.model).config

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Goes forward and backward for one micro-batch; before the first of a step, the towers run over all."""
        if self._micro_batches:
            model.train()
            scaler = self.accelerator.scaler
            self._accumulation = ExactAccumulation(
                model,
                (send_to_device(batch, self.args.device) for batch in self._micro_batches),
                backward=self.accelerator.backward,
                gradient_scale=1.0 if scaler is None else scaler.get_scale(),
                autocast=self.accelerator.autocast,
            )
            self._micro_batches = []
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The loss of a batch, or a micro-batch's share of that of a step; with `return_outputs` the outputs too."""
        accumulation = self._accumulation if model.training else None
        if accumulation is None:
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
            contrastive_loss = outputs.contrastive_loss
        else:
            with accumulation.next() as add_gradients:
                inputs = {**inputs, "return_loss": False}
                loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
                loss = add_gradients(loss, outputs)
            contrastive_loss = accumulation.contrastive_loss / accumulation.num_batches
            loss = loss + self._config.contrastive_loss_weight * contrastive_loss.to(loss.device)
        if model.training:
            # As the loss, of which each process has its share of all tokens, times the number of processes.
            is_share = num_items_in_batch is not None and self.args.average_tokens_across_devices
            scale = self.accelerator.num_processes // self.get_tp_size() if is_share else 1
            self._step_losses[0] += scale * outputs.caption_loss.detach()
            if contrastive_loss is not None:
                self._step_losses[1] += (scale if accumulation is None else 1) * contrastive_loss.detach()
        return (loss, outputs) if return_outputs else loss

    def step_losses(self) -> dict[str, Tensor]:
        """
        `loss` (the weighted sum), `caption_loss` and `contrastive_loss` of the last step's whole batch, each (), in
        float32.

        Every process has to ask, since they are joined here. A model without vectors has a contrastive loss of 0;
        where its weight is 0, it is the mean over the micro-batches, each by itself.
        """
        losses = self.accelerator.gather(self._step_losses[None]).mean(0)
        weights = self._config.caption_loss_weight, self._config.contrastive_loss_weight
        return {
            "loss": weights[0] * losses[0] + weights[1] * losses[1],
            "caption_loss": losses[0],
            "contrastive_loss": losses[1],
        }

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """A line of training has the losses of its step, not means since the last line: resumed, it is the same."""
        if "loss" in logs:
            logs.update({name: loss.item() for name, loss in self.step_losses().items()})
        super().log(logs, start_time)

    # --- checkpoints ---

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's; a checkpoint's folder may come from a run with FSDP where there is none now, or without."""
        folder = Path(resume_from_checkpoint) if isinstance(resume_from_checkpoint, str) else None
        if folder is None or not is_of_other_kind(folder, self.is_fsdp_enabled):
            return super().train(resume_from_checkpoint, *args, **kwargs)
        trained = [(name, one) for name, one in self.model.named_parameters() if one.requires_grad]
        names = [[name for name, parameter in trained if decays(parameter) is decayed] for decayed in (True, False)]
        first, wait = self.is_world_process_zero(), self.accelerator.wait_for_everyone
        with converted(folder, names, self.is_fsdp_enabled, first, wait) as readable:
            return super().train(str(readable), *args, **kwargs)

    # --- recipe ---

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the parameters that weight decay is for: see [`decays`]."""
        return [name for name, parameter in model.named_parameters() if decays(parameter)]

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """The schedule of the learning rate: [`learning_rate_schedule`] for those that it knows."""
        is_new = self.lr_scheduler is None
        super().create_scheduler(num_training_steps, optimizer)
        decay = SCHEDULES.get(SchedulerType(self.args.lr_scheduler_type).value)
        if is_new and decay is not None and not self.args.lr_scheduler_kwargs:
            self.lr_scheduler = learning_rate_schedule(
                optimizer or self.optimizer,
                decay,
                self.args.get_warmup_steps(num_training_steps),
                num_training_steps,
            )
        return self.lr_scheduler


__all__ = ["CoCaTrainer"]
