# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A complete saved folder of the tiny model, with a processor whose vocabulary fits it."""

from pathlib import Path

from coca_hf import CoCaForCaptioning, CoCaImageProcessor, CoCaProcessor, CoCaTokenizer
from tiny import tiny_captioner


CORPUS = [
    f"a photo of {count} {colour} {shape} on a table"
    for count in ("one", "two", "three")
    for colour in ("red", "green", "blue")
    for shape in ("cube", "ball", "ring")
]
CONTEXT_LENGTH = 24


def tiny_processor() -> CoCaProcessor:
    size = {"height": 16, "width": 16}
    tokenizer = CoCaTokenizer(model_max_length=CONTEXT_LENGTH).train_new_from_iterator(CORPUS, vocab_size=560)
    return CoCaProcessor(CoCaImageProcessor(size=size, crop_size=size), tokenizer)


def tiny_model(processor: CoCaProcessor) -> CoCaForCaptioning:
    tokenizer = processor.tokenizer
    return tiny_captioner(
        text_config={
            "vocab_size": len(tokenizer),
            "max_position_embeddings": CONTEXT_LENGTH,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
    )


def save_tiny_folder(folder: Path) -> Path:
    processor = tiny_processor()
    tiny_model(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
