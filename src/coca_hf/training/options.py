# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What a training run can be asked for, with its defaults; the same names everywhere. Importing this is quick."""

import dataclasses
import difflib
import math
import os
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

from ..batch_inference.errors import ModelError
from ..batch_inference.models import check_model
from .errors import TrainingOptionError


PARTS = ("vision", "text", "decoder")
METRICS = ("next_token_accuracy", "cider", "bleu_4", "rouge_l", "text_to_image_recall@1", "image_to_text_recall@1")
"""What an evaluation measures, as fractions (CIDEr: 0 to 10); `best` is one of them."""

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "scheduler": ("cosine", "linear", "constant"),
    "augment": ("crop", "none"),
    "captions": ("one", "all"),
    "dtype": ("auto", "float32", "bfloat16", "float16"),
    "best": METRICS,
    "device": ("auto", "cpu", "cuda", "mps", "xpu"),
}
_POSITIVE: tuple[str, ...] = (
    *("epochs", "max_steps", "batch_size", "accumulate", "learning_rate", "lora", "evaluate_every"),
    *("save_every", "log_every", "keep", "adam_epsilon"),
)
_NOT_NEGATIVE = (
    "warmup_steps",
    "weight_decay",
    "clip_norm",
    "caption_weight",
    "contrastive_weight",
    "seed",
    "workers",
)
_BELOW_ONE = ("beta1", "beta2", "ema")
# They change what is seen of a run and how fast it is, not what comes out of it.
_FREE = ("output", "workers", "report_to", "save_every", "keep", "device")


@dataclass(frozen=True)
class TrainingOptions:
    """
    Options of a run. `None` means what the comment beside it says.

    Raises `TrainingOptionError` where values contradict each other or are out of range.
    """

    data: tuple[str, ...] = ()
    """What `open_image_text_data` takes: .jsonl, .csv, .tsv, .json, .tar, .parquet, folders, Hub data sets."""
    output: str = ""
    """The folder to make."""
    model: str | None = None
    """A saved folder or Hub id to fine-tune; by default, without `init`, the bundled model."""
    init: str | None = None
    """Train from nothing: open_clip's coca_ViT-B-32, coca_ViT-L-14 or coca_base, or a configuration's JSON file."""
    vision_from: str | None = None
    """With `init`: take the image tower's weights from a CLIP or SigLIP model of transformers."""
    text_from: str | None = None
    """With `init`: the same for the text tower, and its tokenizer."""
    tokenizer: str | None = None
    """With `init`: a folder, Hub id or vocabulary file (default: beside the configuration, else CLIP's)."""

    epochs: int | None = None
    """1 unless `max_steps` is given."""
    max_steps: int | None = None
    batch_size: int = 16
    """Images of a process and a micro-batch."""
    accumulate: int = 1
    """Micro-batches of a step. Each image is told apart from those of all of them, as in one large batch."""

    learning_rate: float | None = None
    """1e-5 for fine-tuning, 1e-4 with `lora`, 5e-4 from nothing."""
    warmup_steps: int | None = None
    """A tenth of all steps, at most 1,000."""
    scheduler: str = "cosine"
    weight_decay: float = 0.1
    """Of matrices and embeddings; gains, biases and the similarity's scale have none."""
    beta1: float = 0.9
    beta2: float = 0.98
    adam_epsilon: float = 1e-6
    clip_norm: float = 1.0
    """Longest gradient; 0 for any."""

    caption_weight: float | None = None
    """The model's."""
    contrastive_weight: float | None = None
    """The model's."""

    augment: str = "crop"
    """"crop" is a random part of 90 to 100 % of the image, as open_clip's; "none" what the processor does."""
    shuffle: bool = True
    captions: str = "one"
    """"one" drawn for each image and epoch, or "all", each a sample of its own."""
    seed: int = 0
    workers: int | None = None
    """Processes that read images ahead: one a core, at most 8."""
    strict: bool = False
    """Whether an image that cannot be read ends the run; otherwise it is left out and listed."""

    image_column: str = "image"
    caption_column: str = "caption"
    split: str = "train"
    image_folder: str | None = None
    streaming: bool = False

    freeze: tuple[str, ...] = ()
    """Of "vision", "text" and "decoder", what stays as it is."""
    lora: int | None = None
    """Rank of adapters to train in place of the weights; they are merged into them at the end."""
    dtype: str = "auto"
    """"bfloat16" or "float16" for mixed precision; "auto" is bfloat16 on a card that has it, otherwise float32."""
    device: str = "auto"
    gradient_checkpointing: bool = False
    ema: float | None = None
    """Save the moving average of the weights, which keeps so much of itself at each step."""
    average_with_start: float | None = None
    """Save a mixture of the weights with the starting ones, whose share this is (WiSE-FT, arXiv 2109.01903)."""

    evaluate: str | None = None
    """Captioned data to measure the model on, before, while and after it is trained."""
    evaluate_every: int | None = None
    """Steps; an epoch's."""
    best: str | None = None
    """Save the weights of the evaluation at which this was highest, instead of the last ones."""
    save_every: int | None = None
    """Steps between checkpoints: 500."""
    log_every: int = 10
    keep: int = 1
    """Checkpoints that are there at a time."""
    report_to: tuple[str, ...] = ()
    """Where else to report to, as the library names them: "tensorboard", "trackio", ..."""

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise TrainingOptionError(f"{named(name)} {value!r} is not one of {', '.join(choices)}")
        for name in (*_POSITIVE, *_NOT_NEGATIVE, *_BELOW_ONE, "average_with_start"):
            self._check_number(name)
        unknown = [part for part in self.freeze if part not in PARTS]
        if unknown:
            raise TrainingOptionError(f"{named('freeze')} {unknown[0]!r} is not one of {', '.join(PARTS)}")
        self._check_together()

    def _check_number(self, name: str) -> None:
        value = getattr(self, name)
        if value is None:
            return
        if name in _POSITIVE and not 0 < value < math.inf:
            raise TrainingOptionError(f"{named(name)} {value} is not allowed: give more than 0")
        if name in _NOT_NEGATIVE and not 0 <= value < math.inf:
            raise TrainingOptionError(f"{named(name)} {value} is not allowed: give 0 or more")
        if name in _BELOW_ONE and not 0 <= value < 1:
            raise TrainingOptionError(f"{named(name)} {value} is not allowed: give 0 or more, less than 1")
        if name == "average_with_start" and not 0 <= value <= 1:
            raise TrainingOptionError(f"{named(name)} {value} is not allowed: give 0 to 1")

    def _check_together(self) -> None:
        if self.model is not None and self.init is not None:
            raise TrainingOptionError("--model and --init exclude each other: fine-tune one, or train from nothing")
        for name in ("vision_from", "text_from", "tokenizer"):
            if getattr(self, name) is not None and self.init is None:
                raise TrainingOptionError(f"{named(name)} belongs to --init")
        if self.average_with_start is not None and self.init is not None:
            raise TrainingOptionError(
                "--average-with-start belongs to fine-tuning: with --init there is no good start"
            )
        if self.epochs is not None and self.max_steps is not None:
            raise TrainingOptionError("--epochs and --max-steps exclude each other")
        if self.evaluate is None and (self.evaluate_every is not None or self.best is not None):
            raise TrainingOptionError("--evaluate-every and --best need data: give --evaluate")
        if self.caption_weight == 0 and self.contrastive_weight == 0:
            raise TrainingOptionError("--caption-weight and --contrastive-weight are both 0, so there is no loss")
        if len(set(self.freeze)) == len(PARTS) and self.lora is None:
            raise TrainingOptionError("--freeze of vision, text and decoder leaves nothing to train")
        if self.streaming and self.captions == "all":
            raise TrainingOptionError("--captions all needs to know all captions: leave --streaming out")

    def check_ready(self) -> None:
        """Raises `TrainingOptionError` where something is missing without which there is no run."""
        if not self.data:
            raise TrainingOptionError("no data was given: name a file, folder or data set of images with captions")
        if not self.output:
            raise TrainingOptionError("--output is missing: name the folder to make")
        if self.init is None:
            try:
                check_model(self.starting_model, captions=True, training=True)
            except ModelError as error:
                raise TrainingOptionError(str(error)) from None

    @property
    def starting_model(self) -> str:
        """What is fine-tuned: a folder or Hub id."""
        if self.model is not None:
            return self.model
        import coca_hf

        return str(coca_hf.bundled_model())

    @property
    def saves_other_weights(self) -> bool:
        """Whether what is saved was not measured at the last step: it is the best, merged, or mixed with the start."""
        return self.best is not None or self.lora is not None or self.average_with_start is not None

    @property
    def peak_learning_rate(self) -> float:
        if self.learning_rate is not None:
            return self.learning_rate
        return 1e-4 if self.lora is not None else 5e-4 if self.init is not None else 1e-5

    def as_dict(self) -> dict[str, Any]:
        """All of them, as they stand in a YAML file: `TrainingOptions.of(options.as_dict())` is the same."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def differing_from(self, other: "TrainingOptions") -> list[str]:
        """What is different in a way that changes the result: "--batch-size 32 (was 16)" and so on."""
        mine, theirs = self.as_dict(), other.as_dict()
        return [
            f"{named(name)} {_shown(mine[name])} (was {_shown(theirs[name])})"
            for name in mine
            if name not in _FREE and mine[name] != theirs[name]
        ]

    @classmethod
    def of(cls, *layers: Mapping[str, Any]) -> "TrainingOptions":
        """
        Options by name, `-` or `_` between words; later layers win over earlier ones.

        Raises:
            TrainingOptionError: A name is unknown, which names the nearest, or a value of another type.
        """
        hints = get_type_hints(cls)
        values: dict[str, Any] = {}
        for layer in layers:
            for given, value in layer.items():
                name = str(given).replace("-", "_")
                if name not in hints:
                    raise TrainingOptionError(_unknown(given, hints))
                values[name] = _typed(name, value, hints[name])
        return cls(**values)


def read_yaml(path: str) -> dict[str, Any]:
    """Options out of a file. Raises `TrainingOptionError`."""
    try:
        import yaml
    except ImportError:
        raise TrainingOptionError("--config needs PyYAML: pip install 'coca-hf[train]'") from None
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except OSError as error:
        raise TrainingOptionError(f"cannot read {path!r}: {(error.strerror or str(error)).lower()}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainingOptionError(f"{path!r} is not valid YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise TrainingOptionError(f"{path!r} does not hold options by name, such as 'batch-size: 32'")
    return content


def named(name: str) -> str:
    """As it is typed."""
    return "DATA" if name == "data" else f"--{name.replace('_', '-')}"


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _unknown(name: Any, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(name).replace("-", "_"), known, n=1, cutoff=0.0)
    return f"there is no option {str(name)!r}; the nearest is {near[0].replace('_', '-')!r}"


def _typed(name: str, value: Any, hint: Any) -> Any:
    """`value` as the option's type has it: "vision,text" is a list where one is asked for, 1 a float, "1e-5" too."""
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        (hint,) = (each for each in get_args(hint) if each is not type(None))
    if get_origin(hint) is tuple:
        parts = [value] if name == "data" and isinstance(value, (str, os.PathLike)) else value
        parts = parts.split(",") if isinstance(parts, str) else parts
        if isinstance(parts, Iterable):
            return tuple(os.fspath(part).strip() if name != "data" else os.fspath(part) for part in parts)
    elif hint is str and isinstance(value, (str, os.PathLike)):
        return os.fspath(value)
    elif isinstance(value, bool) or hint is bool:
        if hint is bool and isinstance(value, bool):
            return value
    elif hint is int and isinstance(value, (int, float, str)):
        if (number := _number(value)) is not None and number == int(number):
            return int(number)
    elif hint is float and isinstance(value, (int, float, str)) and (number := _number(value)) is not None:
        # YAML reads 1e-5, which has no point, as text.
        return number
    kind = {"tuple": "a list", "str": "text", "bool": "true or false", "int": "a whole number", "float": "a number"}
    wanted = kind[(get_origin(hint) or hint).__name__]
    raise TrainingOptionError(f"{named(name)} {value!r} is not {wanted}")


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
