# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Makes transformers' Auto classes know CoCa."""

from typing import Any

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .configuration_coca import CoCaConfig, CoCaMultimodalConfig, CoCaTextConfig, CoCaVisionConfig
from .image_processing_coca import CoCaImageProcessor
from .modeling_coca import (
    CoCaForCaptioning,
    CoCaModel,
    CoCaTextModel,
    CoCaTextModelWithProjection,
    CoCaVisionModel,
    CoCaVisionModelWithProjection,
)
from .processing_coca import CoCaProcessor
from .tokenization_coca import CoCaTokenizer


CONFIGS: tuple[Any, ...] = (CoCaConfig, CoCaVisionConfig, CoCaTextConfig, CoCaMultimodalConfig)

# Of several classes, AutoModel takes the one that `config.architectures` names.
MODELS: dict[str, dict[Any, Any]] = {
    "AutoModel": {
        CoCaConfig: CoCaModel,
        CoCaVisionConfig: (CoCaVisionModel, CoCaVisionModelWithProjection),
        CoCaTextConfig: (CoCaTextModel, CoCaTextModelWithProjection),
    },
    "AutoModelForZeroShotImageClassification": {CoCaConfig: CoCaModel},
    "AutoModelForImageTextToText": {CoCaConfig: CoCaForCaptioning},
    "AutoModelForMultimodalLM": {CoCaConfig: CoCaForCaptioning},
}


def register() -> None:
    """Registers every class; may be called again."""
    for config_class in CONFIGS:
        transformers.AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    for auto_class, models in MODELS.items():
        for config_class, model_class in models.items():
            getattr(transformers, auto_class).register(config_class, model_class, exist_ok=True)
    transformers.AutoProcessor.register(CoCaConfig, CoCaProcessor, exist_ok=True)
    transformers.AutoTokenizer.register(CoCaConfig, tokenizer_class=CoCaTokenizer, exist_ok=True)
    transformers.AutoImageProcessor.register(
        CoCaConfig, image_processor_classes={"pil": CoCaImageProcessor}, exist_ok=True
    )
    # Trainer's own loss, as for label smoothing, shifts the labels of the classes that it finds here.
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[CoCaConfig.model_type] = CoCaForCaptioning.__name__
