# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""CoCa (Contrastive Captioner) as a first-class Hugging Face transformers model.

Importing this package makes transformers' Auto classes know CoCa.
"""

import importlib
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from . import conversion, evaluation, open_clip, publishing, search, seeing, training
    from .configuration_coca import CoCaConfig, CoCaMultimodalConfig, CoCaTextConfig, CoCaVisionConfig
    from .exporting import export, load
    from .image_processing_coca import CoCaImageProcessor
    from .modeling_coca import (
        CoCaForCaptioning,
        CoCaModel,
        CoCaTextModel,
        CoCaTextModelWithProjection,
        CoCaVisionModel,
        CoCaVisionModelWithProjection,
    )
    from .optimization import optimize_for_inference, optimize_for_training
    from .pipeline_coca import ImageToTextPipeline
    from .pipelines import pipeline
    from .processing_coca import CoCaProcessor
    from .seeing import WordMap, overlay, similarity_map, word_maps
    from .tokenization_coca import CoCaTokenizer


_PARTS = ("conversion", "evaluation", "open_clip", "publishing", "search", "seeing", "training")
_MODULES = {
    "CoCaConfig": "configuration_coca",
    "CoCaForCaptioning": "modeling_coca",
    "CoCaImageProcessor": "image_processing_coca",
    "CoCaModel": "modeling_coca",
    "CoCaMultimodalConfig": "configuration_coca",
    "CoCaProcessor": "processing_coca",
    "CoCaTextConfig": "configuration_coca",
    "CoCaTextModel": "modeling_coca",
    "CoCaTextModelWithProjection": "modeling_coca",
    "CoCaTokenizer": "tokenization_coca",
    "CoCaVisionConfig": "configuration_coca",
    "CoCaVisionModel": "modeling_coca",
    "CoCaVisionModelWithProjection": "modeling_coca",
    "ImageToTextPipeline": "pipeline_coca",
    "WordMap": "seeing",
    "export": "exporting",
    "load": "exporting",
    "optimize_for_inference": "optimization",
    "optimize_for_training": "optimization",
    "overlay": "seeing",
    "pipeline": "pipelines",
    "similarity_map": "seeing",
    "word_maps": "seeing",
}

__all__ = [
    "CoCaConfig",
    "CoCaForCaptioning",
    "CoCaImageProcessor",
    "CoCaModel",
    "CoCaMultimodalConfig",
    "CoCaProcessor",
    "CoCaTextConfig",
    "CoCaTextModel",
    "CoCaTextModelWithProjection",
    "CoCaTokenizer",
    "CoCaVisionConfig",
    "CoCaVisionModel",
    "CoCaVisionModelWithProjection",
    "ImageToTextPipeline",
    "WordMap",
    "bundled_model",
    "conversion",
    "evaluation",
    "example_images",
    "export",
    "load",
    "open_clip",
    "optimize_for_inference",
    "optimize_for_training",
    "overlay",
    "pipeline",
    "publishing",
    "search",
    "seeing",
    "similarity_map",
    "training",
    "word_maps",
]


def bundled_model() -> Path:
    """Folder of the small model that ships inside the package: what `from_pretrained` and `pipeline` take."""
    return Path(__file__).parent / "assets" / "bundled"


def example_images() -> list[Path]:
    """Example images that ship inside the package, for the bundled model."""
    return sorted(path for path in (Path(__file__).parent / "assets" / "examples").iterdir() if path.suffix != ".txt")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = version("coca-hf")
    elif name in _PARTS:
        value = importlib.import_module(f".{name}", __name__)
    elif name in _MODULES:
        value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


# The command's help does not wait for what registering loads: see `coca_hf_command`.
if "coca_hf_command" not in sys.modules:
    importlib.import_module(".registration", __name__).register()
