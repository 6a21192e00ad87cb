# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The card of an exported folder."""

from huggingface_hub import ModelCardData

from ..runtimes.folder import EXTRAS, ExportedFolder
from ..runtimes.programs import RUNTIMES


_TEXT = """
# CoCa for {runtime}

A [CoCa](https://arxiv.org/abs/2205.01917) model {weights}, exported from `{source}` for {runtime}.
It {abilities}.

```python
import coca_hf
from transformers import AutoProcessor

model = coca_hf.load("{folder}")
processor = AutoProcessor.from_pretrained("{folder}")
```

`coca-hf {command} PHOTOS --model {folder}` works as with any other model. `pip install 'coca-hf[{extra}]'`
installs what both need.

| program | file | largest difference from PyTorch |
| --- | --- | --- |
{rows}
"""


def card(manifest: ExportedFolder) -> str:
    """What the folder is, how it is used, and how far each program is from PyTorch."""
    runtime = RUNTIMES[manifest.format][1]
    task = "image-to-text" if manifest.captions else "zero-shot-image-classification"
    data = ModelCardData(library_name="coca-hf", pipeline_tag=task, tags=["coca", manifest.format])
    rows = "\n".join(
        f"| {name.replace('_', ' ')} | {file} | {manifest.differences[name]:.1e} |"
        for name, file in manifest.files.items()
    )
    text = _TEXT.format(
        runtime=runtime,
        weights="with weights of 8 bits" if manifest.int8 else "in float32",
        source=manifest.source["name"] or "a model in memory",
        abilities="writes captions, and embeds images and texts" if manifest.captions else "embeds images and texts",
        command="caption" if manifest.captions else "embed",
        folder="THIS_FOLDER",
        extra=EXTRAS[manifest.format],
        rows=rows,
    )
    return f"---\n{data.to_yaml()}\n---\n{text}"
