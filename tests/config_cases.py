"""The smallest configuration, and what tests change of it."""

from __future__ import annotations

from typing import Any

from raymlops.config.loading import parse_config
from raymlops.config.tree import Config


def minimal(**sections: Any) -> dict[str, Any]:
    return {
        "name": "m",
        "task": "regression",
        "data": {
            "source": {"kind": "parquet", "path": "rows.parquet"},
            "target": "y",
            "split": {"by": "hash", "key": "id"},
        },
        "features": {"numeric": {"x": {}}},
        **sections,
    }


def smallest(**sections: Any) -> Config:
    return parse_config(minimal(**sections))
