"""User code by import path: `package.module:attribute`, found next to the configuration file or installed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymlops.errors import ConfigError

if TYPE_CHECKING:
    from raymlops.config.tree import Config


def add_user_directory(directory: Path) -> None:
    """Make modules in `directory` importable in this process, ahead of installed ones."""
    text = str(directory.resolve())
    if text not in sys.path:
        sys.path.insert(0, text)


def resolve(path: str, field: str) -> Any:
    """The object at `module:attribute`. Raises ConfigError naming the configuration field."""
    module_name, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # user code may raise anything at import
        raise ConfigError(f"{field}: cannot import {module_name!r} ({type(error).__name__}: {error})") from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            public = sorted(n for n in vars(found) if not n.startswith("_"))[:10]
            raise ConfigError(
                f"{field}: {module_name!r} has no {attribute!r}; it has {', '.join(public) or 'nothing public'}"
            )
        found = getattr(found, name)
    if not callable(found):
        raise ConfigError(f"{field}: {path!r} is a {type(found).__name__}, expected a function or class")
    return found


def module_file(path: str) -> Path | None:
    """Source file of the module in `module:attribute`, None for built-in or namespace modules."""
    module = importlib.import_module(path.partition(":")[0])
    return Path(module.__file__) if module.__file__ else None


def ship_by_value(directory: Path) -> None:
    """Send functions of imported user modules to Ray workers as code, so that workers need not find the files.

    Applies to modules below `directory` that are loaded now; installed packages and raymlops itself stay references.
    """
    from ray import cloudpickle

    root = directory.resolve()
    own = Path(__file__).resolve().parent
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not file or module.__name__ == "__main__":
            continue
        path = Path(file).resolve()
        installed = "site-packages" in path.parts or own in path.parents
        if root in path.parents and not installed:
            cloudpickle.register_pickle_by_value(module)


def user_functions(config: Config) -> dict[str, str]:
    """Every import path in the configuration, by the key path that names it."""
    found: dict[str, str] = {}
    source = config.data.source
    if source.kind == "function":
        found["data.source.function"] = source.function
    if source.kind == "sql":
        found["data.source.connection"] = source.connection
    for number, labels in enumerate(config.labels.sources):
        if labels.source.kind == "function":
            found[f"labels.sources[{number}].source.function"] = labels.source.function
        if labels.source.kind == "sql":
            found[f"labels.sources[{number}].source.connection"] = labels.source.connection
    for name, derived in config.features.derived.items():
        found[f"features.derived.{name}.function"] = derived.function
    if config.model.kind == "factory":
        found["model.factory"] = config.model.factory
    for field, value in (("train.loss", config.train.loss), ("train.metric", config.train.metric)):
        if ":" in value:
            found[field] = value
    return found
