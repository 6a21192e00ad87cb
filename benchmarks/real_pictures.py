# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Fine-tune the bundled model on pictures that nobody drew for it, and see what it knows of others of their kind.

The pictures are the stamps of Tux Paint, with the captions that they come with (Debian and Ubuntu: `apt-get install
tuxpaint-stamps-default`; GPL-2, none of them is part of this project). Three of ten stamps, by the digest of their
names, are not learnt from: one to choose settings with, two to measure with. Measured are retrieval; captions; and, on
canvases of two stamps beside each other, whether the maps of the caption of one point at that one.

    python benchmarks/real_pictures.py --output build/real-pictures

Writes `real_pictures.json` beside this file and the chart of docs/real-pictures.md. Ctrl-C and the same command again
go on with the training.
"""

import hashlib
import json
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image, ImageOps


HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "scripts" / "bundled_model"))

import coca_hf  # noqa: E402
from coca_hf.evaluation import caption_scores, retrieval_recall  # noqa: E402
from coca_hf.training import train  # noqa: E402
from scene_metrics import SceneModel  # noqa: E402
from scenes import caption as scene_caption  # noqa: E402
from scenes import scenes  # noqa: E402


SIDE = 96
"""Pixels of the pictures that are learnt from; the model sees 80 x 80."""

FOLDS = 10
PARTS = {"validation": {2}, "test": {0, 1}}
VOCABULARY = 1200

# Words of a caption that are of both stamps of a canvas.
NAMES_NOTHING = {"", "a", "an", "and", "for", "in", "of", "on", "some", "the", "to", "with"}

# A mirrored letter, clock or coin is not what its caption says.
NOT_MIRRORED = ("symbols", "town/roadsigns", "town/flags", "medical")


@dataclass(frozen=True)
class Stamp:
    """A picture with transparent surroundings, cut to what is seen; `name` is its path in the package."""

    name: str
    caption: str
    picture: Image.Image

    @property
    def fold(self) -> int:
        return int(hashlib.sha256(self.name.encode()).hexdigest(), 16) % FOLDS

    def placed(self, width: int, height: int, chance: random.Random | None = None) -> tuple[Image.Image, np.ndarray]:
        """On a white canvas, as large as it fits or, with `chance`, somewhere and smaller -> that, and where it is."""
        share = 0.9 if chance is None else chance.uniform(0.6, 0.98)
        stamp = ImageOps.contain(self.picture, (max(1, round(width * share)), max(1, round(height * share))))
        room = (width - stamp.width, height - stamp.height)
        left, top = (each // 2 if chance is None else chance.randint(0, each) for each in room)
        if chance is not None and chance.random() < 0.5 and not self.name.startswith(NOT_MIRRORED):
            stamp = ImageOps.mirror(stamp)
        canvas = Image.new("RGBA", (width, height), (255, 255, 255, 0))
        canvas.paste(stamp, (left, top))
        seen = np.asarray(canvas.getchannel("A")) > 127
        return Image.alpha_composite(Image.new("RGBA", canvas.size, "white"), canvas).convert("RGB"), seen


def read_stamps(folder: Path) -> list[Stamp]:
    """Those with a picture of pixels and a caption; of equal pictures, as letters of two languages are, the first."""
    stamps, known = [], set()
    for path in sorted(folder.rglob("*.png")):
        words = path.with_suffix(".txt")
        if not words.exists():
            continue
        # The first line is English, translations follow.
        text = words.read_text("utf-8").split("\n")[0].strip()
        picture = Image.open(path).convert("RGBA")
        box = picture.getchannel("A").getbbox()
        content = hashlib.sha256(picture.tobytes()).digest()
        if text and box is not None and content not in known:
            known.add(content)
            stamps.append(Stamp(path.relative_to(folder).with_suffix("").as_posix(), text, picture.crop(box)))
    return stamps


def starting_model(captions: Sequence[str], folder: Path) -> None:
    """The bundled model with the words of these captions: tokens that it knew keep their weights."""
    old = SceneModel.load(str(coca_hf.bundled_model()))
    rng = random.Random(0)
    known = [scene_caption(scene.facts, rng) for scene in scenes("train", 300)]
    torch.manual_seed(0)
    tokenizer = old.processor.tokenizer.train_new_from_iterator([*known, *captions], vocab_size=VOCABULARY)
    tokens, before = tokenizer.get_vocab(), old.processor.tokenizer.get_vocab()
    kept = {token: number for token, number in tokens.items() if token in before}
    rows, rows_before = list(kept.values()), [before[token] for token in kept]
    model = old.model
    weights = [layer().weight.detach().clone() for layer in (model.get_input_embeddings, model.get_output_embeddings)]
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for layer, weight in zip((model.get_input_embeddings(), model.get_output_embeddings()), weights, strict=True):
            layer.weight.normal_(std=float(weight.std()))
            layer.weight[rows] = weight[rows_before]
    for config in (model.config.text_config, model.generation_config):
        config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    old.processor.tokenizer = tokenizer
    model.save_pretrained(folder)
    old.processor.save_pretrained(folder)


def write_data(stamps: Sequence[Stamp], rounds: int, folder: Path) -> Path:
    """Each stamp once in a round, placed anew: in no batch twice, for then it would not be told from itself."""
    chance = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for _ in range(rounds):
        for stamp in chance.sample(list(stamps), len(stamps)):
            path = folder / f"{len(lines):06d}.png"
            picture, _ = stamp.placed(SIDE, SIDE, chance)
            if not path.exists():
                picture.save(path, compress_level=1)
            lines.append(json.dumps({"image": path.name, "caption": stamp.caption}) + "\n")
    (folder / "data.jsonl").write_text("".join(lines), "utf-8")
    return folder / "data.jsonl"


def retrieval(model: SceneModel, stamps: Sequence[Stamp]) -> dict[str, float]:
    """Among stamps of which no two have the same caption, one caption each."""
    images = model.image_embeds(stamp.placed(SIDE, SIDE)[0] for stamp in stamps)
    texts = model.text_embeds(stamp.caption for stamp in stamps)
    return {"stamps": len(stamps), **retrieval_recall(images, texts, range(len(stamps)))}


def chance_of_recall(number: int) -> dict[str, float]:
    return {f"recall@{k}": min(1.0, k / number) for k in (1, 5, 10)}


def captions(model: SceneModel, stamps: Sequence[Stamp]) -> dict[str, float]:
    """Scores of the captions that it writes, and how many say what the stamp's says."""
    written = model.captions(stamp.placed(SIDE, SIDE)[0] for stamp in stamps)
    names = [stamp.name for stamp in stamps]
    scores = caption_scores(dict(zip(names, written, strict=True)), {stamp.name: [stamp.caption] for stamp in stamps})
    exact = [_bare(stamp.caption) == _bare(text) for stamp, text in zip(stamps, written, strict=True)]
    return {"same_words": float(np.mean(exact)), **{name: scores[name] for name in ("bleu_1", "rouge_l", "cider")}}


def _bare(text: str) -> str:
    return " ".join("".join(letter if letter.isalnum() else " " for letter in text.lower()).split())


def pairs(stamps: Sequence[Stamp], number: int) -> Iterator[tuple[Image.Image, str, np.ndarray, np.ndarray]]:
    """Two stamps beside each other, the caption of one of them, which pixels are that one's, and which the other's."""
    chance = random.Random("pairs")
    # Longer ones are too many of the bundled model's tokens.
    short = [stamp for stamp in stamps if len(stamp.caption) <= 30]
    for _ in range(number):
        first, second = chance.sample(short, 2)
        halves = [first.placed(SIDE // 2, SIDE), second.placed(SIDE // 2, SIDE)]
        nothing = np.zeros_like(halves[0][1])
        order = [0, 1] if chance.random() < 0.5 else [1, 0]
        canvas = Image.new("RGB", (SIDE, SIDE), "white")
        for place, which in enumerate(order):
            canvas.paste(halves[which][0], (place * SIDE // 2, 0))
        masks = [np.hstack([halves[each][1] if each == which else nothing for each in order]) for which in (0, 1)]
        yield canvas, first.caption, masks[0], masks[1]


def pointing(model: SceneModel, stamps: Sequence[Stamp], number: int) -> dict[str, float]:
    """How often a map has more of its heat on the stamp that the caption is of than on the other one."""
    from coca_hf import similarity_map, word_maps

    words, texts, covered = [], [], []
    for canvas, text, own, other in pairs(stamps, number):
        maps = word_maps(model.model, model.processor, canvas, text)
        heats = [heat for word, heat in maps if _bare(word) not in NAMES_NOTHING]
        if heats:
            words.append(_share(np.mean(heats, axis=0), own, other))
        texts.append(_share(similarity_map(model.model, model.processor, canvas, text), own, other))
        covered.append(float(own.sum() / max(1, own.sum() + other.sum())))
    found = {"pairs": len(texts), "word_maps": float(np.mean(np.array(words) > 0.5))}
    found["word_maps_heat"] = float(np.mean(words))
    found["similarity_map"] = float(np.mean(np.array(texts) > 0.5))
    return {**found, "similarity_map_heat": float(np.mean(texts)), "own_area": float(np.mean(covered))}


def _share(heat: np.ndarray, own: np.ndarray, other: np.ndarray) -> float:
    """Of the heat on both, per pixel, what is on its own: a large stamp is no better than a small one."""
    mine, theirs = (float(heat[mask].mean()) if mask.any() else 0.0 for mask in (own, other))
    return mine / (mine + theirs) if mine + theirs else 0.5


def measure(model: SceneModel, known: Sequence[Stamp], unseen: Sequence[Stamp], number: int) -> dict[str, Any]:
    """Stamps learnt from, those held out, and those of the latter with captions that were not learnt either."""
    said = {_bare(stamp.caption) for stamp in known}
    sets = {
        "learnt": _distinct(known)[: len(unseen)],
        "held_out": _distinct(unseen),
        "held_out_new_captions": [stamp for stamp in _distinct(unseen) if _bare(stamp.caption) not in said],
    }
    found: dict[str, Any] = {}
    for name, stamps in sets.items():
        chance = chance_of_recall(len(stamps))
        found[name] = {"retrieval": retrieval(model, stamps), "chance": chance, "captions": captions(model, stamps)}
        found[name]["pointing"] = pointing(model, stamps, number)
        print(name, json.dumps(found[name]), flush=True)
    return found


def _distinct(stamps: Iterable[Stamp]) -> list[Stamp]:
    first: dict[str, Stamp] = {}
    for stamp in stamps:
        first.setdefault(_bare(stamp.caption), stamp)
    return random.Random(0).sample(list(first.values()), len(first))


def draw(results: dict[str, Any], path: Path) -> None:
    """Recall of the held-out stamps before and after, against chance."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    names = [("before", "held_out", "before"), ("after", "held_out", "after"), ("after", "learnt", "learnt from")]
    for axis, direction in zip(axes, ("text_to_image", "image_to_text"), strict=True):
        for place, (when, part, words) in enumerate(names):
            recall = results[when][part]["retrieval"]
            heights = [100 * recall[f"{direction}_recall@{k}"] for k in (1, 5, 10)]
            bars = axis.bar(np.arange(3) + 0.27 * (place - 1), heights, 0.25, label=words)
            axis.bar_label(bars, fmt="%.0f", fontsize=7)
        chance = [100 * results["after"]["held_out"]["chance"][f"recall@{k}"] for k in (1, 5, 10)]
        for place, height in enumerate(chance):
            axis.hlines(
                height, place - 0.42, place + 0.42, colors="black", linestyles=":", label="chance" * (not place)
            )
        axis.set_xticks(range(3), ["R@1", "R@5", "R@10"])
        axis.set_title(direction.replace("_", " "), fontsize=10)
    axes[0].set_ylabel("found, %")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(
    stamps: Annotated[Path, typer.Option(help="Where the package has its pictures.")] = Path(
        "/usr/share/tuxpaint/stamps"
    ),
    output: Annotated[Path, typer.Option(help="Where pictures and the run are kept.")] = Path("build/real-pictures"),
    held_out: Annotated[str, typer.Option(help="test, or validation to choose settings with.")] = "test",
    steps: Annotated[int, typer.Option(help="Steps of 64 pictures.")] = 200,
    rounds: Annotated[int, typer.Option(help="Times that each stamp is placed anew.")] = 6,
    learning_rate: float = 5e-4,
    weight_decay: float = 0.1,
    number: Annotated[int, typer.Option(help="Pairs to point at.")] = 200,
    results: Annotated[Path, typer.Option(help="Record to write.")] = HERE / "real_pictures.json",
    chart: Annotated[Path, typer.Option(help="Chart to draw.")] = HERE.parent / "docs/images/real-pictures.png",
) -> None:
    """Fine-tune, measure before and after, and draw."""
    every = read_stamps(stamps)
    unseen = [stamp for stamp in every if stamp.fold in PARTS[held_out]]
    known = [stamp for stamp in every if all(stamp.fold not in part for part in PARTS.values())]
    print(len(every), "stamps,", len(known), "learnt from,", len(unseen), "held out", flush=True)
    start, data = output / "start", output / "pictures"
    if not (data / "data.jsonl").exists():
        starting_model([stamp.caption for stamp in known], start)
        write_data(known, rounds, data)
    settings: dict[str, Any] = {
        "max_steps": steps,
        "batch_size": 64,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
    }
    run = output / "trained"
    train(
        str(data / "data.jsonl"),
        model=str(start),
        output=str(run),
        shuffle=False,
        workers=0,
        save_every=100,
        **settings,
    )
    found: dict[str, Any] = {"settings": {**settings, "rounds": rounds, "learnt_from": len(known)}}
    found["before"] = measure(SceneModel.load(str(coca_hf.bundled_model())), known, unseen, number)
    found["after"] = measure(SceneModel.load(str(run)), known, unseen, number)
    results.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    chart.parent.mkdir(parents=True, exist_ok=True)
    draw(found, chart)


if __name__ == "__main__":
    typer.run(main)
