# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Convert LAION's four CoCa checkpoints and publish them, with their cards, under any namespace.

Run again after a failure, it goes on: what is converted is not converted again, what is published is left as it is.
With `--write-cards` it writes the cards to `model_cards/` instead.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from coca_hf.conversion import open_clip_config
from coca_hf.conversion.convert import convert_open_clip
from coca_hf.conversion.errors import ConversionError
from coca_hf.publishing import PublishingError, check_loads, plan_publication, push_folder
from coca_hf.publishing.card import checkpoint_card
from coca_hf.publishing.laion import CHECKPOINTS, Checkpoint


ROOT = Path(__file__).resolve().parents[2]
CARDS = ROOT / "model_cards"
# The vocabulary is CLIP's, which not every one of the four repositories holds.
TOKENIZER = "openai/clip-vit-large-patch14"

console = Console(stderr=True, soft_wrap=True, highlight=False)


def publish_all(
    checkpoints: Iterable[Checkpoint], namespace: str, work: Path, *, private: bool, dry_run: bool, tokenizer: str
) -> list[str]:
    """One after the other; one that fails keeps none of the others back. -> names of those that failed."""
    failed = []
    for checkpoint in checkpoints:
        repo_id = f"{namespace}/{checkpoint.name}"
        try:
            folder = converted(checkpoint, work, tokenizer)
            if dry_run:
                check_loads(plan_publication(folder, repo_id))
                console.print(f"{repo_id}: ready in {folder}")
            else:
                console.print(f"{repo_id}: {push_folder(folder, repo_id, private=private).url}")
        except (ConversionError, PublishingError) as error:
            console.print(f"{repo_id}: {error}", style="red")
            failed.append(checkpoint.name)
    return failed


def converted(checkpoint: Checkpoint, work: Path, tokenizer: str) -> Path:
    """The checkpoint's saved folder, which a conversion that did not finish leaves no trace of."""
    folder = work / checkpoint.name
    if not folder.exists():
        console.print(f"Converting {checkpoint.source} ...")
        convert_open_clip(checkpoint.source, folder, checkpoint.architecture.preset, tokenizer)
    return folder


def write_cards(folder: Path) -> None:
    for checkpoint in CHECKPOINTS:
        config = open_clip_config(checkpoint.architecture.preset).to_dict()
        (folder / f"{checkpoint.name}.md").write_text(checkpoint_card(checkpoint, config), encoding="utf-8")


def main(
    namespace: Annotated[str | None, typer.Argument(help="User or organisation to publish under.")] = None,
    work: Annotated[Path, typer.Option(help="Folder for what is converted, 7 GB in all.")] = ROOT / "build/published",
    only: Annotated[list[str] | None, typer.Option(help="Of the four, those whose name holds this.")] = None,
    private: Annotated[bool, typer.Option("--private", help="For the owner's eyes only.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Convert and check; send nothing.")] = False,
    tokenizer: Annotated[str, typer.Option(help="Vocabulary file, folder or Hub id.")] = TOKENIZER,
    cards: Annotated[bool, typer.Option("--write-cards", help=f"Write {CARDS.name}/ and nothing else.")] = False,
) -> None:
    """Convert LAION's four CoCa checkpoints and publish them under NAMESPACE."""
    if cards:
        write_cards(CARDS)
        return
    if namespace is None:
        raise typer.BadParameter("say under which NAMESPACE to publish")
    wanted = [c for c in CHECKPOINTS if not only or any(part in c.name for part in only)]
    if not wanted:
        raise typer.BadParameter(f"none of the four has {' or '.join(only or ())} in its name")
    if publish_all(wanted, namespace, work, private=private, dry_run=dry_run, tokenizer=tokenizer):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
