# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Train the small model that ships inside the package, from nothing, on rendered scenes; measure it; write its card.

Two CPU cores with bfloat16 and an hour are enough; without bfloat16 it takes three. The same seed gives the same
training data, wordings and initial weights.

What limits the result is how fast the vision tower learns shapes, and which of two groups is where. Captions teach
both slowly: 50,000 close-ups with captions gave 24 % right shapes, where the same tower with one linear layer for the
shape had 82 %. So the tower learns to see first (`FactClassifier`), then the whole model learns to speak, and has to
look all the while (`CaptionsAndFacts`). At last the rest learns to speak about what a tower that no longer changes
sees: that halves the share of wrong captions, from 6.9 % to 3.4 % in the first try. Share of right shapes on unseen
close-ups of 40 pixels, tower and linear layer alone, 4 layers, one core, learning rate 1e-3:

| patch | width | batch | layers' optimizer | seconds | pictures | right |
| --- | --- | --- | --- | --- | --- | --- |
| 10 | 192 | 64 | AdamW | 75 | 43,000 | 36 % |
| 5 | 128 | 16 | AdamW | 120 | 68,000 | 65 % |
| 8 | 128 | 16 | AdamW | 150 | 61,000 | 53 % |
| 8 | 128 | 16 | Muon 0.02 | 100 | 45,000 | 53 % |
| 8 | 128 | 16 | Muon 0.005 | 200 | 102,000 | 98.2 % |
| 8 | 128 | 32 | Muon 0.007 | 200 | 159,000 | 99.0 % |
| 8 | 128 | 64 | Muon 0.01 | 200 | 171,000 | 99.0 % |
"""

import copy
import json
import math
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import transformers
import typer
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import GenerationConfig, Trainer, TrainingArguments, set_seed

from coca_hf import CoCaConfig, CoCaForCaptioning, CoCaProcessor, CoCaTokenizer
from coca_hf.image_processing_coca import CoCaImageProcessor
from coca_hf.modeling_coca import CoCaVisionModel
from scene_card import write_scene_card
from scene_metrics import SceneModel, caption_accuracy, retrieval_recall, zero_shot_accuracy
from scenes import (
    BACKGROUNDS,
    CLOSE_UP_ZOOM,
    COLOURS,
    COUNT_WORDS,
    RELATIONS,
    SHAPES,
    SIZES,
    Facts,
    Split,
    caption,
    make_scene,
    mirrored,
    partial_caption,
    render,
    scenes,
)


ROOT = Path(__file__).resolve().parents[1]
MAX_WEIGHTS_BYTES = 10_000_000
REQUIRED = {
    "captions": 0.95,
    "captions_held_out": 0.85,
    "text_to_image": 0.90,
    "image_to_text": 0.90,
    "zero_shot": 0.95,
}

SEED = 0
# Elsewhere it takes many times as long as float32.
HAS_BFLOAT16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
IMAGE_SIZE = 80
CLOSE_UP_SIZE = IMAGE_SIZE // CLOSE_UP_ZOOM
CONTEXT_LENGTH = 48
BATCH_SIZE = 32  # in each process
IGNORED = -100
# Share of scenes shown in grey while the facts are learnt: a shape must not be known by the colours it went with.
GREY_SHARE = 0.25
FACT_LOSS_WEIGHT = 2.0
# Texts that name some facts only. They teach zero-shot labels and are no captions, so the decoder never learns them.
PARTIAL_SHARE = 0.2
# Captions with gaps: the decoder must look for a shape even where the colour before it has never gone with that shape.
GAPPY_SHARE = 0.5
GAP_RATE = 0.4
GAP_WORD = "?"

console = Console(stderr=True)


def train_tokenizer() -> CoCaTokenizer:
    """Byte-pair encoding learnt from captions: every word of the grammar becomes one token."""
    rng = random.Random(SEED)
    texts = (
        text
        for scene in scenes("train", 5000)
        for text in (caption(scene.facts, rng), partial_caption(scene.facts, rng))
    )
    return CoCaTokenizer(model_max_length=CONTEXT_LENGTH).train_new_from_iterator(texts, vocab_size=1024)


def build_processor() -> CoCaProcessor:
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return CoCaProcessor(CoCaImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=size), train_tokenizer())


def build_config(tokenizer: CoCaTokenizer) -> CoCaConfig:
    """About 2 million parameters, half of them in the vision tower."""
    return CoCaConfig(
        vision_config={
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": CLOSE_UP_SIZE,
            "patch_size": 8,
            "position_embedding_type": "sincos",
            "pooler_hidden_size": 128,
            "num_pooler_queries": 33,
            "num_pooler_attention_heads": 4,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "max_position_embeddings": CONTEXT_LENGTH,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        multimodal_config={
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
        projection_dim=128,
    )


# --- training data -------------------------------------------------------------------------------------------------


@dataclass
class SceneDataset(Dataset):
    """A file of pictures as bytes, uint8 (scenes, side, side, 3), and the facts that labels and captions come from."""

    path: Path
    facts: list[Facts]

    @cached_property
    def pictures(self) -> np.ndarray:
        return np.load(self.path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.facts)

    def __getitem__(self, index: int) -> tuple[np.ndarray, Facts]:
        return self.pictures[index], self.facts[index]


def _render_range(path: Path, split: Split, side: int, indices: range) -> list[Facts]:
    pictures = np.lib.format.open_memmap(path, mode="r+")
    facts = []
    for index in indices:
        scene = make_scene(split, index)
        pictures[index] = np.asarray(render(scene, side))
        facts.append(scene.facts)
    return facts


def render_training_set(folder: Path, split: Split, side: int, count: int) -> SceneDataset:
    """Renders each scene once, to a file: drawing anew in every epoch would cost a fifth of the training time."""
    path, chunk = folder / f"{split}.npy", 1000
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, side, side, 3)).flush()
    facts: list[Facts] = []
    with ProcessPoolExecutor() as pool:
        jobs = [
            pool.submit(_render_range, path, split, side, range(start, min(start + chunk, count)))
            for start in range(0, count, chunk)
        ]
        for job in track(jobs, f"Rendering {count:,} {split.replace('_', '-')} pictures", console=console):
            facts += job.result()
    return SceneDataset(path, facts)


def as_pixel_values(pictures: np.ndarray, image_processor: CoCaImageProcessor) -> Tensor:
    """What the processor makes of pictures that have the right size already, a batch at a time."""
    mean, std = torch.tensor(image_processor.image_mean), torch.tensor(image_processor.image_std)
    return ((torch.from_numpy(pictures) / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def mirrored_at_random(examples: Iterable[tuple[np.ndarray, Facts]], rng: random.Random) -> list:
    """The examples, about half of them as in a mirror."""
    return [
        (picture[:, ::-1], mirrored(facts)) if rng.random() < 0.5 else (picture, facts) for picture, facts in examples
    ]


# Every fact has one set of values: two facts of the scene, then those of the first group and of the second.
SCENE_VALUES: tuple[tuple, ...] = (tuple(BACKGROUNDS), (None, *RELATIONS))
GROUP_VALUES: tuple[tuple, ...] = (tuple(COUNT_WORDS), tuple(SIZES), tuple(COLOURS), SHAPES)
FACT_VALUES = (*SCENE_VALUES, *GROUP_VALUES, *GROUP_VALUES)
NEEDS_COLOUR = torch.tensor([values in (SCENE_VALUES[0], GROUP_VALUES[2]) for values in FACT_VALUES])


def fact_labels(facts: Facts) -> list[int]:
    """The number of each fact's value; `IGNORED` for the second group where there is none."""
    stated: list[Any] = [facts.background, facts.relation]
    for group in facts.groups:
        stated += [group.count, group.size, group.colour, group.shape]
    labels = [values.index(value) for values, value in zip(FACT_VALUES, stated, strict=False)]
    return labels + [IGNORED] * (len(FACT_VALUES) - len(labels))


@dataclass
class FactCollator:
    """Scenes -> pixel values and the labels of their facts. Grey pictures keep no colour, and no label for it.

    A shape that is learnt in grey is the same in every colour, also in one that never went with it.
    """

    processor: CoCaProcessor
    rng: random.Random
    grey_share: float

    def __call__(self, examples: list[tuple[np.ndarray, Facts]]) -> dict[str, Tensor]:
        pictures, facts = zip(*mirrored_at_random(examples, self.rng), strict=True)
        labels = torch.tensor([fact_labels(each) for each in facts])
        is_grey = torch.tensor([self.rng.random() < self.grey_share for _ in facts])
        pictures = tuple(
            self.in_grey(picture) if grey else picture for picture, grey in zip(pictures, is_grey, strict=True)
        )
        labels[is_grey[:, None] & NEEDS_COLOUR] = IGNORED
        return {"pixel_values": as_pixel_values(np.stack(pictures), self.processor.image_processor), "labels": labels}

    def in_grey(self, picture: np.ndarray) -> np.ndarray:
        """Any mixture of the three channels, for each alike."""
        weights = np.array([self.rng.random() for _ in range(3)])
        return np.repeat((picture @ (weights / weights.sum()))[:, :, None].astype(np.uint8), 3, axis=2)


@dataclass
class CaptionCollator:
    """Scenes -> the model's inputs, with new words for the facts each time, and the facts' labels if asked for."""

    processor: CoCaProcessor
    rng: random.Random
    with_facts: bool

    def __call__(self, examples: list[tuple[np.ndarray, Facts]]) -> dict[str, Tensor]:
        pictures, facts = zip(*mirrored_at_random(examples, self.rng), strict=True)
        is_partial = torch.tensor([self.rng.random() < PARTIAL_SHARE for _ in facts])
        texts = [
            (partial_caption if partial else caption)(each, self.rng)
            for partial, each in zip(is_partial.tolist(), facts, strict=True)
        ]
        inputs = self.processor.tokenizer(texts, padding=True, return_tensors="pt")
        ignored = (inputs["attention_mask"] == 0) | is_partial[:, None]
        is_gappy = torch.tensor([not partial and self.rng.random() < GAPPY_SHARE for partial in is_partial.tolist()])
        batch = {
            "pixel_values": as_pixel_values(np.stack(pictures), self.processor.image_processor),
            "input_ids": self.with_gaps(inputs["input_ids"], is_gappy),
            "attention_mask": inputs["attention_mask"],
            "labels": inputs["input_ids"].masked_fill(ignored, IGNORED),
        }
        if self.with_facts:
            batch["fact_labels"] = torch.tensor([fact_labels(each) for each in facts])
        return batch

    def with_gaps(self, input_ids: Tensor, is_gappy: Tensor) -> Tensor:
        """(batch, text), bool (batch,) -> ids in which some words of some rows are a question mark."""
        tokenizer = self.processor.tokenizer
        frame = torch.tensor([tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id])
        drawn = torch.tensor([[self.rng.random() < GAP_RATE for _ in row] for row in input_ids])
        (gap_id,) = tokenizer.encode(GAP_WORD, add_special_tokens=False)
        return input_ids.masked_fill(drawn & is_gappy[:, None] & ~torch.isin(input_ids, frame), gap_id)


# --- training ------------------------------------------------------------------------------------------------------


def fact_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """(batch, values of all facts), (batch, facts) -> mean cross-entropy of the facts that have a label."""
    of_facts = logits.float().split([len(values) for values in FACT_VALUES], 1)
    losses = [
        F.cross_entropy(of_fact, label, ignore_index=IGNORED, reduction="sum")
        for of_fact, label in zip(of_facts, labels.unbind(1), strict=True)
    ]
    return torch.stack(losses).sum() / (labels != IGNORED).sum()


class FactClassifier(nn.Module):
    """The vision tower with one linear layer for every fact: it learns to see before anything has to be said."""

    def __init__(self, vision_model: CoCaVisionModel, head: nn.Linear) -> None:
        super().__init__()
        self.vision_model = vision_model
        self.head = head

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.vision_model(pixel_values).pooler_output)
        return {"loss": fact_loss(logits, labels), "logits": logits}


class CaptionsAndFacts(nn.Module):
    """The whole model with its own two losses, while its image embedding still has to tell every fact."""

    def __init__(self, model: CoCaForCaptioning, head: nn.Linear) -> None:
        super().__init__()
        self.captioner = model
        self.head = head

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, fact_labels: Tensor
    ) -> dict[str, Tensor]:
        output = self.captioner(
            input_ids=input_ids, pixel_values=pixel_values, attention_mask=attention_mask, labels=labels
        )
        logits = self.head(output.vision_model_output.pooler_output)
        return {"loss": output.loss + FACT_LOSS_WEIGHT * fact_loss(logits, fact_labels)}


class Muon(torch.optim.Optimizer):
    """
    Muon with Nesterov momentum (https://kellerjordan.github.io/posts/muon), all matrices of a shape at a time.

    The same as `torch.optim.Muon`, but in float32 where bfloat16 takes 20 times as long.
    """

    COEFFICIENTS = (3.4445, -4.7750, 2.0315)
    NUM_ITERATIONS = 5

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                by_shape.setdefault(parameter.shape, []).append(parameter)
            for (rows, columns), parameters in by_shape.items():
                updates = torch.stack([self._with_momentum(each, group["momentum"]) for each in parameters])
                lr = group["lr"] * math.sqrt(max(1, rows / columns))
                for parameter, update in zip(parameters, self._orthogonalized(updates), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=lr)

    def _with_momentum(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        state = self.state[parameter]
        average = state.setdefault("momentum", torch.zeros_like(parameter))
        average.lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(average, momentum)

    def _orthogonalized(self, updates: Tensor) -> Tensor:
        """(matrices, rows, columns) -> the same with all singular values near 1, by Newton-Schulz iterations."""
        if updates.shape[1] > updates.shape[2]:
            return self._orthogonalized(updates.mT).mT
        a, b, c = self.COEFFICIENTS
        updates = F.normalize(updates.flatten(1), dim=1).view_as(updates)
        updates = updates.to(torch.bfloat16 if HAS_BFLOAT16 else torch.float32)
        for _ in range(self.NUM_ITERATIONS):
            gram = updates @ updates.mT
            updates = a * updates + (b * gram + c * gram @ gram) @ updates
        return updates


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon for the matrices inside the layers, AdamW for everything else, as one optimizer."""

    def __init__(self, model: nn.Module, muon_lr: float, adamw_lr: float, weight_decay: float = 0.05) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            is_inside = "layers." in name or "pooler." in name
            is_matrix = is_inside and name.endswith(".weight") and parameter.ndim == 2
            if parameter.requires_grad:
                (matrices if is_matrix else others).append(parameter)
        super().__init__(matrices + others, {})
        self.parts = (
            Muon(matrices, muon_lr, weight_decay),
            torch.optim.AdamW(others, adamw_lr, weight_decay=weight_decay, betas=(0.9, 0.98)),
        )
        # The schedule turns the learning rates of these groups.
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for part in self.parts:
            part.step()


@dataclass(frozen=True)
class Stage:
    """One part of the training: what is learnt from which pictures, in how many steps."""

    name: str
    split: Split
    image_size: int
    steps: int
    muon_lr: float
    adamw_lr: float = 1e-3


# A close-up costs a quarter of a scene, and shapes are learnt from close-ups as well.
STAGES = (
    Stage("shapes", "close_up", CLOSE_UP_SIZE, 4000, 0.01),
    Stage("facts", "train", IMAGE_SIZE, 9000, 0.007),
    Stage("captions", "train", IMAGE_SIZE, 6000, 0.005),
    Stage("wording", "train", IMAGE_SIZE, 600, 0.003, adamw_lr=3e-4),
)
NUM_SCENES: dict[Split, int] = {"close_up": 100_000, "train": 300_000}


def resized(model: CoCaForCaptioning, image_size: int) -> CoCaForCaptioning:
    """The same weights for pictures of another size. Sin-cos positions are those of the grid, and not learnt."""
    config = copy.deepcopy(model.config)
    config.vision_config.image_size = image_size
    other = CoCaForCaptioning._from_config(config, attn_implementation=model.config._attn_implementation)
    learnt = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    other.load_state_dict(learnt, strict=False)
    return other


def train(
    datasets: dict[Split, SceneDataset], stages: tuple[Stage, ...], share: float, work: Path, output: Path
) -> None:
    """
    Trains and saves the model, from random weights or, if `stages` are the last ones only, from those in `output`.

    Run in each process; those that were launched together share every batch.
    """
    torch.set_num_threads(1)
    set_seed(SEED)
    rng = random.Random(f"{SEED}/{os.environ.get('RANK', 0)}")
    processor = build_processor()
    # PyTorch's fused attention has a backward pass on CPUs that takes longer than the rest of the step.
    if stages == STAGES:
        model = CoCaForCaptioning._from_config(build_config(processor.tokenizer), attn_implementation="eager")
    else:
        model = CoCaForCaptioning.from_pretrained(output, attn_implementation="eager")
    head = nn.Linear(model.config.vision_config.pooler_hidden_size, sum(map(len, FACT_VALUES)))
    for stage in stages:
        if model.config.vision_config.image_size != stage.image_size:
            model = resized(model, stage.image_size)
        learner: nn.Module
        collator: Callable
        if stage.name in ("shapes", "facts"):
            learner = FactClassifier(model.model.vision_model, head)
            collator = FactCollator(processor, rng, grey_share=1.0 if stage.name == "shapes" else GREY_SHARE)
        elif stage.name == "captions":
            learner = CaptionsAndFacts(model, head)
            collator = CaptionCollator(processor, rng, with_facts=True)
        else:
            learner = model
            model.model.vision_model.requires_grad_(False)
            collator = CaptionCollator(processor, rng, with_facts=False)
        trainer = Trainer(
            model=learner,
            args=training_arguments(stage, share, work / stage.name),
            train_dataset=datasets[stage.split],
            data_collator=collator,
            optimizers=(MuonAndAdamW(learner, stage.muon_lr, stage.adamw_lr), None),
        )
        trainer.train()
    if trainer.is_world_process_zero():
        save(model, processor, output)


def training_arguments(stage: Stage, share: float, output: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(output),
        max_steps=math.ceil(share * stage.steps),
        per_device_train_batch_size=BATCH_SIZE,
        lr_scheduler_type="cosine",
        warmup_steps=100,
        max_grad_norm=1.0,
        use_cpu=True,
        ddp_backend="gloo",
        ddp_find_unused_parameters=False,
        bf16=HAS_BFLOAT16,
        seed=SEED,
        dataloader_drop_last=True,
        remove_unused_columns=False,
        save_steps=500,  # to look at the model while it learns
        save_total_limit=1,
        save_only_model=True,
        logging_steps=50,
        report_to="none",
    )


def train_in_parallel(processes: int, *arguments: Any) -> None:
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
    )
    elastic_launch(config, train)(*arguments)


def save(model: CoCaForCaptioning, processor: CoCaProcessor, output: Path) -> None:
    text_config = model.config.text_config
    model.generation_config = GenerationConfig(
        max_length=CONTEXT_LENGTH,
        num_beams=1,
        bos_token_id=text_config.bos_token_id,
        eos_token_id=text_config.eos_token_id,
        pad_token_id=text_config.pad_token_id,
    )
    model.save_pretrained(output)
    processor.save_pretrained(output)


# --- measuring -----------------------------------------------------------------------------------------------------


def measure(folder: Path) -> dict[str, float]:
    """The figures of the model card: shares from 0 to 1 by name."""
    model = SceneModel.load(str(folder))
    console.print("Measuring on 1,000 unseen scenes and 1,000 with held-out combinations ...")
    zero_shot = zero_shot_accuracy(model, 1000)
    figures = {
        "captions": caption_accuracy(model, "test", 1000),
        "captions_held_out": caption_accuracy(model, "held_out", 1000),
        **retrieval_recall(model, num_sets=10),
        **{f"zero_shot_{kind.replace(' ', '_')}": accuracy for kind, accuracy in zero_shot.items()},
        "zero_shot": sum(zero_shot.values()) / len(zero_shot),
    }
    for name, value in figures.items():
        console.print(
            f"{name:28} {100 * value:5.1f} %"
            + (f"  (at least {100 * REQUIRED[name]:.0f})" if name in REQUIRED else "")
        )
    return figures


def training_record(folder: Path, share: float, processes: int, minutes: float) -> dict[str, Any]:
    model = CoCaForCaptioning.from_pretrained(folder)
    return {
        "parameters": f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        **{f"{stage.name}_steps": f"{math.ceil(share * stage.steps):,}" for stage in STAGES},
        "close_ups": f"{NUM_SCENES['close_up']:,}",
        "train_scenes": f"{NUM_SCENES['train']:,}",
        "batch_size": BATCH_SIZE * processes,
        "seed": SEED,
        "minutes": f"{minutes:.0f}",
        "processes": processes,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "coca_hf": version("coca-hf"),
        "python": platform.python_version(),
    }


def main(
    output: Annotated[Path, typer.Option(help="Folder for the model.")] = ROOT / "src/coca_hf/assets/bundled",
    work: Annotated[Path | None, typer.Option(help="Folder for pictures and checkpoints; by default removed.")] = None,
    share: Annotated[float, typer.Option(help="Part of all training steps to take: below 1 for a quick try.")] = 1.0,
    processes: Annotated[int, typer.Option(min=1, help="Processes of one thread that share each step.")] = 2,
    first_stage: Annotated[
        str, typer.Option(help="Take this stage and those behind it only, from the weights in --output.")
    ] = STAGES[0].name,
    evaluate_only: Annotated[
        bool,
        typer.Option("--evaluate-only", help="Save the model in --output anew with the present code; measure it."),
    ] = False,
) -> None:
    """Train the bundled model on rendered scenes, measure it and write its model card."""
    record = output / "training.json"
    names = [stage.name for stage in STAGES]
    if first_stage not in names:
        raise typer.BadParameter(f"{first_stage!r} is not one of {', '.join(names)}.", param_hint="--first-stage")
    stages = STAGES[names.index(first_stage) :]
    if not evaluate_only:
        minutes = 0.0 if stages == STAGES else float(json.loads(record.read_text(encoding="utf-8"))["minutes"])
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            folder = work or Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            sides = {stage.split: stage.image_size for stage in stages}
            datasets = {split: render_training_set(folder, split, sides[split], NUM_SCENES[split]) for split in sides}
            train_in_parallel(processes, datasets, stages, share, folder, output)
        minutes += (time.monotonic() - started) / 60
        training = training_record(output, share, processes, minutes)
        record.write_text(json.dumps(training, indent=2) + "\n", encoding="utf-8")
    else:
        save(CoCaForCaptioning.from_pretrained(output), CoCaProcessor.from_pretrained(output), output)
    figures = measure(output)
    write_scene_card(output, figures, json.loads(record.read_text(encoding="utf-8")))
    size = (output / "model.safetensors").stat().st_size
    missed = [name for name, least in REQUIRED.items() if figures[name] < least]
    if missed or size > MAX_WEIGHTS_BYTES:
        console.print(f"Not good enough to ship: {', '.join(missed) or f'{size} bytes of weights'}")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
