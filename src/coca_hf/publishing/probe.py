# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Loads a saved folder as someone without this package does. Runs as a script, in a process of its own.

What is wrong goes to stderr, in one line, with exit code 1.
"""

import sys


def main(folder: str) -> None:
    # Absent, as where the folder will be loaded: an import of it raises.
    sys.modules["coca_hf"] = None  # type: ignore[assignment]
    import torch
    from PIL import Image
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModel,
        AutoModelForImageTextToText,
        AutoProcessor,
        AutoTokenizer,
        pipeline,
    )
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    trust = {"trust_remote_code": True}
    config = AutoConfig.from_pretrained(folder, **trust)
    captions = "AutoModelForImageTextToText" in config.auto_map
    auto_class = AutoModelForImageTextToText if captions else AutoModel
    model, found = auto_class.from_pretrained(folder, **trust, ignore_mismatched_sizes=True, output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found[problem]:
            raise ValueError(f"its weights have {problem.replace('_', ' ')}: {sorted(found[problem], key=str)[0]}")
    processor = AutoProcessor.from_pretrained(folder, **trust)
    AutoTokenizer.from_pretrained(folder, **trust)
    AutoImageProcessor.from_pretrained(folder, **trust)
    image = Image.new("RGB", (64, 48), "red")
    inputs = processor(images=image, text="a photo", return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
    if not all(value.isfinite().all() for value in (outputs.image_embeds, outputs.text_embeds)):
        raise ValueError("its embeddings are not finite")
    del model, outputs
    if captions:
        pipeline("image-to-text", folder, device="cpu", **trust)(image, max_new_tokens=2)
        AutoModel.from_pretrained(folder, **trust)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    # Whatever it is, it would happen to whoever loads the folder.
    except Exception as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
