"""How a command says why it failed; on the terminal also while the process's output goes to a log."""

from __future__ import annotations

import json
import os
import sys

from raymlops.errors import RaymlopsError

SHOW_CURSOR = "\x1b[?25h"

redirected: list[tuple[int, int]] = []
"""Descriptors of stdout and stderr as they were, while both are pointed elsewhere."""


def last_words(error: RaymlopsError) -> None:
    out, err = sys.stdout, sys.stderr
    if redirected:
        out, err = (os.fdopen(os.dup(descriptor), "w") for descriptor in redirected[-1])
        if err.isatty():
            err.write(SHOW_CURSOR)  # a live picture hides it
    if "--json" in sys.argv:
        print(json.dumps({"error": str(error), "exit_code": error.exit_code}), file=out, flush=True)
    lines = [*(str(error).splitlines() or [type(error).__name__]), *getattr(error, "__notes__", [])]
    for number, line in enumerate(lines):
        print(f"{'       ' if number else 'error: '}{line}", file=err, flush=True)
