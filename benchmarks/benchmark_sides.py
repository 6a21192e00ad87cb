# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What `benchmark.py` measures, one side at a time: a process that does a piece of work each time it is asked.

    python benchmark_sides.py SIDE '{"how it is made": value}'

A line on stdin, `["case", {"argument": value}]`, asks for one run of a case; the answer is a line of JSON: seconds,
growth of peak memory in bytes, and what the work gave. Sides: open_clip (in its own environment), coca_hf, and others
of transformers' that a row compares.
"""

import functools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch


Work = Callable[[], Any]


class Timed(NamedTuple):
    """The result of work that takes its own time."""

    seconds: float


# The vocabulary's start and end tokens, and ids that stand for words.
START, END, FIRST_WORD, LAST_WORD = 49406, 49407, 1000, 40000


def images(count: int) -> torch.Tensor:
    """-> (count, 3, 224, 224)."""
    return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def captions(count: int, length: int, padded_length: int) -> torch.Tensor:
    """Start token, words, end token, padding: (count, padded length)."""
    ids = torch.randint(FIRST_WORD, LAST_WORD, (count, length), generator=torch.Generator().manual_seed(2))
    ids[:, 0], ids[:, -1] = START, END
    return torch.nn.functional.pad(ids, (0, padded_length - length))


class OpenClip:
    """open_clip 3.3.0, with the weights of the other side, or with random ones."""

    def __init__(self, name: str, weights: str | None, device: str = "cpu", dtype: str = "float32"):
        if torch.version.cuda is None:
            # Beside CPU torch, torchvision's operators never register; their schemas are all that its Python needs.
            self.library = torch.library.Library("torchvision", "DEF")
            self.library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            self.library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import open_clip
        from safetensors.torch import load_file

        self.model = open_clip.create_model(name).eval()
        if weights is not None:
            self.model.load_state_dict(load_file(weights))
        self.model.to(device, getattr(torch, dtype))
        self.images = lambda count: images(count).to(device, getattr(torch, dtype))

    def generate(self, batch: int, tokens: int = 30, **options: Any) -> Work:
        x = self.images(batch)
        return lambda: self.model.generate(x, seq_len=tokens, min_seq_len=tokens - 1, **options).tolist()

    def default_call(self, batch: int) -> Work:
        x = self.images(batch)
        return lambda: self.model.generate(x).tolist()

    def text_features(self, batch: int, length: int) -> Work:
        ids = captions(batch, length, 76)
        return lambda: self._no_grad(lambda: self.model.encode_text(ids)[0, :4].tolist())

    def image_features(self, batch: int) -> Work:
        x = self.images(batch)
        return lambda: self._no_grad(lambda: self.model.encode_image(x)[0, :4].tolist())

    def train_step(self, batch: int, length: int) -> Work:
        from open_clip.loss import CoCaLoss

        x, ids = self.images(batch), captions(batch, length, 76)
        loss = CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0)

        def step() -> float:
            self.model.train().zero_grad()
            total = sum(loss(**self.model(x, ids)))
            total.backward()
            return total.item()

        return step

    @staticmethod
    def _no_grad(work: Work) -> Any:
        with torch.no_grad():
            return work()


def _with_options(
    model: Any,
    dtype: str = "float32",
    packed: bool = False,
    int8: bool = False,
    compiled: bool = False,
    for_training: bool = False,
) -> Any:
    """The model as the options have it."""
    from coca_hf import optimize_for_inference, optimize_for_training

    model = model.to(getattr(torch, dtype))
    if int8:
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            quantization = TorchAoConfig(Int8WeightOnlyConfig())
            model = type(model).from_pretrained(folder, quantization_config=quantization).eval()
    if packed or compiled:
        optimize_for_inference(model, compile=compiled)
    return optimize_for_training(model) if for_training else model


class CocaHf:
    """This package, in the variants that a user can choose."""

    def __init__(self, name: str, weights: str, **options: Any):
        from coca_hf.conversion import open_clip_config
        from coca_hf.modeling_coca import CoCaForCaptioning
        from coca_hf.open_clip import CoCa

        torch.manual_seed(0)
        self.model = CoCaForCaptioning(open_clip_config(name)).eval()
        if not Path(weights).exists():
            from safetensors.torch import save_file

            state = CoCa.from_captioner(self.model).state_dict()
            save_file({key: value.contiguous() for key, value in state.items()}, weights)
        self.model = _with_options(self.model, **options)
        self.wrapped = CoCa.from_captioner(self.model)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.model.logit_scale.dtype

    def generate(self, batch: int, tokens: int = 30, **options: Any) -> Work:
        x = images(batch).to(self.dtype)
        lengths = {"max_length": tokens, "min_length": tokens - 1}
        return lambda: self.model.generate(x, **lengths, **options).tolist()

    def default_call(self, batch: int) -> Work:
        x = images(batch).to(self.dtype)
        return lambda: self.wrapped.generate(x).tolist()

    @torch.inference_mode()
    def _features(self, compute: Callable[[], Any]) -> list[float]:
        return torch.nn.functional.normalize(compute().pooler_output, dim=-1)[0, :4].tolist()

    def text_features(self, batch: int, length: int) -> Work:
        ids = captions(batch, length, length)
        return lambda: self._features(lambda: self.model.get_text_features(ids))

    def image_features(self, batch: int) -> Work:
        x = images(batch).to(self.dtype)
        return lambda: self._features(lambda: self.model.get_image_features(x))

    def train_step(self, batch: int, length: int) -> Work:
        x, ids = images(batch), captions(batch, length, length)

        def step() -> float:
            self.model.train().zero_grad()
            loss = self.model(x, ids, labels=ids).loss
            loss.backward()
            return loss.item()

        return step

    def train_operations(self, batch: int, length: int) -> Work:
        """Operations of a training step: forward, and twice as many backward."""
        from torch.utils.flop_counter import FlopCounterMode

        x, ids = images(batch), captions(batch, length, length)

        def count() -> int:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                self.model.train()(x, ids, labels=ids)
            return 3 * counter.get_total_flops()

        return count

    def large_product(self, size: int) -> Work:
        """A product of (size, size) matrices: the rate that this processor reaches."""
        a, b = torch.randn(size, size), torch.randn(size, size)
        return lambda: (a @ b) is None

    def encode(self, batch: int) -> Work:
        x = images(batch).to(self.dtype)
        return torch.inference_mode()(lambda: self.model.encode_images(x) and None)

    def decoding_step(self, batch: int, beams: int, past: int = 15) -> Work:
        """One token for each of batch * beams rows, `past` cached ones before it."""
        from transformers.cache_utils import DynamicCache

        ids = captions(batch * beams, past + 1, past + 1)
        mask = torch.ones_like(ids)
        cache = DynamicCache()
        with torch.inference_mode():
            encoded = self.model.encode_images(images(batch).to(self.dtype))
            self.model(input_ids=ids[:, :past], encoded_images=encoded, cache=cache, logits_to_keep=1)

        @torch.inference_mode()
        def step() -> None:
            inputs = self.model.prepare_inputs_for_generation(
                ids,
                attention_mask=mask,
                cache=cache,
                encoded_images=encoded,
                use_cache=True,
                next_sequence_length=1,
            )
            self.model(**inputs, return_dict=True)
            cache.crop(-1)

        return step

    def outside_steps(self, batch: int, **options: Any) -> Work:
        """Share of a call of `generate()` that is neither the encoder's nor a pass of the decoder's."""
        call, inside = self.generate(batch, **options), 0.0

        def timed(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)  # generate() looks at the signature of `forward`
            def run(*args: Any, **kwargs: Any) -> Any:
                nonlocal inside
                start = time.perf_counter()
                result = function(*args, **kwargs)
                inside += time.perf_counter() - start
                return result

            return run

        def share() -> float:
            nonlocal inside
            inside, start = 0.0, time.perf_counter()
            timers: dict[str, Any] = {name: timed(getattr(self.model, name)) for name in ("encode_images", "forward")}
            with mock.patch.multiple(self.model, **timers):
                call()
            return 1 - inside / (time.perf_counter() - start)

        return share

    def profile(self, batch: int, **options: Any) -> Work:
        """Share of each of PyTorch's operations in a call of `generate()`, and how often it ran, longest first."""
        from torch.profiler import ProfilerActivity
        from torch.profiler import profile as profiler

        call = self.generate(batch, **options)
        call()

        def run() -> list[tuple[str, float, int]]:
            with profiler(activities=[ProfilerActivity.CPU]) as found:
                call()
            operations = found.key_averages()
            total = sum(one.self_cpu_time_total for one in operations)
            shares = [(one.key, one.self_cpu_time_total / total, one.count) for one in operations]
            return sorted(shares, key=lambda share: -share[1])[:12]

        return run

    def _step_layers(self) -> list[Any]:
        return [
            module
            for name, module in self.model.named_modules()
            if hasattr(module, "in_features")
            and name.startswith(("model.text_model", "decoder", "lm_head"))
            and not name.endswith(("cross_attn.k_proj", "cross_attn.v_proj"))
        ]

    def reading(self) -> Work:
        """Every weight of one decoding step, read once: what memory alone takes."""
        weights = [layer.weight for layer in self._step_layers()]

        @torch.inference_mode()
        def read() -> None:
            for weight in weights:
                weight.sum()

        return read

    def products(self, rows: int) -> Work:
        """The matrix products of one decoding step, alone: its floor."""
        layers = self._step_layers()
        inputs = {layer.in_features: torch.randn(rows, layer.in_features).to(self.dtype) for layer in layers}

        @torch.inference_mode()
        def multiply() -> None:
            for layer in layers:
                layer(inputs[layer.in_features])

        return multiply


class Bundled:
    """The bundled model on drawn scenes: what an option does to captions that can be checked."""

    def __init__(self, **options: Any) -> None:
        import coca_hf
        from scene_metrics import SceneModel

        self.scenes = SceneModel.load(str(coca_hf.bundled_model()))
        self.scenes.model = _with_options(self.scenes.model, **options)

    def captions(self, count: int) -> Work:
        from scenes import parse_caption, render, scenes

        def caption() -> dict[str, Any]:
            texts = self.scenes.captions(map(render, scenes("test", count)))
            right = [parse_caption(t) == s.facts for t, s in zip(texts, scenes("test", count), strict=True)]
            return {"texts": texts, "right": sum(right) / count}

        return caption


class Folder:
    """A folder of JPEG files: a run over it as the command makes it, and a bare loop over tensors that are there."""

    def __init__(self, name: str, weights: str, photos: list[str], count: int) -> None:
        from coca_hf import CoCaImageProcessor, CoCaProcessor, CoCaTokenizer

        model = CocaHf(name, weights).model
        model.generation_config.update(num_beams=1, num_beam_groups=None, max_new_tokens=30, min_new_tokens=29)
        self.folder = tempfile.TemporaryDirectory()
        self.model_folder, images = Path(self.folder.name, "model"), Path(self.folder.name, "images")
        model.save_pretrained(self.model_folder)
        # Random weights write nothing that is worth decoding.
        tokenizer = CoCaTokenizer().train_new_from_iterator(["a photo"], vocab_size=520)
        self.processor = CoCaProcessor(CoCaImageProcessor(), tokenizer)
        self.processor.save_pretrained(self.model_folder)
        images.mkdir()
        self.paths = [str(images / f"{index:06d}.jpg") for index in range(count)]
        for index, path in enumerate(self.paths):
            shutil.copy(photos[index % len(photos)], path)

    def run(self, batch: int) -> Callable[[], "Timed"]:
        """From when the model is there to when the captions are written."""
        from coca_hf.batch_inference import CaptionJob, ModelChoice, run
        from coca_hf.batch_inference.progress import Progress

        job, output = CaptionJob(ModelChoice(str(self.model_folder))), Path(self.folder.name, "captions.jsonl")

        class Began(Progress):
            def begin(self, total: int | None, done: int = 0) -> None:
                self.at = time.perf_counter()

        def caption() -> Timed:
            output.unlink(missing_ok=True)
            began = Began()
            summary = run(self.paths, job, [output], batch_size=batch, progress=began)
            if summary.images != len(self.paths):
                raise RuntimeError(f"{len(self.paths) - summary.images} images have no caption")
            return Timed(time.perf_counter() - began.at)

        return caption

    def bare_loop(self, batch: int) -> Work:
        from coca_hf import CoCaForCaptioning, optimize_for_inference

        model = optimize_for_inference(CoCaForCaptioning.from_pretrained(self.model_folder).eval())
        pixel_values = self.processor(images=self.paths, return_tensors="pt").pixel_values

        def caption() -> None:
            for images in pixel_values.split(batch):
                model.generate(images)

        return caption


class Blip:
    """transformers' BLIP-base, random weights."""

    def __init__(self) -> None:
        from transformers import BlipConfig, BlipForConditionalGeneration

        torch.manual_seed(0)
        self.model = BlipForConditionalGeneration(BlipConfig()).eval()

    def generate(self, batch: int, tokens: int = 30, **options: Any) -> Work:
        x = torch.randn(batch, 3, 384, 384)
        lengths = {"max_length": tokens, "min_length": tokens - 1}
        return torch.inference_mode()(lambda: self.model.generate(pixel_values=x, **lengths, **options).tolist())


class ImageProcessor:
    """JPEG files to pixel values, by this package's processor or by transformers' for CLIP."""

    def __init__(self, kind: str, **options: Any) -> None:
        if kind == "clip":
            from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

            self.processor = CLIPImageProcessorPil(**options)
        else:
            from coca_hf.image_processing_coca import CoCaImageProcessor

            self.processor = CoCaImageProcessor(**options)
        self.is_ours = kind != "clip"

    def preprocess(self, paths: list[str]) -> Work:
        from PIL import Image

        def run() -> None:
            # Each as it is used: ours opens files itself, CLIP's takes them opened.
            self.processor(images=list(paths) if self.is_ours else [Image.open(p).convert("RGB") for p in paths])

        return run


class Import:
    """A fresh interpreter that imports modules."""

    def modules(self, names: str) -> Work:
        import subprocess

        return lambda: subprocess.run([sys.executable, "-c", f"import {names}"], check=True) and None


SIDES = {
    "open_clip": OpenClip,
    "coca_hf": CocaHf,
    "bundled": Bundled,
    "folder": Folder,
    "blip": Blip,
    "image_processor": ImageProcessor,
    "import": Import,
}


def memory(name: str) -> int:
    """A field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def measure(work: Work) -> dict[str, Any]:
    Path("/proc/self/clear_refs").write_text("5")  # starts the peak anew
    before, start = memory("VmRSS"), time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    if isinstance(result, Timed):
        seconds, result = result.seconds, None
    return {"seconds": seconds, "growth": memory("VmHWM") - before, "result": result}


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr
    side = SIDES[sys.argv[1]](**json.loads(sys.argv[2]))
    print("ready", file=answers, flush=True)
    works: dict[str, Work] = {}
    for request in sys.stdin:
        if request not in works:
            case, arguments = json.loads(request)
            works[request] = getattr(side, case)(**arguments)
        print(json.dumps(measure(works[request])), file=answers, flush=True)


if __name__ == "__main__":
    main()
