# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""What is published about LAION's four checkpoints. None of it was measured here."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ReportedAt:
    """Where figures were published."""

    name: str
    url: str


_OPEN_CLIP = "https://github.com/mlfoundations/open_clip/blob/main/docs"
CLASSIFICATION = ReportedAt("reported upstream: open_clip, openclip_results.csv", f"{_OPEN_CLIP}/openclip_results.csv")
RETRIEVAL = ReportedAt(
    "reported upstream: open_clip, openclip_retrieval_results.csv", f"{_OPEN_CLIP}/openclip_retrieval_results.csv"
)
CAPTIONING = ReportedAt("reported upstream: LAION, Training Contrastive Captioners", "https://laion.ai/blog/coca/")

CAPTIONING_METRICS = ("BLEU-4", "METEOR", "CIDEr", "SPICE")
KARPATHY, NOCAPS = "MSCOCO, Karpathy's validation split", "NoCaps"


@dataclass(frozen=True)
class Architecture:
    """Of a released size: millions of parameters, and GFLOPs a forward pass."""

    preset: str
    vision: str
    parameters: float
    vision_parameters: float
    text_parameters: float
    decoder_parameters: float
    gflops: float


B32 = Architecture("coca_ViT-B-32", "ViT-B/32", 253.56, 89.16, 63.42, 100.96, 33.3)
L14 = Architecture("coca_ViT-L-14", "ViT-L/14", 638.45, 306.72, 123.65, 208.07, 214.5)


@dataclass(frozen=True)
class Checkpoint:
    """
    A released checkpoint and its figures, in percent.

    `flickr30k` and `mscoco` are R@1 of text to image and of image to text; `captioning` has, by set, the figures of
    `CAPTIONING_METRICS`. `warning` is what nobody should miss.
    """

    source: str
    architecture: Architecture
    imagenet: float
    flickr30k: tuple[float, float]
    mscoco: tuple[float, float]
    is_fine_tuned: bool = False
    captioning: Mapping[str, tuple[float, float, float, float]] = field(default_factory=dict)
    warning: str | None = None

    @property
    def name(self) -> str:
        """Of the repository, without its owner."""
        return self.source.partition("/")[2]

    @property
    def has_contrastive_space(self) -> bool:
        """Whether embeddings of images and of texts still have to do with each other."""
        return self.imagenet > 1


CHECKPOINTS = (
    Checkpoint("laion/CoCa-ViT-B-32-laion2B-s13B-b90k", B32, 63.3, (63.4, 81.6), (36.2, 54.6)),
    Checkpoint("laion/CoCa-ViT-L-14-laion2B-s13B-b90k", L14, 75.6, (74.3, 88.4), (45.7, 62.9)),
    Checkpoint(
        "laion/mscoco_finetuned_CoCa-ViT-B-32-laion2B-s13B-b90k",
        B32,
        0.8,
        (0.7, 1.1),
        (0.3, 0.9),
        is_fine_tuned=True,
        warning="For captions only. Fine-tuning ran with the contrastive loss at weight 0, and this model has lost "
        "its contrastive space: its image and text embeddings have nothing to do with each other any more (0.8 % "
        "top-1 on ImageNet, where guessing gives 0.1 %). For embeddings, retrieval or zero-shot labels take "
        "CoCa-ViT-B-32-laion2B-s13B-b90k, from which it was fine-tuned.",
    ),
    Checkpoint(
        "laion/mscoco_finetuned_CoCa-ViT-L-14-laion2B-s13B-b90k",
        L14,
        72.0,
        (78.5, 89.0),
        (53.7, 66.8),
        is_fine_tuned=True,
        captioning={KARPATHY: (35.6, 29.8, 125.3, 23.4), NOCAPS: (39.9, 29.1, 106.5, 14.7)},
    ),
)


def known_checkpoint(source: str) -> Checkpoint | None:
    """LAION's checkpoint of that Hub id, if it is one."""
    return next((checkpoint for checkpoint in CHECKPOINTS if checkpoint.source == source), None)
