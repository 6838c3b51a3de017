"""A replica whose prediction log is on and off in turn; see `switching`."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.serving_lib.switching import RESULT, RUN_IN_SECONDS, TURN_SECONDS
from raymlops.serving.ingress import Ingress


class SwitchingIngress(Ingress):
    """A replica that measures itself, whenever it is asked for anything."""

    def __init__(self, endpoint: dict[str, Any], champion: dict[str, str]) -> None:
        super().__init__(endpoint, champion)
        threading.Thread(target=self._switch, args=(Path(os.environ[RESULT]),), daemon=True).start()

    def _switch(self, result: Path) -> None:
        answerer = self._replica.answerer
        log, order = answerer._log, (True, False)
        while True:
            rates = {}
            for logs in order:
                answerer._log = log if logs else None
                time.sleep(RUN_IN_SECONDS)
                before, started = answerer._number, time.perf_counter()
                time.sleep(TURN_SECONDS)
                rates[logs] = (answerer._number - before) / (time.perf_counter() - started)
            order = order[::-1]
            if min(rates.values()) > 0:
                with result.open("a") as file:
                    file.write(f"{rates[True]:.1f} {rates[False]:.1f}\n")
