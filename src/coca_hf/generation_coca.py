# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How CoCa decodes: the library's `generate()` with images encoded once and prompts of different lengths."""

import copy
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache
from transformers.generation import GenerationConfig, GenerationMixin
from transformers.utils import ModelOutput

from .diverse_beam_search_coca import use_diverse_beam_search
from .masks_coca import num_left_padding, text_position_ids, token_key_mask


# Settings of a generation config that are looked at before the library makes one of all that applies.
SETTINGS = (
    "bos_token_id",
    "eos_token_id",
    "is_assistant",
    "max_length",
    "max_new_tokens",
    "min_length",
    "num_beam_groups",
    "pad_token_id",
    "stop_strings",
)


def continue_prompts(
    input_ids: Tensor, attention_mask: Tensor | None, bos_token_id: int, pad_token_id: int, end_token_ids: Tensor
) -> tuple[Tensor, Tensor]:
    """
    Prompts as decoding continues them: without end tokens and padding behind them, and padded on the left.

    Args:
        input_ids: (rows, text), padded on either side.
        attention_mask: (rows, text), 1 for tokens; without it, padding is what `pad_token_id` fills at either end.
        bos_token_id: What a prompt of nothing else starts from.
        pad_token_id: Id that pads, and that is removed from a prompt's end.
        end_token_ids: (ids,), removed from a prompt's end.

    Returns:
        Ids and attention mask, both (rows, text): as wide as given, so that what follows begins where the ids end.
    """
    is_removable = torch.isin(input_ids, torch.cat([end_token_ids, end_token_ids.new_tensor([pad_token_id])]))
    if attention_mask is None:
        is_token = input_ids != pad_token_id
    else:
        is_token = attention_mask != 0
        is_removable = is_removable | ~is_token
    # From the first token on, up to the last one that stays.
    is_kept = (is_token.int().cumsum(dim=1) > 0) & ((~is_removable).int().flip(1).cumsum(dim=1).flip(1) > 0)
    # A stable sort brings the kept tokens of each row to its end, in order.
    order = is_kept.int().argsort(dim=1, stable=True)
    prompts = input_ids.gather(1, order)
    is_kept = is_kept.gather(1, order)
    prompts = prompts.masked_fill(~is_kept, pad_token_id)
    is_empty = ~is_kept.any(dim=1)
    prompts[:, -1] = torch.where(is_empty, bos_token_id, prompts[:, -1])
    mask = is_kept if attention_mask is None else is_kept & is_token.gather(1, order)
    mask[:, -1] |= is_empty
    return prompts, mask.long()


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
                Prompts, which the captions continue: end tokens and padding behind them become padding before them.
                Without them a caption starts from the start token. One prompt serves all images; several may share
                one image.
            attention_mask (`torch.Tensor` of shape `(images, text)`, *optional*): 1 for tokens, 0 for padding.
            encoded_images (`CoCaEncodedImages`, *optional*): What `encode_images` made of images, in place of them.
            interpolate_pos_encoding (`bool`, defaults to `False`): Whether to accept images of another size.
            kwargs:
                Everything else that the library's `generate()` takes. With `labels`, as Seq2SeqTrainer passes them,
                `input_ids` are the reference caption, which the model does not see.

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
        if kwargs.pop("labels", None) is not None:
            input_ids = attention_mask = None
        settings = self._settings(generation_config, kwargs)
        text = self._prepare_text(input_ids, attention_mask, pixel_values, encoded_images, settings, kwargs)
        generation_config = self._limit_length(settings, generation_config, kwargs, text)
        if pixel_values is not None:
            pixel_values = pixel_values.to(self._device_of_inputs(pixel_values))
            encoded_images = self.encode_images(pixel_values, interpolate_pos_encoding)
        outputs = super().generate(
            generation_config=generation_config,
            # The library takes batch size and device from it, and assisted decoding the assistant's images.
            pixel_values=encoded_images.image_embeds if pixel_values is None else pixel_values,
            encoded_images=encoded_images,
            **text,
            **use_diverse_beam_search(settings, kwargs),
        )
        if isinstance(outputs, ModelOutput):
            outputs["image_embeds"] = encoded_images.image_embeds
        return outputs

    def _settings(self, generation_config: GenerationConfig | None, kwargs: dict[str, Any]) -> SimpleNamespace:
        """What applies: arguments of the call, else of the config that it gives, else of the model's own."""

        def setting(name: str) -> Any:
            values = (kwargs.get(name), getattr(generation_config, name, None), getattr(self.generation_config, name))
            return next((value for value in values if value is not None), None)

        return SimpleNamespace(**{name: setting(name) for name in SETTINGS})

    def _device_of_inputs(self, images: Tensor) -> torch.device:
        """That of the weights; that of the images while the weights are offloaded, and on no device."""
        return images.device if self.device.type == "meta" else self.device

    def _prepare_text(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        pixel_values: Tensor | None,
        encoded_images: Any,
        settings: SimpleNamespace,
        kwargs: dict[str, Any],
    ) -> dict[str, Tensor | None]:
        """Ids, attention mask and key mask of what there is of the captions, as many rows as captions to write."""
        kwargs.pop("prompt_key_mask", None)
        has_cached_tokens = kwargs.get("cache") is not None and kwargs["cache"].get_seq_length() > 0
        if has_cached_tokens and input_ids is None:
            raise ValueError("The cache holds tokens: pass all ids so far, theirs included, as input_ids.")
        # An assistant goes on with what the model has prepared, and a cache with what it holds.
        if not (has_cached_tokens or settings.is_assistant):
            images = encoded_images.image_embeds if pixel_values is None else pixel_values
            input_ids, attention_mask = self._prepare_prompts(input_ids, attention_mask, settings, images)
            kwargs["position_ids"] = text_position_ids(input_ids.shape[1], attention_mask, 0, input_ids.device)
        elif attention_mask is None:
            # The library would take an id that pads for padding wherever it stands.
            attention_mask = torch.ones_like(input_ids)
        text: dict[str, Tensor | None] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.config.text_config.pool_type == "cls" and attention_mask.shape == input_ids.shape:
            key_mask = token_key_mask(input_ids, attention_mask, self.config.text_config.pad_token_id)
            text["prompt_key_mask"] = key_mask[:, :-1]
        return text

    def _prepare_prompts(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, settings: SimpleNamespace, images: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Prompts and their mask, both (rows, text), as many as there are captions to write of (images, ...)."""
        num_images, device = images.shape[0], self._device_of_inputs(images)
        if settings.bos_token_id is None:
            raise ValueError("bos_token_id is missing from the generation config: captions start from it.")
        if input_ids is None or input_ids.shape[1] == 0:
            input_ids = torch.full((num_images, 1), settings.bos_token_id, device=device)
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
        input_ids = input_ids.to(device)
        attention_mask = None if attention_mask is None else attention_mask.to(device)
        end_token_ids = [] if settings.eos_token_id is None else settings.eos_token_id
        end_token_ids = torch.as_tensor(end_token_ids, dtype=input_ids.dtype, device=input_ids.device).flatten()
        pad_token_id = self.config.text_config.pad_token_id
        pad_token_id = settings.pad_token_id if pad_token_id is None else pad_token_id
        input_ids, attention_mask = continue_prompts(
            input_ids, attention_mask, settings.bos_token_id, pad_token_id, end_token_ids
        )
        rows = max(num_images, len(input_ids))
        return input_ids.expand(rows, -1), attention_mask.expand(rows, -1)

    def _limit_length(
        self,
        settings: SimpleNamespace,
        generation_config: GenerationConfig | None,
        kwargs: dict[str, Any],
        text: dict[str, Tensor | None],
    ) -> GenerationConfig | None:
        """
        The generation config, or `kwargs`, with lengths that the context has room for.

        Columns that are padding in every row do not count. `max_length` replaces `max_new_tokens`, of which the
        library warns beside the model's own `max_length`.
        """
        context, num_padding = self.config.text_config.max_position_embeddings, 0
        if text["attention_mask"] is not None:
            num_padding = int(num_left_padding(text["attention_mask"]).min())
        prompt_length = text["input_ids"].shape[1] - num_padding
        if settings.max_new_tokens is not None:
            length, cause = prompt_length + settings.max_new_tokens, f"max_new_tokens={settings.max_new_tokens}"
        else:
            length = context if settings.max_length is None else settings.max_length
            cause = f"max_length={length}"
            if prompt_length >= context:
                length, cause = prompt_length + 1, "one new token"
        if length > context:
            raise ValueError(
                f"{cause} after a prompt of {prompt_length} tokens exceeds the context of {context} tokens: shorten "
                "the prompt or ask for fewer tokens."
            )
        lengths = {"max_length": length + num_padding, "max_new_tokens": None}
        if settings.min_length and num_padding:
            lengths["min_length"] = settings.min_length + num_padding
        if generation_config is None or "max_new_tokens" in kwargs or "max_length" in kwargs:
            kwargs |= lengths
            return generation_config
        generation_config = copy.deepcopy(generation_config)
        for name, value in lengths.items():
            setattr(generation_config, name, value)
        return generation_config

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        prompt_key_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """
        The library's inputs of one step, with a cache for both stacks, and the keys that the text tower sees.

        `input_ids` holds all ids so far, but for a prompt that is taken in chunks: then `prompt_key_mask` is all that
        is known of the earlier ones.
        """
        if cache is not None:
            self.decoder.complete(cache)
        model_inputs = super().prepare_inputs_for_generation(
            input_ids, attention_mask=attention_mask, cache=cache, **kwargs
        )
        if cache is None:
            return model_inputs
        is_chunk = prompt_key_mask is not None and prompt_key_mask.shape[1] > input_ids.shape[1]
        key_mask = prompt_key_mask if is_chunk else None
        knows_ids = attention_mask is None or attention_mask.shape == input_ids.shape
        if not is_chunk and knows_ids and self.config.text_config.pool_type == "cls":
            key_mask = token_key_mask(input_ids, attention_mask, self.config.text_config.pad_token_id)[:, :-1]
        if key_mask is not None:
            if cache.is_compileable:
                # Always of the same shape, lest each step be compiled anew.
                key_mask = F.pad(key_mask, (0, cache.get_max_length(0) - key_mask.shape[1]))
            model_inputs["text_key_mask"] = key_mask
        return model_inputs

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
            ours = ("encoded_images", "prompt_key_mask")
            model_kwargs = {name: value for name, value in model_kwargs.items() if name not in ours}
            if isinstance(assistant_model, CoCaGenerationMixin):
                if inputs_tensor is None or inputs_tensor.ndim != 4:
                    raise ValueError("assistant_model needs pixel_values, not encoded_images, to encode them itself.")
                model_kwargs["encoded_images"] = assistant_model.encode_images(
                    inputs_tensor, interpolate_pos_encoding=True
                )
        return super()._get_candidate_generator(
            model_kwargs=model_kwargs, inputs_tensor=inputs_tensor, assistant_model=assistant_model, **kwargs
        )


__all__ = ["CoCaGenerationMixin"]
