# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Imports run one way: `cli`, `app` -> the parts that work with models -> the `*_coca.py` files -> transformers.

The `*_coca.py` files travel to the Hub beside the weights, where the rest of the package does not exist.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import coca_hf


PACKAGE = Path(coca_hf.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
TRAVELLING = sorted(PACKAGE.glob("*_coca.py"))

# What is installed wherever a published model loads; transformers itself requires huggingface_hub and tokenizers.
TRAVELLING_MAY_IMPORT = {"torch", "transformers", "huggingface_hub", "tokenizers", "numpy", "PIL"}
TRAVELLING_MAY_IMPORT |= sys.stdlib_module_names

# A part imports parts of its own level or of a lower one.
LEVELS = {
    "cli": 2,
    "app": 2,
    "batch_inference": 1,
    "image_text_data": 1,
    "training": 1,
    "evaluation": 1,
    "publishing": 1,
    "exporting": 1,
    "search": 1,
    "conversion": 1,
    "open_clip": 1,
    "seeing": 1,
}

# Parts that the package's own `__init__` offers as `coca_hf.conversion` and so on. It is the front door: it names them
# for type checkers, and imports one only when it is asked for.
OFFERED = {"conversion", "evaluation", "open_clip", "publishing", "search", "seeing", "exporting", "training"}


def named(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def level(part: str) -> int:
    """0 for the package's own `__init__` and its `*_coca.py` files."""
    return LEVELS.get(part, 0)


def part_of(path: Path) -> str:
    """`cli` for `cli/caption.py`, `modeling_coca` for `modeling_coca.py`, `` for the package's `__init__.py`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0].removeprefix("__init__")


def unguarded(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import that runs or may run, wherever it stands, other than inside `try`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        if not isinstance(node, ast.Try):
            yield from unguarded(node)


def absolute_packages(path: Path) -> set[str]:
    """Top-level names of the packages that a file imports absolutely."""
    found = set()
    for node in unguarded(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif node.level == 0:
            found.add((node.module or "").split(".")[0])
    return found


def relative_imports(path: Path) -> set[str]:
    """Relative imports as they are written up to `import`: `.modeling_coca`, `..conversion.keys`, `.`."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {"." * n.level + (n.module or "") for n in nodes if isinstance(n, ast.ImportFrom) and n.level}


def imported_parts(path: Path) -> set[str]:
    """Parts of this package that a file imports, relatively or by the package's name."""
    package = ("coca_hf", *path.relative_to(PACKAGE).parts[:-1])
    targets = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = base + tuple((node.module or "").split(".")) if node.module else base
            # `from coca_hf import cli` names a part where `from coca_hf.cli import main` names a module of one.
            targets |= {(*module, alias.name) if module == ("coca_hf",) else module for alias in node.names}
    return {target[1] for target in targets if target[0] == "coca_hf" and len(target) > 1}


def edges_between_parts() -> dict[str, set[str]]:
    edges: dict[str, set[str]] = {}
    for path in MODULES:
        edges.setdefault(part_of(path), set()).update(imported_parts(path) - {part_of(path)})
    return edges


def test_the_files_that_travel_are_found():
    assert {"configuration_coca.py", "modeling_coca.py"} <= {path.name for path in TRAVELLING}


@pytest.mark.parametrize("path", TRAVELLING, ids=named)
def test_a_travelling_file_imports_only_what_is_there_where_it_loads(path):
    assert absolute_packages(path) <= TRAVELLING_MAY_IMPORT


@pytest.mark.parametrize("path", TRAVELLING, ids=named)
def test_a_travelling_file_writes_imports_of_its_siblings_as_the_hub_loader_reads_them(path):
    assert relative_imports(path) <= {f".{sibling.stem}" for sibling in TRAVELLING}


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_no_module_imports_from_a_level_above_its_own(path):
    above = {part for part in imported_parts(path) if level(part) > level(part_of(path))}
    assert above <= (OFFERED if path == PACKAGE / "__init__.py" else set())


def test_the_parts_do_not_import_each_other_in_a_circle():
    edges = {part: set(targets) for part, targets in edges_between_parts().items() if level(part) == 1}
    remaining = {part: targets & edges.keys() for part, targets in edges.items()}
    leaves = {part for part, targets in remaining.items() if not targets}
    while leaves:
        remaining = {part: targets - leaves for part, targets in remaining.items() if part not in leaves}
        leaves = {part for part, targets in remaining.items() if not targets}
    assert remaining == {}


def test_importing_the_package_does_not_import_the_parts_that_it_offers():
    script = f"import sys, coca_hf; print([name for name in {sorted(OFFERED)} if f'coca_hf.{{name}}' in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_importing_the_package_loads_no_optional_library():
    # Not accelerate: the model classes are registered, and transformers' own base class imports it where it is there.
    optional = ["datasets", "gradio", "open_clip", "peft", "ray", "timm", "torchvision", "typer"]
    script = f"import sys, coca_hf; print([name for name in {optional} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
