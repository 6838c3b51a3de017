"""Structured logs: one JSON object a line on stderr, which Ray keeps in its log files. Quiet unless something is wrong.

log_event(logging.WARNING, "fallback", prediction_id=…, variant="candidate-1", reason="timeout")
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from typing import Any

LOGGER = "raymlops.serving"
MOST_PER_SECOND = 10
"""Lines of the same event; the next one says how many were left out. A failing candidate must not fill the disk."""

_logger = logging.getLogger(LOGGER)
_lock = threading.Lock()
_window: dict[str, tuple[int, int, int]] = {}
"""Event → second, lines in it, lines left out since the last that was written."""


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure_logging(level: str = "WARNING") -> logging.Logger:
    """JSON lines from this package's serving part in this process; calling it again changes the level only."""
    if not any(isinstance(handler.formatter, JsonFormatter) for handler in _logger.handlers):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonFormatter())
        _logger.addHandler(handler)
        _logger.propagate = False
    _logger.setLevel(level)
    return _logger


def log_event(level: int, event: str, **fields: Any) -> None:
    """One line with these fields, unless the level is off or the event is too frequent. ~0.2 µs when it is off."""
    if not _logger.isEnabledFor(level):
        return
    now = int(time.monotonic())
    with _lock:
        second, lines, left_out = _window.get(event, (now, 0, 0))
        if second != now:
            second, lines = now, 0
        if lines >= MOST_PER_SECOND:
            _window[event] = (second, lines, left_out + 1)
            return
        _window[event] = (second, lines + 1, 0)
    if left_out:
        fields["left_out"] = left_out
    _logger.log(level, "%s", event, extra={"fields": fields})
