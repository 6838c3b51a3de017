"""The champion, opened the same way by everybody who opens it themselves; `PACKAGE` names its directory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from raymlops.registry.package import load_package

COLUMNS = {"distance": int, "sched_dep_time": int, "sched_arr_time": int, "carrier": str, "origin": str, "dest": str}


class Champion:
    def __init__(self) -> None:
        torch.set_num_threads(1)  # a row is far too little work to share
        self.package = load_package(Path(os.environ["PACKAGE"]))

    def minutes(self, row: Mapping[str, Any]) -> float:
        """The prediction for one row of named columns."""
        columns = {name: [row[name]] for name in COLUMNS}
        return float(self.package.predict_columns(columns, 1)["prediction"][0])
