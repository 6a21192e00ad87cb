# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""
Records what the library's own group beam search returned while it had one.

Run in an environment with transformers 4.55.4, the last line that holds it:

    python scripts/record_group_beam_search_fixtures.py

A GPT-2 of two layers stands for the model, so that only the search is compared. Its weights are rebuilt from numpy's
generator, which gives the same numbers in every version.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers


SEED = 20240117
SIZES = {"vocab_size": 23, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}
SPECIAL_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
FIXTURE = Path(__file__).parents[1] / "tests" / "fixtures" / "generation" / "group_beam_search.json"


def build_model() -> transformers.GPT2LMHeadModel:
    """A GPT-2 with weights that depend on nothing but `SEED`."""
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SIZES, **SPECIAL_IDS)).eval()
    generator = np.random.default_rng(SEED)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter.copy_(torch.from_numpy(generator.normal(0, 0.6, parameter.shape)))
    return model


def cases() -> list[dict[str, Any]]:
    """Arguments of `generate`, each a combination that the search treats in its own way."""
    grid = itertools.product([(2, 2), (4, 2), (6, 3), (6, 2)], [0.1, 0.8], [0.0, 1.0, 2.0], [False, True, "never"])
    searches: list[dict[str, Any]] = [
        {
            "num_beams": num_beams,
            "num_beam_groups": num_beam_groups,
            "diversity_penalty": diversity_penalty,
            "length_penalty": length_penalty,
            "early_stopping": early_stopping,
            "num_return_sequences": num_beams,
            "max_length": 16,
        }
        for (num_beams, num_beam_groups), diversity_penalty, length_penalty, early_stopping in grid
    ]
    base = searches[-1] | {"early_stopping": False, "length_penalty": 1.0}
    extras: list[dict[str, Any]] = [
        {"max_length": 24},
        {"min_length": 9},
        {"repetition_penalty": 1.4},
        {"no_repeat_ngram_size": 2},
        {"num_return_sequences": 1},
        {"eos_token_id": [2, 5]},
        {"max_new_tokens": 3, "max_length": None},
    ]
    return searches + [{k: v for k, v in (base | extra).items() if v is not None} for extra in extras]


def prompts() -> torch.Tensor:
    """(3, 4) prompts without padding."""
    return torch.tensor([[1, 7, 8, 9], [1, 3, 3, 20], [1, 22, 4, 6]])


def main() -> None:
    model = build_model()
    recordings = []
    for case in cases():
        outputs = model.generate(prompts(), do_sample=False, output_scores=True, return_dict_in_generate=True, **case)
        recordings.append(
            {
                "arguments": case,
                "sequences": outputs.sequences.tolist(),
                "sequences_scores": outputs.sequences_scores.tolist(),
            }
        )
    FIXTURE.parent.mkdir(parents=True, exist_ok=True)
    versions = {"transformers": transformers.__version__, "torch": torch.__version__, "seed": SEED}
    script = f"scripts/{Path(__file__).name}"
    lines = ",\n".join(json.dumps(recording) for recording in recordings)
    FIXTURE.write_text(f'{{"script": "{script}", "versions": {json.dumps(versions)}, "recordings": [\n{lines}\n]}}\n')
    print(f"{len(recordings)} searches recorded in {FIXTURE}")


if __name__ == "__main__":
    main()
