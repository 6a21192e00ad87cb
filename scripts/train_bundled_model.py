# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Train the small model that ships inside the package, from nothing, on rendered scenes; measure it; write its card.

Two CPU cores and an hour are enough, and the same seed gives the same training data, wordings and initial weights.

What limits the result is how slowly shapes are learnt. Share of right shapes on unseen close-ups of 40 pixels, by a
vision tower of 4 layers trained with a linear layer on its mean alone, one core, learning rate 1e-3 unless said:

| patch | width | batch | optimizer | seconds | pictures | right |
| --- | --- | --- | --- | --- | --- | --- |
| 10 | 192 | 64 | AdamW | 75 | 43,000 | 36 % |
| 5 | 128 | 64 | AdamW, 3e-3 | 120 | 83,000 | 38 % |
| 10 | 192 | 16 | AdamW | 100 | 79,000 | 22 % |
| 5 | 128 | 16 | AdamW | 120 | 68,000 | 65 % |
| 8 | 128 | 16 | AdamW | 150 | 61,000 | 53 % |
| 5 | 128 | 16 | Muon 0.02 in the layers | 100 | 37,000 | 53 % |
| 8 | 128 | 16 | Muon 0.01 in the layers | 100 | 58,000 | 83 % |
| 8 | 128 | 16 | Muon 0.005 in the layers | 150 | 82,000 | 92 % |

Small patches, small batches and `torch.optim.Muon` for the layers' matrices (AdamW for the rest) are the way on; what
the script does below is the first line.
"""

import copy
import json
import platform
import random
import string
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import transformers
import typer
from rich.console import Console
from rich.progress import track
from torch.utils.data import Dataset
from transformers import GenerationConfig, Trainer, TrainingArguments, set_seed

from coca_hf import CoCaConfig, CoCaForCaptioning, CoCaProcessor, CoCaTokenizer
from coca_hf.image_processing_coca import CoCaImageProcessor
from scene_metrics import SceneModel, caption_accuracy, retrieval_recall, zero_shot_accuracy
from scenes import (
    CLOSE_UP_ZOOM,
    HELD_OUT_COMBINATIONS,
    Facts,
    Split,
    caption,
    make_scene,
    partial_caption,
    render,
    scenes,
)


ROOT = Path(__file__).resolve().parents[1]
CARD_TEMPLATE = ROOT / "model_cards" / "bundled.md"
MAX_WEIGHTS_BYTES = 10_000_000
REQUIRED = {
    "captions": 0.95,
    "captions_held_out": 0.85,
    "text_to_image": 0.90,
    "image_to_text": 0.90,
    "zero_shot": 0.95,
}

SEED = 0
IMAGE_SIZE = 80
CLOSE_UP_SIZE = IMAGE_SIZE // CLOSE_UP_ZOOM
CONTEXT_LENGTH = 48
# Small, because updates count for more than negatives here: 64 learns twice as fast per scene as 128.
BATCH_SIZE = 64
# Texts that name some facts only. They teach zero-shot labels and are no captions, so the decoder never learns them.
PARTIAL_SHARE = 0.2
# Captions with gaps: the decoder must look for a shape even where the colour before it has never gone with that shape.
GAPPY_SHARE = 0.5
GAP_RATE = 0.3
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
    """About 2.4 million parameters, most of them in the vision tower, where the work is."""
    return CoCaConfig(
        vision_config={
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "image_size": IMAGE_SIZE,
            "patch_size": 10,
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


class SceneDataset(Dataset):
    """Pictures as bytes, uint8 (scenes, side, side, 3), with the facts that captions are worded from."""

    def __init__(self, pictures: np.ndarray, facts: Sequence[Facts]) -> None:
        self.pictures = pictures
        self.facts = facts

    def __len__(self) -> int:
        return len(self.facts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"picture": self.pictures[index], "facts": self.facts[index]}


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
    return SceneDataset(np.load(path, mmap_mode="r"), facts)


@dataclass
class Collator:
    """Pictures and facts -> the model's inputs, with new words for the facts each time."""

    processor: CoCaProcessor
    rng: random.Random

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        is_partial = torch.tensor([self.rng.random() < PARTIAL_SHARE for _ in examples])
        texts = [
            (partial_caption if partial else caption)(example["facts"], self.rng)
            for partial, example in zip(is_partial.tolist(), examples, strict=True)
        ]
        inputs = self.processor.tokenizer(texts, padding=True, return_tensors="pt")
        ignored = (inputs["attention_mask"] == 0) | is_partial[:, None]
        is_gappy = torch.tensor([not partial and self.rng.random() < GAPPY_SHARE for partial in is_partial.tolist()])
        return {
            "pixel_values": self.pixel_values(np.stack([example["picture"] for example in examples])),
            "input_ids": self.with_gaps(inputs["input_ids"], is_gappy),
            "attention_mask": inputs["attention_mask"],
            "labels": inputs["input_ids"].masked_fill(ignored, -100),
        }

    def with_gaps(self, input_ids: torch.Tensor, is_gappy: torch.Tensor) -> torch.Tensor:
        """(batch, text), bool (batch,) -> ids in which some words of some rows are a question mark."""
        tokenizer = self.processor.tokenizer
        frame = torch.tensor([tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id])
        drawn = torch.tensor([[self.rng.random() < GAP_RATE for _ in row] for row in input_ids])
        (gap_id,) = tokenizer.encode(GAP_WORD, add_special_tokens=False)
        return input_ids.masked_fill(drawn & is_gappy[:, None] & ~torch.isin(input_ids, frame), gap_id)

    def pixel_values(self, pictures: np.ndarray) -> torch.Tensor:
        """What the processor makes of pictures that have the right size already, a batch at a time."""
        image_processor = self.processor.image_processor
        mean, std = torch.tensor(image_processor.image_mean), torch.tensor(image_processor.image_std)
        return ((torch.from_numpy(pictures) / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


# --- training ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """One part of the training: what is shown, for how many steps, and how the learning rate goes."""

    split: Split
    image_size: int
    num_scenes: int
    steps: int
    schedule: str


def stages(steps: int) -> tuple[Stage, Stage]:
    """A third of the steps on close-ups, which cost half as much, then whole scenes.

    Whole scenes alone teach shapes slowly: for a long time the model sees colours only. A close-up is a quarter of a
    scene around one group, so shapes come early, and the scenes add number and place.
    """
    return (
        Stage("close_up", CLOSE_UP_SIZE, 60_000, steps // 3, "constant_with_warmup"),
        Stage("train", IMAGE_SIZE, 200_000, steps - steps // 3, "cosine"),
    )


def resized(model: CoCaForCaptioning, image_size: int) -> CoCaForCaptioning:
    """The same weights for pictures of another size. Sin-cos positions are those of the grid, and not learnt."""
    config = copy.deepcopy(model.config)
    config.vision_config.image_size = image_size
    other = CoCaForCaptioning._from_config(config, attn_implementation=model.config._attn_implementation)
    learnt = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    other.load_state_dict(learnt, strict=False)
    return other


def train(steps: int, folder: Path) -> tuple[CoCaForCaptioning, CoCaProcessor]:
    processor = build_processor()
    collator = Collator(processor, random.Random(SEED))
    # PyTorch's fused attention has a backward pass on CPUs that takes longer than the rest of the step.
    model = CoCaForCaptioning._from_config(build_config(processor.tokenizer), attn_implementation="eager")
    for stage in stages(steps):
        dataset = render_training_set(folder, stage.split, stage.image_size, stage.num_scenes)
        model = resized(model, stage.image_size)
        arguments = training_arguments(stage, folder / f"checkpoints_{stage.split}")
        Trainer(model=model, args=arguments, train_dataset=dataset, data_collator=collator).train()
    return model, processor


def training_arguments(stage: Stage, output: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(output),
        max_steps=stage.steps,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=1e-3,
        lr_scheduler_type=stage.schedule,
        warmup_steps=200,
        weight_decay=0.05,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        use_cpu=True,
        bf16=True,
        seed=SEED,
        dataloader_drop_last=True,
        remove_unused_columns=False,
        save_steps=1000,  # to look at the model while it learns
        save_total_limit=1,
        logging_steps=50,
        report_to="none",
    )


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


def write_card(folder: Path, figures: dict[str, float], training: dict[str, Any]) -> None:
    weights = folder / "model.safetensors"
    held_out = ", ".join(sorted(f"{colour} {shape}" for colour, shape in HELD_OUT_COMBINATIONS))
    fields = {
        **{name: f"{100 * value:.1f}" for name, value in figures.items()},
        **training,
        "image_size": IMAGE_SIZE,
        "context_length": CONTEXT_LENGTH,
        "weights_megabytes": f"{weights.stat().st_size / 1e6:.1f}",
        "held_out": held_out,
    }
    template = string.Template(CARD_TEMPLATE.read_text(encoding="utf-8"))
    (folder / "README.md").write_text(template.substitute(fields), encoding="utf-8")


def training_record(model: CoCaForCaptioning, steps: int, seconds: float) -> dict[str, Any]:
    close_ups, whole = stages(steps)
    return {
        "parameters": f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        "close_up_steps": f"{close_ups.steps:,}",
        "close_ups": f"{close_ups.num_scenes:,}",
        "steps": f"{whole.steps:,}",
        "train_scenes": f"{whole.num_scenes:,}",
        "batch_size": BATCH_SIZE,
        "seed": SEED,
        "minutes": f"{seconds / 60:.0f}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "coca_hf": version("coca-hf"),
        "python": platform.python_version(),
    }


def main(
    output: Annotated[Path, typer.Option(help="Folder for the model.")] = ROOT / "src/coca_hf/assets/bundled",
    work: Annotated[Path | None, typer.Option(help="Folder for pictures and checkpoints; by default removed.")] = None,
    steps: Annotated[int, typer.Option(min=3, help=f"Training steps of {BATCH_SIZE} scenes.")] = 12_000,
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads; the steps are too small to gain much from more.")
    ] = 1,
    evaluate_only: Annotated[
        bool,
        typer.Option("--evaluate-only", help="Save the model in --output anew with the present code; measure it."),
    ] = False,
) -> None:
    """Train the bundled model on rendered scenes, measure it and write its model card."""
    torch.set_num_threads(threads)
    record = output / "training.json"
    if not evaluate_only:
        set_seed(SEED)
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            folder = work or Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            model, processor = train(steps, folder)
        save(model, processor, output)
        training = training_record(model, steps, time.monotonic() - started)
        record.write_text(json.dumps(training, indent=2) + "\n", encoding="utf-8")
    else:
        save(CoCaForCaptioning.from_pretrained(output), CoCaProcessor.from_pretrained(output), output)
    figures = measure(output)
    write_card(output, figures, json.loads(record.read_text(encoding="utf-8")))
    size = (output / "model.safetensors").stat().st_size
    missed = [name for name, least in REQUIRED.items() if figures[name] < least]
    if missed or size > MAX_WEIGHTS_BYTES:
        console.print(f"Not good enough to ship: {', '.join(missed) or f'{size} bytes of weights'}")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
