# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""docs/private-names.md lists what the code uses without a promise of the libraries, and all of it is still there."""

import pytest

import private_names
from private_names import Use


WRITTEN = private_names.read_page()


def test_the_page_lists_what_the_code_uses():
    differences = private_names.differences(private_names.derive(), WRITTEN)
    assert not differences, (
        "docs/private-names.md and src/ differ; `python scripts/checks/private_names.py --write` rewrites the table:\n"
        + "\n".join(differences)
    )


@pytest.mark.parametrize("use", WRITTEN.values(), ids=WRITTEN.keys())
def test_a_private_name_is_there_with_the_parameters_relied_on(use):
    assert private_names.moved(use) is None, private_names.moved(use)


def test_a_name_that_a_release_removes_is_named():
    assert private_names.moved(Use("transformers.GenerationMixin._no_such_method")) == (
        "`transformers.GenerationMixin._no_such_method` is gone: transformers.GenerationMixin has no '_no_such_method'"
    )


def test_a_parameter_that_a_release_renames_is_named():
    use = Use("transformers.GenerationMixin._beam_search", ways={"overridden"}, parameters={"input_ids", "beams"})
    assert private_names.moved(use).startswith(
        "`transformers.GenerationMixin._beam_search` no longer takes beams; it takes "
    )


@pytest.mark.parametrize(
    ("module", "name", "documented"),
    [
        ("transformers", "PreTrainedModel", True),
        ("transformers.modeling_utils", "PreTrainedModel", True),
        ("transformers.activations", "ACT2FN", False),
        ("transformers.cache_utils", "_private", False),
        ("torch._dynamo", "mark_static", False),
        ("torch.distributed.fsdp", "fully_shard", True),
        ("huggingface_hub", "HfApi", True),
        ("huggingface_hub.constants", "HF_HUB_OFFLINE", False),
    ],
)
def test_the_rule_of_the_page(module, name, documented):
    assert private_names.is_documented(module, name) == documented
