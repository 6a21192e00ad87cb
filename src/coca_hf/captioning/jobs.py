# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is to be done, in words that can travel to another process, which loads the model itself."""

from dataclasses import dataclass, field

from .decoding import CaptionOptions
from .models import ModelChoice
from .notes import MadeWith, made_with
from .runner import Task


@dataclass(frozen=True)
class CaptionJob:
    """Captions, and with `embeddings` the images' embeddings from the same pass."""

    choice: ModelChoice
    options: CaptionOptions = field(default_factory=CaptionOptions)
    embeddings: bool = False

    def load(self) -> Task:
        """Raises `ModelError`."""
        from .tasks import CaptionTask

        return CaptionTask(self.choice, self.options, embeddings=self.embeddings)

    def made_with(self, batch_size: int) -> MadeWith:
        """What the captions depend on. Which batch an image is in counts only where it is sampled."""
        options = self.options.given()
        if self.options.samples:
            options["batch_size"] = batch_size
        return made_with("caption", self.choice, options)


@dataclass(frozen=True)
class EmbedJob:
    """L2-normalised image embeddings."""

    choice: ModelChoice

    def load(self) -> Task:
        """Raises `ModelError`."""
        from .tasks import EmbedTask

        return EmbedTask(self.choice)

    def made_with(self, batch_size: int) -> MadeWith:
        return made_with("embed", self.choice, {})


@dataclass(frozen=True)
class ClassifyJob:
    """The probability of each label."""

    choice: ModelChoice
    labels: tuple[str, ...]
    template: str

    def load(self) -> Task:
        """Raises `ModelError`."""
        from .tasks import ClassifyTask

        return ClassifyTask(self.choice, self.labels, self.template)

    def made_with(self, batch_size: int) -> MadeWith:
        return made_with("classify", self.choice, {"labels": list(self.labels), "template": self.template})


Job = CaptionJob | EmbedJob | ClassifyJob
