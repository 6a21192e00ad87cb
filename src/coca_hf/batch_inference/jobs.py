# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is to be done, in words that can travel to another process, which loads the model itself."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from .errors import OptionError
from .models import ModelChoice, fingerprint


MadeWith = dict[str, Any]
"""Everything that decides what a record holds, by the name of the choice."""


@dataclass(frozen=True)
class Result:
    """Of one image; `fields`, `embedding` and `maps` as in a `Record`."""

    fields: dict[str, Any]
    embedding: Any = None
    maps: bytes | None = None


class Task(Protocol):
    """What is done with images, its model loaded."""

    @property
    def prepare(self) -> Any:
        """Image -> what `process` takes of it, which is all that is kept of it until its batch is full."""

    def process(self, prepared: list[Any], places: Sequence[tuple[int, int]]) -> list[Result]:
        """A result for each, in order. An image's place tells it from all others of the run."""


@dataclass(frozen=True)
class CaptionOptions:
    """How captions are written; None leaves a choice to the model's own generation settings.

    `top_p`, `top_k` and `temperature` each turn sampling on, which `seed` makes repeatable: an image's random numbers
    depend on the seed and on its place among the inputs, not on batches, processes or restarts.
    Raises `OptionError` for values out of range and for those that exclude each other.
    """

    prompt: str | None = None
    num_beams: int | None = None
    num_beam_groups: int | None = None
    max_new_tokens: int | None = None
    top_p: float | None = None
    top_k: int | None = None
    temperature: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_beams", "num_beam_groups", "max_new_tokens", "top_k"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name.replace('_', '-')} {value} is not allowed: give 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise OptionError(f"top-p {self.top_p} is not allowed: give more than 0 and at most 1")
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise OptionError(f"temperature {self.temperature} is not allowed: give more than 0")
        if self.seed is not None and not 0 <= self.seed < 2**32:
            raise OptionError(f"seed {self.seed} is not allowed: give 0 to {2**32 - 1}")
        self._check_groups()

    def _check_groups(self) -> None:
        groups, beams = self.num_beam_groups, self.num_beams
        if groups is None or groups == 1:
            return
        if self.samples:
            raise OptionError(
                "num-beam-groups cannot sample: leave out top-p, top-k and temperature, or num-beam-groups"
            )
        if beams is None:
            raise OptionError(f"num-beam-groups {groups} needs num-beams as well, a multiple of it")
        if beams % groups:
            raise OptionError(f"num-beams {beams} is not a multiple of num-beam-groups {groups}")

    @property
    def samples(self) -> bool:
        return any(value is not None for value in (self.top_p, self.top_k, self.temperature))

    def given(self) -> dict[str, Any]:
        """What was chosen, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def generation_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `generate()`, all but the prompt."""
        arguments = self.given()
        arguments.pop("prompt", None)
        arguments.pop("seed", None)
        if self.samples:
            arguments["do_sample"] = True
        if self.num_beams is not None:
            # The model's own number of groups need not divide another number of beams.
            arguments.setdefault("num_beam_groups", 1)
        return arguments


@dataclass(frozen=True)
class CaptionJob:
    """Captions, with `embeddings` the images' embeddings from the same pass, and with `maps` where each word looks.

    A model without attentional pooling has no maps, and its captions come without.
    """

    choice: ModelChoice
    options: CaptionOptions = field(default_factory=CaptionOptions)
    embeddings: bool = False
    maps: bool = False

    @property
    def makes(self) -> frozenset[str]:
        """What its records hold."""
        more = {"embeddings": self.embeddings, "maps": self.maps}
        return frozenset({"captions", *(name for name, wanted in more.items() if wanted)})

    def load(self) -> Task:
        """Raises `ModelError`."""
        from .tasks import CaptionTask

        return CaptionTask(self.choice, self.options, embeddings=self.embeddings, maps=self.maps)

    def made_with(self) -> MadeWith:
        """Raises `ModelError` where the model's files cannot be read."""
        extra = dict.fromkeys(sorted(self.makes - {"captions"}), True)
        return _made_with("caption", self.choice, {**self.options.given(), **extra})


@dataclass(frozen=True)
class EmbedJob:
    """L2-normalised image embeddings."""

    choice: ModelChoice
    makes = frozenset({"embeddings"})

    def load(self) -> Task:
        """Raises `ModelError`."""
        from .tasks import EmbedTask

        return EmbedTask(self.choice)

    def made_with(self) -> MadeWith:
        """Raises `ModelError` where the model's files cannot be read."""
        return _made_with("embed", self.choice, {})


@dataclass(frozen=True)
class ClassifyJob:
    """The probability of each of `labels`; "{}" in `template` is where a label goes."""

    choice: ModelChoice
    labels: Sequence[str]
    template: str = "This is a photo of {}."
    makes = frozenset({"labels"})

    def load(self) -> Task:
        """Raises `ModelError`."""
        from .tasks import ClassifyTask

        return ClassifyTask(self.choice, self.labels, self.template)

    def made_with(self) -> MadeWith:
        """Raises `ModelError` where the model's files cannot be read."""
        return _made_with("classify", self.choice, {"labels": list(self.labels), "template": self.template})


Job = CaptionJob | EmbedJob | ClassifyJob


def _made_with(command: str, choice: ModelChoice, options: dict[str, Any]) -> MadeWith:
    return {"command": command, "model": fingerprint(choice.name), "dtype": choice.dtype, **options}
