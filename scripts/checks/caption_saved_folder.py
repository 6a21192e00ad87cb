# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Prints what a saved folder gives for one made-up image, as JSON: its captions' ids, its text and its embeddings.

    python scripts/checks/caption_saved_folder.py FOLDER

Needs transformers, torch and pillow only: the model's code comes from the folder. Two environments that print the same
agree on the folder.
"""

import json
import os
import sys


os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from PIL import Image
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor


def rounded(embeddings: torch.Tensor) -> list[list[float]]:
    """To the digits in which environments have to agree."""
    return [[round(value, 4) + 0.0 for value in row] for row in embeddings.tolist()]


def describe(folder: str) -> dict[str, object]:
    captioner = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
    towers = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    image = Image.linear_gradient("L").convert("RGB")
    inputs = processor(images=image, text="a photo of", return_tensors="pt")
    searches = {"greedy": {}, "beams": {"num_beams": 3}, "groups": {"num_beams": 4, "num_beam_groups": 2}}
    captions = {
        name: captioner.generate(**inputs, max_new_tokens=8, do_sample=False, **search).tolist()
        for name, search in searches.items()
    }
    with torch.no_grad():
        outputs = towers(**inputs)
    text = processor.batch_decode(captions["greedy"], skip_special_tokens=True)
    embeddings = {name: rounded(outputs[name]) for name in ("image_embeds", "text_embeds")}
    return {"captions": captions, "text": text, **embeddings}


if __name__ == "__main__":
    print(json.dumps(describe(sys.argv[1])))
