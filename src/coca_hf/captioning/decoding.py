# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How captions are asked for."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from .errors import OptionError


@dataclass(frozen=True)
class CaptionOptions:
    """How captions are written; None leaves a choice to the model's own generation settings.

    `top_p`, `top_k` and `temperature` each turn sampling on, which `seed` makes repeatable for one batch size.
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
                "num-beam-groups goes without sampling: leave out top-p, top-k and temperature, or the groups"
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
