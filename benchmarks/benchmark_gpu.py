# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Measures coca_ViT-L-14 in bfloat16 on a GPU, in one call: captioning and training, each beside its floor.

    python benchmarks/benchmark_gpu.py                          # needs about 60 GB of GPU memory for the training step
    python benchmarks/benchmark_gpu.py --device cpu --quick     # a tiny model, to see that it runs

Captioning: images per second, greedy and with 6 beams, for one image and for 64, with a dynamic and with a compiled
static cache; open_clip on the same card; and the floor: the encoder's operations, then for every token the larger of
weights to read and operations to do, at the bandwidth and the rate that this card reaches in a copy and in a product.
Training: samples per second, peak memory, and the share of that rate that the model's own operations use (model-FLOPs
utilisation against what the card reaches, not against its data sheet); the same batch also as exact micro-batches.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.modeling_layers import GradientCheckpointingLayer

from benchmark import Call, Process, _make_reference
from benchmark_sides import captions, images
from coca_hf import optimize_for_inference, optimize_for_training
from coca_hf.configuration_coca import CoCaConfig
from coca_hf.conversion import open_clip_config
from coca_hf.modeling_coca import CoCaForCaptioning
from coca_hf.training.accumulation import ExactAccumulation
from quick_model import quick_config


MODEL = "coca_ViT-L-14"
PUBLISHED_SAMPLES_PER_SECOND = 75.5  # one A100 of the pretraining, as LAION reports it
Record = dict[str, Any]


def _seconds(work: Callable[[], Any], device: str, repeats: int, in_a_row: int = 1) -> float:
    """Of one `work`: the median of `repeats` runs of so many in a row, after two that warm up and compile."""
    if device == "cpu":
        repeats, in_a_row = 1, 1  # a rehearsal, whose figures nobody reads

    def run() -> float:
        _wait(device)
        start = time.perf_counter()
        for _ in range(in_a_row):
            work()
        _wait(device)
        return (time.perf_counter() - start) / in_a_row

    return statistics.median([run() for _ in range(2 + repeats)][2:])


def _wait(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()


def _operations(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def _rates(device: str, size: int) -> tuple[float, float]:
    """Operations and bytes per second that a product of (size, size) matrices and a copy reach, in bfloat16."""
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    b, c = torch.randn_like(a), torch.empty_like(a)
    return (
        2 * size**3 / _seconds(lambda: torch.mm(a, b, out=c), device, 10),
        2 * a.nbytes / _seconds(lambda: c.copy_(a), device, 10),
    )


def _floor(model: CoCaForCaptioning, batch: int, beams: int, tokens: int, rates: tuple[float, float]) -> float:
    """Seconds that captioning cannot go below: see the top of this file."""
    operations_per_second, bytes_per_second = rates
    x = images(batch).to(model.device, model.dtype)
    encoded = model.encode_images(x)
    encoder = _operations(lambda: model.encode_images(x)) / operations_per_second
    linears = [module for module in _decoding_layers(model) if isinstance(module, nn.Linear)]
    num_weights = sum(module.weight.numel() for module in linears)
    layers = model.config.multimodal_config.num_hidden_layers
    size = encoded.image_tokens.shape[:2].numel() * model.config.multimodal_config.hidden_size
    keys_and_values = 2 * layers * size * model.dtype.itemsize
    step_bytes = num_weights * model.dtype.itemsize + keys_and_values
    # Each key and value is multiplied once a row, as a weight is.
    per_row = num_weights + keys_and_values // model.dtype.itemsize // batch
    step_operations = 2 * per_row * batch * beams
    return encoder + tokens * max(step_bytes / bytes_per_second, step_operations / operations_per_second)


def _decoding_layers(model: CoCaForCaptioning) -> list[nn.Module]:
    """What every new token passes through: the text tower, and the decoder but for its image tokens' projections."""
    skipped = {module for layer in model.decoder.layers for module in _image_projections(layer)}
    parts = [*model.model.text_model.modules(), *model.decoder.modules(), model.lm_head]
    return [module for module in parts if module not in skipped]


def _image_projections(layer: Any) -> tuple[nn.Module, nn.Module]:
    attention = layer.cross_attention_layer.cross_attn
    return attention.k_proj, attention.v_proj


def _caption(
    model: CoCaForCaptioning, batches: tuple[int, ...], tokens: int, rates: tuple[float, float]
) -> Iterator[Record]:
    if model.device.type != "cpu":
        # Steps on a static cache; on a dynamic one the model stays as it is. A rehearsal need not wait for code.
        optimize_for_inference(model, compile=True)
    for batch in batches:
        x = images(batch).to(model.device, model.dtype)
        for beams in (1, 6):
            floor = _floor(model, batch, beams, tokens, rates)
            for cache in ("dynamic", "static"):
                options: Record = {"num_beams": beams, "max_new_tokens": tokens, "min_new_tokens": tokens}
                generate = partial(model.generate, x, **options, cache_implementation=cache)
                seconds = _seconds(generate, model.device.type, 3)
                record = {"batch": batch, "beams": beams, "side": f"coca_hf, {cache} cache", "floor": batch / floor}
                yield {**record, "images_per_second": batch / seconds}


def _caption_with_open_clip(reference: Path, device: str, batches: tuple[int, ...], tokens: int) -> Iterator[Record]:
    made_with: Record = {"name": MODEL, "weights": None, "device": device, "dtype": "bfloat16"}
    process = Process(_make_reference(reference), "open_clip", made_with, {})
    for batch in batches:
        for beams, options in (
            (1, {"generation_type": "top_k", "top_k": 1}),
            (6, {"num_beams": 6, "num_beam_groups": 3}),
        ):
            call = Call("open_clip", "generate", {"batch": batch, "tokens": tokens + 1, **options})
            seconds = statistics.median([process.run(call)["seconds"] for _ in range(4)][1:])
            record = {"batch": batch, "beams": beams, "side": "open_clip 3.3.0"}
            yield {**record, "floor": None, "images_per_second": batch / seconds}
    process.close()


# How a training step can be run: the weights' dtype, whether the layers are compiled, micro-batches.
TRAINING_SIDES = {
    "autocast": (torch.float32, False, 1),
    "autocast, layers compiled": (torch.float32, True, 1),
    "autocast, 4 micro-batches": (torch.float32, False, 4),
    "bfloat16 weights, layers compiled": (torch.bfloat16, True, 1),
}


def _train(config: CoCaConfig, device: str, batch: int, length: int, rates: tuple[float, float], side: str) -> Record:
    """Forward, backward and AdamW, with products in bfloat16."""
    dtype, is_compiled, micro_batches = TRAINING_SIDES[side]
    # PyTorch stops compiling a function that it has compiled often enough, for the sides before.
    torch._dynamo.reset()
    model = optimize_for_training(CoCaForCaptioning(config).to(device, dtype).train())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=device != "cpu")
    x, ids = images(batch).to(device, dtype), captions(batch, length, length).to(device)

    products = partial(torch.autocast, device, torch.bfloat16)

    def forward() -> torch.Tensor:
        with products():
            return model(x, ids, labels=ids).loss

    parts = [
        {"pixel_values": pixels, "input_ids": texts, "labels": texts}
        for pixels, texts in zip(x.chunk(micro_batches), ids.chunk(micro_batches), strict=True)
    ]

    def accumulate() -> None:
        accumulation = ExactAccumulation(model, parts, autocast=products)
        for part in parts:
            with accumulation.next() as add_gradients:
                with products():
                    outputs = model(**part, return_loss=False, num_items_in_batch=ids[:, 1:].numel())
                add_gradients(outputs.loss, outputs).backward()

    def step() -> None:
        if micro_batches > 1:
            accumulate()
        else:
            forward().backward()
        optimizer.step()
        optimizer.zero_grad()

    # The model's own: what is computed a second time, in the backward pass, does not count. Backward is twice forward.
    with torch.no_grad():
        operations = 3 * _operations(forward)
    if is_compiled:
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                # On a CPU this is a rehearsal, which need not wait for code to be made.
                module.compile(backend="eager" if device == "cpu" else "inductor")
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    # As training goes on, the next step is prepared while the card still works on the last.
    seconds = _seconds(step, device, 3, in_a_row=4)
    return {
        "batch": batch,
        "length": length,
        "side": side,
        "samples_per_second": batch / seconds,
        "published_samples_per_second": PUBLISHED_SAMPLES_PER_SECOND,
        "operations": operations,
        "model_operations_share": operations / seconds / rates[0],
        "peak_memory": torch.cuda.max_memory_allocated() if device == "cuda" else None,
    }


def _print(results: Record) -> None:
    table = Table("images", "beams", "side", "images/s", "floor, images/s")
    for one in results["captioning"]:
        floor = f"{one['floor']:.1f}" if one["floor"] else ""
        table.add_row(str(one["batch"]), str(one["beams"]), one["side"], f"{one['images_per_second']:.1f}", floor)
    console = Console()
    console.print(table)
    table = Table("training", "samples/s", "published, samples/s", "share of the card's products", "memory, GB")
    for one in results["training"]:
        speeds = [f"{one[key]:.1f}" for key in ("samples_per_second", "published_samples_per_second")]
        memory = f"{one['peak_memory'] / 1e9:.1f}" if one["peak_memory"] else ""
        table.add_row(one["side"], *speeds, f"{one['model_operations_share']:.0%}", memory)
    console.print(table)
    console.print_json(data={key: results[key] for key in ("device", "rates", "versions")})


def main(
    output: Annotated[Path, typer.Option(help="File for the results.")] = Path("benchmarks/speed/gpu.json"),
    device: Annotated[str, typer.Option(help="cuda, xpu, or cpu with --quick.")] = "cuda",
    train_batch: Annotated[int, typer.Option(min=1, help="Samples of a training step.")] = 256,
    quick: Annotated[bool, typer.Option("--quick", help="A tiny model and no open_clip.")] = False,
    reference: Annotated[Path, typer.Option(help="Where open_clip's environment is, or is made.")] = Path(
        "build/open_clip"
    ),
) -> None:
    """Measures everything and writes it to --output."""
    config = quick_config() if quick else open_clip_config(MODEL)
    batches, tokens, length = ((1, 2), 4, 8) if quick else ((1, 64), 30, 76)
    rates = _rates(device, 256 if quick else 8192)
    results: Record = {
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "rates": {"operations_per_second": rates[0], "bytes_per_second": rates[1]},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "training": [],
        "captioning": [],
    }

    def add(part: str, records: Iterable[Record]) -> None:
        # Each at once: what took minutes is not lost with one that fails.
        for record in records:
            results[part].append(record)
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(results, indent=1) + "\n")

    train_batch = 4 if quick else train_batch
    add("training", (_train(config, device, train_batch, length, rates, side) for side in TRAINING_SIDES))
    model = CoCaForCaptioning(config).to(device, torch.bfloat16).eval()
    # Operations are not counted in inference mode.
    with torch.no_grad():
        add("captioning", _caption(model, batches, tokens, rates))
    del model
    if not quick:
        add("captioning", _caption_with_open_clip(reference, device, batches, tokens))
    _print(results)


if __name__ == "__main__":
    typer.run(main)
