"""The error that a user should read, out of the wrappers that Ray puts around it."""

from __future__ import annotations

from raymlops.errors import DataError, RaymlopsError


def user_error(error: BaseException, what: str) -> RaymlopsError:
    """Our own error when there is one inside; otherwise a DataError that begins with `what` and ends with the cause."""
    seen: BaseException | None = error
    deepest = error
    while seen is not None:
        if isinstance(seen, RaymlopsError):
            return seen
        deepest = seen
        cause = getattr(seen, "cause", None)
        seen = cause if isinstance(cause, BaseException) else seen.__cause__
    lines = [line.strip() for line in str(deepest).splitlines() if line.strip()]
    return DataError(f"{what}: {lines[-1] if lines else type(deepest).__name__}")
