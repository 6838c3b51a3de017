"""The error that a user should read, out of the wrappers that Ray puts around it."""

from __future__ import annotations

import re

from raymlops import errors
from raymlops.errors import DataError, RaymlopsError

RETRIES = re.compile(r"(\n|, ['\"])Failed to [^\n]* after \d+/\d+ attempts .*", re.DOTALL)
"""What Ray Data appends to the message of every exception in a map: advice about its own settings."""
WRAPPED = re.compile(
    r"^(?P<kind>[A-Za-z_][\w.]*): (?P<message>[^\n]*(?:\n(?!\n)[^\n]*)*)\n\nThe above exception was", re.M
)
"""The error that a `UserCodeException` stands for: it travels in the text of the traceback only."""


def user_error(error: BaseException, what: str) -> RaymlopsError:
    """Our own error when there is one inside; otherwise a DataError that begins with `what` and ends with the cause."""
    from ray.exceptions import RayTaskError, UserCodeException

    cause = error
    # A task's error is also an instance of its cause's class, but its message is a whole traceback.
    while isinstance(cause, RayTaskError) and isinstance(cause.cause, BaseException):
        cause = cause.cause
    if isinstance(cause, UserCodeException) and (wrapped := WRAPPED.search(str(error))):
        module, _, name = wrapped["kind"].rpartition(".")
        if module == errors.__name__:
            kind: type[RaymlopsError] = getattr(errors, name, DataError)
            return kind(wrapped["message"])
        return DataError(f"{what}: {name}: {wrapped['message'].splitlines()[0]}")
    message = RETRIES.sub("", str(cause)).strip()
    if isinstance(cause, RaymlopsError):
        return type(cause)(message)
    lines = message.splitlines() or [""]
    # Without a cause, the last line of the traceback is the one that says what happened.
    text = lines[-1] if isinstance(cause, RayTaskError) else f"{type(cause).__name__}: {lines[0]}"
    return DataError(f"{what}: {text.strip().removesuffix(':')}")
