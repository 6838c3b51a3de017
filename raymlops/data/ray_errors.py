"""The error that a user should read, out of the wrappers that Ray puts around it."""

from __future__ import annotations

import re

from raymlops.errors import DataError, RaymlopsError

RETRIES = re.compile(r"(\n|, ['\"])Failed to [^\n]* after \d+/\d+ attempts .*", re.DOTALL)
"""What Ray Data appends to the message of every exception in a map: advice about its own settings."""


def user_error(error: BaseException, what: str) -> RaymlopsError:
    """Our own error when there is one inside; otherwise a DataError that begins with `what` and ends with the cause."""
    from ray.exceptions import RayTaskError

    cause = error
    # A task's error is also an instance of its cause's class, but its message is a whole traceback.
    while isinstance(cause, RayTaskError) and isinstance(cause.cause, BaseException):
        cause = cause.cause
    message = RETRIES.sub("", str(cause)).strip()
    if isinstance(cause, RaymlopsError):
        return type(cause)(message)
    lines = message.splitlines() or [""]
    # Without a cause, the last line of the traceback is the one that says what happened.
    text = lines[-1] if isinstance(cause, RayTaskError) else f"{type(cause).__name__}: {lines[0]}"
    return DataError(f"{what}: {text.strip().removesuffix(':')}")
