# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""
Answers requests about images with the CoCa model beside it: captions, embeddings, labels.

Hugging Face Inference Endpoints load `EndpointHandler` from this file; any other service can. It needs what
requirements.txt lists, and the model's own code, which lies beside it.
"""

import base64
import binascii
import io
import ipaddress
import socket
import urllib.parse
import urllib.request
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, GenerationConfig


# What is read of an image that a request names, and for how long.
MAX_BYTES = 50_000_000
TIMEOUT_SECONDS = 20
MAX_INPUTS = 64
# Captions at a time: images by beams, or by sequences that are returned. More needs the memory of all.
MAX_ROWS = 512
TASKS = ("caption", "embed", "classify")
TEMPLATE = "This is a photo of {}."

# Settings of `generate()` that a request may give: those of a generation config, which hold values and no code.
SETTINGS = frozenset(GenerationConfig().to_dict()) - {"transformers_version", "compile_config", "cache_implementation"}


class EndpointHandler:
    """Requests in, lists of plain values out. `path` is the folder of a saved model, or its Hub id."""

    # Addresses of one's own network are no business of whoever sends a request.
    allows_private_addresses = False

    def __init__(self, path: str = "") -> None:
        config = AutoConfig.from_pretrained(path, trust_remote_code=True)
        self.captions = bool(config.multimodal_config.num_hidden_layers) and config.text_config.is_causal
        auto_class = AutoModelForImageTextToText if self.captions else AutoModel
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
        self.model = auto_class.from_pretrained(path, dtype=dtype, trust_remote_code=True).to(device).eval()
        self.processor = AutoProcessor.from_pretrained(path, trust_remote_code=True)

    @torch.inference_mode()
    def __call__(self, data: dict[str, Any]) -> list[Any]:
        """
        Args:
            data: `inputs` is an image or a list of them: a `PIL.Image.Image` or bytes, as the service makes them of a
                body that is an image; or a string with an address (http, https), a data URI or base64; or
                `{"image": ..., "text": PROMPT}`; to be embedded, `{"text": ...}` as well. `parameters` are those of
                `generate()`, and `task`: "caption" (the default), "embed", or "classify", which `candidate_labels`
                mean by themselves, with `hypothesis_template`.

        Returns:
            A value for each input: `{"generated_text": ...}`; an embedding, L2-normalised; or a list of
            `{"label": ..., "score": ...}`, best first.

        Raises:
            ValueError: The request cannot be answered; the message says why, and the service sends it on.
        """
        inputs = data.get("inputs")
        inputs = inputs if isinstance(inputs, list) else [inputs]
        if not 0 < len(inputs) <= MAX_INPUTS:
            raise ValueError(f"inputs holds {len(inputs)} images: give 1 to {MAX_INPUTS}.")
        parameters = dict(data.get("parameters") or {})
        labels = parameters.pop("candidate_labels", None)
        template = parameters.pop("hypothesis_template", TEMPLATE)
        task = parameters.pop("task", "caption" if labels is None else "classify")
        if task not in TASKS:
            raise ValueError(f"task={task!r} is not one of {', '.join(TASKS)}.")
        if task == "caption":
            return self.caption([self._with_text(each) for each in inputs], parameters)
        if parameters:
            raise ValueError(f"{', '.join(sorted(parameters))} is for captions, not for task={task!r}.")
        if task == "embed":
            return [self._embed(each) for each in inputs]
        return self.classify([self._image(each) for each in inputs], labels, template)

    def caption(self, pairs: list[tuple[Image.Image, str | None]], parameters: dict[str, Any]) -> list[dict[str, str]]:
        """Images and prompts, or None, -> `{"generated_text": ...}` each."""
        if not self.captions:
            raise ValueError("this model has no decoder, so it cannot write captions: embed or classify.")
        _check_settings(parameters, len(pairs))
        images, prompts = zip(*pairs, strict=True)
        inputs = dict(self._pixels(list(images)))
        if any(prompts):
            texts = [prompt or "" for prompt in prompts]
            inputs |= self.processor(text=texts, padding=True, return_tensors="pt").to(self.model.device)
        try:
            ids = self.model.generate(**inputs, **parameters)
        except (TypeError, ArithmeticError, LookupError) as error:
            # What generate() makes of values that it does not check, such as words in place of numbers.
            raise ValueError(f"generate() cannot use these parameters: {error}") from error
        texts = self.processor.batch_decode(ids, skip_special_tokens=True)
        several = len(ids) // len(pairs)
        written = [" ".join(text.split()) for text in texts]
        if several == 1:
            return [{"generated_text": text} for text in written]
        return [
            [{"generated_text": text} for text in written[first : first + several]]  # type: ignore[misc]
            for first in range(0, len(written), several)
        ]

    def classify(self, images: list[Image.Image], labels: Any, template: str) -> list[list[dict[str, Any]]]:
        """-> for each image its labels with their probabilities, best first."""
        labels = labels.split(",") if isinstance(labels, str) else labels
        if not isinstance(labels, list) or len(labels) < 2 or not all(isinstance(label, str) for label in labels):
            raise ValueError("candidate_labels is to be a list of two labels or more.")
        if "{}" not in template:
            raise ValueError("hypothesis_template needs {}, where the label goes.")
        labels = [label.strip() for label in labels]
        text_embeds = self._text_embeds([template.replace("{}", label) for label in labels])
        logits = self.model.similarity(
            self._image_embeds(images).to(self.model.dtype), text_embeds.to(self.model.dtype)
        )
        return [
            [{"label": label, "score": score} for score, label in sorted(zip(row, labels, strict=True), reverse=True)]
            for row in logits.float().softmax(dim=-1).tolist()
        ]

    def _embed(self, given: Any) -> list[float]:
        if isinstance(given, dict) and "image" not in given:
            return self._text_embeds([_text(given)])[0].tolist()
        return self._image_embeds([self._image(given)])[0].tolist()

    def _pixels(self, images: list[Image.Image]) -> Any:
        inputs = self.processor(images=images, return_tensors="pt").to(self.model.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        return inputs

    def _image_embeds(self, images: list[Image.Image]) -> Tensor:
        features = self.model.get_image_features(**self._pixels(images)).pooler_output
        return F.normalize(features.float(), dim=-1)

    def _text_embeds(self, texts: list[str]) -> Tensor:
        inputs = self.processor(text=texts, padding=True, truncation=True, return_tensors="pt").to(self.model.device)
        return F.normalize(self.model.get_text_features(**inputs).pooler_output.float(), dim=-1)

    def _with_text(self, given: Any) -> tuple[Image.Image, str | None]:
        has_text = isinstance(given, dict) and given.get("text") is not None
        return self._image(given), _text(given) if has_text else None

    def _image(self, given: Any) -> Image.Image:
        if isinstance(given, dict):
            given = given.get("image")
        if isinstance(given, Image.Image):
            return given
        if isinstance(given, str):
            given = self._fetched(given) if given.startswith(("http://", "https://")) else _decoded(given)
        if not isinstance(given, (bytes, bytearray)):
            raise ValueError("an input is no image: give its bytes, base64, or an address that begins with https.")
        try:
            image = Image.open(io.BytesIO(given), formats=("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"))
            image.load()
        except UnidentifiedImageError:
            raise ValueError("an input cannot be read as an image: it has no known format") from None
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"an input cannot be read as an image: {error}") from None
        return image

    def _fetched(self, address: str) -> bytes:
        opener = urllib.request.build_opener(_CheckedRedirects(self))
        try:
            self._check_address(address)
            with opener.open(address, timeout=TIMEOUT_SECONDS) as answer:
                content = answer.read(MAX_BYTES + 1)
        except OSError as error:
            raise ValueError(f"cannot fetch {address}: {error}") from None
        if len(content) > MAX_BYTES:
            raise ValueError(f"{address} has more than {MAX_BYTES:,} bytes.")
        return content

    def _check_address(self, address: str) -> None:
        """Raises `OSError` where it is not one that everybody can reach."""
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OSError("it is no address of a web server")
        if self.allows_private_addresses:
            return
        for *_, place in socket.getaddrinfo(parts.hostname, parts.port or 443):
            if not ipaddress.ip_address(place[0]).is_global:
                raise OSError("it is an address of a private network")


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, handler: EndpointHandler) -> None:
        self.handler = handler

    def redirect_request(self, request: Any, file: Any, code: Any, message: Any, headers: Any, address: str) -> Any:
        self.handler._check_address(address)
        return super().redirect_request(request, file, code, message, headers, address)


def _check_settings(parameters: dict[str, Any], num_images: int) -> None:
    """Raises `ValueError`."""
    unknown = sorted(set(parameters) - SETTINGS)
    if unknown:
        raise ValueError(f"{', '.join(unknown)} is no parameter of generate() that a request may give.")
    for name in ("num_beams", "num_return_sequences"):
        number = parameters.get(name)
        if number is None:
            continue
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{name}={number!r} is to be a whole number, 1 or more.")
        if number * num_images > MAX_ROWS:
            raise ValueError(f"{name}={number} for {num_images} images is more than {MAX_ROWS} rows: ask for less.")


def _decoded(text: str) -> bytes:
    """The bytes of base64, with or without what a data URI puts before it."""
    encoded = text.partition(";base64,")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except binascii.Error:
        raise ValueError("an input is a text that is neither base64 nor an address that begins with https.") from None


def _text(given: dict[str, Any]) -> str:
    text = given.get("text")
    if not isinstance(text, str):
        raise ValueError("text is to be a string.")
    return text
