# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""CLIP_benchmark's own functions take `coca_hf.open_clip`'s models: prints their scores beside `coca-hf evaluate`'s.

    pip install --no-deps clip_benchmark==1.6.2
    python scripts/checks/clip_benchmark_scores.py DATA.jsonl [MODEL]

Ends with 1 where a retrieval score or an accuracy differs by more than 1e-6.
"""

import sys

import numpy as np
import torch
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval

import coca_hf
import coca_hf.open_clip as open_clip
from coca_hf.batch_inference.models import ModelChoice
from coca_hf.evaluation.run import EvaluationOptions, evaluate


def main(path: str, name: str) -> int:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{name}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{name}")
    model.eval()
    options = EvaluationOptions([path], ("retrieval", "zero-shot"), templates="imagenet", bootstrap=0)
    ours = evaluate(options, ModelChoice(name, dtype="float32"), engine={"progress": False})
    data = ours.data
    images = torch.stack([preprocess(each.open_image()) for each in data.images.values()])
    texts = list(data.references.values())
    batches = [(images[start : start + 32], texts[start : start + 32]) for start in range(0, len(images), 32)]
    theirs = zeroshot_retrieval.evaluate(model, batches, tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10])
    pairs = [
        (f"{ours_name}_recall@{k}", ours.results["tasks"]["retrieval"][f"{ours_name}_recall@{k}"], theirs[their_name])
        for k in (1, 5, 10)
        for ours_name, their_name in (
            ("text_to_image", f"image_retrieval_recall@{k}"),
            ("image_to_text", f"text_retrieval_recall@{k}"),
        )
    ]
    pairs.append(("top_1", ours.results["tasks"]["zero-shot"]["top_1"], accuracy(model, tokenizer, images, ours)))
    for metric, one, other in pairs:
        print(f"{metric:26} coca-hf evaluate {one:.6f}   CLIP_benchmark {other:.6f}")
    return int(any(abs(one - other) > 1e-6 for _, one, other in pairs))


def accuracy(model: object, tokenizer: object, images: torch.Tensor, ours: object) -> float:
    data = ours.data  # type: ignore[attr-defined]
    classes = data.classes()
    templates = [each.replace("{}", "{c}") for each in imagenet_templates()]
    weights = zeroshot_classification.zero_shot_classifier(model, tokenizer, classes, templates, "cpu", amp=False)
    labels = torch.tensor([classes.index(data.labels[each]) for each in data.ids])
    batches = [(images[start : start + 32], labels[start : start + 32]) for start in range(0, len(images), 32)]
    logits, target = zeroshot_classification.run_classification(model, weights, batches, "cpu", amp=False)
    return float(np.mean((logits.argmax(dim=1) == target).numpy()))


def imagenet_templates() -> list[str]:
    from coca_hf.evaluation.run import imagenet_facts

    return imagenet_facts()["templates"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else str(coca_hf.bundled_model())))
