# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""The documentation's live demo: the bundled model's page, with pictures to try.

python scripts/docs/live_demo.py build/docs/demo
"""

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

import coca_hf


# Of the example images, those that every browser shows.
SUFFIXES = (".png", ".jpg", ".webp", ".gif")


def make(folder: Path, model: Path | None = None) -> Path:
    """Exports `model`, by default the bundled one, to a page in `folder`, which must not be there. Returns the folder.

    Raises `coca_hf.exporting.errors.ExportError`.
    """
    coca_hf.export(model or coca_hf.bundled_model(), folder, "web")
    examples = [path for path in coca_hf.example_images() if path.suffix in SUFFIXES]
    (folder / "examples").mkdir()
    for path in examples:
        shutil.copyfile(path, folder / "examples" / path.name)
    settings = json.loads((folder / "page.json").read_text("utf-8"))
    settings["about"] = (
        "The small model inside the package, which knows drawings such as these only. " + settings["about"]
    )
    settings["examples"] = [f"examples/{path.name}" for path in examples]
    (folder / "page.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    return folder


def main(folder: Annotated[Path, typer.Argument(help="Folder to make.")]) -> None:
    make(folder)


if __name__ == "__main__":
    typer.run(main)
