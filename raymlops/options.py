"""Arguments and options that several commands share, and the configuration that one of them names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from raymlops.config.tree import Config

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="Configuration file (YAML).")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, a.b.c=value.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="Run id or the beginning of one.")]
Storage = Annotated[str, typer.Option(help="Storage of the runs: a path or URI.")]
TrackingUri = Annotated[str | None, typer.Option(help="MLflow tracking URI; the storage's own when absent.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout; its last line is the result.")]


def load(path: Path, overrides: list[str] | None) -> tuple[Config, Path]:
    """The configuration, and its directory, whose modules become importable."""
    from raymlops.config import load_config
    from raymlops.imports import add_user_directory

    config = load_config(path, overrides or [])
    base = path.resolve().parent
    add_user_directory(base)
    return config, base
