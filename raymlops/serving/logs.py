"""Structured logs: one JSON object a line, where the process's standard error goes, which Ray keeps in its log files.

log_event(logging.WARNING, "fallback", prediction_id=…, variant="candidate-1", reason="timeouts")

Quiet unless something is worth a line, and bounded when everything is: beyond `MOST_PER_SECOND` lines of an event in a
second the rest are counted, and the count is written.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

LOGGER = "raymlops.serving"
MOST_PER_SECOND = 10
"""Lines of the same event. A failing candidate must not fill the disk."""
MOST_ERROR = 500
"""Characters of what a model said when it failed."""

_logger = logging.getLogger(LOGGER)


@dataclass
class _Window:
    """Of one event: lines in this second, and how many were left out since it was last said."""

    second: int
    level: int
    lines: int = 0
    left_out: int = 0


_lock = threading.Lock()
_windows: dict[str, _Window] = {}


class JsonFormatter(logging.Formatter):
    def __init__(self, always: dict[str, Any]) -> None:
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **self._always,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging(**always: Any) -> logging.Logger:
    """JSON lines of this package's serving part in this process, each with the fields `always`; called again, with
    other ones."""
    for handler in [h for h in _logger.handlers if isinstance(h.formatter, JsonFormatter)]:
        _logger.removeHandler(handler)
    # Not sys.stderr: Serve puts its own logger there, which drops what is below its level and cuts lines its own way.
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(JsonFormatter(always))
    _logger.addHandler(handler)
    _logger.propagate = False
    _logger.setLevel(logging.INFO)
    return _logger


def log_event(level: int, event: str, *, every: bool = False, **fields: Any) -> None:
    """One line with these fields, unless the level is off or the event too frequent; `every` writes it nevertheless.
    Any thread may call."""
    if not _logger.isEnabledFor(level):
        return
    if not every:
        now = int(time.monotonic())
        with _lock:
            window = _windows.setdefault(event, _Window(now, level))
            if window.second != now:
                window.second, window.lines = now, 0
            if window.lines >= MOST_PER_SECOND:
                window.left_out += 1
                return
            window.lines += 1
    _logger.log(level, "%s", event, extra={"fields": fields})


def log_left_out() -> None:
    """Writes how many lines were left out since the last call; to be called every second or so."""
    with _lock:
        due = [(event, w.level, w.left_out) for event, w in _windows.items() if w.left_out]
        for event, _, _ in due:
            _windows[event].left_out = 0
    for event, level, left_out in due:
        _logger.log(level, "left_out", extra={"fields": {"of": event, "lines": left_out}})
