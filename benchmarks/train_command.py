# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Whole training steps of coca_ViT-B-32, images read, gradients clipped, AdamW: `coca-hf train` and open_clip.

    python benchmarks/train_command.py --reference PYTHON     # the Python of open_clip's environment, with torchvision
    python benchmarks/train_command.py --quick                # this package alone, a tiny model, to see that it runs

Both read the same JPEG files of 640 x 480 pixels, with captions of 12 tokens, 16 a step, by one process ahead of the
model: `coca_hf.training.train` from JSON lines, open_clip by its transforms, its tokenizer and its own
`train_one_epoch`. A step lasts from one call of the optimizer to the next. Memory is the growth of the process's peak
from the first layer's call to the first call of the optimizer: what is kept for going backward, and gradients.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any


HERE = Path(__file__).resolve().parent
BATCH, NUMBER = 16, 64
WORDS = ["red", "blue", "green", "black", "white", "small", "large", "old", "young", "happy", "quiet", "bright"]
Record = dict[str, Any]


class Watch:
    """When the optimizer is called, and how the peak of memory grew until it first was."""

    def __init__(self) -> None:
        from torch.nn.modules.module import register_module_forward_pre_hook
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        self.calls: list[float] = []
        self.before = self.growth = 0
        self.first_layer = register_module_forward_pre_hook(self._begin)
        self.optimizer = register_optimizer_step_pre_hook(self._step)

    def _begin(self, *_: Any) -> None:
        from benchmark_sides import memory

        self.first_layer.remove()
        Path("/proc/self/clear_refs").write_text("5")  # starts the peak anew
        self.before = memory("VmRSS")

    def _step(self, *_: Any) -> None:
        from benchmark_sides import memory

        self.growth = self.growth or memory("VmHWM") - self.before
        self.calls.append(time.perf_counter())

    def record(self) -> Record:
        seconds = [after - before for before, after in zip(self.calls, self.calls[1:], strict=False)]
        return {"seconds": seconds, "growth": self.growth}


def train_ours(folder: Path, tokenizer: str | None, steps: int) -> Record:
    """`tokenizer` None: of a tiny model whose configuration is in the folder."""
    from coca_hf.training import train

    options: Record = {"init": "coca_ViT-B-32", "tokenizer": tokenizer}
    if tokenizer is None:
        options = {"init": str(folder / "tiny")}
    watch = Watch()
    result = train(
        folder / "data.jsonl",
        output=folder / "out",
        batch_size=BATCH,
        max_steps=steps,
        learning_rate=1e-4,
        workers=1,
        device="cpu",
        **options,
    )
    return {**watch.record(), "waiting": result.waiting_share}


def train_theirs(folder: Path, _tokenizer: str | None, steps: int) -> Record:
    import contextlib

    with contextlib.suppress(ImportError):
        import oracle_shim  # noqa: F401  lets open_clip import beside a torchvision that has no operators
    import open_clip
    import torch
    from open_clip.loss import CoCaLoss
    from open_clip_train.scheduler import cosine_lr
    from open_clip_train.train import train_one_epoch
    from PIL import Image

    model, preprocess, _ = open_clip.create_model_and_transforms("coca_ViT-B-32")
    tokenizer = open_clip.get_tokenizer("coca_ViT-B-32")
    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]

    class Photos(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return steps * BATCH

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            row = rows[index % len(rows)]
            return preprocess(Image.open(folder / row["image"])), tokenizer([row["caption"]])[0]

    loader: Any = torch.utils.data.DataLoader(Photos(), BATCH, num_workers=1)
    loader.num_batches, loader.num_samples = steps, steps * BATCH
    data = SimpleNamespace(dataloader=loader, set_epoch=lambda epoch: None)
    is_plain: dict[bool, list[Any]] = {True: [], False: []}
    for parameter in model.parameters():
        is_plain[parameter.ndim < 2].append(parameter)
    groups = [{"params": is_plain[True], "weight_decay": 0.0}, {"params": is_plain[False], "weight_decay": 0.1}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.98), eps=1e-6)
    settings = SimpleNamespace(
        device="cpu", precision="fp32", accum_freq=1, distill=False, skip_scheduler=False, grad_clip_norm=1.0
    )
    vars(settings).update(horovod=False, rank=0, world_size=1, batch_size=BATCH, log_every_n_steps=steps, wandb=False)
    watch = Watch()
    schedule = cosine_lr(optimizer, 1e-4, 1, steps)
    train_one_epoch(model, {"train": data}, CoCaLoss(2.0, 1.0), 0, optimizer, None, schedule, None, settings)
    return watch.record()


def make_data(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    with open(folder / "data.jsonl", "w", encoding="utf-8") as file:
        for number in range(NUMBER):
            coarse = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((640, 480)).save(folder / f"{number}.jpg", quality=90)
            caption = " ".join(random.choice(WORDS, 10))
            file.write(json.dumps({"image": f"{number}.jpg", "caption": caption}) + "\n")


def measured(python: str, side: str, folder: Path, tokenizer: str | None, steps: int) -> Record:
    """In a process of its own."""
    arguments = json.dumps([side, str(folder), tokenizer, steps])
    environment = {**os.environ, "TRAIN_COMMAND_SIDE": arguments}
    done = subprocess.run([python, __file__], env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_side() -> None:
    side, folder, tokenizer, steps = json.loads(os.environ["TRAIN_COMMAND_SIDE"])
    train = {"coca_hf": train_ours, "open_clip": train_theirs}[side]
    print(json.dumps(train(Path(folder), tokenizer, steps)))


def ratios(results: Record) -> Record:
    """The first two steps begin with empty caches and queues."""
    seconds = {side: statistics.median(results[side]["seconds"][1:]) for side in ("coca_hf", "open_clip")}
    return {
        "seconds a step": seconds,
        "times as fast": seconds["open_clip"] / seconds["coca_hf"],
        "memory": results["coca_hf"]["growth"] / results["open_clip"]["growth"],
        "waiting for data": results["coca_hf"]["waiting"],
    }


def save_tiny(folder: Path) -> None:
    from coca_hf import CoCaTokenizer
    from quick_model import quick_config

    quick_config().save_pretrained(folder)
    words = [" ".join(WORDS)] * 2
    CoCaTokenizer(model_max_length=16).train_new_from_iterator(words, vocab_size=520).save_pretrained(folder)


def compare(reference: str, steps: int, output: Path, quick: bool) -> None:
    """Measures both sides, one after the other."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_data(folder)
        if quick:
            save_tiny(folder / "tiny")
            print(measured(sys.executable, "coca_hf", folder, None, steps))
            return
        find = "import contextlib\nwith contextlib.suppress(ImportError):\n import oracle_shim\n"
        find += "import open_clip.tokenizer\nprint(open_clip.tokenizer.default_bpe())"
        found = subprocess.run([reference, "-c", find], capture_output=True, text=True, check=True)
        results: Record = {}
        for side, python in (("coca_hf", sys.executable), ("open_clip", reference)):
            results[side] = measured(python, side, folder, found.stdout.strip(), steps)
    from benchmark import machine

    results |= ratios(results)
    output.write_text(json.dumps(results | machine(), indent=1) + "\n", encoding="utf-8")
    print(json.dumps(ratios(results), indent=1))


def main() -> None:
    # open_clip's environment, in which one side runs, has no typer.
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", default="", help="Python of open_clip's environment.")
    parser.add_argument("--steps", type=int, default=6, help="Of each side, of which the first two do not count.")
    parser.add_argument("--output", type=Path, default=HERE / "train-command.json", help="File for the results.")
    parser.add_argument("--quick", action="store_true", help="A tiny model of this package, nothing written.")
    compare(**vars(parser.parse_args()))


if __name__ == "__main__":
    if "TRAIN_COMMAND_SIDE" in os.environ:
        run_side()
    else:
        main()
