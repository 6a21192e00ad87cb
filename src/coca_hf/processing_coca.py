# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""CoCa's processor: images and texts in, model inputs out; generated ids in, captions out."""

# This comes first: it refuses an older transformers in words. It also leads the Hub's loader to the other files.
from .configuration_coca import CoCaConfig  # noqa: F401


# isort: split
import os
from typing import Any

from transformers.processing_utils import ProcessorMixin
from transformers.utils import logging


logger = logging.get_logger(__name__)

# What the messages say, one text after the other, behind the start token: a prompt that the caption continues. Since
# it begins with that token, the library adds neither a second one nor an end token.
CHAT_TEMPLATE = """{{- bos_token }}
{%- set said = namespace(anything=false) %}
{%- for message in messages %}
    {%- set parts = [{"type": "text", "text": message.content}] if message.content is string else message.content %}
    {%- for part in parts if part.type == "text" and part.text %}
        {{- " " if said.anything }}{{ part.text }}
        {%- set said.anything = true %}
    {%- endfor %}
{%- endfor %}"""


class CoCaProcessor(ProcessorMixin):
    """`CoCaImageProcessor` and `CoCaTokenizer` behind one call.

    `processor(images=..., text=...)` gives `pixel_values`, `input_ids` and `attention_mask`, of what is given. Texts
    are framed by start and end token, which is what contrastive and caption training need. The same call makes prompts
    for generation: `generate()` continues one that ends in the end token or in padding as if it did not.

    Chat messages are understood as well, see `apply_chat_template`.

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

    def validate_inputs(self, images: Any = None, text: Any = None, **inputs: Any) -> None:
        """Raises `ValueError` where there is neither an image nor a text; warns of inputs that CoCa does not have."""
        unknown = " and ".join(name for name in ("videos", "audio") if inputs.get(name) is not None)
        if unknown:
            problem = f"{type(self).__name__} takes images and text, not {unknown}: give frames of a video as images."
            if images is None and text is None:
                raise ValueError(problem)
            logger.warning_once(problem)
        super().validate_inputs(images=images, text=text, **inputs)

    def apply_chat_template(self, conversation: Any, chat_template: str | None = None, **kwargs: Any) -> Any:
        """Chat messages -> the prompt that their texts are, or with `tokenize=True` the inputs of `generate()`.

        CoCa was not trained on conversations: the texts of all messages, whatever their roles, are joined by spaces
        and make the beginning of the caption. A message with an image alone asks for a caption from its beginning.

        Args:
            conversation: A list of messages, or a list of such lists.
            chat_template: Another template. By default that of the processor, if it was given one.
            kwargs: As for every processor: `tokenize`, `return_dict`, `return_tensors`, `processor_kwargs` and others.
        """
        return super().apply_chat_template(
            conversation, chat_template or self.chat_template or CHAT_TEMPLATE, **kwargs
        )

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """Saves both halves with the model's Python files, and says which Auto class is in which."""
        saved = super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        # For the file only: a loaded processor does not have it either.
        del self.auto_map
        return saved


__all__ = ["CoCaProcessor"]
