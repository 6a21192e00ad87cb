# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""open_clip's `CoCa` and the functions around it, with their names and their numbers, on this package's model.

    import coca_hf.open_clip as open_clip

    model, _, preprocess = open_clip.create_model_and_transforms("coca_ViT-L-14", pretrained="laion2b_s13b_b90k")
    tokenizer = open_clip.get_tokenizer("coca_ViT-L-14")

    from coca_hf.open_clip import CoCa, CLIPVisionCfg, CLIPTextCfg, MultimodalCfg

Programs written for open_clip 3.3.0's CoCa models run with these imports; state dicts have open_clip's names; `generate()`
returns open_clip's ids, from a cache and with each image encoded once. `CoCa.from_captioner(model)` gives this API to a
loaded `CoCaForCaptioning`, and `CoCa(...).captioner` is the `CoCaForCaptioning` behind it.

Moving on from it, open_clip on the left, the rest of this package on the right:

| open_clip | here | what differs, and why |
| --- | --- | --- |
| `create_model_from_pretrained("coca_ViT-L-14", pretrained=...)` | `convert_open_clip(source, folder)` once, then `AutoModelForImageTextToText.from_pretrained(folder)` | a saved folder has the processor too |
| `preprocess(image)`, `tokenizer(texts)` | `processor(images=image, text=texts, padding=True, return_tensors="pt")` | padding to the longest text gives the same features in less time; 16-bit images are scaled, not clipped; files are turned upright |
| `model.encode_image(x)` | `F.normalize(model.get_image_features(x).pooler_output, dim=-1)` | features are not normalised, as elsewhere in transformers |
| `model.encode_text(ids)` | `F.normalize(model.get_text_features(ids).pooler_output, dim=-1)` | the same |
| `model(x, ids)["logits"]` | `model(pixel_values=x, input_ids=ids).logits` | one row per input token, so the last one has no label |
| `labels = ids[:, 1:]`, `CoCaLoss(2.0, 1.0)` | `model(..., labels=ids.masked_fill(ids == 0, -100)).loss` | shifted inside; -100 is ignored instead of id 0 |
| `model.generate(x)` | `model.generate(pixel_values=x, num_beams=2, max_length=30, min_length=5)` | log-probabilities instead of raw logits as scores, so captions differ; open_clip's 6 beams in 3 groups are a search with 2 beams, done three times |
| the same, and the same captions | `model.generate(pixel_values=x, custom_generate=beam_search, num_beams=2, max_length=30, min_length=5)` | `beam_search` of this module keeps open_clip's scores |
| `generate(generation_type="top_p", top_p=0.9, temperature=0.8)` | `generate(do_sample=True, top_p=0.9, top_k=0, temperature=0.8)` | temperature is applied before the filter |
| `seq_len`, `min_seq_len` | `max_length`, `min_length`, or `max_new_tokens` | prompt and start token count in the former, not in the latter |
"""  # noqa: E501

from ..conversion.model_config import CLIPTextCfg, CLIPVisionCfg, MultimodalCfg
from .factory import (
    add_model_config,
    create_model,
    create_model_and_transforms,
    create_model_from_pretrained,
    get_model_config,
    get_tokenizer,
    list_models,
    list_pretrained,
    load_checkpoint,
)
from .loss import ClipLoss, CoCaLoss
from .model import CoCa, beam_search
from .tokenizer import SimpleTokenizer, decode, tokenize
from .towers import TextDecoder, TextTower, VisionTower
from .transform import AugmentationCfg, PreprocessCfg, image_transform, image_transform_v2
from .zero_shot import build_zero_shot_classifier


__all__ = [
    "AugmentationCfg",
    "CLIPTextCfg",
    "CLIPVisionCfg",
    "ClipLoss",
    "CoCa",
    "CoCaLoss",
    "MultimodalCfg",
    "PreprocessCfg",
    "SimpleTokenizer",
    "TextDecoder",
    "TextTower",
    "VisionTower",
    "add_model_config",
    "beam_search",
    "build_zero_shot_classifier",
    "create_model",
    "create_model_and_transforms",
    "create_model_from_pretrained",
    "decode",
    "get_model_config",
    "get_tokenizer",
    "image_transform",
    "image_transform_v2",
    "list_models",
    "list_pretrained",
    "load_checkpoint",
    "tokenize",
]
