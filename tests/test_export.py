# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""An exported model takes batches of another size than the one that it was traced with.

The source archive of transformers lacks its own export tests, and these take their place.
"""

import pytest
import torch
from torch.export import Dim, export
from transformers.exporters.exporter_dynamo import DynamoConfig, DynamoExporter

from coca_hf.modeling_coca import CoCaForCaptioning
from tiny import START, tiny_captioner


def make_inputs(batch: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch)
    ids = torch.randint(1, 90, (batch, 7), generator=generator)
    ids[:, 0] = START
    pixel_values = torch.randn(batch, 3, 16, 16, generator=generator)
    return {"pixel_values": pixel_values, "input_ids": ids, "attention_mask": torch.ones_like(ids)}


class Embeddings(torch.nn.Module):
    """Tensors only, as programs of `torch.export` hand them to other runtimes."""

    def __init__(self, model: CoCaForCaptioning):
        super().__init__()
        self.model = model

    def forward(self, pixel_values, input_ids, attention_mask):
        outputs = self.model(
            pixel_values=pixel_values, input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        )
        return outputs.logits, outputs.logits_per_image, outputs.image_embeds, outputs.text_embeds


@pytest.fixture(scope="module")
def model():
    """The captioner, which runs the whole of the model of the towers."""
    return tiny_captioner().eval()


@pytest.fixture(scope="module")
def program(model):
    rows = Dim("rows")
    shapes = {name: {0: rows} for name in make_inputs(2)}
    return export(Embeddings(model), (), make_inputs(2), dynamic_shapes=shapes).module()


@pytest.fixture(scope="module")
def program_of_the_library(model):
    return DynamoExporter().export(model, make_inputs(2), config=DynamoConfig(dynamic=True))


every_batch = pytest.mark.parametrize("batch", [1, 3, 8])


@every_batch
def test_a_program_of_torch_export_takes_any_batch(model, program, batch):
    inputs = make_inputs(batch)
    with torch.no_grad():
        expected, found = Embeddings(model)(**inputs), program(**inputs)
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=1e-5)


# `dynamic=True` makes a symbol of every axis by itself, of which torch.export may assume that it is not 1.
@pytest.mark.parametrize("batch", [3, 8])
def test_a_program_of_the_librarys_exporter_takes_any_batch(model, program_of_the_library, batch):
    inputs = make_inputs(batch)
    with torch.no_grad():
        expected, found = model(**inputs), program_of_the_library(**inputs)
    for name in ("image_embeds", "text_embeds"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5)
