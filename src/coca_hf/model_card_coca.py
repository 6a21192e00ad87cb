# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The card that `push_to_hub` gives a repository that has none."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData, create_repo, file_exists, upload_file

from .configuration_coca import CoCaConfig


_TEXT = """
# CoCa

A [CoCa](https://arxiv.org/abs/2205.01917) (Contrastive Captioner) model that {abilities}.

```python
from transformers import {auto_class}, AutoProcessor

model = {auto_class}.from_pretrained("{repo_id}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{repo_id}", trust_remote_code=True)
```
"""


class CoCaModelCardMixin:
    """`push_to_hub` with a card that says what the model is."""

    config: Any
    name_or_path: Any

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """
        Does what the library's does. A repository without a card gets one first, in a commit of its own.

        A pull request brings the library's card, because the repository may not be the caller's to write to.
        """
        token = kwargs.get("token")
        if not kwargs.get("create_pr"):
            repo_id = create_repo(repo_id, private=kwargs.get("private"), token=token, exist_ok=True).repo_id
            if not file_exists(repo_id, "README.md", token=token):
                card = self._model_card(repo_id).encode()
                upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=repo_id, token=token)
        return super().push_to_hub(repo_id, **kwargs)  # type: ignore[misc]

    def _model_card(self, repo_id: str) -> str:
        """Task, library, tags, and the license of the folder that the model was loaded from."""
        captions = type(self).__name__ == "CoCaForCaptioning"
        # A tower alone has a configuration of its own and no task.
        is_whole = self.config.model_type == CoCaConfig.model_type
        task = "image-to-text" if captions else "zero-shot-image-classification" if is_whole else "feature-extraction"
        data = ModelCardData(
            library_name="transformers", pipeline_tag=task, license=self._known_license(), tags=["coca", task]
        )
        text = _TEXT.format(
            repo_id=repo_id,
            auto_class="AutoModelForImageTextToText" if captions else "AutoModel",
            abilities="writes captions of images" if captions else "embeds images and texts in one space",
        )
        return f"---\n{data.to_yaml()}\n---\n{text}"

    def _known_license(self) -> str | None:
        card = Path(str(self.name_or_path), "README.md")
        return ModelCard.load(card).data.license if card.is_file() else None


__all__ = ["CoCaModelCardMixin"]
