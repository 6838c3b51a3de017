"""User code that travels with a model: which files to take, and how to import them again from the package alone.

Modules are imported from bytes whose hashes were checked, under a private name that depends on those bytes. So two
packages with the same module names and different code live side by side in one process, nothing has to be on
`sys.path`, and no byte-code file is ever written beside the sources.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

from raymlops.errors import RaymlopsError
from raymlops.imports import resolve

OWN = "raymlops"


@dataclass(frozen=True)
class CollectedSource:
    files: dict[str, bytes]
    """Path below the import root (`pkg/module.py`) → text as bytes."""
    imports: frozenset[str]
    """Top-level names of installed modules that the files import."""


def collect_source(paths: Iterable[str], base: Path) -> CollectedSource:
    """The files behind import paths (`module:attribute`) and behind what they import from beside themselves.

    A module of a package brings the whole package's `.py` files. Installed modules and the standard library do not
    travel; they are named in `imports`. `base` is searched before `sys.path`.
    """
    importlib.invalidate_caches()
    search = [str(base.resolve()), *sys.path]
    files: dict[str, bytes] = {}
    installed: set[str] = set()
    pending = [path.partition(":")[0] for path in paths]
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        root = _root_of(name, search)
        if root is None:
            installed.add(name.partition(".")[0])
            continue
        for file in _files_of(name, root):
            relative = file.relative_to(root).as_posix()
            if relative in files:
                continue
            files[relative] = file.read_bytes()
            pending.extend(_imported_names(files[relative], relative))
    return CollectedSource(dict(sorted(files.items())), frozenset(installed - set(sys.stdlib_module_names) - {OWN}))


def _root_of(name: str, search: Sequence[str]) -> Path | None:
    """The directory that user module `name` is imported from; None for installed, built-in and unknown modules."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top == OWN:
        return None
    spec = PathFinder.find_spec(top, search) or _installed_spec(top)
    if spec is None:
        return None
    if spec.has_location and spec.origin:
        file = Path(spec.origin)
        root = file.parent.parent if spec.submodule_search_locations is not None else file.parent
    elif spec.submodule_search_locations:  # a directory without __init__.py
        root = Path(next(iter(spec.submodule_search_locations))).parent
    else:
        return None
    root = root.resolve()
    standard = [Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "platstdlib")]
    foreign = {"site-packages", "dist-packages"} & set(root.parts) or any(root.is_relative_to(s) for s in standard)
    return None if foreign else root


def _installed_spec(top: str) -> ModuleSpec | None:
    """Finds what only a custom importer knows, such as projects installed in editable mode."""
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None


def _files_of(name: str, root: Path) -> Iterator[Path]:
    top = root / name.partition(".")[0]
    if (top / "__init__.py").is_file():
        yield from sorted(f for f in top.rglob("*.py") if not _hidden(f.relative_to(root)))
        return
    module = root.joinpath(*name.split("."))
    for file in (module.with_suffix(".py"), module / "__init__.py"):
        if file.is_file():
            yield file


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def _imported_names(source: bytes, relative: str) -> Iterator[str]:
    """Full names of all modules that a file may import, at the top or inside functions."""
    package = relative.removesuffix(".py").removesuffix("/__init__").split("/")
    if not relative.endswith("/__init__.py"):
        package = package[:-1]
    for node in ast.walk(ast.parse(source, relative)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            if module:
                yield module
                for alias in node.names:  # `from package import module`
                    yield f"{module}.{alias.name}"


class PackagedSource:
    """The modules of one package, importable under a private name."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.modules = {path.partition("/")[0].removesuffix(".py") for path in files}
        digest = hashlib.sha256()
        for path in sorted(files):
            digest.update(f"{path}\0{len(files[path])}\0".encode() + files[path])
        self.prefix = f"_raymlops_source_{digest.hexdigest()[:16]}"
        if files:
            _FINDER.packages.setdefault(self.prefix, dict(files))
            if _FINDER not in sys.meta_path:
                sys.meta_path.insert(0, _FINDER)

    def resolve(self, path: str, field: str) -> Any:
        """The object at `module:attribute`, from the package if it brought the module, else from what is installed.

        Raises RaymlopsError naming the field when the module cannot be imported or lacks the attribute.
        """
        packaged = path.partition(".")[0].partition(":")[0] in self.modules
        try:
            return resolve(f"{self.prefix}.{path}" if packaged else path, field)
        except RaymlopsError as error:
            raise RaymlopsError(f"model package: {str(error).replace(f'{self.prefix}.', '')}") from error


class _Finder(MetaPathFinder):
    """Finds `PREFIX.module` among the sources of the package with that prefix."""

    def __init__(self) -> None:
        self.packages: dict[str, dict[str, bytes]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        prefix, _, rest = fullname.partition(".")
        files = self.packages.get(prefix)
        if files is None:
            return None
        stem = rest.replace(".", "/")
        if stem and f"{stem}.py" in files and f"{stem}/__init__.py" not in files:
            return spec_from_loader(fullname, _Loader(prefix, f"{stem}.py", files), is_package=False)
        below = f"{stem}/" if stem else ""
        if any(name.startswith(below) for name in files):  # a package, or a directory without __init__.py
            return spec_from_loader(fullname, _Loader(prefix, f"{below}__init__.py", files), is_package=True)
        return None


_FINDER = _Finder()


class _Loader(SourceLoader):
    """Executes one module from memory; its absolute imports look among the package's own modules first.

    The import statement calls `__import__` of the module's own builtins, so imports inside functions, which run long
    after the module was loaded, are covered as well.
    """

    def __init__(self, prefix: str, path: str, files: Mapping[str, bytes]) -> None:
        self.prefix, self.path, self.files = prefix, path, files

    def get_filename(self, fullname: str) -> str:
        return f"<{self.prefix}>/{self.path}"

    def get_data(self, path: str | bytes) -> bytes:
        if path != self.get_filename(""):
            raise OSError(f"{path!r} is not part of the package")
        return self.files.get(self.path, b"")

    def exec_module(self, module: ModuleType) -> None:
        own = frozenset(path.partition("/")[0].removesuffix(".py") for path in self.files)
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": partial(_import, self.prefix, own)}
        super().exec_module(module)


def _import(
    prefix: str,
    own: frozenset[str],
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """`__import__` for packaged modules: `import helper` means the helper that came with the package."""
    top = name.partition(".")[0]
    if level or top not in own:
        return builtins.__import__(name, globals, locals, fromlist or (), level)
    if fromlist:
        return builtins.__import__(f"{prefix}.{name}", globals, locals, fromlist, 0)
    importlib.import_module(f"{prefix}.{name}")
    return sys.modules[f"{prefix}.{top}"]
