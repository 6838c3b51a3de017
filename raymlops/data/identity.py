"""What a derived feature depends on, as a hash of code: formatting and comments do not matter, helpers do."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

EVERYTHING = "*"


def source_digest(function: Callable[..., Any]) -> str:
    """sha256 over the statements that define `function` and, transitively, the names that they use.

    Follows imports into other modules of the user; of installed packages only the import itself counts. A function
    without source (built-in, compiled) is identified by its name.
    """
    module = getattr(function, "__module__", None) or type(function).__module__
    return _digest(module, getattr(function, "__qualname__", type(function).__qualname__))


def path_digest(path: str) -> str:
    """The same for an import path, `module:attribute`: nothing is imported, so none of the user's code runs."""
    return _digest(*path.split(":", 1))


def _digest(module: str, attribute: str) -> str:
    modules: dict[str, dict[str, list[ast.stmt]]] = {}
    found: dict[tuple[str, str], list[str]] = {}
    pending = [(module, attribute.split(".")[0])]
    while pending:
        key = pending.pop()
        if key in found:
            continue
        module, name = key
        bound = modules[module] = modules.get(module) or _statements(module)
        chosen = [s for group in bound.values() for s in group] if name == EVERYTHING else bound.get(name, [])
        found[key] = [ast.dump(statement) for statement in chosen]
        for statement in chosen:
            pending += _uses(module, statement)
    text = "\n".join(f"{m}:{n}:{dump}" for (m, n), dumps in sorted(found.items()) for dump in dumps or ["-"])
    return hashlib.sha256(text.encode()).hexdigest()


def _uses(module: str, statement: ast.stmt) -> Iterator[tuple[str, str]]:
    """(module, name) pairs that a statement refers to; local names among them find no definition and do no harm."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Name):
            yield module, node.id
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, EVERYTHING
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(module, node)
            for alias in node.names:
                yield source, alias.name
                yield f"{source}.{alias.name}", EVERYTHING  # `from package import module`


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    _, package = _place(module)
    return importlib.util.resolve_name("." * node.level + (node.module or ""), package) if package else ""


def _statements(module: str) -> dict[str, list[ast.stmt]]:
    """Top-level statements of a user's module by the names they bind; empty if it is installed or has no source."""
    file, _ = _place(module)
    if file is None or _installed(file):
        return {}
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return {}
    bound: dict[str, list[ast.stmt]] = defaultdict(list)
    for statement in tree.body:
        for name in _binds(statement):
            bound[name].append(statement)
    return dict(bound)


def _place(module: str) -> tuple[Path | None, str]:
    """Source file and package of a module, which is not imported for that, nor are the packages that it is in."""
    loaded = sys.modules.get(module)
    if loaded is not None:
        file, package = getattr(loaded, "__file__", None), loaded.__package__ or ""
    else:
        spec = _spec(module)
        file, package = (spec.origin, spec.parent or "") if spec is not None else (None, "")
    return (Path(file) if file and file.endswith(".py") else None), package


def _spec(module: str) -> ModuleSpec | None:
    parent = module.rpartition(".")[0]
    try:
        if not parent:
            return importlib.util.find_spec(module)
        above = _spec(parent)
        inside = above.submodule_search_locations if above is not None else None
        return None if inside is None else PathFinder.find_spec(module, inside)
    except (ImportError, ValueError, AttributeError):
        return None


def _binds(statement: ast.stmt) -> set[str]:
    """Names that a top-level statement defines, also inside `if` and `try`."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    names: set[str] = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
    return names


def _installed(file: Path) -> bool:
    resolved = file.resolve()
    library = Path(sysconfig.get_paths()["stdlib"]).resolve()
    return "site-packages" in resolved.parts or library in resolved.parents
