# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""open_clip checkpoint -> complete saved folder, and the way back."""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from ..batch_inference.files import folder_aside
from ..configuration_coca import CoCaConfig, CoCaVisionConfig
from ..image_processing_coca import CoCaImageProcessor
from ..modeling_coca import CoCaForCaptioning, CoCaModel
from ..positions_coca import resize_positions, sincos_positions
from ..processing_coca import CoCaProcessor
from . import conch
from .card import write_card
from .errors import ConversionError
from .model_config import open_clip_config, open_clip_model_cfg
from .preprocessing import image_processor_of, preprocess_cfg_of, refuse_other_cleaning, tokenizer_of
from .presets import ALL_PRESETS
from .resolution import ImageSize, refuse_fixed_positions, with_image_size
from .sources import CONFIG_NAME, Source, check_arguments, check_output, load_model_cfg, locate
from .tensors import Tensors, open_tensors
from .weights import Entry, entries, to_open_clip


WEIGHTS_NAME = "open_clip_model.safetensors"
POSITIONS = "visual.positional_embedding"
# A download or upload that breaks off loses no more than that.
_MAX_SHARD_SIZE = "2GB"
_NAMED_AT_MOST = 5


def convert_open_clip(
    source: str | Path,
    output_dir: str | Path,
    config: Mapping[str, Any] | str | Path | None = None,
    tokenizer: str | Path | None = None,
    image_size: ImageSize | None = None,
) -> CoCaForCaptioning | CoCaModel:
    """
    Writes open_clip's checkpoint, or CONCH's, as a saved folder, which `from_pretrained` and the commands load.

    Args:
        source: A weights file (`.safetensors`, or what torch.save wrote: a state dict or a training checkpoint), a
            folder with one, or a Hub repository.
        output_dir: The folder to make; it may exist if it is empty.
        config: open_clip's model_cfg or whole configuration, the path of a JSON file with either, or the name of one
            of its models ("coca_ViT-B-32", "coca_ViT-L-14", "coca_base", "conch_ViT-B-16"), for a source without
            `open_clip_config.json` and without a model_cfg in `config.json`. It takes precedence over that file.
        tokenizer: Vocabulary file, folder or Hub repository, for a source without a tokenizer. By default CLIP's, if
            the model has its vocabulary: from an installed open_clip, else from the Hub.
        image_size: Pixels of the images that the model will take, as one number or (height, width); the checkpoint's
            by default. Position embeddings are resized as open_clip's `force_image_size` does.

    Returns:
        The model, loaded from the new folder; without a decoder, if the checkpoint is CONCH's and has none.

    Raises:
        ConversionError: Something cannot be read or written, is not supported or does not fit; the message names it.
            Then there is no folder at `output_dir`.

    Nothing in the checkpoint is executed, and every tensor in it has to have its place: one that is missing, left over
    or of another shape stops the conversion. Tensors keep their type. Memory stays below twice the checkpoint's size.
    """
    check_arguments(source, output_dir, config, tokenizer)
    output = Path(output_dir)
    found = locate(source)
    content = _configuration(config, found, source)
    model_cfg = content.get("model_cfg", content)
    is_conch = conch.is_conch(model_cfg)
    read_config = conch.conch_config if is_conch else open_clip_config
    trained_for: Any = read_config(model_cfg).vision_config
    ours = read_config(with_image_size(model_cfg, image_size))
    refuse_other_cleaning(model_cfg["text_cfg"])
    if tokenizer is None and found.tokenizer is None:
        tokenizer = model_cfg["text_cfg"].get("hf_tokenizer_name") or None
    processor = CoCaProcessor(
        image_processor_of(content.get("preprocess_cfg") or {}, ours), tokenizer_of(tokenizer, found.tokenizer, ours)
    )
    _take_special_tokens(ours, processor.tokenizer)
    with _staged(output) as folder:
        with open_tensors(found.weights) as tensors:
            if is_conch:
                model = _conch_model(ours, tensors, found.weights)
            else:
                model = _open_clip_model(ours, trained_for, tensors, found.weights)
            model.save_pretrained(folder, max_shard_size=_MAX_SHARD_SIZE)
            model_class = type(model)
            del model  # its tensors are the open file's
        processor.save_pretrained(folder)
        write_card(folder, Path(source).name if Path(source).exists() else str(source), ours)
    return model_class.from_pretrained(output)


def _configuration(
    config: Mapping[str, Any] | str | Path | None, found: Source, source: str | Path
) -> Mapping[str, Any]:
    """model_cfg, or the whole of a configuration file."""
    if isinstance(config, Mapping):
        return config
    if config is not None:
        return ALL_PRESETS[str(config)] if str(config) in ALL_PRESETS else load_model_cfg(Path(config))
    if found.config is None:
        raise ConversionError(
            f"'{source}' has no {CONFIG_NAME}. Say which model it is: {', '.join(ALL_PRESETS)}, or the path of a "
            "model_cfg."
        )
    return found.config


def _take_special_tokens(config: CoCaConfig, tokenizer: Any) -> None:
    """Captions start and end with the tokenizer's tokens; where a tower looks for its end token, that one stays."""
    config.text_config.bos_token_id = tokenizer.bos_token_id
    if config.text_config.pool_type != "eos":
        config.text_config.eos_token_id = tokenizer.eos_token_id


@contextmanager
def _staged(output: Path) -> Iterator[Path]:
    """A folder beside `output` that takes its place when all is written, and is gone if anything fails."""
    try:
        with folder_aside(output, 0o755) as folder:
            yield folder
    except (SafetensorError, OSError) as error:
        if isinstance(error, SafetensorError) or error.errno is not None:
            raise ConversionError(f"Cannot write '{output}': {error}.") from error
        raise


def _open_clip_model(
    config: CoCaConfig, trained_for: CoCaVisionConfig, tensors: Tensors, path: Path
) -> CoCaForCaptioning | CoCaModel:
    """The model of `config`; `trained_for` says for which images the checkpoint's positions are."""
    if "logit_scale" in tensors:
        # Training code writes () or (1,) whatever the configuration says, and open_clip reads either.
        config.nonscalar_logit_scale = len(tensors.shape("logit_scale")) == 1
    expected, replacements = {}, {}
    if trained_for.grid_size != config.vision_config.grid_size:
        refuse_fixed_positions(trained_for)
        expected[POSITIONS] = (1 + math.prod(trained_for.grid_size), trained_for.hidden_size)
        if POSITIONS in tensors and tensors.shape(POSITIONS) == expected[POSITIONS]:
            replacements[POSITIONS] = resize_positions(
                tensors[POSITIONS], trained_for.grid_size, config.vision_config.grid_size
            )
    model = _filled(config, entries(config), tensors, path, expected, replacements)
    if config.vision_config.position_embedding_type == "sincos":
        _check_positions(tensors[POSITIONS], config, path)
    return model


def _conch_model(config: CoCaConfig, tensors: Tensors, path: Path) -> CoCaForCaptioning | CoCaModel:
    vision: Any = config.vision_config
    if not any(name.startswith("text_decoder.") for name in tensors):
        config.multimodal_config.num_hidden_layers = 0
    expected: dict[str, tuple[int, ...]] = {conch.PATCH_BIAS: (vision.hidden_size,)}
    replacements = {}
    if conch.POSITIONS in tensors and conch.PATCH_BIAS in tensors:
        expected[conch.POSITIONS] = tensors.shape(conch.POSITIONS)
        replacements[conch.POSITIONS] = conch.positions_with_bias(
            tensors[conch.POSITIONS], tensors[conch.PATCH_BIAS], vision.grid_size
        )
    return _filled(config, conch.conch_entries(config), tensors, path, expected, replacements)


def _filled(
    config: CoCaConfig,
    table: list[Entry],
    tensors: Tensors,
    path: Path,
    expected: Mapping[str, tuple[int, ...]] | None = None,
    replacements: Mapping[str, torch.Tensor] | None = None,
) -> CoCaForCaptioning | CoCaModel:
    """
    The model with the checkpoint's own tensors, views of the file where it can be mapped.

    Args:
        expected: Shapes beside those of the table, or in place of them.
        replacements: Tensors to take in place of the file's.
    """
    has_decoder = bool(config.multimodal_config.num_hidden_layers)
    with torch.device("meta"):
        model = CoCaForCaptioning(config) if has_decoder else CoCaModel(config)
    if not has_decoder:
        names = {entry: tuple(name.removeprefix("model.") for name in entry.ours) for entry in table}
        table = [dataclasses.replace(entry, ours=ours) for entry, ours in names.items()]
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    _account_for(tensors, {entry.theirs: entry.their_shape(shapes) for entry in table} | dict(expected or {}), path)
    for entry in table:
        # One after the other: of a stacked or transposed tensor, only the parts are kept.
        tensor = (replacements or {}).get(entry.theirs)
        parts = entry.to_ours(tensors[entry.theirs] if tensor is None else tensor)
        model.load_state_dict(parts, strict=False, assign=True)
    model.config.dtype = _common_dtype(model)
    return model.eval()


def _account_for(tensors: Tensors, expected: dict[str, tuple[int, ...]], path: Path) -> None:
    """Raises unless `tensors` are exactly the expected ones."""
    problems = [
        ("lacks", [name for name in expected if name not in tensors]),
        ("has, beyond what its configuration describes,", [name for name in tensors if name not in expected]),
        (
            "has in another shape",
            [
                f"{name} {tensors.shape(name)}, expected {shape}"
                for name, shape in expected.items()
                if name in tensors and tensors.shape(name) != shape
            ],
        ),
    ]
    said = [
        f"{what} {', '.join(names[:_NAMED_AT_MOST])}"
        + (f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else "")
        for what, names in problems
        if names
    ]
    if said:
        raise ConversionError(f"'{path}' {'; '.join(said)}. Its configuration may be another model's.")


def _check_positions(table: torch.Tensor, config: CoCaConfig, path: Path) -> None:
    vision: Any = config.vision_config
    expected = sincos_positions(vision.hidden_size, vision.grid_size)
    if not torch.equal(table, expected.to(table.dtype)):
        raise ConversionError(f"'{path}' has another {POSITIONS} than the sine-cosine table of its configuration.")


def _common_dtype(model: torch.nn.Module) -> torch.dtype:
    """The widest type among the model's tensors, so that loading it loses nothing."""
    dtypes = {parameter.dtype for parameter in model.parameters()}
    widest = torch.float16 if dtypes == {torch.float16} else dtypes.pop()
    for dtype in dtypes:
        widest = torch.promote_types(widest, dtype)
    return widest


def export_open_clip(
    model: CoCaForCaptioning, output_dir: str | Path, image_processor: CoCaImageProcessor | None = None
) -> None:
    """
    Writes `open_clip_config.json` and `open_clip_model.safetensors`, bit for bit what was converted.

    open_clip loads the folder as "local-dir:" and its path.

    Args:
        model: A captioner; open_clip's CoCa has no form without decoder.
        output_dir: The folder to make; it may exist if it is empty.
        image_processor: Says how images are prepared. By default, that of the folder the model was loaded from; for a
            model that was not loaded, open_clip's default.

    Raises:
        ConversionError: open_clip's CoCa cannot express the model; the message names what it is.
    """
    if not isinstance(model, CoCaForCaptioning):
        raise ConversionError(f"A {type(model).__name__} has no decoder, and open_clip's CoCa no form without one.")
    check_output(output_dir)
    model_cfg = open_clip_model_cfg(model.config)
    if image_processor is None:
        image_processor = _image_processor_beside(model)
    content = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg_of(image_processor)}
    with _staged(Path(output_dir)) as folder:
        (folder / CONFIG_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        tensors = to_open_clip(entries(model.config), model.state_dict())
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS_NAME)


def _image_processor_beside(model: CoCaForCaptioning) -> CoCaImageProcessor:
    folder = Path(model.name_or_path) if model.name_or_path else None
    if folder is not None and (folder / "processor_config.json").is_file():
        return CoCaImageProcessor.from_pretrained(folder)
    return image_processor_of({}, model.config)
