# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The numbers that papers print, as pure functions on texts and arrays.

    from coca_hf.evaluation import caption_scores, ptb_tokenize, retrieval_recall

    caption_scores({"1.jpg": "a dog"}, {"1.jpg": ["a brown dog", "the dog"]})

The modules:

    ptb_tokenizer     the tokens that coco-caption scores; `ptb_characters`: what it takes characters for
    captions          BLEU, ROUGE-L, CIDEr; `meteor`: METEOR, where its Java program is installed
    clip_score        CLIPScore, RefCLIPScore
    retrieval         recall both ways, and scores over the labels of ECCV Caption and CxC
    classification    zero-shot and linear probe; `imagenet`: its class names and templates
"""

from .captions import caption_scores
from .classification import class_embeds, classification_scores, linear_probe
from .clip_score import clip_scores
from .errors import EvaluationError
from .ptb_tokenizer import ptb_tokenize
from .retrieval import retrieval_recall


__all__ = [
    "EvaluationError",
    "caption_scores",
    "class_embeds",
    "classification_scores",
    "clip_scores",
    "linear_probe",
    "ptb_tokenize",
    "retrieval_recall",
]
