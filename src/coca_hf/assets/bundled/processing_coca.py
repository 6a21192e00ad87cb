# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""CoCa's processor: images and texts in, model inputs out; generated ids in, captions out."""

# This comes first: it refuses an older transformers in words. It also leads the Hub's loader to the other files.
from .configuration_coca import CoCaConfig  # noqa: F401


# isort: split
import os
from typing import Any

from transformers.processing_utils import ProcessorMixin


class CoCaProcessor(ProcessorMixin):
    """`CoCaImageProcessor` and `CoCaTokenizer` behind one call.

    `processor(images=..., text=...)` gives `pixel_values`, `input_ids` and `attention_mask`, of what is given. Texts
    are framed by start and end token, which is what contrastive and caption training need. The same call makes prompts
    for generation: `generate()` continues one that ends in the end token or in padding as if it did not.

    Args:
        image_processor: A `CoCaImageProcessor`.
        tokenizer: A `CoCaTokenizer`, or another tokenizer with the ids that the model was trained with.
    """

    _auto_class = "AutoProcessor"

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **kwargs: Any) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)

    def prepare_inputs_layout(self, images: Any = None, **inputs: Any) -> Any:
        # The image processor fetches images itself, and reads a large file at the size that the call asks for.
        _, *others = super().prepare_inputs_layout(images=None, **inputs)
        return images, *others

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """Saves both halves with the model's Python files, and says which Auto class is in which."""
        saved = super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        # For the file only: a loaded processor does not have it either.
        del self.auto_map
        return saved


__all__ = ["CoCaProcessor"]
