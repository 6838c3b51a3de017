"""What is said of an endpoint that does not start."""

from __future__ import annotations

from raymlops.serving.launch import reason


def test_the_error_at_the_end_of_a_traceback_is_named_and_not_what_follows_it() -> None:
    died = RuntimeError(
        "ray::HAProxyManager.ready() (pid=1)\n"
        '  File "haproxy.py", line 1, in _start\n'
        "ValueError: first\n"
        "During handling of it:\n"
        "RuntimeError: HAProxy (pid=2) did not take over the admin socket within 55 seconds. stderr: \n"
        "[NOTICE] cannot open the state file\n"
    )
    assert reason(died) == (
        "RuntimeError: HAProxy (pid=2) did not take over the admin socket within 55 seconds. stderr:"
    )
    assert reason(ValueError("one\n\nthe port is taken\n")) == "the port is taken"
    assert reason(OSError()) == "OSError"
