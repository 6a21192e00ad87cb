# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""CoCa model configuration."""

import copy
import math
import os
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import transformers


# Every file that a class is loaded from imports this one first, so that an older release is refused in words.
if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < (5, 24):
    raise ImportError(
        f"CoCa needs transformers 5.24 or newer, and transformers {transformers.__version__} is installed: "
        "run pip install --upgrade transformers."
    )

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig


if TYPE_CHECKING:
    # transformers saves a class's own file and those that it imports, and finds imports by their lines, these too.
    # Those files import this one, and this one leads to all others, so a saved folder has all of them.
    from .generation_coca import CoCaGenerationMixin  # noqa: F401
    from .image_processing_coca import CoCaImageProcessor  # noqa: F401
    from .modeling_coca import CoCaForCaptioning  # noqa: F401
    from .pipeline_coca import ImageToTextPipeline  # noqa: F401
    from .processing_coca import CoCaProcessor  # noqa: F401
    from .tokenization_coca import CoCaTokenizer  # noqa: F401


_LAYER_TP_PLAN = {
    "self_attn.q_proj": "colwise",
    "self_attn.k_proj": "colwise",
    "self_attn.v_proj": "colwise",
    "self_attn.out_proj": "rowwise",
    "mlp.fc1": "colwise",
    "mlp.fc2": "rowwise",
}


class _CoCaPreTrainedConfig(PreTrainedConfig):
    """What all configurations share: a saved one says which file holds the classes of what it configures."""

    _auto_class = "AutoConfig"

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As the library's, which takes the defaults where there is no configuration; this one refuses that."""
        content, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if "model_type" not in content:
            raise OSError(
                f"'{pretrained_model_name_or_path}' has no CoCa configuration: there is no config.json with a "
                "model_type. If it holds an open_clip checkpoint, convert it first: "
                f"coca-hf convert {pretrained_model_name_or_path} FOLDER"
            )
        return content, unused

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Saves the configuration and the model's Python files, and names the class for each Auto class."""
        self.auto_map = {name: f"modeling_coca.{model_class}" for name, model_class in self._auto_classes().items()}
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def _auto_classes(self) -> dict[str, str]:
        """Auto class -> model class. The library adds `AutoConfig` itself."""
        return {}


class _CoCaTowerConfig(_CoCaPreTrainedConfig):
    """What the three transformer stacks share."""

    def validate_architecture(self) -> None:
        """Refuses sizes that no model can be built with; called when a config is made."""
        # Not above: it brings half of the library with it.
        from transformers.activations import ACT2FN

        for name in ("hidden_size", "intermediate_size", "num_attention_heads"):
            _require_at_least(self, name, 1)
        _require_at_least(self, "num_hidden_layers", 0)
        _require_multiple(self, "hidden_size", "num_attention_heads")
        _require_probability(self, "attention_dropout")
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act={self.hidden_act!r} is not an activation; use one of {sorted(ACT2FN)}.")
        if self.layer_norm_eps <= 0:
            raise ValueError(f"layer_norm_eps={self.layer_norm_eps} must be positive.")


class _CoCaProjectedTowerConfig(_CoCaTowerConfig):
    """What the vision and the text tower share: each stands alone, with or without its projection."""

    _model_class: ClassVar[str]
    architectures: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        # Of the classes with and without projection, AutoModel takes the one that this names.
        if self.architectures is None:
            self.architectures = [self._model_class]

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        content, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        part = content.get(cls.base_config_key)
        if part is not None and part.get("projection_dim") is None:
            # A whole model's folder that was saved when only the whole configuration had this field.
            part["projection_dim"] = content.get("projection_dim", CoCaConfig.projection_dim)
        return content, unused

    def validate_architecture(self) -> None:
        super().validate_architecture()
        if self.projection_dim is not None:
            _require_at_least(self, "projection_dim", 1)

    def _auto_classes(self) -> dict[str, str]:
        with_projection = f"{self._model_class}WithProjection"
        return {"AutoModel": with_projection if with_projection in (self.architectures or ()) else self._model_class}


def _require_at_least(config: PreTrainedConfig, name: str, minimum: int) -> None:
    value = getattr(config, name)
    if value < minimum:
        raise ValueError(f"{name}={value} must be at least {minimum}.")


def _require_multiple(config: PreTrainedConfig, name: str, divisor_name: str) -> None:
    value, divisor = getattr(config, name), getattr(config, divisor_name)
    if value % divisor:
        raise ValueError(f"{name}={value} must be a multiple of {divisor_name}={divisor}.")


def _require_probability(config: PreTrainedConfig, name: str) -> None:
    value = getattr(config, name)
    if not 0 <= value < 1:
        raise ValueError(f"{name}={value} must lie in [0, 1).")


def _as_pair(config: PreTrainedConfig, name: str) -> tuple[int, int]:
    value = getattr(config, name)
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{name}={value} must be a positive integer or a pair (height, width) of them.")
    return pair


@strict
class CoCaVisionConfig(_CoCaProjectedTowerConfig):
    r"""
    Configuration of the vision tower: a ViT and its attentional poolers.

    Defaults give the vision tower of open_clip's `coca_ViT-B-32`.

    Args:
        hidden_size (`int`, defaults to 768): Width of the transformer.
        intermediate_size (`int`, defaults to 3072): Width of the MLPs.
        num_hidden_layers (`int`, defaults to 12): Number of transformer layers.
        num_attention_heads (`int`, defaults to 12): Heads per layer.
        num_channels (`int`, defaults to 3): Channels of the image.
        image_size (`int` or `(height, width)`, defaults to 224): Pixels.
        patch_size (`int` or `(height, width)`, defaults to 32):
            Pixels. Where it does not divide the image, the remainder of the image is not seen.
        hidden_act (`str`, defaults to `"gelu"`): `"gelu"`, `"quick_gelu"`, or another activation of transformers.
        layer_norm_eps (`float`, defaults to 1e-5): Epsilon of every layer norm.
        attention_dropout (`float`, defaults to 0.0): Dropout of attention weights in training.
        layer_scale_init_value (`float`, *optional*):
            Initial value of the learned per-channel scale of each residual branch; `None` for no such scale.
        patch_dropout (`float`, defaults to 0.0): Share of patches left out in training.
        position_embedding_type (`str`, defaults to `"learned"`):
            `"learned"`, or `"sincos"` for fixed two-dimensional sine-cosine positions (square grids only).
        use_pre_norm (`bool`, defaults to `True`): Whether a layer norm precedes the first layer.
        attentional_pooling (`str`, defaults to `"single"`):
            Where the contrastive vector and the decoder's image tokens come from. `"single"`: one pooler gives
            both, the first token for the vector and the rest for the decoder. `"parallel"` and `"cascade"`: one pooler
            gives the image tokens, a second one with one query gives the vector, from the encoder or from the
            first pooler's output (as in the paper, section 3.2). `"separate"`: as `"parallel"`, but each pooler has a
            width and a norm of its own (as in CONCH). `"none"`: no pooler; the class token and the patches.
        pooler_hidden_size (`int`, defaults to 512): Width of the poolers' output, unused without a pooler.
        contrastive_pooler_hidden_size (`int`, *optional*):
            With `"separate"`, width of the second pooler's output, where it is not `pooler_hidden_size`.
        num_pooler_queries (`int`, defaults to 256): Learned queries of the first pooler.
        num_pooler_attention_heads (`int`, defaults to 8): Heads of the poolers.
        pool_type (`str`, defaults to `"cls"`):
            `"cls"`: the vector is the first token. `"mean"`: the mean of the others. `"none"`: all tokens, unpooled.
        final_norm_after_pool (`bool`, defaults to `False`):
            Without a pooler, whether the final layer norm is applied to the pooled vector only.
        initializer_range (`float`, defaults to 0.02): Standard deviation of the patch embedding's initial weights.
        projection_dim (`int`, *optional*):
            Width of the space that images and texts share, for `CoCaVisionModelWithProjection`. A [`CoCaConfig`] sets
            it to its own.

    Raises:
        huggingface_hub.errors.StrictDataclassError: A field has a wrong type or an impossible value.
    """

    model_type = "coca_vision_model"
    base_config_key = "vision_config"
    _model_class = "CoCaVisionModel"
    base_model_tp_plan = {f"layers.*.{name}": style for name, style in _LAYER_TP_PLAN.items()}
    base_model_fsdp_plan = {"layers.*": "free_full_weight", "embeddings": "keep_full_weight"}

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int | list[int] | tuple[int, int] = 224
    patch_size: int | list[int] | tuple[int, int] = 32
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: int | float = 0.0
    layer_scale_init_value: int | float | None = None
    patch_dropout: int | float = 0.0
    position_embedding_type: Literal["learned", "sincos"] = "learned"
    use_pre_norm: bool = True
    attentional_pooling: Literal["none", "single", "parallel", "cascade", "separate"] = "single"
    pooler_hidden_size: int = 512
    contrastive_pooler_hidden_size: int | None = None
    num_pooler_queries: int = 256
    num_pooler_attention_heads: int = 8
    pool_type: Literal["cls", "mean", "none"] = "cls"
    final_norm_after_pool: bool = False
    projection_dim: int | None = None
    initializer_range: float = 0.02

    def validate_architecture(self) -> None:
        super().validate_architecture()
        _require_at_least(self, "num_channels", 1)
        _require_probability(self, "patch_dropout")
        if min(self.grid_size) < 1:
            raise ValueError(f"patch_size={self.patch_size} must not exceed image_size={self.image_size}.")
        if self.position_embedding_type == "sincos":
            self._validate_sincos()
        if self.contrastive_pooler_hidden_size is not None and self.attentional_pooling != "separate":
            raise ValueError(
                f"contrastive_pooler_hidden_size={self.contrastive_pooler_hidden_size} needs "
                "attentional_pooling='separate': the poolers of the other kinds share their width."
            )
        if self.attentional_pooling != "none":
            self._validate_pooler()

    def _validate_sincos(self) -> None:
        if self.grid_size[0] != self.grid_size[1]:
            raise ValueError(
                "position_embedding_type='sincos' needs a square grid of patches, but "
                f"image_size={self.image_size} and patch_size={self.patch_size} give {self.grid_size}."
            )
        if self.hidden_size % 4:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of 4 with position_embedding_type='sincos'."
            )

    def _validate_pooler(self) -> None:
        _require_at_least(self, "pooler_hidden_size", 1)
        _require_at_least(self, "num_pooler_attention_heads", 1)
        _require_at_least(self, "num_pooler_queries", 2 if self.attentional_pooling == "single" else 1)
        _require_multiple(self, "pooler_hidden_size", "num_pooler_attention_heads")
        if self.contrastive_pooler_hidden_size is not None:
            _require_at_least(self, "contrastive_pooler_hidden_size", 1)
            _require_multiple(self, "contrastive_pooler_hidden_size", "num_pooler_attention_heads")
        if self.final_norm_after_pool:
            raise ValueError("final_norm_after_pool=True needs attentional_pooling='none'.")
        if self.attentional_pooling != "single" and self.pool_type != "cls":
            raise ValueError(
                f"pool_type={self.pool_type!r} contradicts attentional_pooling={self.attentional_pooling!r}, whose "
                "second pooler has one query: use pool_type='cls'."
            )
        if self.attentional_pooling in ("parallel", "cascade") and self.pooler_hidden_size != self.hidden_size:
            # The final norm precedes the poolers, and the second pooler of a cascade reads the first one's output.
            raise ValueError(
                f"pooler_hidden_size={self.pooler_hidden_size} must equal hidden_size={self.hidden_size} with "
                f"attentional_pooling={self.attentional_pooling!r}."
            )

    @property
    def grid_size(self) -> tuple[int, int]:
        """Patches along (height, width)."""
        (height, width), (patch_height, patch_width) = _as_pair(self, "image_size"), _as_pair(self, "patch_size")
        return height // patch_height, width // patch_width

    @property
    def image_tokens_hidden_size(self) -> int:
        """Width of the image tokens that the decoder attends to."""
        return self.hidden_size if self.attentional_pooling == "none" else self.pooler_hidden_size

    @property
    def contrastive_hidden_size(self) -> int:
        """Width of the contrastive vector before its projection."""
        return self.contrastive_pooler_hidden_size or self.image_tokens_hidden_size


@strict
class CoCaTextConfig(_CoCaProjectedTowerConfig):
    r"""
    Configuration of the unimodal text tower.

    Defaults give the text tower of open_clip's `coca_ViT-B-32`.

    Args:
        vocab_size (`int`, defaults to 49408): Entries of the vocabulary, of the decoder's output too.
        hidden_size (`int`, defaults to 512): Width of the transformer.
        intermediate_size (`int`, defaults to 2048): Width of the MLPs.
        num_hidden_layers (`int`, defaults to 12): Number of transformer layers.
        num_attention_heads (`int`, defaults to 8): Heads per layer.
        max_position_embeddings (`int`, defaults to 76): Longest text in tokens, the appended [CLS] not counted.
        hidden_act (`str`, defaults to `"gelu"`): `"gelu"`, `"quick_gelu"`, or another activation of transformers.
        layer_norm_eps (`float`, defaults to 1e-5): Epsilon of every layer norm.
        attention_dropout (`float`, defaults to 0.0): Dropout of attention weights in training.
        layer_scale_init_value (`float`, *optional*): As in [`CoCaVisionConfig`].
        pool_type (`str`, defaults to `"cls"`):
            Which position gives the contrastive vector. `"cls"`: a learned [CLS] embedding appended after the text, as
            in the paper (section 3.2). `"first"`, `"last"`: of the text padded to `max_position_embeddings`.
            `"argmax"`: the highest token id. `"eos"`: the first `eos_token_id`. `"none"`: all positions, unpooled.
        projection_type (`str`, defaults to `"linear"`):
            Projection of the vector into the shared space: `"linear"`, `"linear_bias"`, or `"none"`.
        is_causal (`bool`, defaults to `True`):
            Whether a token sees only the tokens before it; a tower with `False` scores texts but cannot generate them.
        pad_token_id (`int`, defaults to 0): Id that pads a text.
        bos_token_id (`int`, defaults to 49406): Id that starts a text.
        eos_token_id (`int`, defaults to 49407): Id that ends a text.
        initializer_range (`float`, defaults to 0.02): Standard deviation of the token embedding's initial weights.
        projection_dim (`int`, *optional*):
            Width of the space that images and texts share, for `CoCaTextModelWithProjection`. A [`CoCaConfig`] sets
            it to its own.

    Raises:
        huggingface_hub.errors.StrictDataclassError: A field has a wrong type or an impossible value.
    """

    model_type = "coca_text_model"
    base_config_key = "text_config"
    _model_class = "CoCaTextModel"
    base_model_tp_plan = {f"layers.*.{name}": style for name, style in _LAYER_TP_PLAN.items()}
    base_model_fsdp_plan = {"layers.*": "free_full_weight", "embeddings": "keep_full_weight"}

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 76
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: int | float = 0.0
    layer_scale_init_value: int | float | None = None
    pool_type: Literal["cls", "first", "last", "argmax", "eos", "none"] = "cls"
    projection_type: Literal["linear", "linear_bias", "none"] = "linear"
    is_causal: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 49406
    eos_token_id: int | list[int] | None = 49407
    projection_dim: int | None = None
    initializer_range: float = 0.02

    def validate_architecture(self) -> None:
        super().validate_architecture()
        for name in ("vocab_size", "max_position_embeddings"):
            _require_at_least(self, name, 1)
        if self.pool_type == "cls" and self.pad_token_id is None:
            raise ValueError("pad_token_id=None contradicts pool_type='cls', whose mask is built from it.")
        if self.pool_type == "eos" and self.eos_token_id is None:
            raise ValueError("eos_token_id=None contradicts pool_type='eos', which looks for it.")


@strict
class CoCaMultimodalConfig(_CoCaTowerConfig):
    r"""
    Configuration of the multimodal decoder: causal self-attention over the text tower's token states, then
    cross-attention to the image tokens, in each layer.

    Defaults give the decoder of open_clip's `coca_ViT-B-32`.

    Args:
        hidden_size (`int`, defaults to 512): Width of the transformer; equals the text tower's.
        intermediate_size (`int`, defaults to 2048): Width of the MLPs.
        num_hidden_layers (`int`, defaults to 12): Number of layers; 0 for a model with towers only.
        num_attention_heads (`int`, defaults to 8): Heads per attention.
        hidden_act (`str`, defaults to `"gelu"`): `"gelu"`, `"quick_gelu"`, or another activation of transformers.
        layer_norm_eps (`float`, defaults to 1e-5): Epsilon of every layer norm.
        attention_dropout (`float`, defaults to 0.0): Dropout of attention weights in training.
        layer_scale_init_value (`float`, *optional*): As in [`CoCaVisionConfig`].
        cross_attention_hidden_size (`int`, *optional*):
            Width of the image tokens. A [`CoCaConfig`] sets it to the width that its vision tower gives.

    Raises:
        huggingface_hub.errors.StrictDataclassError: A field has a wrong type or an impossible value.
    """

    model_type = "coca_multimodal_model"
    base_config_key = "multimodal_config"
    base_model_tp_plan = {
        **{f"layers.*.self_attention_layer.{name}": style for name, style in _LAYER_TP_PLAN.items()},
        **{
            f"layers.*.cross_attention_layer.{name.replace('self_attn', 'cross_attn')}": style
            for name, style in _LAYER_TP_PLAN.items()
        },
    }
    base_model_fsdp_plan = {"layers.*": "free_full_weight"}

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: int | float = 0.0
    layer_scale_init_value: int | float | None = None
    cross_attention_hidden_size: int | None = None

    def validate_architecture(self) -> None:
        super().validate_architecture()
        if self.cross_attention_hidden_size is not None:
            _require_at_least(self, "cross_attention_hidden_size", 1)


def _complete(config_class: type[PreTrainedConfig], given: Any, **decided: Any) -> Any:
    """
    A part's configuration, with the fields that the whole one decides.

    Args:
        config_class: The part's class.
        given: A configuration, a dictionary of its fields, or None. A configuration is not changed but copied.
        decided: Fields that are filled in where the part leaves them None.
    """
    if given is None or isinstance(given, dict):
        given = config_class(**(given or {}))
    missing = {name: value for name, value in decided.items() if getattr(given, name) is None}
    config = copy.deepcopy(given) if missing else given
    for name, value in missing.items():
        setattr(config, name, value)
    return config


@strict
class CoCaConfig(_CoCaPreTrainedConfig):
    r"""
    Configuration of a CoCa model: a vision tower, a text tower, and a multimodal decoder.

    Defaults give open_clip's `coca_ViT-B-32`.

    Args:
        vision_config (`CoCaVisionConfig` or `dict`, *optional*): The vision tower.
        text_config (`CoCaTextConfig` or `dict`, *optional*): The text tower.
        multimodal_config (`CoCaMultimodalConfig` or `dict`, *optional*): The decoder.
        projection_dim (`int`, defaults to 512): Width of the space that images and texts share.
        logit_scale_init_value (`float`, defaults to ln(1 / 0.07)): Initial logarithm of the similarity's scale.
        logit_bias_init_value (`float`, *optional*): Initial bias of the similarity; `None` for no bias.
        nonscalar_logit_scale (`bool`, defaults to `False`):
            Whether an open_clip checkpoint of the model holds scale and bias with shape (1,) rather than (). Here they
            always have it, as FSDP needs.
        caption_loss_weight (`float`, defaults to 2.0): Weight of the captioning loss.
        contrastive_loss_weight (`float`, defaults to 1.0): Weight of the contrastive loss.
        use_cache (`bool`, defaults to `True`): Whether the captioner returns keys and values for the next step.

    Raises:
        huggingface_hub.errors.StrictDataclassError: A field has a wrong type or an impossible value, or two towers do
            not fit each other.

    Example:

    ```python
    >>> from coca_hf import CoCaConfig, CoCaForCaptioning

    >>> config = CoCaConfig(vision_config={"num_hidden_layers": 2}, text_config={"num_hidden_layers": 2})
    >>> model = CoCaForCaptioning(config)
    ```"""

    model_type = "coca"
    sub_configs = {
        "vision_config": CoCaVisionConfig,
        "text_config": CoCaTextConfig,
        "multimodal_config": CoCaMultimodalConfig,
    }
    # Those of the parts are enough; the library's default names modules that CoCa does not have.
    base_model_fsdp_plan: ClassVar[dict[str, str]] = {}
    # What is left for Trainer's metrics: of a captioner's outputs the logits alone, of the towers' `logits_per_text`.
    keys_to_ignore_at_inference = [
        "caption_loss",
        "contrastive_loss",
        "image_embeds",
        "text_embeds",
        "logits_per_image",
        "cache",
        "image_outputs",
        "text_model_output",
        "vision_model_output",
    ]

    if TYPE_CHECKING:
        # A part may be given as a dictionary or left out, and is a configuration once this one is made.
        vision_config: CoCaVisionConfig
        text_config: CoCaTextConfig
        multimodal_config: CoCaMultimodalConfig

        def __init__(self, **kwargs: Any) -> None: ...
    else:
        vision_config: dict | CoCaVisionConfig | None = None
        text_config: dict | CoCaTextConfig | None = None
        multimodal_config: dict | CoCaMultimodalConfig | None = None
    projection_dim: int = 512
    logit_scale_init_value: int | float = math.log(1 / 0.07)
    logit_bias_init_value: int | float | None = None
    nonscalar_logit_scale: bool = False
    caption_loss_weight: int | float = 2.0
    contrastive_loss_weight: int | float = 1.0
    use_cache: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        projection_dim = self.projection_dim
        self.vision_config = _complete(CoCaVisionConfig, self.vision_config, projection_dim=projection_dim)
        self.text_config = _complete(CoCaTextConfig, self.text_config, projection_dim=projection_dim)
        self.multimodal_config = _complete(
            CoCaMultimodalConfig,
            self.multimodal_config,
            cross_attention_hidden_size=self.vision_config.image_tokens_hidden_size,
        )
        super().__post_init__(**kwargs)

    @property
    def pad_token_id(self) -> int | None:
        """The text tower's, where the library's trainers look for it."""
        return self.text_config.pad_token_id

    @pad_token_id.setter
    def pad_token_id(self, value: int | None) -> None:
        self.text_config.pad_token_id = value

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Saves the configuration and the model's Python files, and names the class for each Auto class and task."""
        if self._has_captioner():
            self.custom_pipelines = {
                "image-to-text": {"impl": "pipeline_coca.ImageToTextPipeline", "pt": ["AutoModelForImageTextToText"]}
            }
        elif hasattr(self, "custom_pipelines"):
            del self.custom_pipelines  # read from a captioner's folder
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def _has_captioner(self) -> bool:
        """Whether what is saved can caption: not where the weights beside it are those of the towers alone."""
        return bool(self.multimodal_config.num_hidden_layers) and self.architectures != ["CoCaModel"]

    def _auto_classes(self) -> dict[str, str]:
        towers = ("AutoModel", "AutoModelForZeroShotImageClassification")
        captioner = ("AutoModelForImageTextToText", "AutoModelForMultimodalLM") if self._has_captioner() else ()
        return dict.fromkeys(towers, "CoCaModel") | dict.fromkeys(captioner, "CoCaForCaptioning")

    def validate_architecture(self) -> None:
        """Refuses towers that do not fit each other; called when a config is made."""
        text, multimodal = self.text_config, self.multimodal_config
        _require_at_least(self, "projection_dim", 1)
        for name in ("caption_loss_weight", "contrastive_loss_weight"):
            _require_at_least(self, name, 0)
        for name in ("vision_config", "text_config"):
            part = getattr(self, name)
            if part.projection_dim != self.projection_dim:
                raise ValueError(
                    f"{name}.projection_dim={part.projection_dim} must equal projection_dim={self.projection_dim}: "
                    "leave it out."
                )
        if text.projection_type == "none" and text.hidden_size != self.projection_dim:
            raise ValueError(
                f"text_config.projection_type='none' needs text_config.hidden_size={text.hidden_size} to equal "
                f"projection_dim={self.projection_dim}."
            )
        if multimodal.num_hidden_layers:
            self._validate_decoder()

    def _validate_decoder(self) -> None:
        vision, text, multimodal = self.vision_config, self.text_config, self.multimodal_config
        if multimodal.hidden_size != text.hidden_size:
            raise ValueError(
                f"multimodal_config.hidden_size={multimodal.hidden_size} must equal "
                f"text_config.hidden_size={text.hidden_size}: the decoder continues the text tower's states."
            )
        if multimodal.cross_attention_hidden_size != vision.image_tokens_hidden_size:
            raise ValueError(
                f"multimodal_config.cross_attention_hidden_size={multimodal.cross_attention_hidden_size} must equal "
                f"{vision.image_tokens_hidden_size}, the width of the image tokens that vision_config gives: leave it "
                "out."
            )


__all__ = ["CoCaConfig", "CoCaMultimodalConfig", "CoCaTextConfig", "CoCaVisionConfig"]
