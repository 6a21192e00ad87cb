# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A page that runs an exported model in a browser: programs, what runs them, and nothing from elsewhere."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import GenerationConfig

from ..image_processing_coca import CoCaImageProcessor, target_size
from ..runtimes.folder import ExportedFolder
from .errors import ExportError


PAGE = Path(__file__).parent / "page"
_TEMPLATE = "This is a photo of {}."
_FILTERS = {Image.Resampling.BICUBIC: "bicubic", Image.Resampling.BILINEAR: "bilinear"}

# What one file of a program can hold.
_LARGEST = 2**31 - 1


def write_page(exported: Path, config: Any, processor: Any, folder: Path) -> None:
    """
    A page of an exported ONNX folder, into `folder`, which is there.

    Raises:
        ExportError: The page cannot do what the model's processor does, or a program is too large for a browser.
    """
    import onnx

    manifest = ExportedFolder.read(exported)
    settings = _settings(exported, manifest, config, processor)
    for name in manifest.files:
        program = onnx.load(str(exported / manifest.files[name]))
        if program.ByteSize() > _LARGEST:
            raise ExportError(f"{name.replace('_', ' ')} has more than 2 GB, which no page loads: try int8")
        onnx.save(program, str(folder / f"{name}.onnx"))
    (folder / "page.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    shutil.copyfile(exported / "tokenizer.json", folder / "tokenizer.json")
    for path in sorted(PAGE.rglob("*")):
        target = folder / path.relative_to(PAGE)
        if path.is_dir():
            target.mkdir()
        elif path.suffix == ".gz":
            target.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        else:
            shutil.copyfile(path, target)


def _settings(exported: Path, manifest: ExportedFolder, config: Any, processor: Any) -> dict[str, Any]:
    """All that the page needs to know of the model."""
    text, decoder = config.text_config, config.multimodal_config
    stacks = [text] * text.num_hidden_layers + [decoder] * decoder.num_hidden_layers
    ends: list[int] = []
    start = text.bos_token_id
    if manifest.captions:
        generation = GenerationConfig.from_pretrained(exported)
        start, given = generation.bos_token_id, generation.eos_token_id
        ends = [given] if isinstance(given, int) else list(given or [])
    if not ends:
        ends = [text.eos_token_id] if isinstance(text.eos_token_id, int) else list(text.eos_token_id)
    return {
        "about": f"{manifest.source['name'] or 'CoCa'}, {'int8' if manifest.int8 else 'float32'}, by ONNX Runtime.",
        "programs": list(manifest.files),
        "image": _image_settings(processor.image_processor),
        "text": {
            "start": start,
            "ends": ends,
            "pad": text.pad_token_id,
            "context": text.max_position_embeddings,
            "layers": len(stacks),
            "heads": [part.num_attention_heads for part in stacks],
            "headSizes": [part.hidden_size // part.num_attention_heads for part in stacks],
            "maskedPad": text.pool_type == "cls",
        },
        "similarity": {"scale": manifest.logit_scale, "bias": manifest.logit_bias or 0, "template": _TEMPLATE},
    }


def _image_settings(processor: Any) -> dict[str, Any]:
    if not isinstance(processor, CoCaImageProcessor):
        raise ExportError(f"the page prepares pictures as CoCaImageProcessor does, not as {type(processor).__name__}")
    if processor.do_resize and processor.resample not in _FILTERS:
        raise ExportError(
            f"the page resizes by {' or '.join(_FILTERS.values())}, not by resample={processor.resample}"
        )
    crop: Any = processor.crop_size
    fill = processor.fill_color or 0
    normalized = processor.do_normalize
    return {
        "size": list(target_size(processor.size)) if processor.do_resize else None,
        "mode": processor.resize_mode,
        "filter": _FILTERS.get(processor.resample),
        "crop": [crop.height, crop.width] if processor.do_center_crop else None,
        "mean": list(processor.image_mean) if normalized else [0, 0, 0],
        "std": list(processor.image_std) if normalized else [1, 1, 1],
        "fill": [fill] * 3 if isinstance(fill, (int, float)) else list(fill),
    }
