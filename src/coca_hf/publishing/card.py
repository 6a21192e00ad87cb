# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Model cards, made from data by the templates in `cards/`."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from . import laion
from .laion import Checkpoint, ReportedAt
from .plan import PLACEHOLDER


_TEMPLATES = Path(__file__).parent / "cards"

TAGS = ("coca", "image-captioning", "open_clip")
_PICTURES = "https://huggingface.co/datasets/mishig/sample_images/resolve/main"
WIDGET = tuple(
    {"src": f"{_PICTURES}/{name}.jpg", "example_title": title}
    for name, title in (("savanna", "Savanna"), ("football-match", "Football match"), ("airport", "Airport"))
)
_LABELS = ("a photo of a cat", "a photo of a dog", "a photo of an airport")
# By the beginning of the Hub id of those that publish weights for research only: the license's name on the Hub, and
# what nobody should miss.
_RESEARCH_LICENSES = {
    "apple/": (
        "apple-amlr",
        "For research only. These weights are under the Apple Machine Learning Research Model license, which allows "
        "neither commercial use nor use in a product, and which goes with every copy: read LICENSE in the original's "
        "repository before you use or publish them.",
    ),
    "mahmoodlab/conch": (
        "cc-by-nc-nd-4.0",
        "For academic research only. These weights are under CC-BY-NC-ND 4.0, access to them is granted to persons, "
        "and their authors forbid publishing copies: keep this folder to yourself.",
    ),
}
_RETRIEVAL_DATASETS = {"Flickr30k": "nlphuji/flickr30k", "MSCOCO": "HuggingFaceM4/COCO"}
_CAPTIONING_DATASETS = {laion.KARPATHY: "HuggingFaceM4/COCO", laion.NOCAPS: "HuggingFaceM4/NoCaps"}


def folder_card(config: dict[str, Any], source: str | None = None) -> str:
    """
    The card of a saved folder.

    Args:
        config: Content of its `config.json`.
        source: Hub id or file name of the open_clip checkpoint that it was converted from. Of LAION's checkpoints the
            card says all that is published about them.
    """
    checkpoint = laion.known_checkpoint(source) if source else None
    if checkpoint is not None:
        return checkpoint_card(checkpoint, config)
    captions = bool(architecture(config)["decoder_layers"])
    license_name, warning = research_license(source or "")
    metadata = ModelCardData(
        license=license_name,
        library_name="transformers",
        pipeline_tag="image-to-text" if captions else "zero-shot-image-classification",
        base_model=source if source and "/" in source else None,
        tags=["coca", "zero-shot-image-classification", *(["open_clip"] if source else [])],
    )
    title = "CoCa, converted from open_clip" if source else "CoCa"
    return render("model.md", metadata, config, title=title, source=source, warning=warning)


def research_license(source: str) -> tuple[str | None, str | None]:
    """Name and warning of the license of that Hub repository's weights, where that is known to allow research only."""
    found = (each for start, each in _RESEARCH_LICENSES.items() if source.lower().startswith(start))
    return next(found, (None, None))


def checkpoint_card(checkpoint: Checkpoint, config: dict[str, Any]) -> str:
    """The card of one of LAION's checkpoints, converted."""
    zero_shot = ["zero-shot-image-classification"] if checkpoint.has_contrastive_space else []
    metadata = ModelCardData(
        language="en",
        license="mit",
        library_name="transformers",
        pipeline_tag="image-to-text",
        tags=[*TAGS, *zero_shot],
        base_model=checkpoint.source,
        datasets=["laion/laion2B-en", *(["HuggingFaceM4/COCO"] if checkpoint.is_fine_tuned else [])],
        model_name=checkpoint.name,
        eval_results=list(_reported(checkpoint)),
        widget=[dict(example) for example in WIDGET],
    )
    return render(
        "laion.md",
        metadata,
        config,
        title=checkpoint.name,
        warning=checkpoint.warning,
        parameters=f"{checkpoint.architecture.parameters} million",
        has_contrastive_space=checkpoint.has_contrastive_space,
        checkpoint=checkpoint,
        source=checkpoint.source,
        reports=laion,
    )


def render(template: str | Path, metadata: ModelCardData, config: dict[str, Any], **fields: Any) -> str:
    """
    A card; in its examples, "OWNER/NAME" stands for where it will be published.

    Args:
        template: One of those in `cards/`, by its name, or a path of one that extends them.
        metadata: What stands at the card's head.
        config: Content of the model's `config.json`.
        fields: All else that the template names.
    """
    values = {
        "metadata": metadata.to_yaml(),
        "repository": PLACEHOLDER,
        "architecture": architecture(config),
        "warning": None,
        "parameters": None,
        "has_contrastive_space": True,
        "caption_tokens": 30,
        "labels": _LABELS,
        **fields,
    }
    path = _TEMPLATES / template
    text = _environment(path.parent).get_template(path.name).render(values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def architecture(config: dict[str, Any]) -> dict[str, Any]:
    """What a card says of a configuration."""
    from ..configuration_coca import CoCaConfig

    full = CoCaConfig.from_dict(config)
    vision, text = full.vision_config, full.text_config
    size = vision.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return {
        "height": height,
        "width": width,
        "patch": vision.patch_size,
        "vision_layers": vision.num_hidden_layers,
        "vision_width": vision.hidden_size,
        "text_layers": text.num_hidden_layers,
        "text_width": text.hidden_size,
        "context": text.max_position_embeddings,
        "vocabulary": text.vocab_size,
        "decoder_layers": full.multimodal_config.num_hidden_layers,
        "dimension": full.projection_dim,
    }


def _reported(checkpoint: Checkpoint) -> Iterator[EvalResult]:
    yield _result(
        ("zero-shot-image-classification", "Zero-shot image classification"),
        ("ILSVRC/imagenet-1k", "ImageNet-1k"),
        ("accuracy", "Top-1 accuracy", checkpoint.imagenet),
        laion.CLASSIFICATION,
    )
    for name, figures in (("Flickr30k", checkpoint.flickr30k), ("MSCOCO", checkpoint.mscoco)):
        for direction, figure in zip(("Text to image", "Image to text"), figures, strict=True):
            yield _result(
                ("image-text-retrieval", "Zero-shot retrieval"),
                (_RETRIEVAL_DATASETS[name], name),
                ("recall_at_1", f"{direction} R@1", figure),
                laion.RETRIEVAL,
            )
    for name, scores in checkpoint.captioning.items():
        for metric, figure in zip(laion.CAPTIONING_METRICS, scores, strict=True):
            yield _result(
                ("image-to-text", "Image captioning"),
                (_CAPTIONING_DATASETS[name], name),
                (metric.partition("-")[0].lower(), metric, figure),
                laion.CAPTIONING,
            )


def _result(
    task: tuple[str, str], dataset: tuple[str, str], metric: tuple[str, str, float], source: ReportedAt
) -> EvalResult:
    """Each pair is an identifier and a name."""
    return EvalResult(
        task_type=task[0],
        task_name=task[1],
        dataset_type=dataset[0],
        dataset_name=dataset[1],
        metric_type=metric[0],
        metric_name=metric[1],
        metric_value=metric[2],
        source_name=source.name,
        source_url=source.url,
    )


def _environment(folder: Path) -> Environment:
    """What a template names and nobody gave is an error, rather than a gap in a card."""
    return Environment(
        loader=FileSystemLoader([folder, _TEMPLATES], encoding="utf-8"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
