# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How CoCa decodes: the library's `generate()` with images encoded once."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, StaticLayer
from transformers.generation import GenerationConfig, GenerationMixin
from transformers.utils import ModelOutput

from .diverse_beam_search_coca import use_diverse_beam_search


def continue_prompts(
    input_ids: Tensor, attention_mask: Tensor | None, bos_token_id: int, pad_token_id: int, end_token_ids: Tensor
) -> tuple[Tensor, Tensor]:
    """
    Prompts as decoding continues them: without end tokens and padding behind them, and padded on the left.

    Args:
        input_ids: (rows, text), padded on either side.
        attention_mask: (rows, text), 1 for tokens; without it, padding is what `pad_token_id` fills at either end.
        bos_token_id: what a prompt of nothing else starts from.
        pad_token_id: id that pads, and that is removed from a prompt's end.
        end_token_ids: (ids,), removed from a prompt's end.

    Returns:
        Ids and attention mask, both (rows, longest prompt).
    """
    is_removable = torch.isin(input_ids, torch.cat([end_token_ids, end_token_ids.new_tensor([pad_token_id])]))
    if attention_mask is None:
        is_padding = input_ids == pad_token_id
    else:
        is_padding = attention_mask == 0
        is_removable = is_removable | is_padding
    is_leading_padding = is_padding.cummin(dim=1).values
    is_trailing = is_removable.flip(1).cummin(dim=1).values.flip(1)
    is_kept = ~is_leading_padding & ~is_trailing
    lengths = is_kept.sum(dim=1).clamp(min=1)

    # A stable sort brings the kept tokens of each row to its end, in order.
    order = is_kept.int().argsort(dim=1, stable=True)[:, -int(lengths.max()) :]
    prompts = input_ids.gather(1, order)
    is_token = torch.arange(prompts.shape[1], device=prompts.device) >= prompts.shape[1] - lengths[:, None]
    prompts = prompts.masked_fill(~is_token, pad_token_id)
    prompts[:, -1] = torch.where(is_kept.any(dim=1), prompts[:, -1], bos_token_id)
    return prompts, is_token.long()


class _CompiledSteps:
    """A model to search with: its calls are compiled, all else is the model's own, the first pass over prompts too."""

    def __init__(self, model: GenerationMixin, config: GenerationConfig):
        self._model = model
        self._step = model.get_compiled_call(config.compile_config)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, **inputs: Any) -> Any:
        return self._step(**inputs)


def _with_compiled_steps(model: GenerationMixin, model_kwargs: dict[str, Any], config: GenerationConfig) -> Any:
    """The model, its steps compiled where the library compiles those of greedy decoding: it leaves out beams."""
    return _CompiledSteps(model, config) if model._valid_auto_compile_criteria(model_kwargs, config) else model


def _reorder(cache: Cache, beam_idx: Tensor) -> None:
    """`cache.reorder_cache`, in place where a CUDA graph may read these very tensors."""
    if not cache.is_compileable or beam_idx.device.type == "cpu":
        cache.reorder_cache(beam_idx)
        return
    for layer in cache.layers:
        if isinstance(layer, StaticLayer) and layer.is_initialized:
            layer.keys.copy_(layer.keys.index_select(0, beam_idx))
            layer.values.copy_(layer.values.index_select(0, beam_idx))
        else:
            layer.reorder_cache(beam_idx)


class CoCaGenerationMixin(GenerationMixin):
    """The library's `generate()` for a decoder that looks at images."""

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoded_images: Any = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Any,
    ) -> ModelOutput | Tensor:
        r"""
        Captions images: [`~transformers.GenerationMixin.generate`], whose every argument applies.

        The vision tower runs once per image, and so do the cross-attention's keys and values, however many beams or
        returned sequences share them.

        Args:
            inputs, pixel_values (`torch.FloatTensor` of shape `(images, channels, height, width)`): Normalised images.
            generation_config (`GenerationConfig`, *optional*):
                Overrides the model's. With `num_beam_groups > 1` the search is diverse beam search (arXiv 1610.02424).
            input_ids (`torch.LongTensor` of shape `(images, text)`, *optional*):
                Prompts, which the captions continue: end tokens and padding behind them are removed first. Without
                them a caption starts from the start token. One prompt serves all images; several may share one image.
            attention_mask (`torch.Tensor` of shape `(images, text)`, *optional*): 1 for tokens, 0 for padding.
            encoded_images (`CoCaEncodedImages`, *optional*): What `encode_images` made of images, in place of them.
            interpolate_pos_encoding (`bool`, defaults to `False`): Whether to accept images of another size.
            kwargs: Everything else that the library's `generate()` takes.

        Returns:
            Token ids (sequences, text), prompts included; or, with `return_dict_in_generate=True`, the library's
            output with a further field `image_embeds` (images, projection_dim), L2-normalised, of the same pass.

        Raises:
            ValueError: Images are missing, their number and that of prompts differ, or the caption would outgrow the
                context; before any image is encoded.

        Example:

        ```python
        >>> import coca_hf
        >>> from PIL import Image
        >>> from transformers import AutoModelForImageTextToText, AutoProcessor

        >>> model = AutoModelForImageTextToText.from_pretrained(coca_hf.bundled_model())
        >>> processor = AutoProcessor.from_pretrained(coca_hf.bundled_model())
        >>> image = Image.open(sorted(coca_hf.example_images())[0])
        >>> ids = model.generate(**processor(images=image, return_tensors="pt"), num_beams=4, max_new_tokens=20)
        >>> caption = processor.batch_decode(ids, skip_special_tokens=True)[0]
        ```"""
        if inputs is not None and pixel_values is not None:
            raise ValueError("Pass the images as inputs or as pixel_values, not both.")
        pixel_values = inputs if inputs is not None else pixel_values
        if (pixel_values is None) == (encoded_images is None):
            raise ValueError("generate() needs images: pass either pixel_values or encoded_images, one of the two.")
        if not self.config.text_config.is_causal:
            raise ValueError(
                "text_config.is_causal=False: token states that see the following tokens cannot generate."
            )
        config, _ = self._prepare_generation_config(generation_config, **kwargs)
        num_images = len(pixel_values) if encoded_images is None else len(encoded_images.image_embeds)
        cache = kwargs.get("cache")
        has_cached_tokens = cache is not None and cache.get_seq_length() > 0
        if has_cached_tokens and input_ids is None:
            raise ValueError("cache holds tokens: pass all ids so far, theirs included, as input_ids.")
        if not (has_cached_tokens or getattr(config, "is_assistant", False)):
            input_ids, attention_mask = self._prepare_prompts(input_ids, attention_mask, config, num_images)
        self._validate_context(config, input_ids.shape[1])
        if encoded_images is None:
            _gather_weights_for(self, "encode_images")
            for layer in self.decoder.layers:
                _gather_weights_for(layer, "project_image_tokens")
            encoded_images = self.encode_images(pixel_values.to(self.device), interpolate_pos_encoding)
        kwargs = use_diverse_beam_search(config, kwargs)

        outputs = super().generate(
            generation_config=generation_config,
            # The library takes the batch size from it, and assisted decoding the assistant's images.
            pixel_values=pixel_values,
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoded_images=encoded_images,
            **kwargs,
        )
        if isinstance(outputs, ModelOutput):
            outputs["image_embeds"] = encoded_images.image_embeds
        return outputs

    def _prepare_prompts(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, config: GenerationConfig, num_images: int
    ) -> tuple[Tensor, Tensor]:
        """Prompts and their mask, both (rows, text), as many as there are captions to write."""
        if config.bos_token_id is None:
            raise ValueError("bos_token_id is missing from the generation config: captions start from it.")
        if input_ids is None or input_ids.shape[1] == 0:
            input_ids = torch.full((num_images, 1), config.bos_token_id, device=self.device)
            return input_ids, torch.ones_like(input_ids)
        if num_images > 1 and len(input_ids) not in (1, num_images):
            raise ValueError(
                f"input_ids holds {len(input_ids)} prompts for {num_images} images: give one for all, or one for each."
            )
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask has the shape {tuple(attention_mask.shape)}, but must have that of input_ids, "
                f"{tuple(input_ids.shape)}."
            )
        end_token_ids = [] if config.eos_token_id is None else config.eos_token_id
        end_token_ids = torch.as_tensor(end_token_ids, dtype=input_ids.dtype, device=input_ids.device).flatten()
        pad_token_id = self.config.text_config.pad_token_id
        pad_token_id = config.pad_token_id if pad_token_id is None else pad_token_id
        input_ids, attention_mask = continue_prompts(
            input_ids, attention_mask, config.bos_token_id, pad_token_id, end_token_ids
        )
        rows = max(num_images, len(input_ids))
        return input_ids.expand(rows, -1), attention_mask.expand(rows, -1)

    def _validate_context(self, config: GenerationConfig, prompt_length: int) -> None:
        """Refuses captions that would outgrow the position embeddings."""
        context = self.config.text_config.max_position_embeddings
        if config.max_new_tokens is not None:
            length, cause = prompt_length + config.max_new_tokens, f"max_new_tokens={config.max_new_tokens}"
        elif config.max_length is not None:
            length, cause = config.max_length, f"max_length={config.max_length}"
        else:
            length, cause = prompt_length + 1, "one new token"
        if length > context:
            raise ValueError(
                f"{cause} after a prompt of {prompt_length} tokens exceeds the context of {context} tokens: shorten "
                "the prompt or ask for fewer tokens."
            )

    def _prepare_generated_length(
        self, generation_config: GenerationConfig, has_default_max_length: bool, **kwargs: Any
    ) -> GenerationConfig:
        # The model's own max_length is no wish of the caller's that max_new_tokens would overrule: no warning.
        is_own_max_length = generation_config.max_length == self.generation_config.max_length
        generation_config = super()._prepare_generated_length(
            generation_config=generation_config,
            has_default_max_length=has_default_max_length
            or (is_own_max_length and generation_config.max_new_tokens is not None),
            **kwargs,
        )
        if has_default_max_length and generation_config.max_new_tokens is None:
            context = self.config.text_config.max_position_embeddings
            generation_config.max_length = min(generation_config.max_length, context)
        return generation_config

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        if model_kwargs.get("cache") is not None:
            # Here rather than in `forward`, where a compiled one could not.
            model_kwargs["cache"] = self._prepare_cache(model_kwargs["cache"], use_cache=True)

    def _beam_search(self, *args: Any, generation_config: GenerationConfig, **kwargs: Any) -> ModelOutput | Tensor:
        model = _with_compiled_steps(self, kwargs, generation_config)
        return GenerationMixin._beam_search(model, *args, generation_config=generation_config, **kwargs)

    def _reorder_cache(self, cache: Cache, beam_idx: Tensor) -> Cache:
        _reorder(cache, beam_idx)
        return cache

    def _get_candidate_generator(
        self,
        *,
        model_kwargs: dict[str, Any],
        inputs_tensor: Tensor | None = None,
        assistant_model: Any = None,
        **kwargs: Any,
    ) -> Any:
        if assistant_model is not None:
            # An assistant sees the images with its own towers, or, if it is a language model, not at all.
            model_kwargs = {name: value for name, value in model_kwargs.items() if name != "encoded_images"}
            if isinstance(assistant_model, CoCaGenerationMixin):
                if inputs_tensor is None or inputs_tensor.ndim != 4:
                    raise ValueError("assistant_model needs pixel_values, not encoded_images, to encode them itself.")
                model_kwargs["encoded_images"] = assistant_model.encode_images(inputs_tensor)
        return super()._get_candidate_generator(
            model_kwargs=model_kwargs, inputs_tensor=inputs_tensor, assistant_model=assistant_model, **kwargs
        )


def _gather_weights_for(module: nn.Module, method: str) -> None:
    """Makes `method` see whole weights where FSDP has sharded `module`, which by itself it does for `forward` only."""
    is_sharded = hasattr(module, "unshard")
    if is_sharded and method not in vars(module):
        from torch.distributed.fsdp import register_fsdp_forward_method

        register_fsdp_forward_method(module, method)
