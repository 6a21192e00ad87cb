# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""An exported model takes batches of another size than the one that it was traced with.

The source archive of transformers lacks its own export tests, and these take their place.
"""

import pytest
import torch
from torch.export import Dim, export
from transformers.exporters.exporter_dynamo import DynamoConfig, DynamoExporter

from coca_hf.modeling_coca import CoCaForCaptioning, CoCaModel
from tiny import START, tiny_captioner


CLASSES = {"towers": lambda: tiny_captioner().model, "captioner": tiny_captioner}
every_model = pytest.mark.parametrize("make", CLASSES.values(), ids=CLASSES.keys())


def make_inputs(batch: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch)
    ids = torch.randint(1, 90, (batch, 7), generator=generator)
    ids[:, 0] = START
    pixel_values = torch.randn(batch, 3, 16, 16, generator=generator)
    return {"pixel_values": pixel_values, "input_ids": ids, "attention_mask": torch.ones_like(ids)}


class Embeddings(torch.nn.Module):
    """Tensors only, as programs of `torch.export` hand them to other runtimes."""

    def __init__(self, model: CoCaModel | CoCaForCaptioning):
        super().__init__()
        self.model = model

    def forward(self, pixel_values, input_ids, attention_mask):
        outputs = self.model(
            pixel_values=pixel_values, input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        )
        logits = outputs.logits if "logits" in outputs else outputs.logits_per_image
        return logits, outputs.image_embeds, outputs.text_embeds


@every_model
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_a_program_of_torch_export_takes_any_batch(make, batch):
    module = Embeddings(make()).eval()
    rows = Dim("rows")
    program = export(module, (), make_inputs(2), dynamic_shapes={name: {0: rows} for name in make_inputs(2)})
    inputs = make_inputs(batch)
    with torch.no_grad():
        expected, found = module(**inputs), program.module()(**inputs)
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=1e-5)


@every_model
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_a_program_of_the_librarys_exporter_takes_any_batch(make, batch):
    model = make().eval()
    program = DynamoExporter().export(model, make_inputs(2), config=DynamoConfig(dynamic=True))
    inputs = make_inputs(batch)
    with torch.no_grad():
        expected, found = model(**inputs), program.module()(**inputs)
    torch.testing.assert_close(found["image_embeds"], expected["image_embeds"], rtol=0, atol=1e-5)
    torch.testing.assert_close(found["text_embeds"], expected["text_embeds"], rtol=0, atol=1e-5)
