# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""A hook of MkDocs: a page for `coca_hf` and for each of its parts, with every public name, from their docstrings.

What is public is what `__all__` names, so a new name or part needs nothing here.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import coca_hf_command  # noqa: F401  coca_hf then waits for neither torch nor transformers
from coca_hf import __all__ as PUBLIC


PACKAGE = Path(__file__).resolve().parents[2] / "src" / "coca_hf"
# Parts that are used but, unlike the others, not offered as attributes of the package.
MORE_PARTS = ("batch_inference", "image_text_data")
FIRST = "reference/python.md"
HEADS = {
    "coca_hf": "Importing `coca_hf` registers its classes with transformers: `AutoModel`, "
    "`AutoModelForImageTextToText`, `AutoProcessor` and the others load them by name.",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lists the pages at the end of the section "Reference"."""
    sections = {title: pages for section in config.nav or [] for title, pages in section.items()}
    sections["Reference"] += [{title: path} for title, path, _ in pages()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for _, path, content in pages():
        files.append(File.generated(config, path, content=content))
    return files


def pages() -> Iterator[tuple[str, str, str]]:
    """Title, path and Markdown of each page."""
    parts = [name for name in PUBLIC if is_part(name)]
    names = [name for name in PUBLIC if name not in parts]
    yield "coca_hf", FIRST, page("coca_hf", names)
    for part in sorted({*parts, *(name for name in MORE_PARTS if is_part(name))}):
        yield f"coca_hf.{part}", f"reference/python-{part}.md", page(f"coca_hf.{part}", public_names(part))


def is_part(name: str) -> bool:
    return (PACKAGE / name / "__init__.py").exists()


def public_names(part: str) -> list[str]:
    """What the part's `__all__` holds, without importing what the part needs."""
    tree = ast.parse((PACKAGE / part / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets):
            return list(ast.literal_eval(node.value))
    return []


def page(module: str, names: list[str]) -> str:
    head = HEADS.get(module) or f"::: {module}\n    options:\n      members: false\n      show_root_heading: false\n"
    return "\n\n".join([f"# {module}", head, *(f"::: {module}.{name}" for name in names)]) + "\n"
