# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Fine-tune the bundled model to another wording of its scenes: what it gains there, and what it keeps of the old.

The default recipe, and open_clip's for captions, whose contrastive weight is 0: it has only the new wording to learn.
Each also averaged with the start. Writes `keeps_what_it_knew.json` and `keeps_what_it_knew.png` beside this file;
`--recipe` runs one of them; what the file has of other recipes and other settings stays.
"""

import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer


HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "scripts" / "bundled_model"))

import coca_hf  # noqa: E402
from coca_hf.training import TrainingResult, train  # noqa: E402
from scene_metrics import SceneModel, retrieval_recall  # noqa: E402
from scenes import Facts, Group, render, scenes  # noqa: E402


COUNTS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
SHARES = (0.0, 0.15, 0.3, 0.5)
RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "contrastive weight 0": {"contrastive_weight": 0.0},
}


def other_wording(facts: Facts) -> str:
    """Facts in another order and without a sentence: "white, star red small two left of ring blue large one"."""
    groups = [_words(group) for group in facts.groups]
    return f"{facts.background}, " + f" {facts.relation} ".join(groups)


def _words(group: Group) -> str:
    return f"{group.shape} {group.colour} {group.size} {COUNTS[group.count]}"


def write_data(folder: Path, count: int, words: Callable[[Facts], str]) -> Path:
    with open(folder / "data.jsonl", "w", encoding="utf-8") as file:
        for number, scene in enumerate(scenes("train", count)):
            name = f"{number}.png"
            render(scene).save(folder / name)
            file.write(json.dumps({"image": name, "caption": words(scene.facts)}) + "\n")
    return folder / "data.jsonl"


def measured(model: SceneModel, count: int, sets: int) -> dict[str, float]:
    """Captions wholly right in the other wording, and R@1 of the old one, the mean of both directions."""
    pictures = [render(scene) for scene in scenes("test", count)]
    expected = [other_wording(scene.facts) for scene in scenes("test", count)]
    said = model.captions(pictures)
    right = sum(
        " ".join(text.replace(",", " ,").split()) == " ".join(wanted.replace(",", " ,").split())
        for text, wanted in zip(said, expected, strict=True)
    )
    return {"captions": right / count, "recall": sum(retrieval_recall(model, sets).values()) / 2}


def averaged(folder: str, share: float) -> SceneModel:
    """The fine-tuned model with a share of its start, as `average_with_start` saves it."""
    tuned, start = SceneModel.load(folder), SceneModel.load(str(coca_hf.bundled_model()))
    with torch.no_grad():
        for parameter, beginning in zip(tuned.model.parameters(), start.model.parameters(), strict=True):
            parameter.lerp_(beginning, share)
    return tuned


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """A panel for each run; points are labelled by the start's share."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(runs), figsize=(5 * len(runs), 4.2), sharey=True, squeeze=False)
    for axes, run in zip(panels[0], runs, strict=True):
        for name, rows in run["recipes"].items():
            axes.plot([100 * row["captions"] for row in rows], [100 * row["recall"] for row in rows], "o-", label=name)
            for row in rows:
                place = (100 * row["captions"], 100 * row["recall"])
                axes.annotate(f"{row['share']:g}", place, (3, -9), textcoords="offset points", fontsize=7)
        before = 100 * run["before"]["recall"]
        axes.axhline(0.98 * before, color="gray", linestyle=":", label="98 % of before")
        axes.set(title=f"learning rate {run['settings']['learning_rate']:g}", xlabel="right in the new wording, %")
    panels[0][0].set(ylabel="R@1 of the old wording, %")
    panels[0][-1].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def fine_tuned(recipe: str, data: Path, folder: str, settings: dict[str, Any]) -> TrainingResult:
    return train(
        data,
        output=folder,
        max_steps=settings["steps"],
        batch_size=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        workers=1,
        **RECIPES[recipe],
    )


def main(
    recipe: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(RECIPES)} (default: all).")] = None,
    images: Annotated[int, typer.Option(help="Scenes to learn from.")] = 3000,
    steps: Annotated[int, typer.Option(help="Steps of 32 images.")] = 250,
    learning_rate: Annotated[float, typer.Option(help="Large, for a model of 2 million weights.")] = 3e-3,
    count: Annotated[int, typer.Option(help="Unseen scenes to caption.")] = 200,
    sets: Annotated[int, typer.Option(help="Of 100 unseen scenes to find each other.")] = 5,
    output: Annotated[Path, typer.Option(help="Folder of the results.")] = HERE,
) -> None:
    """Fine-tune by each recipe, measure, and draw."""
    settings = {"images": images, "steps": steps, "batch_size": 32, "learning_rate": learning_rate}
    settings |= {"captioned": count, "sets": sets}
    file = output / "keeps_what_it_knew.json"
    runs: list[dict[str, Any]] = json.loads(file.read_text("utf-8")) if file.exists() else []
    results = next((run for run in runs if run["settings"] == settings), None)
    if results is None:
        before = measured(SceneModel.load(str(coca_hf.bundled_model())), count, sets)
        results = {"settings": settings, "before": before, "recipes": {}}
        runs.append(results)
    for name in recipe or RECIPES:
        with tempfile.TemporaryDirectory() as scratch:
            data = write_data(Path(scratch), images, other_wording)
            folder = str(Path(scratch, "tuned"))
            seconds = fine_tuned(name, data, folder, settings).seconds
            print(f"{name}: {seconds:.0f} s", flush=True)
            results["recipes"][name] = []
            for share in SHARES:
                row = {"share": share, **measured(averaged(folder, share), count, sets)}
                results["recipes"][name].append(row)
                print(name, row, flush=True)
        file.write_text(json.dumps(runs, indent=2) + "\n", encoding="utf-8")
    plot(runs, output / "keeps_what_it_knew.png")


if __name__ == "__main__":
    random.seed(0)
    typer.run(main)
