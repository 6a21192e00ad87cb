# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""How often `coca_hf.search` finds what an album of unseen scenes holds, and says that it holds nothing where it does.

    python scripts/bundled_model/measure_cutoff.py --output build/cutoff --pictures docs/images

Albums of 100, 300 and 1,000 scenes, in half of them two colours and two shapes left out; queries of seven kinds about
scenes of other albums, those that a scene of the album satisfies and those that none does, near misses among them
("three red circles" in an album that has two), and phrases about another world. A query with a match counts as kept
where a photo that satisfies it is among the hits.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coca_hf.search import Index, build_index
from coca_hf.search.calibration import UNSAID, Calibration, calibrate, words_of
from scenes import COLOURS, COUNT_WORDS, SHAPES, Facts, Group, caption, label, render, scenes


FIRST_SCENE = 50_000
SHARES = (0.3, 0.4, 0.5, 0.6, 0.65, 0.7, UNSAID, 0.75, 0.8, 0.85, 0.9, 0.95)

ELSEWHERE = (
    *("a dog on the beach", "a bowl of fruit", "my grandmother's birthday", "sunset over the mountains", "a cat"),
    *(
        "people at a wedding",
        "a car",
        "the eiffel tower at night",
        "a plate of spaghetti",
        "children playing football",
    ),
    *("an invoice from last year", "a screenshot of code", "snow", "a red car parked on a street", "two dogs"),
    *("a green tree in a field", "blue sky", "hello world", "a person riding a horse", "a white cat on a brown sofa"),
    *("a laptop on a desk", "flowers in a vase", "a crowded street market", "a baby", "an airplane on the runway"),
    *("a man with a hat", "a woman playing the violin", "a yellow bus", "a slice of pizza", "a clock tower"),
)


@dataclass(frozen=True)
class Query:
    """A text, and which scenes it is true of."""

    kind: str
    text: str
    holds: Callable[[Facts], bool]


def queries_about(facts: Facts, rng: random.Random) -> Iterator[Query]:
    """One of each kind, about a scene of these facts."""
    group = rng.choice(facts.groups)
    for kind in ("shape", "colour", "colour and shape"):
        yield Query(kind, label(group, kind), _any(_same(group, *kind.split(" and "))))
    yield Query("count", _phrase(group), _any(_same(group, "count", "colour", "shape")))
    yield Query("count and size", _phrase(group, sized=True), _any(_same(group, "count", "size", "colour", "shape")))
    if facts.relation is not None:
        first, second = (_same(each, "count", "colour", "shape") for each in facts.groups)
        words = f"{_phrase(facts.groups[0])} {facts.relation} {_phrase(facts.groups[1])}"
        relation = facts.relation
        yield Query(
            "relation",
            words,
            lambda other: other.relation == relation and first(other.groups[0]) and second(other.groups[1]),
        )
    yield Query("whole caption", caption(facts, rng), lambda other: other == facts)


def _same(group: Group, *traits: str) -> Callable[[Group], bool]:
    """Three red circles are a red circle, too: "a" says that there is one."""
    return lambda other: all(
        getattr(other, trait) == getattr(group, trait) or (trait == "count" and group.count == 1) for trait in traits
    )


def _any(fits: Callable[[Group], bool]) -> Callable[[Facts], bool]:
    return lambda facts: any(map(fits, facts.groups))


def _phrase(group: Group, *, sized: bool = False) -> str:
    noun = group.shape if group.count == 1 else f"{group.shape}{'es' if group.shape == 'cross' else 's'}"
    size = f"{group.size} " if sized else ""
    return f"{COUNT_WORDS[group.count][0]} {size}{group.colour} {noun}"


@dataclass
class Album:
    """Some photos of an index, as an index of their own."""

    facts: list[Facts]
    captions: list[str]
    embeddings: np.ndarray
    calibration: Calibration


def albums(index: Index, facts: list[Facts]) -> Iterator[Album]:
    """Of three sizes, with all kinds of scenes and with some left out."""
    captions = [index.photo(row).caption for row in range(len(index))]
    rng = random.Random("albums")
    for size in (100, 300, 1000):
        for leaves_out in (False, True):
            colours, shapes = rng.sample(sorted(COLOURS), 2), rng.sample(SHAPES, 2)
            rows = [
                row
                for row, each in enumerate(facts)
                if not (leaves_out and any(g.colour in colours or g.shape in shapes for g in each.groups))
            ]
            chosen = sorted(rng.sample(rows, min(size, len(rows))))
            texts, vectors = [captions[row] for row in chosen], np.asarray(index.embeddings[chosen])
            yield Album([facts[row] for row in chosen], texts, vectors, calibrate(texts, vectors, index.embed_texts))


def make_index(folder: Path, number: int) -> tuple[Index, list[Facts]]:
    """Scenes that training did not show and no other measurement uses."""
    photos = folder / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    made = list(scenes("test", number, FIRST_SCENE))
    for place, scene in enumerate(made):
        path = photos / f"{place:05d}.png"
        if not path.exists():
            render(scene).save(path)
    build_index([photos], folder / "index", progress=False)
    return Index.open(folder / "index"), [scene.facts for scene in made]


def outcomes(index: Index, album: Album, queries: list[Query]) -> Iterator[tuple[str, bool, dict[float, bool]]]:
    """For each query its kind, whether the album has a match, and whether the answer was right at each of `SHARES`."""
    texts = index.embed_texts([query.text for query in queries])
    for query, similarities in zip(queries, texts @ album.embeddings.T, strict=True):
        fits = np.array([query.holds(facts) for facts in album.facts])
        words = words_of(query.text)
        lowest = album.calibration.limits(words, 0.0).said
        said = np.array(
            [
                album.calibration.said(text, words) if similarity >= lowest else 0.0
                for similarity, text in zip(similarities, album.captions, strict=True)
            ]
        )
        right = {}
        for share in SHARES:
            limits = album.calibration.limits(words, share)
            hits = similarities >= [limits.at(each) for each in said]
            right[share] = bool((hits & fits).any() if fits.any() else not hits.any())
        yield query.kind, bool(fits.any()), right


def measure(index: Index, facts: list[Facts], each: int) -> dict[str, Any]:
    """Shares of right answers by kind, "match" or "none", and share; `each` queries of a kind and album."""
    rng = random.Random("queries")
    found: dict[str, dict[str, list[dict[float, bool]]]] = {}
    for album in albums(index, facts):
        others = [scene.facts for scene in scenes("test", 20 * each, FIRST_SCENE + len(facts))]
        asked = [
            query
            for other in [*rng.sample(album.facts, min(each, len(album.facts))), *others]
            for query in queries_about(other, rng)
        ]
        chosen: dict[tuple[str, bool], dict[str, Query]] = {}
        for query in asked:
            group = chosen.setdefault((query.kind, any(map(query.holds, album.facts))), {})
            if len(group) < each:
                group.setdefault(query.text, query)
        queries = [query for group in chosen.values() for query in group.values()]
        queries += [Query("elsewhere", text, lambda _: False) for text in ELSEWHERE]
        for kind, has_match, right in outcomes(index, album, queries):
            found.setdefault(kind, {}).setdefault("match" if has_match else "none", []).append(right)
    return {
        kind: {
            side: {
                "queries": len(rights),
                **{str(share): float(np.mean([r[share] for r in rights])) for share in SHARES},
            }
            for side, rights in sides.items()
        }
        for kind, sides in found.items()
    }


def draw(results: dict[str, Any], path: Path) -> None:
    """Both shares of right answers against that of `UNSAID`, for all kinds together and for each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 4, figsize=(13, 6), sharex=True, sharey=True)
    for axis, (kind, sides) in zip(axes.flat, results.items(), strict=False):
        for side, words, colour in (
            ("match", "kept, where there is one", "#2f6f5e"),
            ("none", "nothing, where there is none", "#a23b22"),
        ):
            if side in sides:
                axis.plot(SHARES, [100 * sides[side][str(share)] for share in SHARES], color=colour, label=words)
        axis.axvline(UNSAID, color="#999999", linewidth=0.8)
        axis.axhline(95, color="#999999", linewidth=0.8, linestyle=":")
        axis.set_title(kind, fontsize=10)
        axis.set_ylim(40, 101)
    axes[0, 0].legend(fontsize=8, loc="lower left")
    figure.supxlabel("share of true pairs that a photo has to surpass without its caption's word for it", fontsize=9)
    figure.supylabel("right answers, %", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def pooled(results: dict[str, Any]) -> dict[str, Any]:
    """All queries of a side together."""
    sides: dict[str, Any] = {}
    for side in ("match", "none"):
        rows = [each[side] for each in results.values() if side in each]
        number = sum(row["queries"] for row in rows)
        shares = {key: sum(row["queries"] * row[key] for row in rows) / number for key in map(str, SHARES)}
        sides[side] = {"queries": number, **shares}
    return sides


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/cutoff"), help="where scenes and index are kept")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/search-cutoff.json"))
    parser.add_argument("--picture", type=Path, default=Path("docs/images/search-cutoff.png"))
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=40, help="of a kind and an album")
    options = parser.parse_args()
    index, facts = make_index(options.output, options.scenes)
    results = measure(index, facts, options.queries)
    results = {"all": pooled(results), **results}
    results = {kind: results[kind] for kind in results if kind != "shape"} | {"shape": results["shape"]}
    options.results.write_text(json.dumps({"unsaid": UNSAID, "results": results}, indent=1) + "\n")
    for kind, sides in results.items():
        words = [f"{side} {row[str(UNSAID)]:.1%} of {row['queries']}" for side, row in sides.items()]
        print(f"{kind:18}", "; ".join(words))
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    draw(results, options.picture)


if __name__ == "__main__":
    main()
