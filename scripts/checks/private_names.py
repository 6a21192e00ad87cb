# Copyright 2026 The coca_hf authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""Derives docs/private-names.md from the code, or checks it: what we use of the libraries that they do not promise.

    python scripts/checks/private_names.py           # checks the page, and says which lines to add or remove
    python scripts/checks/private_names.py --write   # rewrites its table; reasons stay, and new lines wait for theirs

The page states the rule by which a name is listed.
"""

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "coca_hf"
PAGE = ROOT / "docs" / "private-names.md"
LIBRARIES = ("transformers", "torch", "huggingface_hub")

# Private by their underscore, yet what the library's guides tell the author of a model to write: see the page.
CONVENTIONS = {"_init_weights", "_from_config", "_sanitize_parameters", "_forward"}
# Methods that no class of a library declares: the module that calls them where a model has them.
HOOKS = {"_reorder_cache": "transformers.generation.utils"}
# Modules with a page of their own in the library's documentation, whose public names are documented.
DOCUMENTED_MODULES = {
    "huggingface_hub.errors",
    "huggingface_hub.utils",
    "transformers.cache_utils",
    "transformers.generation",
    "transformers.image_processing_utils",
    "transformers.image_utils",
    "transformers.masking_utils",
    "transformers.modeling_outputs",
    "transformers.modeling_utils",
    "transformers.pipelines",
    "transformers.processing_utils",
    "transformers.testing_utils",
    "transformers.tokenization_utils_base",
    "transformers.utils",
}
# Modules in which the owner of an attribute is looked for when the code does not tell its class.
OWNER_MODULES = (
    "torch",
    "torch.nn",
    "torch.distributed.tensor",
    "transformers",
    "transformers.cache_utils",
    "transformers.configuration_utils",
    "transformers.generation",
    "transformers.modeling_utils",
    "transformers.pipelines.base",
    "transformers.tokenization_utils_base",
    "huggingface_hub",
)


TABLE_HEAD = """| name | how | where in `src/coca_hf` | parameters relied on | why no public way |
| --- | --- | --- | --- | --- |"""


@dataclass
class Use:
    """A name of a library: where it is used, how, and the parameters that are relied on."""

    name: str
    files: set[str] = field(default_factory=set)
    ways: set[str] = field(default_factory=set)
    parameters: set[str] = field(default_factory=set)
    reason: str = ""

    def row(self) -> str:
        parameters = ", ".join(f"`{name}`" for name in sorted(self.parameters)) or "-"
        where = ", ".join(sorted(self.files))
        return f"| `{self.name}` | {' and '.join(sorted(self.ways))} | {where} | {parameters} | {self.reason} |"


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def resolve(name: str) -> Any:
    """The object of a dotted name. Raises `LookupError` with the first part that is not there."""
    parts = name.split(".")
    found: Any = importlib.import_module(parts[0])
    for number, part in enumerate(parts[1:], start=1):
        try:
            found = inspect.getattr_static(found, part) if isinstance(found, type) else getattr(found, part)
        except AttributeError:
            if isinstance(found, type) and any(
                part in vars(base).get("__annotations__", {}) for base in found.__mro__
            ):
                return None  # an attribute of instances, declared in the class
            try:
                found = importlib.import_module(".".join(parts[: number + 1]))
            except ImportError:
                raise LookupError(f"{'.'.join(parts[:number])} has no {part!r}") from None
    return found


def parameters_of(name: str) -> tuple[set[str], bool]:
    """The names of a callable's parameters, and whether it takes any other keyword."""
    found = resolve(name)
    try:
        parameters = inspect.signature(inspect.unwrap(getattr(found, "__func__", found))).parameters
    except (TypeError, ValueError):
        return set(), True
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return set(parameters), takes_any


def moved(use: Use) -> str | None:
    """In words, what of a name of the page is no longer as the code needs it."""
    module, _, name = use.name.rpartition(".")
    if HOOKS.get(name) == module:
        is_called = name in inspect.getsource(importlib.import_module(module))
        return None if is_called else f"`{use.name}` is gone: {module} no longer calls {name!r}"
    try:
        names, takes_any = parameters_of(use.name)
    except (LookupError, ImportError) as error:
        return f"`{use.name}` is gone: {error.args[0]}"
    gone = sorted(use.parameters - names)
    if gone and not (takes_any and use.ways == {"used"}):
        return f"`{use.name}` no longer takes {', '.join(gone)}; it takes {', '.join(sorted(names))}"
    return None


def derive() -> dict[str, Use]:
    """What the code uses today, by name. Raises `LookupError` for an attribute that no library seems to have."""
    scan = Scan().run()
    if scan.unknown:
        raise LookupError("private attributes of an unknown owner:\n" + "\n".join(scan.unknown))
    for use in scan.uses.values():
        # What we add to an overridden method ourselves is none of the library's business.
        if "overridden" in use.ways and moved(use):
            use.parameters &= parameters_of(use.name)[0]
    return scan.uses


ROW = re.compile(r"\| `([\w.]+)` \| ([^|]*) \| ([^|]*) \| ([^|]*) \| ([^|]*) \|")


def read_page(page: Path = PAGE) -> dict[str, Use]:
    uses = {}
    for name, ways, files, parameters, reason in ROW.findall(page.read_text()):
        found = set(re.findall(r"`(\w+)`", parameters))
        uses[name] = Use(name, set(files.split(", ")), set(ways.split(" and ")), found, reason.strip())
    return uses


def write_page(uses: dict[str, Use], page: Path = PAGE) -> None:
    """Rewrites the table behind the page's text; the reasons that stand there stay."""
    reasons = {name: use.reason for name, use in read_page(page).items()}
    for name, use in uses.items():
        use.reason = reasons.get(name, "")
    head = page.read_text().split(TABLE_HEAD)[0]
    rows = [uses[name].row() for name in sorted(uses)]
    page.write_text("\n".join([head + TABLE_HEAD, *rows, ""]))


def differences(derived: dict[str, Use], written: dict[str, Use]) -> list[str]:
    """Which lines to add to the page, to remove from it or to finish."""
    lines = [f"add:    {derived[name].row()}" for name in sorted(set(derived) - set(written))]
    lines += [f"remove: {written[name].row()}" for name in sorted(set(written) - set(derived))]
    for name in sorted(set(written) & set(derived)):
        expected = Use(**{**vars(derived[name]), "reason": written[name].reason})
        if expected.row() != written[name].row():
            lines.append(f"change: {written[name].row()}\nto:     {expected.row()}")
        if not written[name].reason:
            lines.append(f"reason: `{name}` has none; say why there is no public way")
    return lines


class _OwnNames(ast.NodeVisitor):
    """Private names that the package binds itself."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.names.add(node.name)
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.names.add(node.name)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self.names.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
            self.names.add(node.attr)
        self.generic_visit(node)


def library_classes(cls: type) -> list[type]:
    """The classes of the libraries among the bases of `cls`, nearest first."""
    return [base for base in cls.__mro__[1:] if base.__module__.split(".")[0] in LIBRARIES]


def public_path(owner: type) -> str:
    """The shortest public place of a class: `transformers.GenerationMixin`, not the file that it is in."""
    library = owner.__module__.split(".")[0]
    for place in (library, f"{library}.nn"):
        if getattr(sys.modules.get(place), owner.__name__, None) is owner:
            return f"{place}.{owner.__name__}"
    return f"{owner.__module__}.{owner.__qualname__}"


class Scan:
    """What the modules of the package use of the libraries."""

    def __init__(self) -> None:
        self.uses: dict[str, Use] = {}
        self.unknown: list[str] = []
        self.trees = {path: ast.parse(path.read_text(), str(path)) for path in sorted(SOURCE.rglob("*.py"))}
        self.trees = {
            path: tree for path, tree in self.trees.items() if "assets" not in path.parts and path.stem != "__main__"
        }
        own = _OwnNames()
        for tree in self.trees.values():
            own.visit(tree)
        self.own = own.names
        self.modules = {path: importlib.import_module(self._module_name(path)) for path in self.trees}
        self.bases = self._all_bases()

    @staticmethod
    def _module_name(path: Path) -> str:
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def _all_bases(self) -> list[type]:
        """Every library class that a class of the package is made of, and those of `OWNER_MODULES`."""
        found: dict[type, None] = {}
        for module in self.modules.values():
            for cls in vars(module).values():
                if isinstance(cls, type) and cls.__module__.startswith("coca_hf"):
                    found.update(dict.fromkeys(library_classes(cls)))
        for name in OWNER_MODULES:
            module = importlib.import_module(name)
            found.update(dict.fromkeys(cls for cls in vars(module).values() if isinstance(cls, type)))
        return list(found)

    def add(self, name: str, path: Path, way: str, parameters: set[str] | None = None) -> None:
        use = self.uses.setdefault(name, Use(name))
        use.files.add(path.relative_to(SOURCE).as_posix())
        use.ways.add(way)
        use.parameters |= parameters or set()

    def run(self) -> "Scan":
        for path, tree in self.trees.items():
            self._imports(path, tree)
            self._overrides(path, tree)
            self._attributes(path, tree)
        # `torch._a._b` reads `torch._a` on its way.
        ways = [name for name in self.uses if any(other.startswith(f"{name}.") for other in self.uses)]
        for name in ways:
            del self.uses[name]
        return self

    def _imports(self, path: Path, tree: ast.Module) -> None:
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] in LIBRARIES:
                for alias in node.names:
                    if not is_documented(str(node.module), alias.name):
                        self.add(f"{node.module}.{alias.name}", path, "imported")
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name.split(".")[0] in LIBRARIES and any(map(is_private, alias.name.split("."))):
                        self.add(alias.name, path, "imported")

    def _overrides(self, path: Path, tree: ast.Module) -> None:
        for node in ast.walk(tree):
            cls = getattr(self.modules[path], node.name, None) if isinstance(node, ast.ClassDef) else None
            if not isinstance(node, ast.ClassDef) or not isinstance(cls, type):
                continue
            for name, parameters in bound_in(node):
                owner = next((base for base in library_classes(cls) if name in vars(base)), None)
                if owner and is_private(name) and not is_convention(owner, name):
                    self.add(f"{public_path(owner)}.{name}", path, "overridden", parameters)

    def _attributes(self, path: Path, tree: ast.Module) -> None:
        imported = imported_modules(tree)
        classes = {
            id(inner): node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for inner in ast.walk(node)
        }
        calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            name, value = private_attribute(node)
            if name is None:
                continue
            enclosing = getattr(self.modules[path], getattr(classes.get(id(node)), "name", ""), None)
            if owner := self._owner(name, value, imported, enclosing):
                call = calls.get(id(node))
                keywords = {keyword.arg for keyword in call.keywords if keyword.arg} if call else set()
                self.add(f"{owner}.{name}", path, "used", keywords)
            elif owner is None:
                self.unknown.append(f"{path.relative_to(ROOT)}: {name}")

    def _owner(self, name: str, value: ast.expr, imported: dict[str, str], enclosing: Any) -> str | None:
        """Dotted name of what `name` is taken from; "" if that is none of the libraries; None if nobody knows."""
        root = ast.unparse(value).split(".")[0]
        if root in imported:
            module = ast.unparse(value).replace(root, imported[root], 1)
            if module.split(".")[0] not in LIBRARIES:
                return ""
            found = resolve(module)
            return public_path(found) if isinstance(found, type) else module
        if name in HOOKS:
            return HOOKS[name]
        is_own_object = (isinstance(value, ast.Name) and value.id in ("self", "cls")) or "super()" in ast.unparse(
            value
        )
        candidates = library_classes(enclosing) if is_own_object and isinstance(enclosing, type) else []
        if name in self.own and not candidates:
            return ""
        for base in candidates or self.bases:
            if name in vars(base) or name in getattr(base, "__annotations__", {}):
                return "" if is_convention(base, name) else public_path(base)
        return "" if is_own_object or name in self.own else None


def is_documented(module: str, name: str) -> bool:
    """Whether a library promises what is imported: see the page's rule."""
    library = module.split(".")[0]
    if any(map(is_private, [*module.split("."), name])):
        return False
    if library == "torch" or module in (library, *DOCUMENTED_MODULES):
        return True
    return hasattr(importlib.import_module(library), name)


def is_convention(owner: type, name: str) -> bool:
    """Whether the library asks authors of models for it: data declared in its base class, or a documented method."""
    value = inspect.getattr_static(owner, name, None)
    is_data = not callable(value) and not isinstance(value, classmethod | staticmethod | property)
    return name in CONVENTIONS or (is_data and name in vars(owner))


def bound_in(node: ast.ClassDef) -> Iterator[tuple[str, set[str]]]:
    """Names that a class body binds, with the parameters of those that are methods."""
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef):
            arguments = statement.args
            names = {argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
            yield statement.name, names - {"self", "cls"}
        elif isinstance(statement, ast.Assign):
            yield from ((target.id, set()) for target in statement.targets if isinstance(target, ast.Name))
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id, set()


def private_attribute(node: ast.AST) -> tuple[str | None, ast.expr]:
    """`x._name` and `getattr(x, "_name")` -> the name and x."""
    if isinstance(node, ast.Attribute) and is_private(node.attr):
        return node.attr, node.value
    readers = ("getattr", "hasattr", "setattr")
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in readers:
        name = node.args[1]
        if isinstance(name, ast.Constant) and isinstance(name.value, str) and is_private(name.value):
            return name.value, node.args[0]
    return None, ast.Constant(None)


def imported_modules(tree: ast.Module) -> dict[str, str]:
    """What the names that a module imports stand for."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                found[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            module = f"{'coca_hf.' if node.level else ''}{node.module or ''}"
            found.update({alias.asname or alias.name: f"{module}.{alias.name}" for alias in node.names})
    return found


def main() -> None:
    uses = derive()
    if sys.argv[1:] == ["--write"]:
        write_page(uses)
    problems = differences(uses, read_page()) + [text for use in uses.values() if (text := moved(use))]
    print(*problems, f"{len(uses)} names", sep="\n")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
