# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The model card of a converted checkpoint."""

from pathlib import Path

from ..configuration_coca import CoCaConfig


_TEMPLATE = """---
library_name: transformers
pipeline_tag: {task}
tags:
- coca
- image-to-text
- zero-shot-image-classification
- open_clip
---

# CoCa, converted from open_clip

Converted from `{source}` with `coca-hf convert`. The weights are unchanged; their licence, training data and limits
are those of the original.

| | |
| --- | --- |
| image | {height} x {width} pixels, patches of {patch} |
| vision tower | {vision_layers} layers, width {vision_width} |
| text tower | {text_layers} layers, width {text_width}, {context} tokens, vocabulary of {vocabulary} |
| decoder | {decoder_layers} layers |
| shared space | {dimension} dimensions |

```python
{example}
```
"""

_CAPTION_EXAMPLE = """from transformers import pipeline

captioner = pipeline("image-to-text", model="this folder or repository", trust_remote_code=True)
captioner("image.jpg")"""

_EMBEDDING_EXAMPLE = """from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("this folder or repository", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("this folder or repository", trust_remote_code=True)"""


def write_card(folder: Path, source: str, config: CoCaConfig) -> None:
    """Writes `README.md` of a converted model."""
    vision, text, decoder = config.vision_config, config.text_config, config.multimodal_config
    size = vision.image_size
    height, width = (size, size) if isinstance(size, int) else size
    card = _TEMPLATE.format(
        task="image-to-text" if decoder.num_hidden_layers else "zero-shot-image-classification",
        source=source,
        height=height,
        width=width,
        patch=vision.patch_size,
        vision_layers=vision.num_hidden_layers,
        vision_width=vision.hidden_size,
        text_layers=text.num_hidden_layers,
        text_width=text.hidden_size,
        context=text.max_position_embeddings,
        vocabulary=text.vocab_size,
        decoder_layers=decoder.num_hidden_layers or "none",
        dimension=config.projection_dim,
        example=_CAPTION_EXAMPLE if decoder.num_hidden_layers else _EMBEDDING_EXAMPLE,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
