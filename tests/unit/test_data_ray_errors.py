"""Out of Ray's wrappers comes one sentence, never a traceback."""

from __future__ import annotations

import pytest
from ray.exceptions import OutOfMemoryError, RayTaskError, UserCodeException

from raymlops.data.ray_errors import user_error
from raymlops.errors import DataError, IntegrityError, RaymlopsError
from raymlops.store import StoreError

TRACEBACK = "Traceback (most recent call last):\n  File 'x.py', line 1, in f\nValueError: what it says"
ADVICE = "Failed to apply UDF transform after 1/1 attempts (total backoff 0.0s).\nTo change retry attempts, configure …"


def from_task(cause: Exception, times: int = 1) -> BaseException:
    """As `ray.get` raises it: an instance of the cause's class too, whose message is the traceback."""
    error: Exception = cause
    for _ in range(times):
        error = RayTaskError("f", TRACEBACK, error, proctitle="f", pid=1, ip="127.0.0.1").as_instanceof_cause()
    return error


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("kind", [StoreError, DataError, IntegrityError])
def test_our_own_errors_come_out_as_they_went_in(kind: type[RaymlopsError], times: int) -> None:
    found = user_error(from_task(kind("cannot write 'a b'"), times), "reading failed")
    assert type(found) is kind and str(found) == "cannot write 'a b'"
    advised = user_error(from_task(kind(f"cannot write 'a b'\n{ADVICE}"), times), "reading failed")
    assert type(advised) is kind and str(advised) == "cannot write 'a b'"


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (ValueError("bad value\nmore about it"), "reading failed: ValueError: bad value"),
        (ValueError(f"bad value\n{ADVICE}"), "reading failed: ValueError: bad value"),
        (ValueError("Failed to open the door"), "reading failed: ValueError: Failed to open the door"),
        (ValueError(), "reading failed: ValueError"),
        (OSError(28, "No space left on device"), "reading failed: OSError: [Errno 28] No space left on device"),
    ],
)
def test_errors_of_others_are_named(cause: Exception, message: str) -> None:
    found = user_error(from_task(cause), "reading failed")
    assert type(found) is DataError and str(found) == message


def test_errors_of_ray_itself() -> None:
    found = user_error(
        OutOfMemoryError("Task was killed due to the node running low on memory.\nMany lines"), "reading"
    )
    assert str(found).startswith("reading: OutOfMemoryError: Task was killed due to the node running low on memory.")
    assert "\n" not in str(found)


def test_what_a_failed_write_wraps() -> None:
    """Ray Data's `write_*` puts the error that was raised into the text of the traceback only."""

    def wrapped(raised: str) -> BaseException:
        text = (
            "ray::MapBatches(Scorer)->Write() (pid=1, ip=127.0.0.1)\n"
            '  File "scoring.py", line 1, in __call__\n    raise it\n'
            f"{raised}\n\n"
            "The above exception was the direct cause of the following exception:\n\n"
            "ray::MapBatches(Scorer)->Write() (pid=1, ip=127.0.0.1)\n"
            f"ray.exceptions.UserCodeException: UDF failed to process a data block.\n{ADVICE}"
        )
        cause = UserCodeException(f"UDF failed to process a data block.\n{ADVICE}")
        return RayTaskError("f", text, cause, proctitle="f", pid=1, ip="127.0.0.1").as_instanceof_cause()

    ours = user_error(wrapped("raymlops.errors.IntegrityError: a hash differs"), "writing failed")
    assert type(ours) is IntegrityError and str(ours) == "a hash differs"
    foreign = user_error(wrapped("ValueError: bad value\nmore about it"), "writing failed")
    assert type(foreign) is DataError and str(foreign) == "writing failed: ValueError: bad value"
