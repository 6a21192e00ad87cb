# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""open_clip's preprocess_cfg and vocabularies become an image processor and a tokenizer; and back."""

import importlib.util
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL.Image import Resampling
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..configuration_coca import CoCaConfig
from ..image_processing_coca import RESIZE_MODES, CoCaImageProcessor
from ..tokenization_coca import END_OF_WORD, CoCaTokenizer
from .errors import ConversionError, refuse_unknown
from .model_config import CLIP_VOCABULARY
from .sources import TOKENIZER_NAMES, fetch_first


# The command shows what is said at level INFO here.
logger = logging.getLogger(__name__)

# open_clip's PreprocessCfg, which the released CoCa weights leave as it is: OpenAI's mean and standard deviation.
PREPROCESS_DEFAULTS: dict[str, Any] = {
    "size": None,
    "mode": "RGB",
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}
# Names to look for in a tokenizer.json without a tokenizer_config.json beside it, which would say.
_SPECIAL_TOKENS = {
    "bos_token": ("<start_of_text>", "<|startoftext|>", "<s>"),
    "eos_token": ("<end_of_text>", "<|endoftext|>", "</s>"),
}
# Has the same merges as open_clip's file.
CLIP_REPOSITORY = "openai/clip-vit-large-patch14"
_GIVE_ONE = (
    f"Give one: the vocabulary file ({TOKENIZER_NAMES[0]} of the open_clip package), a folder with a tokenizer.json, "
    f"or a Hub repository that has one, such as {CLIP_REPOSITORY}."
)
_INTERPOLATIONS = {"bicubic": Resampling.BICUBIC, "bilinear": Resampling.BILINEAR}


def image_processor_of(preprocess_cfg: Mapping[str, Any], config: CoCaConfig) -> CoCaImageProcessor:
    """The image processor for open_clip's `preprocess_cfg`; the size is the model's, as in open_clip.

    Raises:
        ConversionError: An unknown field, or a value that open_clip does not know.
    """
    return image_processor_for(preprocess_cfg, config.vision_config.image_size)


def image_processor_for(preprocess_cfg: Mapping[str, Any], image_size: Any) -> CoCaImageProcessor:
    """The image processor for open_clip's `preprocess_cfg` and images of that many pixels.

    Raises:
        ConversionError: An unknown field, or a value that open_clip does not know.
    """
    refuse_unknown(preprocess_cfg, PREPROCESS_DEFAULTS, "preprocess_cfg")
    cfg = PREPROCESS_DEFAULTS | {name: value for name, value in preprocess_cfg.items() if value is not None}
    for name, allowed in (("mode", ("RGB",)), ("interpolation", _INTERPOLATIONS), ("resize_mode", RESIZE_MODES)):
        if cfg[name] not in allowed:
            raise ConversionError(
                f"preprocess_cfg.{name}={cfg[name]!r} is not one of {', '.join(map(repr, allowed))}."
            )
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    is_plain = height == width and cfg["resize_mode"] == "shortest"
    return CoCaImageProcessor(
        size={"shortest_edge": height} if is_plain else {"height": height, "width": width},
        crop_size={"height": height, "width": width},
        resize_mode=cfg["resize_mode"],
        resample=_INTERPOLATIONS[cfg["interpolation"]],
        image_mean=_three(cfg["mean"]),
        image_std=_three(cfg["std"]),
        fill_color=cfg["fill_color"],
    )


def preprocess_cfg_of(processor: CoCaImageProcessor) -> dict[str, Any]:
    """What `image_processor_of` undoes, less the size, which open_clip takes from the model.

    Raises:
        ConversionError: The image processor does something that open_clip's preprocessing does not.
    """
    names = {int(value): name for name, value in _INTERPOLATIONS.items()}
    if int(processor.resample) not in names:
        raise ConversionError(
            f"open_clip has no resample={processor.resample!r}; it has {', '.join(_INTERPOLATIONS)}."
        )
    for step in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
        if not getattr(processor, step):
            raise ConversionError(f"open_clip cannot leave out a step of preprocessing, as {step}=False asks.")
    cfg = {
        "mean": list(processor.image_mean),
        "std": list(processor.image_std),
        "interpolation": names[int(processor.resample)],
        "resize_mode": processor.resize_mode,
    }
    return cfg | ({"fill_color": processor.fill_color} if processor.fill_color else {})


def _three(value: Any) -> list[float]:
    """open_clip takes one number for all channels, too."""
    return [float(value)] * 3 if isinstance(value, (int, float)) else [float(channel) for channel in value]


def tokenizer_of(tokenizer: str | Path | None, beside: Path | None, config: CoCaConfig) -> PreTrainedTokenizerBase:
    """The tokenizer at `tokenizer` (vocabulary file, folder or Hub id), else the one beside the weights.

    For CLIP's vocabulary and neither, that of `clip_vocabulary` is taken.

    Raises:
        ConversionError: There is none, it cannot be read, or it has more entries than the model.
    """
    path = beside if tokenizer is None else _find(tokenizer)
    if path is None and config.text_config.vocab_size >= CLIP_VOCABULARY:
        path = clip_vocabulary()
    if path is None:
        raise ConversionError(f"No tokenizer beside the weights. {_GIVE_ONE}")
    loaded = _read(path, config)
    largest = max(loaded.get_vocab().values())
    if largest >= config.text_config.vocab_size:
        raise ConversionError(
            f"The tokenizer '{path}' has ids up to {largest}, but the model's vocabulary ends at "
            f"{config.text_config.vocab_size - 1}: they do not belong together."
        )
    return loaded


def clip_vocabulary(cache_dir: str | Path | None = None) -> Path:
    """CLIP's vocabulary: the file of an installed open_clip, which is not imported, else OpenAI's on the Hub.

    Raises:
        ConversionError: open_clip is not installed, and the Hub cannot be reached.
    """
    path = _installed_vocabulary()
    if path is not None:
        logger.info("The tokenizer is CLIP's, from the installed open_clip.")
        return path
    try:
        path = fetch_first(CLIP_REPOSITORY, TOKENIZER_NAMES[-1:], cache_dir)
    except ConversionError as error:
        raise ConversionError(
            f"No tokenizer beside the weights, and CLIP's cannot be had from the Hub. {_GIVE_ONE}"
        ) from error
    if path is None:
        raise ConversionError(f"No tokenizer beside the weights. {_GIVE_ONE}")
    logger.info(f"The tokenizer is CLIP's, from {CLIP_REPOSITORY} on the Hub.")
    return path


def refuse_other_cleaning(text_cfg: Mapping[str, Any]) -> None:
    """Raises `ConversionError` for a text_cfg whose tokenizer treats texts in a way that no tokenizer here does."""
    for name, usual in (("tokenizer_mode", {}), ("tokenizer_kwargs", {"clean": "lower"})):
        value = text_cfg.get(name)
        if value and value != usual:
            raise ConversionError(f"text_cfg.{name}={value!r} asks for other tokens, which is not supported.")


def _find(tokenizer: str | Path) -> Path:
    path = Path(tokenizer)
    if path.is_file():
        return path
    if path.is_dir():
        candidates = [path / name for name in TOKENIZER_NAMES if (path / name).is_file()]
        if not candidates:
            raise ConversionError(f"No tokenizer in '{path}': none of {', '.join(TOKENIZER_NAMES)} is there.")
        return candidates[0]
    fetched = fetch_first(str(tokenizer), TOKENIZER_NAMES)
    if fetched is None:
        raise ConversionError(
            f"No tokenizer in the Hub repository '{tokenizer}': none of {', '.join(TOKENIZER_NAMES)}."
        )
    return fetched


def _installed_vocabulary() -> Path | None:
    """open_clip's vocabulary file, if the package is installed; it is not imported."""
    spec = importlib.util.find_spec("open_clip")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / TOKENIZER_NAMES[0]).is_file():
            return Path(folder) / TOKENIZER_NAMES[0]
    return None


def _read(path: Path, config: CoCaConfig) -> PreTrainedTokenizerBase:
    length = config.text_config.max_position_embeddings
    try:
        if path.suffix != ".json" or _is_clip_vocabulary(path):
            return CoCaTokenizer.from_open_clip_vocabulary(path, model_max_length=length)
        return _from_tokenizer_file(path, config)
    except ConversionError:
        raise
    except Exception as error:
        # The backend raises bare Exceptions for files it cannot parse.
        raise ConversionError(f"Cannot read the tokenizer '{path}': {error}") from error


def _is_clip_vocabulary(path: Path) -> bool:
    vocabulary = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    return len(vocabulary) == CLIP_VOCABULARY and "<|endoftext|>" in vocabulary


def _from_tokenizer_file(path: Path, config: CoCaConfig) -> PreTrainedTokenizerBase:
    """A tokenizer that this package saved, or, without open_clip's cleaning of texts, one of another make."""
    backend = Tokenizer.from_file(str(path))
    text: Any = config.text_config
    settings = path.with_name("tokenizer_config.json")
    named = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    special: dict[str, Any] = {"pad_token": backend.id_to_token(text.pad_token_id)}
    for name, usual in _SPECIAL_TOKENS.items():
        token = named.get(name)
        candidates = [token["content"] if isinstance(token, dict) else token] if token else usual
        special[name] = next((one for one in candidates if backend.token_to_id(one) is not None), None)
    for name, token in special.items():
        if token is None:
            raise ConversionError(f"The tokenizer '{path}' has no {name} that the model could use.")
    is_ours = getattr(backend.model, "end_of_word_suffix", None) == END_OF_WORD
    tokenizer_class = CoCaTokenizer if is_ours else PreTrainedTokenizerFast
    return tokenizer_class(tokenizer_file=str(path), model_max_length=text.max_position_embeddings, **special)
